"""A vLLM server over HTTP: what is asked of it, and each way in which that fails as one sentence."""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from queue import Empty, SimpleQueue
from ssl import SSLContext
from threading import Thread, current_thread
from typing import Any, TypeVar

import httpx

from ..errors import CmrmError, NotThereError, ServerError, first_sentence

Body = dict[str, Any]
"""A request as JSON has it."""

Arrived = TypeVar("Arrived")
Result = TypeVar("Result")

CHAT = "/v1/chat/completions"
_MEMBERS = (
    "model", "revision", "architecture", "layers", "hidden", "dtype", "quantization", "context_length", "max_num_seqs",
    "instance",
)  # fmt: skip
# A server that is busy lets a request wait; one that is gone is noticed at once.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_AT_ONCE = 256  # requests that are on their way together; the server has them wait for their turn

_BEAT = 0.3  # seconds without an arrival, after which the caller may want to stop
_EACH_TOKEN = 16  # streams of which each token is worth a message of its own
# vLLM closes an idle connection after 5 s, and one that it closes must not be used.
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=2.0)


@dataclass(frozen=True)
class Server:
    """Where a server is, its key, if it asks for one, and which start of it is meant ("": any).

    Raises:
        CmrmError: a key that can't be sent.
    """

    url: str
    key: str = field(default="", repr=False)
    instance: str = ""
    # Reading all certificates takes longer than a short answer.
    certificates: SSLContext = field(default_factory=httpx.create_ssl_context, repr=False, compare=False)
    _streams: set[object] = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key.strip())
        if not (self.key.isascii() and self.key.isprintable()):
            raise CmrmError(
                "The key of the vLLM server holds characters that can't be sent; correct --engine-key or "
                "CMRM_ENGINE_KEY."
            )

    def get(self, path: str) -> str:
        """Ask for a text that takes no time.

        Raises:
            ServerError: no server there, or one that rejects this.
        """
        with self._explain(), httpx.Client(**self._options()) as client:
            return _require_success(client.get(path, timeout=10.0)).text

    def describe(self) -> tuple[Body, str]:
        """Return what the plugin says of the model, and the name that requests call it by.

        Raises:
            ServerError: no server there, or one without the plugin.
        """
        try:
            known, cards = json.loads(self.get("/v1/cmrm")), json.loads(self.get("/v1/models"))
            return {name: known[name] for name in _MEMBERS}, str(cards["data"][0]["id"])
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ServerError(
                f"What answers at {self.url} is no vLLM server with this version of the plugin; start one by "
                "docs/serving.md."
            ) from error

    def answer_all(self, path: str, bodies: Sequence[Body]) -> Generator[list[tuple[int, Body]]]:
        """Ask everything at once, and yield whole answers by the number of their request, as they arrive.

        Yields nothing of them now and then while none arrives, so that the stream can be closed.

        Raises:
            CmrmError: what failed first, behind all that arrived; the others are aborted, as when the stream is closed.
            ServerError: a fault of the server.
        """

        async def ask(body: Body) -> AsyncIterator[Body]:
            made = _require_success(await self._loop.client.post(path, json=body, headers=self._headers)).json()
            if not all(map(_has_ended, made.get("choices", ()))):
                raise _no_end()
            yield made

        return self._gather(bodies, ask)

    def stream_all(
        self, bodies: Sequence[Body], check: Callable[[int], None] = lambda _: None
    ) -> Generator[list[tuple[int, list[int]]]]:
        """Stream the answers of chats at once: token ids by the number of the request, and none behind the last.

        What arrives while the last was being used comes together, so that who is slow is not left behind; and the more
        answers are streamed, the more tokens the server sends at once. While nothing arrives, it yields just that now
        and then. `check` is given the length of each prompt and raises `CmrmError` for one that is too long.

        Raises:
            CmrmError: what failed first, behind all that arrived; the others are aborted, as when the stream is closed.
            ServerError: a fault of the server.
        """
        mine = [object() for _ in bodies]
        self._streams.update(mine)
        more = {"stream": True, "return_token_ids": True, "stream_interval": 1 + len(self._streams) // _EACH_TOKEN}

        async def ask(body: Body) -> AsyncIterator[list[int]]:
            asked = self._loop.client.stream("POST", CHAT, json={**body, **more}, headers=self._headers)
            async with asked as response:
                if response.is_error:
                    await response.aread()
                async for ids in _read_events(_require_success(response), check):
                    yield ids
            yield []

        try:
            yield from self._gather(bodies, ask)
        finally:
            self._streams.difference_update(mine)

    def _gather(
        self, bodies: Sequence[Body], ask: Callable[[Body], AsyncIterator[Arrived]]
    ) -> Generator[list[tuple[int, Arrived]]]:
        """Follow one stream a body, in the loop's thread; closing this one closes their connections."""
        arrived: SimpleQueue[tuple[int, Arrived] | Exception | None] = SimpleQueue()

        async def follow_all() -> None:
            places = asyncio.Semaphore(_AT_ONCE)

            async def follow(number: int, body: Body) -> None:
                async with places:
                    async for one in ask(body):
                        arrived.put((number, one))

            try:
                async with asyncio.TaskGroup() as group:
                    for number, body in enumerate(bodies):
                        group.create_task(follow(number, body))
            except* Exception as failed:
                arrived.put(failed.exceptions[0])
            else:
                arrived.put(None)

        with self._explain(), self._loop.running(follow_all()):
            while True:
                taken = _take(arrived)
                yield [one for one in taken if isinstance(one, tuple)]
                if taken and isinstance(taken[-1], Exception):
                    raise taken[-1]
                if taken and taken[-1] is None:
                    return

    @cached_property
    def _loop(self) -> "_Loop":
        return _Loop(httpx.AsyncClient(**self._options(), limits=_LIMITS))

    @property
    def _headers(self) -> dict[str, str]:
        """Say which start of the server is asked, so that another one says so."""
        return {"X-CMRM-Instance": self.instance} if self.instance else {}

    def _options(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"base_url": self.url, "headers": headers, "timeout": _TIMEOUT, "verify": self.certificates}

    @contextmanager
    def _explain(self) -> Generator[None]:
        """Turn what the connection raises into one sentence."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotThereError(
                f"There is no vLLM server at {self.url} now; wait until it is up, start one (docs/serving.md), or "
                "correct --engine-url."
            ) from error
        except httpx.TimeoutException as error:
            raise ServerError(f"The vLLM server at {self.url} did not answer in time; try again later.") from error
        except httpx.LocalProtocolError:
            # Its message quotes what could not be sent.
            raise ServerError(
                f"The request could not be sent to the vLLM server at {self.url}; correct --engine-url or --engine-key."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if isinstance(error, CmrmError):
                raise
            raise ServerError(
                f"The vLLM server at {self.url} broke off ({first_sentence(error)}); ask again once it is up."
            ) from error


def may_pass(error: CmrmError) -> bool:
    """Whether a server may answer another time: it is not there, or the connection timed out or broke off."""
    broken = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
    return isinstance(error, NotThereError) or isinstance(error.__cause__, broken)


class _Loop:
    """An event loop in a thread of its own, and the client whose connections are there; both end when it is dropped."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client, self._loop = client, asyncio.new_event_loop()
        self._thread = Thread(target=_run, args=(self._loop, client), name="vllm-client", daemon=True)
        self._thread.start()
        self._ending = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    @contextmanager
    def running(self, work: Coroutine[Any, Any, None]) -> Generator[None]:
        """Let `work` run beside the block; at the end of the block it is cancelled, and over."""

        async def begin() -> asyncio.Task[None]:
            return asyncio.create_task(work)

        async def end(task: asyncio.Task[None]) -> None:
            task.cancel()
            await asyncio.wait([task])

        task = self._call(begin())
        try:
            yield
        finally:
            # A forgotten stream may be collected as garbage by this very thread, or when the process ends.
            if current_thread() is self._thread:
                task.cancel()
            elif self._ending.alive:
                self._call(end(task))

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _run(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    loop.run_forever()
    loop.run_until_complete(client.aclose())
    loop.close()


def _take(queue: SimpleQueue[Arrived]) -> list[Arrived]:
    """Return what is in a queue, or what comes within a beat."""
    taken: list[Arrived] = []
    with suppress(Empty):
        taken.append(queue.get(timeout=_BEAT))
        while True:
            taken.append(queue.get_nowait())
    return taken


def _require_success(response: httpx.Response) -> httpx.Response:
    """Return a response that is none of an error.

    Raises:
        CmrmError: the sentence of one that is.
    """
    if response.is_success:
        return response
    try:
        said = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"status {response.status_code}"
    raise _fault(said, response.status_code)


def _fault(said: str, status: int) -> CmrmError:
    """Return what a server said as our error: its own fault, but for a request that can't be answered."""
    if status in (401, 403):
        return ServerError("The vLLM server rejects the key; give its own by --engine-key or CMRM_ENGINE_KEY.")
    if status == 404:
        return ServerError(
            f"The vLLM server does not know what it is asked for ({said}): it serves another model than before, or "
            "runs without the plugin; start it by docs/serving.md, and start this again."
        )
    if status == 409:
        return ServerError(
            "The vLLM server was started anew since this page connected, perhaps with another model; start this again."
        )
    if status in (502, 503, 504):
        return NotThereError(f"The vLLM server is not ready ({' '.join(said.split())[:300]}); wait until it is up.")
    fault = ServerError if status >= 500 or status in (408, 429) else CmrmError
    return fault(" ".join(said.split())[:600])


async def _read_events(response: httpx.Response, check: Callable[[int], None]) -> AsyncIterator[list[int]]:
    """Yield the token ids of each event; the first event has the prompt's, whose length goes to `check`.

    Raises:
        CmrmError: an error, which comes as an event of a stream that has begun, or an end before the answer's.
    """
    ended = False
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise _fault(str(event["error"].get("message")), int(event["error"].get("code") or 0))
        if prompt := event.get("prompt_token_ids"):
            check(len(prompt))
        for choice in event["choices"]:
            ended = ended or _has_ended(choice)
            if ids := choice.get("token_ids"):
                yield ids
    if not ended:
        raise _no_end()


def _has_ended(choice: Body) -> bool:
    """Whether an answer came to its end: vLLM also ends those that it aborts, as when it stops."""
    return choice.get("finish_reason") in ("stop", "length")


def _no_end() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("the answer has no end")
