"""What is asked of a model, wherever it runs: in this process (`local.py`), or in a server.

Nothing that uses an engine knows its weights, its hooks or torch: prompts, steerings and states cross as data.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..answering.steps import Answered, NextToken, Step
from ..settings import Settings
from ..steering.vectors import Prompt, Reader, Steered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EngineHealth:
    """Whether a pass is `working` now, and how many forward `hooks` are on the model (those of that pass included).

    `running` and `waiting` count a server's own requests, those of its other clients included; `problem` says why
    nothing is known.
    """

    working: bool
    hooks: int
    running: int | None = None
    waiting: int | None = None
    problem: str = ""


class Prepared(Protocol):
    """One prompt that was checked, and is ready to be answered by a number of rows."""

    def answer(self, steered: Steered | None, *, fluency: bool = False) -> Generator[Step]:
        """Stream the answers of all rows in lockstep; row 0 is unsteered. Close it at any time to stop.

        `steered` has one alpha a row, 0 for row 0; None for the unsteered row alone. With `fluency` the last step
        scores the answers.
        """

    def next_token(self, steered: Steered, behind: Sequence[int] = ()) -> NextToken:
        """Say what is likely behind the prompt and the token ids `behind`, each steered as a decode step would be."""


class Engine(Reader, Protocol):
    """One model that answers; its requests may interleave pass by pass."""

    @property
    def context_length(self) -> int | None:
        """How many tokens a prompt and its answer may take, None for no bound."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about how the model was loaded that a user should see."""

    @property
    def layers_path(self) -> str:
        """Where the steered layers are, such as `model.language_model.layers`."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer, of transformers."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""

    @property
    def at_once(self) -> int:
        """How many requests it answers at the same time; others had better wait for their turn."""

    def prepare(self, prompt: Prompt, settings: Settings, rows: int) -> Prepared:
        """Check a request of `rows` rows: its prompt, its length, its layers, and whether memory holds it.

        Raises:
            CmrmError: anything that can't be answered, before a pass runs.
        """

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        steered: Steered | None = None,
        *,
        max_new_tokens: int,
        openings: frozenset[int] = frozenset(),
    ) -> list[Answered]:
        """Answer different prompts greedily, in as few batches as their pictures allow, each row steered for itself.

        `openings` are token ids whose summed probability at the first token is reported.

        Raises:
            CmrmError: a prompt that can't be laid out or is too long.
            OutOfMemoryError: too many rows at once.
        """

    def log_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float | None]:
        """Return each answer's mean log-probability a token behind its prompt, unsteered; None for an empty answer."""

    def health(self) -> EngineHealth:
        """Say how the engine is doing now."""
