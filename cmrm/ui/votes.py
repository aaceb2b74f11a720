"""Blind mode: the visitor votes before the page says which side is steered; the tally is this visit's own."""

from collections import Counter
from dataclasses import replace
from typing import Literal

import gradio as gr

from . import html
from .view import View

Vote = Literal["A", "B", "tie", "bad"]
Tally = Counter[str]

_BUTTONS: dict[Vote, str] = {"A": "A is better", "B": "B is better", "tie": "Tie", "bad": "Both bad"}


class Votes:
    """The buttons, which are seen while a blind run waits for its vote, and the tally with its sentence."""

    def __init__(self) -> None:
        with gr.Row(elem_id="votes"):
            self.buttons = {vote: gr.Button(name, elem_id=f"vote-{vote}") for vote, name in _BUTTONS.items()}
        self.tally = gr.State(Tally())
        self.note = gr.HTML("", elem_id="tally")


def cast_vote(vote: Vote, view: View, tally: Tally) -> tuple[View, Tally, str]:
    """Return the view with its sides revealed, the tally and its sentence."""
    voted = ("unsteered", "steered")[view.order["AB".index(vote)]] if vote in ("A", "B") else vote
    tally = tally + Counter([voted])
    sentence = (
        f"Your votes: steered better {tally['steered']}, unsteered better {tally['unsteered']}, "
        f"ties {tally['tie']}, both bad {tally['bad']}."
    )
    return replace(view, blind=False), tally, html.parts.note(sentence)
