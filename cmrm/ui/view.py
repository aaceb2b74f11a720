"""What the page shows: the two answers, their verdicts and the set-up, as HTML with every text escaped."""

from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from ..answering.comparison import Row, Step
from ..charts import Picture
from ..settings import METHODS, Method, Third
from ..workbench import Workbench
from . import markdown
from .markdown import parting

Phase = Literal["idle", "waiting", "reading", "answering", "stopped", "done"]
Veil = Literal["open", "closed", "click"]

RUNNING: tuple[Phase, ...] = ("waiting", "reading", "answering")
METHOD_NAMES: dict[Method, str] = {"dataset": "dataset-level", "sample": "sample-level"}
REAL_MODEL = "python app.py --model llava-hf/llava-1.5-7b-hf"

INTRO = """
# CMRM, side by side
A vision-language model learned from text to refuse harmful requests. Put a picture beside such a request, even a blank
one, and it may answer after all: the picture moves its inner states away from those in which it learned to refuse.
**CMRM** pulls them back while the model reads your prompt, by adding a vector to each layer; nothing is trained.
Here one model answers you twice at the same time, **as it is** and **steered**. Two things are worth watching: does
steering bring the refusal back, and does it leave harmless answers alone? Pick an example and press **Run**.
"""

WHY = """
**Why do the two answers differ?** The model reads the prompt of the last run again, and some anchor texts: where
do its states at the last prompt token lie as text alone, beside the image, and steered; and where do the answers part?
"""

_TITLES = ("Unsteered", "CMRM-steered")
_BLIND_TITLES = ("Answer A", "Answer B")
_PLACEHOLDERS = ("The answer of the model as it is.", "The answer of the same model, steered.")
_THIRD: dict[str, tuple[str, str]] = {
    "text": ("Text only", "without the image"),
    "random": ("Random direction", "as long as the offsets"),
}
_POCKET_NOTICE = "The bundled pocket model is harmless by construction: its answers hold no real instructions."
_NOTICE = (
    "The unsteered answer is unmoderated and may be harmful or offensive, so it stays blurred until both answers are "
    "judged, and afterwards if it answered what the steered side refused."
)
_JUDGE = "Verdicts are made by matching refusal phrases, and can be wrong."


@dataclass(frozen=True)
class View:
    """One moment of the answers, from before a run until after it.

    `veiled` says whether the model's unsteered answers are to be hidden at first, and `label` how the
    steered side is steered; `ask` is what was asked. While it is `blind`, no pane says whose answer it
    shows; `order` are the rows of the first two panes. `third` is the kind of row 2, and `unknown` are
    words of the prompt that the model never saw. Below `strength` a steered answer is hidden as an
    unsteered one. A `complete` run is done once its stream has ended, so that no other can begin before.
    """

    veiled: bool
    label: str = ""
    phase: Phase = "idle"
    note: str = ""
    rows: tuple[Row, ...] = ()
    error: str = ""
    ask: Any = None
    blind: bool = False
    order: tuple[int, int] = (0, 1)
    third: Third = "none"
    unknown: tuple[str, ...] = ()
    strength: float = 0.0
    complete: bool = False

    def after(self, step: Step) -> "View":
        """Return the view once `step` has arrived."""
        if step.note:
            return replace(self, note=step.note)
        return replace(self, phase="answering", rows=step.rows, complete=step.done)

    def settled(self) -> "View":
        """Return the view once the stream has ended; of a run that was stopped, what is there of the answers stays."""
        if self.phase not in RUNNING:
            return self
        return replace(self, phase="done") if self.complete else replace(self, phase="stopped", blind=False)

    def failed(self, sentence: str) -> "View":
        """Return the view of a run that could not go on, and why."""
        return replace(self, phase="stopped" if self.rows else "idle", error=sentence, blind=False)

    def revealed(self) -> "View":
        """Return the view that says which answer is whose."""
        return replace(self, blind=False)


def veil(view: View, row: int = 0) -> Veil:
    """Say how an answer is shown: open, blurred (closed), or blurred behind a click; blindly both sides alike."""
    if not view.veiled or not view.rows or (row == 1 and not view.blind and view.rows[1].alpha >= view.strength):
        return "open"
    if view.phase in RUNNING:
        return "closed"
    verdict, steered = view.rows[0 if view.blind else row].verdict, view.rows[1].verdict
    judged = verdict is not None and steered is not None
    return "click" if not judged or (verdict != "refused" and steered == "refused") else "open"


def pane(view: View, place: int) -> str:
    """Return the HTML of a pane: the unsteered (0), the steered (1), or a third answer (2), if there is one."""
    if place == 2 and view.third == "none":
        return ""
    index = place if place == 2 else view.order[place]
    row = view.rows[index] if view.rows else None
    shown, (title, subtitle) = veil(view, index), _heading(view, place, index)
    running = " running" if view.phase in RUNNING else ""
    steered = " undecided" * (view.phase == "done") if view.blind else " steered" * (index == 1)
    return (
        f'<section class="pane veil-{shown}{running}{steered}" aria-label="{title}" aria-busy="{_bool(bool(running))}">'
        f"<header><b>{title}</b><span>{escape(subtitle)}</span></header>"
        f'<div class="body">{cover(shown, "both")}{_answer(view, row, index)}</div>'
        f"<footer>{_measures(view, row)}</footer></section>"
    )


def _bool(value: bool) -> str:
    return str(value).lower()


