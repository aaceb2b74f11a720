"""The Compare tab: an image and a prompt, answered unsteered and steered side by side."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gradio as gr

from ..errors import CmrmError
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .behind import Alone, Behind, Strip, add_found
from .controls import add_alpha, add_controls, add_expected, add_image, add_prompt
from .events import AT_ONCE, HIDDEN, QUICK, follow_end, run_model, show_errors, take_turn, wait_for_turn
from .examples import add_cards
from .familiar import find_unknown, is_unfamiliar, write_warning
from .own_offsets import Own
from .requests import answer, parse_request
from .share import Runs, Share, add_run
from .view import RUNNING, View, label_steering, needs_veil
from .votes import Votes

STILL_RUNNING = "An answer is still on its way; wait for its end, or press Stop."

_TAKE_ALPHA = "() => Number(document.getElementById('take-alpha').dataset.alpha)"
PRESS_RUN = "() => document.getElementById('run').click()"
_RERUN = Path(__file__).with_name("rerun.js").read_text("utf-8")


def add_compare_tab(bench: Workbench, blocks: gr.Blocks, own: Own) -> "Compare":
    """Lay out the tab and connect its events."""
    tab = Compare(bench, blocks, own.offsets)
    tab.connect()
    tab.votes.connect(tab.view, tab.frame, tab.share)
    tab.share.connect(bench, blocks, tab.view, tab.inputs, tab.frame)
    return tab


class Compare:
    """The tab: its components, those of the settings by name in `controls`, and what its events do.

    `inputs` are all that make a request, by name, and `frame` the outputs that `html.write_frame` fills.
    """

    def __init__(self, bench: Workbench, blocks: gr.Blocks, own: gr.State) -> None:
        self.bench, self.blocks, self.own, self.veiled = bench, blocks, own, needs_veil(bench)
        empty = View(self.veiled, label_steering("dataset", bench.recipes["dataset"].alpha))
        self.cards = add_cards()
        with gr.Row(equal_height=False, elem_id="compare"):
            with gr.Column(scale=4, min_width=280, elem_id="question"):
                self._lay_out_question()
            with gr.Column(scale=8, min_width=280):
                self._lay_out_answers(empty)
        self.view, self.behind = gr.State(empty), Behind(bench)
        self.frame = [self.conclusion, *self.panes, self.strip, self.problem, self.view]
        self.inputs = {"image": self.image, "prompt": self.prompt, "expected": self.expected, **self.controls}

    def _lay_out_question(self) -> None:
        self.image, self.prompt = add_image("image", "a text-only answer"), add_prompt("prompt")
        self.warning = gr.HTML("", elem_id="warning")
        with gr.Row(elem_id="actions"):
            self.run = gr.Button("Run", variant="primary", elem_id="run")
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop")
            self.again = gr.Button("Regenerate", elem_id="again")
            self.clear = gr.Button("Clear", elem_id="clear")
        alpha = add_alpha(self.bench)
        self.expected = add_expected()
        label = "Blind: vote before you see which side is steered"
        self.blind = gr.Checkbox(label=label, container=False, elem_id="blind")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self.controls = add_controls(self.bench, alpha)

    def _lay_out_answers(self, empty: View) -> None:
        self.problem = gr.HTML("", elem_id="problem")
        self.conclusion = gr.HTML(html.write_conclusion(empty), elem_id="conclusion")
        with gr.Row(elem_id="panes"):
            self.panes = [gr.HTML(html.write_pane(empty, k), elem_id=f"pane-{k}") for k in (0, 1, 2)]
        self.strip = gr.HTML(html.write_strip(empty), elem_id="strip")
        self.try_strengths = gr.Button("Try other strengths", visible="hidden", elem_id="try-strengths")
        self.take_alpha = gr.Button("Take this strength", visible="hidden", elem_id="take-alpha")
        gr.HTML(html.write_notice(self.bench))
        self.reveal = gr.Button("Show what is hidden", visible="hidden", elem_id="reveal")
        self.votes, self.share = Votes(), Share()

    def connect(self) -> None:
        """Connect the events of a run, and those of what is said of it."""
        controls, share, behind = self.controls, self.share, self.behind
        starts = [self.run.click, self.prompt.submit, self.again.click]
        asked = [self.image, self.prompt, *controls.values()]
        example = [self.image, self.prompt, self.expected]
        filled = gr.on([card.click for card in self.cards], self.fill, self.view, example, **QUICK)
        filled.success(None, js=PRESS_RUN)
        waiting = gr.on(
            starts,
            self.begin,
            [self.view, self.blind, self.expected, *asked],
            [*self.frame, controls["seed"]],
            preprocess=False,
            **QUICK,
        )
        # Values come unchecked, so that one place, the settings, says what is wrong with them.
        shown_on = run_model(self.bench, *self.panes[:2])
        running = waiting.success(self.stream, [self.view, self.own, *asked], self.frame, preprocess=False, **shown_on)
        found = [self.view, *behind.found]
        ended = follow_end(running, self.end, [*found, share.runs], [*self.frame, *share.outputs])
        # What is found out behind a run waits its turn, and is dropped for a next run.
        turn = {**take_turn(self.bench), **HIDDEN}
        alone = ended.success(behind.judge_alone, found[:2], [self.conclusion, behind.alone], **turn)
        tried = self.try_strengths.click(behind.try_strengths, self.view, [self.strip, behind.strip], **turn)
        gr.on(starts, None, cancels=[alone, tried])
        self.stop.click(None, cancels=[running])
        self.clear.click(None, cancels=[running, alone, tried])
        self.clear.click(
            self.empty, [controls["method"], controls["alpha"]], [*example, *self.frame], preprocess=False, **QUICK
        )
        self.expected.input(self.expect, [*found, self.expected], self.frame, preprocess=False, **QUICK)
        self.reveal.click(self.open_veil, found, self.frame, **QUICK)
        self.take_alpha.click(None, None, controls["alpha"], js=_TAKE_ALPHA).success(None, js=PRESS_RUN)
        gr.on([self.image.change, self.prompt.blur], self.warn, asked[:2], self.warning, preprocess=False, **AT_ONCE)
        controls["alpha"].release(None, js=_RERUN)
        recipes = self.bench.recipes
        controls["method"].input(lambda name: recipes[name].alpha, controls["method"], controls["alpha"], **AT_ONCE)

    def empty(self, method: object, alpha: object) -> list[object]:
        """Return the tab as it was at first, but for its settings."""
        return [None, "", "", *html.write_frame(View(self.veiled, label_steering(method, alpha)))]

    def warn(self, image: object, prompt: object) -> str:
        """Return what is to be known before a run."""
        return write_warning(self.bench, image, prompt)

    def fill(self, event: gr.EventData, view: View) -> list[object]:
        """Return the picture, the prompt and the kind of the example that was pressed."""
        if view.phase in RUNNING:  # its run would say so, but what is asked just now is not to be overwritten
            raise gr.Error(STILL_RUNNING, title="One at a time", print_exception=False)
        example = self.cards[event.target]
        return [example.path, example.prompt, example.expected]

    def begin(
        self,
        event: gr.EventData,
        view: View,
        blind: bool,
        expected: str,
        image: object,
        prompt: object,
        *values: object,
    ) -> list[object] | dict[str, object]:
        """Return a run that waits, and its seed: another for the button that asks for another answer."""
        if view.phase in RUNNING:
            gr.Info(STILL_RUNNING)
            return gr.skip()
        choices = dict(zip(self.controls, values, strict=True))
        waiting = View(
            self.veiled,
            label_steering(choices["method"], choices["alpha"]),
            "waiting",
            wait_for_turn(self.blocks),
            blind=blind,
            order=random.choice(((0, 1), (1, 0))) if blind else (0, 1),
            third="none" if blind else str(choices["third"]),
            unknown=find_unknown(self.bench, prompt),
            unfamiliar=is_unfamiliar(self.bench, image),
            expected=expected,
            before=view.keep(),
        )
        if event.target is not self.again:
            return [*html.write_frame(waiting), choices["seed"]]
        if not choices["temperature"]:
            gr.Info("At temperature 0 the answer is the same each time; raise it in the settings for another.")
        return [*html.write_frame(waiting), random.randrange(2**31)]

    def stream(
        self, view: View, offsets: Offsets | None, image: object, prompt: object, *values: object
    ) -> Iterator[list[object]]:
        """Answer, and return the frame at each step."""
        choices = {**dict(zip(self.controls, values, strict=True)), "third": view.third}
        with show_errors():
            try:
                request = parse_request("compare", image, prompt, choices, offsets)
                method = request.settings.method
                view = replace(
                    view,
                    phase="reading",
                    note="Reading the prompt ..." if image is None else "Reading the image ...",
                    request=request,
                    label=view.label + ", own offsets" * (offsets is not None and method == "dataset"),
                    strength=self.bench.recipes[method].alpha,
                )
                yield html.write_frame(view)
                with closing(answer(self.bench, request)) as steps:
                    for step in steps:
                        view = view.advance(step)
                        yield html.write_frame(view)
            except CmrmError as error:
                yield html.write_frame(view.fail(self._put(error), error.field))

    def _put(self, error: CmrmError) -> str:
        """Return what is wrong with a setting under the name that its control has."""
        named = self.controls.get(error.field)
        return str(error) if named is None else str(error).replace(f"{error.field} is ", f"{named.label} is ", 1)

    def end(self, view: View, alone: Alone | None, strip: Strip | None, runs: Runs) -> list[object]:
        """Return the frame of a run that has ended, which is kept if it is whole."""
        view = add_found(view.end(), alone, strip)
        return [*html.write_frame(view), *add_run(runs, view)]

    def expect(self, view: View, alone: Alone | None, strip: Strip | None, expected: str) -> list[object]:
        """Return the frame once it is said what the request is."""
        return html.write_frame(add_found(replace(view, expected=expected), alone, strip))

    def open_veil(self, view: View, alone: Alone | None, strip: Strip | None) -> list[object]:
        """Return the frame with what is hidden."""
        return html.write_frame(add_found(replace(view, opened=True), alone, strip))
