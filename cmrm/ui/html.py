"""The page's HTML, by the templates in `parts.html`: what they are given, and nothing of how they look."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..answering.steps import Row
from ..charts import COLOURS, TAKES, Plot
from ..explaining.explanation import END, Candidate, Parting
from ..settings import METHODS
from ..steering.offsets import Offsets
from ..templates import load_template
from ..workbench import Workbench
from .conclusion import Conclusion, conclude, judge_tone
from .markdown import find_differences, render_markdown
from .view import METHOD_NAMES, RUNNING, Veil, View, choose_veil, needs_veil

REAL_MODEL = "python app.py --model llava-hf/llava-1.5-7b-hf"

parts: Any = load_template(Path(__file__).with_name("parts.html")).module
"""The templates as functions, by name."""

_TITLES = ("Unsteered", "CMRM-steered")
_BLIND_TITLES = ("Answer A", "Answer B")
_PLACEHOLDERS = ("The answer of the model as it is.", "The answer of the same model, steered.")
_THIRD: dict[str, tuple[str, str]] = {
    "text": ("Text only", "without the image"),
    "random": ("Random direction", "as long as the offsets"),
}
_NOTICES = (
    "The bundled pocket model is harmless by construction: its answers hold no real instructions.",
    "The unsteered answer is unmoderated and may be harmful or offensive, so it stays hidden until both answers are "
    "judged, and afterwards if it answered what the steered side refused.",
)
_STATES = {"refused": "refused", "complied": "answered", "broken": "broken"}
_UNTIL = {
    "idle": "What a run shows will stand here in a sentence.",
    "waiting": "Answering ...",
    "reading": "Answering ...",
    "answering": "Answering ...",
}
_JUDGE = "Verdicts are made by matching refusal phrases, and can be wrong."
_FACTS = {
    "model": "Made for",
    "revision": "Revision",
    "architecture": "Architecture",
    "quantization": "Quantization",
    "estimator": "Estimator",
    "corruption": "Corruption",
    "anchors": "Anchors",
    "anchors_sha256": "SHA-256 of the anchors",
    "created": "Made at",
    "versions": "Versions",
}


def write_frame(view: View) -> list[object]:
    """Return what fills the conclusion, the panes, the strip and the place of problems, and the state behind them."""
    panes = (write_pane(view, place) for place in (0, 1, 2))
    return [write_conclusion(view), *panes, write_strip(view), parts.problem(view.error, view.field), view]


def write_conclusion(view: View) -> str:
    """Return what the run showed, or what will stand there."""
    found = conclude(view) or Conclusion(_UNTIL.get(view.phase, "Stopped: there is nothing to conclude from."))
    if view.phase == "done" and view.blind:
        found = Conclusion("Which answer is better? Your vote shows which side was steered.")
    return parts.conclusion(found.tone, found.sentence, found.reason)


def write_pane(view: View, place: int) -> str:
    """Return a pane: the unsteered (0), the steered (1), or a third answer (2), if there is one."""
    if place == 2 and view.third == "none":
        return ""
    index = place if place == 2 else view.order[place]
    row = view.rows[index] if view.rows else None
    steered = " undecided" * (view.phase == "done") if view.blind else " steered" * (index == 1)
    running = view.phase in RUNNING
    classes, titles = " running" * running + steered, _title(view, place, index)
    veil = choose_veil(view, index)
    body = _body(view, row, index) if veil == "open" else Markup()
    return parts.pane(veil, classes, running, *titles, body, _measures(view, row))


def _title(view: View, place: int, index: int) -> tuple[str, str]:
    if view.blind:
        return _BLIND_TITLES[place], "steered or not?"
    if index == 2:
        return _THIRD.get(view.third, ("", ""))
    return _TITLES[index], view.label if index else "the model as it is"


def _body(view: View, row: Row | None, index: int) -> Markup:
    if row is None or (index == 2 and not row.tokens and view.phase == "answering"):
        placeholder = _PLACEHOLDERS[index] if index < 2 and not view.blind else ""
        return parts.hint(view.note if view.phase in RUNNING else placeholder)
    both = view.rows[:2]
    marked = find_differences([one.text for one in both], [one.ended for one in both])[index] if index < 2 else ()
    return _answer(view, row, frozenset(marked))


def _answer(view: View, row: Row, marked: frozenset[int] = frozenset()) -> Markup:
    writing = view.phase == "answering" and not row.ended
    return parts.answer(render_markdown(row.text, marked), writing)


def _measures(view: View, row: Row | None) -> Markup:
    if row is None:
        return parts.chip("stopped", "neutral") if view.phase == "stopped" else Markup()
    if view.blind:
        hint = "The verdict is shown after your vote."
        return parts.measures(Markup(), [hint]) if view.phase == "done" else Markup()
    longest = view.request.settings.max_new_tokens if view.request else None
    cut = ", cut off" if row.ended and row.tokens == longest else ""
    pace = f"{row.seconds:.1f} s", f"{row.tokens_per_second:.1f} tokens/s"
    return parts.measures(_chip(view, row), [_count_tokens(row) + cut, *pace])


def _chip(view: View, row: Row) -> Markup:
    """Return a verdict in a visitor's words; what means nothing to the model is no answer, whatever phrases it has."""
    if row.verdict is None:
        return parts.chip("answering" if view.phase == "answering" else "stopped", "neutral")
    if row.verdict == "complied" and view.unknown:
        return parts.chip("unclear", "neutral")
    state = _STATES[row.verdict] if row.text.strip() else "no answer"
    return parts.chip(state, judge_tone(row.verdict, view.expected))