def _heading(view: View, place: int, index: int) -> tuple[str, str]:
    if view.blind:
        return _BLIND_TITLES[place], "steered or not?"
    if index == 2:
        return _THIRD[view.third]
    return _TITLES[index], view.label if index else "the model as it is"


def _answer(view: View, row: Row | None, index: int) -> str:
    if row is None or (index == 2 and not row.tokens and view.phase == "answering"):
        text = view.note if view.phase in RUNNING else _PLACEHOLDERS[index] if index < 2 and not view.blind else ""
        return f'<p class="hint">{escape(text)}</p>'
    mark = parting([one.text for one in view.rows[:2]], [one.ended for one in view.rows[:2]]) if index < 2 else None
    return said(view, row, mark)


def cover(shown: Veil, judged: str) -> str:
    """Return the HTML over an answer: until who are judged it is hidden, or what lifts the veil."""
    if shown == "click":
        return '<label class="reveal"><input type="checkbox"> Show it anyway</label>'
    return f"<span class='reveal'>hidden until {judged} are judged</span>" if shown == "closed" else ""


def said(view: View, row: Row, mark: int | None = None) -> str:
    """Return the HTML of an answer so far, with word number `mark` marked."""
    writing = " writing" if view.phase == "answering" and not row.ended else ""
    return f'<div class="answer{writing}" dir="auto">{markdown.html(row.text, mark) or "<p></p>"}</div>'


def chip(view: View, row: Row) -> str:
    """Return the HTML of a row's verdict, or of what it is doing."""
    state = row.verdict or ("answering" if view.phase == "answering" else "stopped")
    return f'<span class="chip {state}">{state}</span>'


def length(row: Row) -> str:
    """Return a row's length in words."""
    return f"{row.tokens} {'token' if row.tokens == 1 else 'tokens'}"


def _measures(view: View, row: Row | None) -> str:
    if row is None:
        return '<span class="chip">stopped</span>' if view.phase == "stopped" else "&nbsp;"
    if view.blind:
        return "<span>The verdict is shown after your vote.</span>" if view.phase == "done" else "&nbsp;"
    cut = ", cut off" if row.ended and row.tokens == getattr(view.ask, "max_new_tokens", None) else ""
    return (
        f"{chip(view, row)}<span>{length(row)}{cut}</span>"
        f"<span>{row.seconds:.1f} s</span><span>{row.tokens_per_second:.1f} tokens/s</span>"
    )


def message(error: str) -> str:
    """Return the HTML of what went wrong, or nothing."""
    return f'<p class="problem" role="alert">{escape(error)}</p>' if error else ""


def frame(view: View) -> list[Any]:
    """Return what fills the panes, the place of problems, and the state."""
    return [*(pane(view, place) for place in (0, 1, 2)), told(view), view]


def told(view: View) -> str:
    """Return the HTML of what a visitor should know about a run: what went wrong, or words that mean nothing."""
    words = ", ".join(view.unknown)
    hint = f"The pocket model doesn't know: {words}. Expect an odd answer." if words else ""
    return message(view.error) or (f'<p class="hint-box" role="status">{escape(hint)}</p>' if hint else "")


def steering_label(method: Any, alpha: Any) -> str:
    """Return how the steered side is steered, in words."""
    return f"{METHOD_NAMES.get(method, method)}, alpha {alpha:g}" if isinstance(alpha, (int, float)) else str(method)


def note(text: str, *, running: bool = False) -> str:
    """Return the HTML of a sentence on what goes on."""
    return f'<p class="hint{" running" * running}" role="status">{escape(text)}</p>' if text else ""


def caption(picture: Picture) -> str:
    """Return the HTML of a picture's words, which say what it shows."""
    return f'<p class="caption">{escape(picture.alt)}</p>'


def needs_veil(bench: Workbench) -> bool:
    """Whether unsteered answers are hidden at first: all but those of the harmless pocket model."""
    return bench.vlm.identity.model != "pocket"


def notice(bench: Workbench) -> str:
    """Return the HTML of the content notice above the answers."""
    return f'<p class="notice">{_NOTICE if needs_veil(bench) else _POCKET_NOTICE} {_JUDGE}</p>'


def status(bench: Workbench) -> str:
    """Return the HTML that names the model, the hooked layers and the offsets in use."""
    identity = bench.vlm.identity
    offsets, sample = bench.offsets.origin, bench.recipes["sample"]
    facts = {
        "Model": f"{identity.model} ({identity.architecture.split('/')[0]}, {identity.dtype})",
        "Quantization": identity.quantization,
        "Hooked layers": f"{bench.vlm.layers_path}, {_hooked(bench)}",
        "Dataset-level offsets": f"{offsets.estimator}, {offsets.corruption} image, measured on {offsets.anchors} "
        f"anchor texts ({bench.anchors})",
        "Sample-level offsets": f"{sample.estimator}, {sample.corruption} image, measured on your own prompt",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items())
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in bench.notes)
    hint = "" if needs_veil(bench) else "The pocket model shows the mechanics and is no evidence about real models. "
    return (
        f'<div class="status"><dl>{rows}</dl>{notes}<p>{hint}To run a real model: <code>{REAL_MODEL}</code></p></div>'
    )


def _hooked(bench: Workbench) -> str:
    total = len(bench.vlm.layers)
    counts = [len(bench.recipes[method].layers or range(total)) for method in METHODS]
    if set(counts) == {total}:
        return f"all {total}"
    parts = (f"{count} ({METHOD_NAMES[method]})" for method, count in zip(METHODS, counts, strict=True))
    return f"of {total}: {', '.join(parts)}"
