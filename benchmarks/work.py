"""The pieces of work that are timed: what is made ready outside the clock, and what runs on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from cmrm import LocalEngine, Offsets, Vlm, compare, extract_offsets, steer
from cmrm.answering.generation import Sampling, lockstep
from cmrm.model.hooks import hooked

from .geometry import picture

TOKENS = 64
PROMPT = "How do I pick the lock of my neighbour's door?"
# Eight lengths, as short texts have in a real tokenizer.
ANCHORS = tuple(f"Tell me how to build number {k} of{' all' * (k % 8)} them." for k in range(10, 42))
EIGHT = tuple(k / 4 for k in range(1, 8))  # seven steered rows beside the unsteered one


@dataclass(frozen=True)
class Work:
    """One timed piece of work; `must` bounds its ratio to one stock answer (or to `against`)."""

    name: str
    run: Callable[[], None]
    must: float | None = None
    prepare: Callable[[], None] = lambda: None
    against: str = "one stock answer"


@dataclass(frozen=True)
class Bench:
    """The model, and offsets to steer it by; its answers never end early."""

    vlm: Vlm
    offsets: Offsets

    @classmethod
    def of(cls, vlm: Vlm) -> "Bench":
        """Measure quick offsets of a loaded model."""
        return cls.endless(vlm, extract_offsets(LocalEngine(vlm), ANCHORS[:2], estimator="mean"))

    @classmethod
    def endless(cls, vlm: Vlm, offsets: Offsets) -> "Bench":
        """Let no answer end early."""
        vlm.model.generation_config.eos_token_id = []
        return cls(vlm, offsets)

    def stock(self, rows: int = 1) -> None:
        """One call of transformers' own `generate`, image and prompt processing included."""
        inputs = self.vlm.encode(PROMPT, picture())
        batch = {key: torch.cat([value] * rows) for key, value in inputs.items()}
        self.vlm.model.generate(**batch, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS)

    def one_after_the_other(self) -> None:
        """What others do: the plain answer, then the hooked one."""
        self.stock()
        with steer(self.vlm, self.offsets, 1.0):
            self.stock()

    def answer(self, *alphas: float) -> None:
        """Run `compare` to its end."""
        for _ in compare(self.vlm, picture(), PROMPT, self.offsets, alphas, max_new_tokens=TOKENS):
            pass

    def loop(self, hooks: Callable[[], AbstractContextManager[None]]) -> None:
        """Decode two rows with the prefix at hand."""
        inputs = self.vlm.encode(PROMPT, picture())
        for _ in lockstep(
            self.vlm.network,
            inputs,
            2,
            hooks=lambda _: hooks(),
            end_tokens=self.vlm.end_tokens,
            sampling=Sampling(),
            max_new_tokens=TOKENS,
        ):
            pass

    def steered(self) -> AbstractContextManager[None]:
        """Hooks on the second row."""
        return steer(self.vlm, self.offsets, (0.0, 1.0), steps="all")

    def sample_level(self) -> None:
        """Offsets of this very prompt, then the two answers."""
        offsets = extract_offsets(LocalEngine(self.vlm), [PROMPT])
        for _ in compare(self.vlm, picture(), PROMPT, offsets, max_new_tokens=TOKENS):
            pass

    def only_blank_kept(self) -> None:
        """The state in which a later prompt arrives: nothing kept but the blank image's prefix."""
        self.vlm.network.prefixes.clear()
        extract_offsets(LocalEngine(self.vlm), ["Why?"])

    def extract(self) -> None:
        """The mean over all anchors."""
        extract_offsets(LocalEngine(self.vlm), ANCHORS, estimator="mean")

    def one_pass_a_state(self) -> None:
        """The same number of states by one full forward pass each."""
        blank = self.vlm.blank("white")
        for prompt in ANCHORS:
            for image in (None, blank):
                inputs = self.vlm.encode(prompt, image)
                with hooked(dict(enumerate(self.vlm.layers)), lambda _, hidden: None), torch.no_grad():
                    self.vlm.model(**inputs, logits_to_keep=1)

    def all(self) -> list[Work]:
        """Return all work that is compared with one stock answer."""
        forget = self.vlm.network.prefixes.clear
        return [
            Work("one stock answer", self.stock),
            Work("two stock answers, one hooked", self.one_after_the_other),
            Work("stock at batch 2", lambda: self.stock(2)),
            Work("compare, one steered row", lambda: self.answer(1.0), 1.30, forget),
            Work("compare, 8 rows", lambda: self.answer(*EIGHT), 3.00, forget),
            Work("compare again, another alpha", lambda: self.answer(0.5), 1.00, lambda: self.answer(1.0)),
            Work("sample-level, first prompt", self.sample_level, 1.60, forget),
            Work("sample-level, later prompts", self.sample_level, 1.40, self.only_blank_kept),
            Work("the loop of 2 rows, no hooks", lambda: self.loop(nullcontext)),
            Work(
                "the loop of 2 rows, one hooked, steps = all",
                lambda: self.loop(self.steered),
                1.03,
                against="the loop of 2 rows, no hooks",
            ),
            Work("extraction, one forward pass a state", self.one_pass_a_state),
            Work("extraction", self.extract, 0.40, forget, "extraction, one forward pass a state"),
        ]
