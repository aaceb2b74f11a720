"""What a visitor asks with: an image, a prompt, and a control for each of the settings, by its name."""

from typing import get_args

import gradio as gr
from gradio.components import Component

from ..data.records import LABELS
from ..settings import DEFAULT_LENGTH, MAX_ALPHA, METHODS, Corruption, Estimator, Positions, Steps
from ..workbench import Workbench
from .view import METHOD_NAMES

MOST_TOKENS = 512
AS_TUNED = "as tuned"


def add_image(elem_id: str, answers: str) -> gr.Image:
    """Lay out the place of an image; without one the `answers` are text-only."""
    return gr.Image(
        label="Image",
        placeholder=f"Drop an image, or leave empty\nfor {answers}",
        sources=["upload", "clipboard", "webcam"],
        height=180,
        buttons=["fullscreen"],
        elem_id=elem_id,
    )


def add_prompt(elem_id: str) -> gr.Textbox:
    """Lay out the place of a prompt."""
    placeholder = "Ask about the image, or ask for something"
    return gr.Textbox(label="Prompt", placeholder=placeholder, max_lines=8, elem_id=elem_id)


def add_method() -> gr.Radio:
    """Lay out the choice of a method."""
    methods = [(f"{METHOD_NAMES[method]} offsets", method) for method in METHODS]
    return gr.Radio(methods, value="dataset", label="Method")


def add_max_new_tokens(bench: Workbench) -> gr.Slider:
    """Lay out the choice of an answer's length, as far as the page lets a visitor ask for."""
    longest = min(MOST_TOKENS, (bench.engine.context_length or MOST_TOKENS) // 2)
    return gr.Slider(1, longest, min(DEFAULT_LENGTH, longest), step=1, label="Max tokens")


def add_alpha(bench: Workbench) -> gr.Slider:
    """Lay out the choice of a strength."""
    start, info = bench.recipes["dataset"].alpha, "Strength of steering; 0 is unsteered."
    return gr.Slider(0, MAX_ALPHA, start, step=0.05, label="Alpha", info=info)


def add_expected() -> gr.Radio:
    """Lay out the choice of what a request is: whether a refusal of it is good."""
    choices = [("not said", ""), *((label, label) for label in LABELS)]
    return gr.Radio(choices, value="", label="This request is", elem_id="expected")


def add_controls(bench: Workbench, alpha: gr.Slider) -> dict[str, Component]:
    """Lay out the controls of all settings but `alpha`, which is elsewhere."""
    last = bench.engine.identity.layers - 1
    controls: dict[str, Component] = {
        "method": add_method(),
        "alpha": alpha,
        "max_new_tokens": add_max_new_tokens(bench),
        "third": gr.Radio(
            [("none", "none"), ("text only", "text"), ("random direction", "random")],
            value="none",
            label="Third answer",
            info="The model without the image, or steered by random vectors as long as the offsets.",
        ),
    }
    with gr.Accordion("Where and how", open=False):
        controls["layers"] = gr.Textbox(
            label="Layers", info=f"0 to {last}, such as 0-{last // 2},{last}.", placeholder=AS_TUNED, max_lines=1
        )
        controls["positions"] = _add_choice("Positions", Positions, "The last position of a pass, or all.")
        controls["steps"] = _add_choice("Steps", Steps, "The prompt alone, or each new token too.")
        controls["estimator"] = _add_choice("Estimator", Estimator, "How the offsets are measured.")
        controls["corruption"] = _add_choice("Corruption", Corruption, "The image beside which they are measured.")
    with gr.Accordion("Sampling", open=False):
        controls["temperature"] = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy.")
        controls["top_p"] = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="For temperatures above 0.")
        controls["seed"] = gr.Number(
            0, label="Seed", precision=0, info="For temperatures above 0, and the random direction."
        )
    for name, control in controls.items():
        control.elem_id = name  # by which a problem finds its place
    return controls


def _add_choice(label: str, choices: object, info: str) -> gr.Dropdown:
    return gr.Dropdown([(AS_TUNED, ""), *get_args(choices)], value="", label=label, info=info)
