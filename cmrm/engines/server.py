"""A vLLM server over HTTP: what is asked of it, and each way in which that fails as one sentence."""

import json
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from ssl import SSLContext
from typing import Any, TypeVar

import httpx
from anyio import CapacityLimiter, create_task_group
from anyio.from_thread import start_blocking_portal

from ..errors import CmrmError, NotThereError, first_sentence

Body = dict[str, Any]
"""A request as JSON has it."""

Arrived = TypeVar("Arrived")

CHAT = "/v1/chat/completions"
_MEMBERS = (
    "model", "revision", "architecture", "layers", "hidden", "dtype", "quantization", "context_length", "max_num_seqs"
)  # fmt: skip
# A server that is busy lets a request wait; one that is gone is noticed at once.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_AT_ONCE = 256  # requests that are on their way together; the server has them wait for their turn

_EACH_TOKEN = 16  # streams of which each token is worth a message of its own


@dataclass(frozen=True)
class Server:
    """Where a server is, and its key, if it asks for one."""

    url: str
    key: str = field(default="", repr=False)
    # Reading all certificates takes longer than a short answer.
    certificates: SSLContext = field(default_factory=httpx.create_ssl_context, repr=False, compare=False)
    _streams: set[object] = field(default_factory=set, repr=False, compare=False)

    def get(self, path: str) -> str:
        """Ask for a text that takes no time.

        Raises:
            CmrmError: no server there, or one that refuses.
        """
        with self._explain(), httpx.Client(**self._options()) as client:
            return _checked(client.get(path, timeout=10.0)).text

    def describe(self) -> tuple[Body, str]:
        """Return what the plugin says of the model, and the name that requests call it by.

        Raises:
            CmrmError: no server there, or one without the plugin.
        """
        try:
            known, cards = json.loads(self.get("/v1/cmrm")), json.loads(self.get("/v1/models"))
            return {name: known[name] for name in _MEMBERS}, str(cards["data"][0]["id"])
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise CmrmError(
                f"What answers at {self.url} is no vLLM server with this version of the plugin; start one by "
                "docs/serving.md."
            ) from error

    def answer_all(self, path: str, bodies: Sequence[Body]) -> Generator[tuple[int, Body]]:
        """Ask everything at once, and yield each whole answer by the number of its request, as they arrive.

        Raises:
            CmrmError: what failed first; the others are aborted, as when the stream is closed.
        """

        async def ask(client: httpx.AsyncClient, body: Body) -> AsyncIterator[Body]:
            yield _checked(await client.post(path, json=body)).json()

        for arrived in self._gather(bodies, ask):
            yield from arrived

    def stream_all(self, bodies: Sequence[Body]) -> Generator[list[tuple[int, list[int]]]]:
        """Stream the answers of chats at once: token ids by the number of the request, and none behind the last.

        What arrives while the last was being used comes together, so that who is slow is not left behind; and the more
        answers are streamed, the more tokens the server sends at once.

        Raises:
            CmrmError: what failed first; the others are aborted, as when the stream is closed.
        """
        mine = [object() for _ in bodies]
        self._streams.update(mine)
        more = {"stream": True, "return_token_ids": True, "stream_interval": 1 + len(self._streams) // _EACH_TOKEN}

        async def ask(client: httpx.AsyncClient, body: Body) -> AsyncIterator[list[int]]:
            async with client.stream("POST", CHAT, json={**body, **more}) as response:
                if response.is_error:
                    await response.aread()
                async for ids in _read_events(_checked(response)):
                    yield ids
            yield []

        try:
            yield from self._gather(bodies, ask)
        finally:
            self._streams.difference_update(mine)

    def _gather(
        self, bodies: Sequence[Body], ask: Callable[[httpx.AsyncClient, Body], AsyncIterator[Arrived]]
    ) -> Generator[list[tuple[int, Arrived]]]:
        """Follow one stream a body, in a thread of their own; closing this one closes their connections."""
        arrived: SimpleQueue[tuple[int, Arrived] | Exception | None] = SimpleQueue()

        async def follow_all() -> None:
            limiter = CapacityLimiter(_AT_ONCE)

            async def follow(number: int, body: Body) -> None:
                async with limiter:
                    async for one in ask(client, body):
                        arrived.put((number, one))

            try:
                limits = httpx.Limits(max_connections=None)
                async with httpx.AsyncClient(**self._options(), limits=limits) as client, create_task_group() as group:
                    for number, body in enumerate(bodies):
                        group.start_soon(follow, number, body)
            except* Exception as failed:
                arrived.put(failed.exceptions[0])
            else:
                arrived.put(None)

        with self._explain(), start_blocking_portal() as portal:
            running = portal.start_task_soon(follow_all)
            try:
                ended = False
                while not ended:
                    taken = [arrived.get(), *_take_rest(arrived)]
                    if failed := [one for one in taken if isinstance(one, Exception)]:
                        raise failed[0]
                    ended = taken[-1] is None
                    yield [one for one in taken if isinstance(one, tuple)]
            finally:
                running.cancel()

    def _options(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"base_url": self.url, "headers": headers, "timeout": _TIMEOUT, "verify": self.certificates}

    @contextmanager
    def _explain(self) -> Generator[None]:
        """Turn what the connection raises into one sentence."""
        try:
            yield
        except httpx.ConnectError as error:
            raise NotThereError(
                f"There is no vLLM server at {self.url} now; wait until it is up, start one (docs/serving.md), or "
                "correct --engine-url."
            ) from error
        except httpx.TimeoutException as error:
            raise CmrmError(f"The vLLM server at {self.url} did not answer in time; try again later.") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if isinstance(error, CmrmError):
                raise
            raise CmrmError(
                f"The vLLM server at {self.url} broke off ({first_sentence(error)}); ask again once it is up."
            ) from error


def _take_rest(queue: SimpleQueue[Arrived]) -> Generator[Arrived]:
    """Yield what is in a queue already."""
    with suppress(Empty):
        while True:
            yield queue.get_nowait()


def _checked(response: httpx.Response) -> httpx.Response:
    """Return a response that is none of an error.

    Raises:
        CmrmError: the sentence of one that is.
    """
    if response.is_success:
        return response
    if response.status_code in (401, 403):
        raise CmrmError("The vLLM server refuses the key; give its own by --engine-key or CMRM_ENGINE_KEY.")
    try:
        said = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"status {response.status_code}"
    raise CmrmError(_reword(str(said), response.status_code))


def _reword(said: str, status: int) -> str:
    if status == 404:
        return (
            f"The vLLM server does not know what it is asked for ({said}): it serves another model than before, or "
            "runs without the plugin; start it by docs/serving.md, and start this again."
        )
    return " ".join(said.split())[:600]


async def _read_events(response: httpx.Response) -> AsyncIterator[list[int]]:
    """Yield the token ids of each event.

    Raises:
        CmrmError: an error, which comes as an event of a stream that has begun, or an end before the answer's.
    """
    ended = False
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise CmrmError(_reword(str(event["error"].get("message")), int(event["error"].get("code") or 0)))
        for choice in event["choices"]:
            ended = ended or choice.get("finish_reason") is not None
            if ids := choice.get("token_ids"):
                yield ids
    if not ended:
        raise httpx.RemoteProtocolError("the answer has no end")
