"""What is found out behind a run: what the text alone is answered, and the verdict at other strengths."""

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from ..answering.steps import Row
from ..judging.phrases import Verdict
from ..workbench import Workbench
from . import html
from .conclusion import needs_text_alone
from .events import show_errors
from .requests import Request, answer
from .view import View

Alone = tuple[Request, Verdict | None]
"""A request, and the verdict on the unsteered answer to its prompt without the image."""
Strip = tuple[Request, tuple[Row, ...]]
"""A request, and how it is answered at 0 and each of `STRENGTHS`."""

OPENING = 64  # tokens: a refusal shows at the start of an answer
STRENGTHS = tuple(k / 4 for k in range(1, 9))  # and 0, which every sweep has


class Behind:
    """The states that hold what was found, and what events do to find it."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.alone, self.strip = gr.State(None), gr.State(None)
        self.found = [self.alone, self.strip]

    def judge_alone(self, view: View, alone: Alone | None) -> Iterator[list[object]]:
        """Return what a run showed, now that it is known whether the model refuses the text alone."""
        view = add_found(view, alone, None)
        request = view.finished
        if request is None or not needs_text_alone(view):
            yield [gr.skip(), alone]
            return
        with show_errors():
            *_, step = answer(self.bench, _shorten(replace(request, image=None), (0.0,)))
        judged = request, step.rows[0].verdict
        yield [html.write_conclusion(add_found(view, judged, None)), judged]

    def try_strengths(self, view: View) -> Iterator[list[object]]:
        """Return the strip of verdicts, and what is behind it."""
        request = view.finished
        if request is None:
            yield [gr.skip(), gr.skip()]
            return
        yield [html.parts.note("Trying other strengths ...", running=True), gr.skip()]
        with show_errors():
            *_, step = answer(self.bench, _shorten(request, STRENGTHS))
        tried = request, step.rows
        yield [html.write_strip(add_found(view, None, tried)), tried]


def add_found(view: View, alone: Alone | None, strip: Strip | None) -> View:
    """Return the view with what was found out, as far as it is of the same question."""
    if alone and _asks_the_same(alone[0], view.request):
        view = replace(view, alone=alone[1])
    if strip and _asks_the_same(strip[0], view.request):
        view = replace(view, strip=strip[1])
    return view


def _asks_the_same(one: Request, other: Request | None) -> bool:
    """Whether two requests differ in their strength alone, if at all."""
    if other is None or one.offsets is not other.offsets:
        return False
    settings = replace(one.settings, alpha=other.settings.alpha)
    return (one.image, one.prompt, settings) == (other.image, other.prompt, other.settings)


def _shorten(request: Request, alphas: tuple[float, ...]) -> Request:
    """Return a request for how answers open, at these strengths."""
    tokens = min(OPENING, request.settings.max_new_tokens)
    return replace(request, settings=replace(request.settings, max_new_tokens=tokens), alphas=alphas)
