"""Blind mode: the visitor votes before the page says which side is steered; the tally is this visit's own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import gradio as gr
from gradio.components import Component

from . import html
from .events import QUICK
from .share import Runs, Share, add_run
from .view import View

Tally = Counter[str]

_BUTTONS = {"A": "A is better", "B": "B is better", "tie": "Tie", "bad": "Both bad"}


class Votes:
    """The buttons, which are seen while a blind run waits for its vote, and the tally with its sentence."""

    def __init__(self) -> None:
        with gr.Row(elem_id="votes"):
            self.buttons = {vote: gr.Button(name, elem_id=f"vote-{vote}") for vote, name in _BUTTONS.items()}
        self.tally = gr.State(Tally())
        self.note = gr.HTML("", elem_id="tally")

    def connect(self, view_state: gr.State, frame: Sequence[Component], share: Share) -> None:
        """Connect the events: a vote reveals the sides of the run in `view_state`, which `frame` shows."""

        def vote(choice: str, view: View, tally: Tally, runs: Runs) -> list[object]:
            if not view.blind or view.phase != "done":
                return [gr.skip()] * len(outputs)
            tally = tally + Counter([_name_side(choice, view)])
            view = replace(view, blind=False)
            sentence = (
                f"Your votes: steered better {tally['steered']}, unsteered better {tally['unsteered']}, "
                f"ties {tally['tie']}, both bad {tally['bad']}."
            )
            return [*html.write_frame(view), tally, html.parts.note(sentence), *add_run(runs, view)]

        outputs = [*frame, self.tally, self.note, *share.outputs]
        for choice, button in self.buttons.items():
            button.click(partial(vote, choice), [view_state, self.tally, share.runs], outputs, **QUICK)


def _name_side(choice: str, view: View) -> str:
    return ("unsteered", "steered")[view.order["AB".index(choice)]] if choice in ("A", "B") else choice
