"""A model in a vLLM server that can steer it (`vllm_plugin`): prompts, steerings and states cross as data."""

import base64
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from secrets import token_hex

import numpy as np
from PIL import Image
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..answering.steps import Answered, NextToken, Row, Step
from ..answering.writing import Writer
from ..errors import CmrmError, ServerError
from ..files import POCKET_FOLDER, fingerprint, source_of
from ..images import digest_image
from ..lru import Lru
from ..model.identity import Identity
from ..model.processor import blank_image, load_processor
from ..model.prompts import check_length, neutralise, template_markers
from ..model.unusable import reword_errors
from ..model.vlm import name_model
from ..progress import Progress, Told, finish, relay
from ..settings import Corruption, Settings, check_prompt, checked_layers
from ..steering.vectors import Prompt, Steered, Vectors
from .base import EngineHealth
from .server import CHAT, Body, Server

STATES = "/v1/cmrm/states"
_STATES_AT_ONCE = 256
_PICTURES_LIMIT = 1 << 26
# As `compare` answers, whatever the checkpoint's own generation settings.
_PLAIN = {"repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0}


@dataclass(frozen=True)
class VllmEngine:
    """An `engines.base.Engine` over a server; what each method does is said there.

    Greedy answers are those of the local engine but for rounding; sampled ones are drawn by vLLM's own numbers.
    """

    server: Server
    served: str
    identity: Identity
    context_length: int | None
    processor: ProcessorMixin
    end_tokens: frozenset[int]
    markers: tuple[str, ...]
    at_once: int
    notes: tuple[str, ...] = ()
    layers_path: str = "the server's decoder"
    _pictures: Lru[str] = field(default_factory=lambda: Lru(_PICTURES_LIMIT), compare=False, repr=False)

    @classmethod
    def connect(cls, url: str, key: str = "", *, plain_template: bool = False) -> "VllmEngine":
        """Ask a server what it serves, and load the same model's processor here.

        Raises:
            CmrmError: no server there, one without the plugin, or a model whose processor can't be loaded here.
        """
        server = Server(url.rstrip("/"), key)
        known, served = server.describe()
        server = replace(server, instance=str(known["instance"]))
        # The pocket model is known by its files, wherever they are and whatever they are called.
        source = "pocket" if known["revision"] == fingerprint(POCKET_FOLDER) else known["model"]
        with reword_errors(source, source, "the page needs its processor: give the server a model that is here, too"):
            place = source_of(source)
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            processor = load_processor(source, place, config, plain_template)
            ends = GenerationConfig.from_pretrained(place).eos_token_id
            name, revision = name_model(place)
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        return cls(
            server,
            served,
            Identity(
                model=name,
                revision=known["revision"] or revision,
                architecture=known["architecture"],
                hidden=known["hidden"],
                layers=known["layers"],
                quantization=known["quantization"] or "none",
                dtype=known["dtype"],
            ),
            known["context_length"],
            processor,
            frozenset([ends] if isinstance(ends, int) else ends),
            template_markers(processor),
            # Two rows a comparison.
            max(1, known["max_num_seqs"] // 2),
            (f"The model runs in a vLLM server ({url}).",),
        )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def blank(self, corruption: Corruption) -> Image.Image:
        """Return the meaningless image, in the size the model looks at."""
        return blank_image(self.processor, corruption)

    def reading(self, prompts: Sequence[Prompt]) -> "VllmReading":
        """Make prompts ready to be read, each in a pass of its own."""
        if not prompts:
            raise CmrmError("There are no prompts, so there are no states to measure; give at least one text.")
        return VllmReading(self, [self.ask(prompt, max_tokens=1) for prompt in prompts])

    def prepare(self, prompt: Prompt, settings: Settings, rows: int) -> "VllmComparison":
        """Check a request; how long its prompt is the server says, before the first token."""
        checked_layers(settings.layers, self.identity.layers)
        return VllmComparison(self, prompt, settings, rows)

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        steered: Steered | None = None,
        *,
        max_new_tokens: int,
        openings: frozenset[int] = frozenset(),
    ) -> list[Answered]:
        """Answer all prompts at once; the server makes its own batches.

        The first token's chances are asked for by requests of their own: in an answer every token would have them.
        """
        kinds: list[Body] = [{"max_tokens": max_new_tokens, "return_token_ids": True}]
        if openings:
            chances = {"logprobs": True, "logprob_token_ids": sorted(openings), "return_tokens_as_token_ids": True}
            kinds.append({"max_tokens": 1, **chances})
        bodies = [steer(self.ask(prompt, **kind), steered, k) for kind in kinds for k, prompt in enumerate(prompts)]
        found: dict[int, Body] = {}
        for arrived in self.server.answer_all(CHAT, bodies):
            for k, made in arrived:
                if k < len(prompts):
                    check_length(self.context_length, len(made["prompt_token_ids"]), max_new_tokens)
                found[k] = made["choices"][0]
        last = len(bodies) - len(prompts)
        return [self._read_answer(found[k], found[last + k], openings) for k in range(len(prompts))]

    def log_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float | None]:
        """Score answers behind their prompts; None also for one whose text has other tokens when it is read."""
        return finish(self.score(prompts, answers))

    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
    ) -> Generator[None, None, list[float | None]]:
        """Do what `log_probabilities` does as a stream; close it to stop."""
        asked = {k: (prompt, tuple(ids)) for k, (prompt, ids) in enumerate(zip(prompts, answers, strict=True)) if ids}
        bodies = [self.go_on(prompt, ids, max_tokens=1, prompt_logprobs=0) for prompt, ids in asked.values()]
        numbers: list[int] = list(asked)
        scores: list[float | None] = [None] * len(prompts)
        for arrived in self.server.answer_all(CHAT, bodies):
            for k, made in arrived:
                ids = asked[numbers[k]][1]
                if tuple(made["prompt_token_ids"][-len(ids) :]) == ids:
                    behind = zip(ids, made["prompt_logprobs"][-len(ids) :], strict=True)
                    scores[numbers[k]] = float(np.mean([likely[str(token)]["logprob"] for token, likely in behind]))
            yield
        return scores

    def health(self) -> EngineHealth:
        """Say how the server is doing; nothing here has hooks."""
        try:
            running, waiting = read_counts(self.server.get("/metrics"))
        except CmrmError as error:
            return EngineHealth(False, 0, problem=str(error))
        return EngineHealth(running > 0, 0, running, waiting)

    def ask(self, prompt: Prompt, **options: object) -> Body:
        """Return a chat of one user turn, greedy unless `options` say otherwise.

        Raises:
            CmrmError: an empty prompt or one that is too long to be read.
        """
        check_prompt(prompt.text)
        parts: list[Body] = [{"type": "text", "text": neutralise(prompt.text.strip(), self.markers)}]
        if prompt.image is not None:
            parts.insert(0, {"type": "image_url", "image_url": {"url": self._picture(prompt.image)}})
        turns = [{"role": "user", "content": parts}]
        return {"model": self.served, "messages": turns, "temperature": 0, **_PLAIN, **options}

    def go_on(self, prompt: Prompt, ids: Sequence[int], **options: object) -> Body:
        """Return a chat whose answer has begun with token ids."""
        body = self.ask(prompt, return_token_ids=True, **options)
        text = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        turns = [*body["messages"], {"role": "assistant", "content": text}]
        return {**body, "messages": turns, "add_generation_prompt": False, "continue_final_message": True}

    def fetch_states(self, names: Sequence[str]) -> Generator[None, None, np.ndarray]:
        """Return kept states, float32 `(names, layers, hidden)`, as a stream; close it to stop.

        Raises:
            ServerError: states that the server did not keep.
        """
        found: dict[str, str] = {}
        parts = [list(names[k : k + _STATES_AT_ONCE]) for k in range(0, len(names), _STATES_AT_ONCE)]
        for arrived in self.server.answer_all(STATES, [{"names": part} for part in parts]):
            for _, made in arrived:
                if made["missing"]:
                    raise ServerError("The vLLM server has lost states that it was to keep; ask again.")
                found.update(made["states"])
            yield
        shape = self.identity.layers, self.identity.hidden
        return np.stack([np.frombuffer(base64.b64decode(found[name]), "<f4").reshape(shape) for name in names])

    def _picture(self, image: Image.Image) -> str:
        """Return a picture as a URL; many requests ask about the same."""
        key = digest_image(image).hex()
        url = self._pictures.get(key)
        if url is None:
            content = BytesIO()
            image.save(content, "PNG", compress_level=1)
            url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
            self._pictures.keep(key, url, len(url))
        return url

    def _read_answer(self, choice: Body, first: Body, openings: frozenset[int]) -> Answered:
        ids = tuple(token for token in choice["token_ids"] if token not in self.end_tokens)
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answered(ids, text.strip(), sum(read_chances(first, openings)))


