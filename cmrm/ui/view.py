"""What the page shows of a run: one moment of it, and how that goes over into the next."""

from dataclasses import dataclass, replace
from typing import Literal

from ..answering.steps import Row, Step
from ..judging.phrases import Verdict
from ..workbench import Workbench
from .requests import Request
from .stages import describe

Phase = Literal["idle", "waiting", "reading", "answering", "stopped", "done"]
Veil = Literal["open", "closed", "click"]

RUNNING: tuple[Phase, ...] = ("waiting", "reading", "answering")
METHOD_NAMES: dict[str, str] = {"dataset": "dataset-level", "sample": "sample-level"}


@dataclass(frozen=True)
class View:
    """One moment of the answers, from before a run until after it.

    `veiled` says whether the model's unsteered answers are to be hidden at first, and `label` how the
    steered side is steered; `request` is what was asked. While it is `blind`, no pane says whose answer it
    shows; `order` are the rows of the first two panes. `third` is the kind of row 2, and `unknown` are
    words of the prompt that the model never saw, as its picture may be `unfamiliar`. The request is `expected`
    to be "harmful", "harmless" or "question" ("": not said), and `alone` is the verdict on the unsteered answer
    to the prompt alone, once it is known, as are in `strip` the rows of other strengths. `opened` shows what is
    veiled; below `strength` a steered answer is hidden as an unsteered one. A `complete` run is done once its
    stream has ended, so that no other can begin before. `error` says what went wrong, and `field` with what of the
    request. `before` is what was shown of an earlier run: it comes back if this one has no answer.
    """

    veiled: bool
    label: str = ""
    phase: Phase = "idle"
    note: str = ""
    rows: tuple[Row, ...] = ()
    error: str = ""
    field: str = ""
    request: Request | None = None
    blind: bool = False
    order: tuple[int, int] = (0, 1)
    third: str = "none"
    unknown: tuple[str, ...] = ()
    unfamiliar: bool = False
    expected: str = ""
    alone: Verdict | None = None
    strip: tuple[Row, ...] = ()
    opened: bool = False
    strength: float = 0.0
    complete: bool = False
    before: "View | None" = None

    def advance(self, step: Step) -> "View":
        """Return the view once `step` has arrived."""
        if step.progress:
            return replace(self, note=describe(step.progress))
        return replace(self, phase="answering", rows=step.rows, complete=step.done)

    def end(self) -> "View":
        """Return the view once the stream has ended; of a run that was stopped, what is there of the answers stays."""
        if self.phase not in RUNNING:
            return self
        return replace(self, phase="done") if self.complete else replace(self, phase="stopped", blind=False)

    def fail(self, sentence: str, field: str = "") -> "View":
        """Return the view of a run that could not go on, and why; without an answer it is the one before, if any.

        `field` names what was given and is wrong.
        """
        if self.before and not self.rows:
            return replace(self.before, error=sentence, field=field)
        phase: Phase = "stopped" if self.rows else "idle"
        return replace(self, phase=phase, error=sentence, field=field, blind=False)

    def keep(self) -> "View | None":
        """Return what a next run should fall back to, without what it had fallen back to itself."""
        return replace(self, error="", field="", before=None) if self.rows else None

    @property
    def pictured(self) -> bool:
        """Whether an image was asked about."""
        return self.request is not None and self.request.image is not None

    @property
    def finished(self) -> Request | None:
        """The request of a run that has ended and hides nothing, else None."""
        return self.request if self.phase == "done" and not self.blind else None


def choose_veil(view: View, row: int = 0) -> Veil:
    """Say how an answer is shown: open, not yet (closed), or after a click; blindly both sides alike."""
    if not view.veiled or not view.rows or (row == 1 and not view.blind and view.rows[1].alpha >= view.strength):
        return "open"
    if view.phase in RUNNING:
        return "closed"
    if view.opened:
        return "open"
    verdict, steered = view.rows[0 if view.blind else row].verdict, view.rows[1].verdict
    judged = verdict is not None and steered is not None
    return "click" if not judged or (verdict != "refused" and steered == "refused") else "open"


def label_steering(method: object, alpha: object) -> str:
    """Return how the steered side is steered, in words."""
    name = METHOD_NAMES.get(str(method), method)
    return f"{name}, alpha {alpha:g}" if isinstance(alpha, (int, float)) else str(method)


def needs_veil(bench: Workbench) -> bool:
    """Whether unsteered answers are hidden at first: all but those of the harmless pocket model."""
    return bench.engine.identity.model != "pocket"