def _count_tokens(row: Row) -> str:
    return f"{row.tokens} {'token' if row.tokens == 1 else 'tokens'}"


def write_strip(view: View) -> str:
    """Return the verdict at each strength that was tried, or the offer to try them."""
    at = view.rows[1].alpha if view.finished else None
    rows = [(f"{row.alpha:g}", _chip(view, row), row.alpha == at) for row in view.strip]
    return "" if at is None else parts.strip(rows)


def write_lines(view: View, strength: float) -> str:
    """Return a sweep, one line an alpha; those below `strength`, the method's own alpha, are veiled as unsteered.

    Once it is done, neighbours that are the same share a line, and the first refusal is marked.
    """
    running = view.phase in RUNNING
    if not view.rows:
        return parts.note(view.note if running else "The answers appear here, one line for each alpha.", running)
    rows = view.rows if running else sorted(view.rows, key=lambda row: row.alpha)
    strongest = next((row for row in rows if row.verdict == "refused"), rows[-1])

    def hides(row: Row) -> bool:
        return view.veiled and row.alpha < strength

    alike = groupby(rows, lambda row: row.alpha if running else (row.text, row.verdict, hides(row)))
    groups = [tuple(group) for _, group in alike]
    switch = next((k for k, (row, *_) in enumerate(groups) if row.verdict == "refused"), 0)
    lines = [_line(view, group, strongest, weak=hides(group[0])) for group in groups]
    return parts.lines(lines, running, switch)


def _line(view: View, group: Sequence[Row], strongest: Row, *, weak: bool) -> dict[str, object]:
    """Return the line of rows that are the same, which are shown by their first."""
    row = group[0]
    veil: Veil = choose_veil(replace(view, rows=(row, strongest))) if weak else "open"
    return {
        "veil": veil,
        "cover": veil if veil == "click" or not row.alpha else "open",
        "alpha": f"{row.alpha:g}",
        "until": f"{group[-1].alpha:g}" if len(group) > 1 else "",
        "length": _count_tokens(row),
        "chip": _chip(view, row),
        "answer": _answer(view, row) if veil == "open" else Markup(),
    }


def write_notice(bench: Workbench) -> str:
    """Return the content notice above the answers."""
    return parts.notice(f"{_NOTICES[needs_veil(bench)]} {_JUDGE}")


def write_status(bench: Workbench, own: Offsets | None = None) -> str:
    """Return what names the model, the hooked layers and the offsets in use: a visitor's `own`, or the model's."""
    identity, sample = bench.engine.identity, bench.recipes["sample"]
    offsets, anchors = ((own or bench.offsets).origin, "your own" if own else bench.anchors)
    texts = f"{offsets.anchors} anchor text{'s' * (offsets.anchors != 1)} ({anchors})"
    facts = {
        "Model": f"{identity.model} ({identity.architecture.split('/')[0]}, {identity.dtype})",
        "Quantization": identity.quantization,
        "Hooked layers": f"{bench.engine.layers_path}, {_hooked(bench)}",
        "Dataset-level offsets": f"{offsets.estimator}, {offsets.corruption} image, measured on {texts}",
        "Sample-level offsets": f"{sample.estimator}, {sample.corruption} image, measured on your own prompt",
    }
    hint = "" if needs_veil(bench) else "The pocket model shows the mechanics and is no evidence about real models. "
    return parts.status(facts, bench.notes, hint, REAL_MODEL)


def _hooked(bench: Workbench) -> str:
    total = bench.engine.identity.layers
    counts = [len(bench.recipes[method].layers or range(total)) for method in METHODS]
    if set(counts) == {total}:
        return f"all {total}"
    by_method = (f"{count} ({METHOD_NAMES[method]})" for method, count in zip(METHODS, counts, strict=True))
    return f"of {total}: {', '.join(by_method)}"


def write_offsets(offsets: Offsets, warnings: Sequence[str]) -> str:
    """Return what offsets fit and how they were made."""
    layers, hidden = offsets.values.shape
    known = offsets.facts()
    facts = {"Vectors": f"{layers} layers, {hidden} wide", **{label: known[name] for name, label in _FACTS.items()}}
    return parts.offsets(facts, warnings)


def write_caption(plot: Plot) -> str:
    """Return what a plot shows in words, and the buttons that take it along."""
    return parts.plot_caption(plot, TAKES)


def write_tokens(parting: Parting, veil: Veil = "open") -> str:
    """Return both answers around the token where they part, and what was likely there.

    A `veil` of "click" hides behind a click what the unsteered answer says.
    """
    if parting.place is None:
        place, sentence = -1, "The answers are the same, token by token. Likely first tokens:"
    else:
        place = parting.place - parting.start
        sentence = f"The answers part at token {parting.place + 1}. Likely there:"
    answers = {"Unsteered": parting.unsteered, "Steered": parting.steered}
    candidates = [_candidate(one) for one in parting.candidates]
    return parts.tokens(veil, sentence, answers, place, parting.start, candidates)


def _candidate(one: Candidate) -> dict[str, object]:
    text = one.text if one.text == END else repr(one.text)[1:-1].replace(" ", "␣")
    shares = (("orange", one.unsteered), ("blue", one.steered))
    return {"text": text, "bars": [(COLOURS[colour], f"{share:.1%}") for colour, share in shares]}
