"""Blind mode: the visitor votes before the page says which side is steered; the tally is this visit's own."""

from dataclasses import dataclass, replace
from typing import Literal

import gradio as gr

from . import html
from .view import View

Vote = Literal["A", "B", "tie", "bad"]

_BUTTONS: dict[Vote, str] = {"A": "A is better", "B": "B is better", "tie": "Tie", "bad": "Both bad"}


@dataclass(frozen=True)
class Tally:
    """The votes so far."""

    steered: int = 0
    unsteered: int = 0
    ties: int = 0
    bad: int = 0

    def after(self, view: View, vote: Vote) -> "Tally":
        """Return the tally with a vote on what `view` shows, once it is revealed which row is which pane's."""
        if vote in ("A", "B"):
            row = view.order["AB".index(vote)]
            return replace(self, steered=self.steered + 1) if row else replace(self, unsteered=self.unsteered + 1)
        return replace(self, ties=self.ties + 1) if vote == "tie" else replace(self, bad=self.bad + 1)

    def __str__(self) -> str:
        """Say it."""
        return (
            f"Your votes: steered better {self.steered}, unsteered better {self.unsteered}, ties {self.ties}, "
            f"both bad {self.bad}."
        )


@dataclass(frozen=True)
class Votes:
    """The buttons, and the tally with its sentence."""

    buttons: dict[Vote, gr.Button]
    tally: gr.State
    note: gr.HTML


def add_vote_row() -> Votes:
    """Lay out the buttons, which are seen while a blind run waits for its vote."""
    with gr.Row(elem_id="votes"):
        buttons = {vote: gr.Button(name, elem_id=f"vote-{vote}") for vote, name in _BUTTONS.items()}
    return Votes(buttons, gr.State(Tally()), gr.HTML("", elem_id="tally"))


def cast_vote(vote: Vote, view: View, tally: Tally) -> tuple[View, Tally, str]:
    """Return the view with its sides revealed, the tally and its sentence."""
    tally = tally.after(view, vote)
    return view.reveal(), tally, html.write_note(str(tally))