@dataclass(frozen=True)
class VllmComparison:
    """A prompt that is ready to be answered by `rows` rows of a server."""

    engine: VllmEngine
    prompt: Prompt
    settings: Settings
    rows: int

    def answer(self, steered: Steered | None, *, fluency: bool = False) -> Generator[Step]:
        """Do what `engines.base.Prepared` says; a step has all that arrived, in whatever row, since the one before.

        While nothing arrives, the step before comes again now and then, so that the answers can be stopped.
        """
        engine, settings, start = self.engine, self.settings, time.perf_counter()
        sampled = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed}
        body = engine.ask(self.prompt, max_tokens=settings.max_new_tokens, **sampled)
        writers = [Writer(engine.tokenizer, Row(alpha)) for alpha in Steered.alphas(steered, self.rows)]
        # 1. Steps as the rows' tokens arrive.
        progress: Progress | None = Progress("reading")
        for arrived in engine.server.stream_all([steer(body, steered, k) for k in range(self.rows)], self._check):
            for k, ids in arrived:
                shown = [token for token in ids if token not in engine.end_tokens]
                writers[k].add(shown, time.perf_counter() - start)
                if not ids or len(shown) < len(ids):
                    writers[k].end()
            progress = None if arrived else progress
            yield Step(tuple(writer.row for writer in writers), progress=progress)
        # 2. How natural the answers are to the unsteered model, if that was asked for.
        rows = [writer.row for writer in writers]
        if fluency:
            scoring = engine.score([self.prompt] * self.rows, [row.ids for row in rows])
            scores = yield from relay(scoring, lambda _: Step(tuple(rows)))
            rows = [replace(row, fluency=score) for row, score in zip(rows, scores, strict=True)]
        yield Step(tuple(rows), done=True)

    def next_token(self, steered: Steered, behind: Sequence[int] = ()) -> NextToken:
        """Do what `engines.base.Prepared` says.

        Raises:
            CmrmError: also for tokens `behind` the prompt that their text does not stand for, as the server reads text.
        """
        engine, names = self.engine, [token_hex(16) for _ in range(self.rows)]
        chances = {"max_tokens": 1, "logprobs": True, "top_logprobs": -1, "return_tokens_as_token_ids": True}
        body = engine.go_on(self.prompt, behind, **chances) if behind else engine.ask(self.prompt, **chances)
        bodies = [steer(body, steered, k, capture=name, behind=len(behind)) for k, name in enumerate(names)]
        found = {k: made for arrived in engine.server.answer_all(CHAT, bodies) for k, made in arrived}
        if behind and any(made["prompt_token_ids"][-len(behind) :] != list(behind) for made in found.values()):
            raise CmrmError(
                "The vLLM server reads this answer's text as other tokens; explain it with the local engine."
            )
        vocabulary = range(len(found[0]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]))
        likely = [read_chances(found[k]["choices"][0], vocabulary) for k in range(self.rows)]
        return NextToken(np.array(likely, dtype=np.float32), finish(engine.fetch_states(names)))

    def _check(self, length: int) -> None:
        check_length(self.engine.context_length, length, self.settings.max_new_tokens)


@dataclass(frozen=True)
class VllmReading:
    """Prompts as requests of one token each, whose states the server keeps."""

    engine: VllmEngine
    bodies: list[Body]

    @property
    def passes(self) -> int:
        """One a prompt, as far as anybody can tell."""
        return len(self.bodies)

    def states(self, steered: Steered | None, tell: Callable[[int], Told]) -> Generator[Told, None, np.ndarray]:
        """Do what `vectors.Reading` says; of several prompts each must have its own state to reach."""
        if steered is not None and isinstance(steered.vectors, Vectors) and steered.vectors.mode == "reach":
            assert len(self.bodies) == 1, "no request knows the mean of others"
        names = [token_hex(16) for _ in self.bodies]
        bodies = [steer(body, steered, k, capture=names[k]) for k, body in enumerate(self.bodies)]
        done = 0
        for arrived in self.engine.server.answer_all(CHAT, bodies):
            if not arrived:
                yield tell(done)
            for _ in arrived:  # each is a pass, also of several that came together
                done += 1
                yield tell(done)
        return (yield from relay(self.engine.fetch_states(names), lambda _: tell(done)))


def steer(body: Body, steered: Steered | None, row: int, **more: object) -> Body:
    """Return a request that is answered as row `row` of a batch is steered; `more` is what else the plugin does."""
    asked = dict(more)
    if steered is not None:
        one = steered.pick([row])
        [vectors] = [one.vectors] if isinstance(one.vectors, Vectors) else one.vectors
        [alpha] = [one.alpha] if isinstance(one.alpha, (int, float)) else one.alpha
        if alpha or vectors.mode == "reach":
            asked |= {
                "alpha": alpha,
                "vectors": _encode(vectors),
                "shape": list(vectors.values.shape),
                "mode": vectors.mode,
                "levels": None if vectors.levels is None else vectors.levels.tolist(),
                "layers": None if one.layers is None else list(one.layers),
                "positions": one.positions,
                "steps": one.steps,
            }
    if not asked.get("behind"):
        asked.pop("behind", None)
    return {**body, "vllm_xargs": {"cmrm": json.dumps(asked)}} if asked else body


@lru_cache(maxsize=8)  # all rows of a call, and many calls, have the same
def _encode(vectors: Vectors) -> str:
    return base64.b64encode(vectors.values.astype("<f4").tobytes()).decode()


def read_counts(metrics: str) -> tuple[int, int]:
    """Return how many requests run and wait, by vLLM's own metrics in the text format of Prometheus."""
    return tuple(  # type: ignore[return-value]  # of two
        sum(int(float(line.rpartition(" ")[2])) for line in metrics.splitlines() if line.startswith(f"{name}{{"))
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting")
    )


def read_chances(choice: Body, tokens: Sequence[int] | frozenset[int] | range) -> list[float]:
    """Return the probabilities of token ids at the first token of an answer."""
    if not tokens:
        return []
    [first, *_] = choice["logprobs"]["content"]
    chances = {one["token"]: one["logprob"] for one in first["top_logprobs"]}
    return [float(np.exp(chances[f"token_id:{token}"])) for token in sorted(tokens)]
