"""The pictures: what they hold, what they say in words, and that both can be read on light and dark."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from cmrm.charts import COLOURS, STYLE, alpha_curves, pictures
from cmrm.explaining.explain import END, Candidate, Explanation, Gap, Parting
from cmrm.explaining.summary import summarize
from cmrm.judging.statistics import Rate

LAYERS = 5


def points(count: int, seed: int):
    return tuple(map(tuple, np.random.default_rng(seed).normal(size=(count, 2)).tolist()))


def parting(**changes) -> Parting:
    values = {
        "place": 3,
        "start": 2,
        "unsteered": (" the", " <b>", " x"),
        "steered": (" the", END),
        "candidates": (Candidate(" <b>", 0.75, 0.125), Candidate(END, 0.05, 0.825)),
    }
    return Parting(**{**values, **changes})


@pytest.fixture(scope="module")
def found() -> Explanation:
    anchors = ("text only", "image", "blank image", "steered")
    plane = [
        Gap(
            (0.5, 0.25),
            ("harmful", "image"),
            {name: points(4, layer * 10 + k) for k, name in enumerate(anchors)},
            {name: points(1, layer * 10 + k) for k, name in enumerate(("text only", "image", "steered"))},
            (10.0 + layer, 2.5),
        )
        for layer in range(LAYERS)
    ]
    rising = tuple(k / 10 for k in range(LAYERS))
    return Explanation(
        method="dataset",
        alpha=1.1,
        layers=(0, 1, 2, 3),
        anchors="anchors",
        groups=("harmful", "harmful", "harmless", "harmless"),
        gaps=tuple(plane),
        added=rising,
        moved=tuple(2 * share for share in rising),
        cosines={"unsteered": rising, "steered": tuple(0.5 + share for share in rising)},
        projections={
            name: tuple(k + share for share in rising)
            for k, name in enumerate(("text only", "unsteered", "steered", "harmful", "harmless"))
        },
        parting=parting(),
        alphas=(0.0, 1.0, 1.1, 2.0),
        openings=(0.01, 0.5, 0.625, 0.99),
        alone=False,
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.01, 0.97, "Steering made a refusal the likely opening (1.0% unsteered, 97.0% steered), and "),
        (0.9, 0.2, "Steering made a refusal an unlikely opening (90.0% unsteered, 20.0% steered), and "),
        (0.9, 0.99, "A refusal was the likely opening by itself, and stays so (90.0% unsteered"),
        (0.01, 0.02, "A refusal stays an unlikely opening (1.0% unsteered, 2.0% steered), and "),
    ],
)
def test_an_explanation_comes_to_one_sentence(found, before, after, said):
    shown = summarize(replace(found, openings=(before, 0.5, after, 0.99)))
    assert shown.startswith(said)
    assert shown.endswith("the prompt's state at layer 3 came nearer to its text-only place (cosine 0.30 to 0.80).")


def test_the_sentence_says_where_little_or_the_contrary_happened(found):
    level, away = (0.5,) * LAYERS, (0.4,) * LAYERS
    same = replace(found, parting=parting(place=None), cosines={"unsteered": level, "steered": level})
    assert summarize(same).startswith("Both answers are the same, token by token: a refusal opens them with 1.0%")
    assert "hardly came nearer" in summarize(same)
    assert "went away from" in summarize(replace(same, cosines={"unsteered": level, "steered": away}))


@pytest.mark.parametrize(
    ("after", "said"), [(0.25, "left it (cosine 1.00 to 0.25)"), (0.998, "hardly left it (cosine 1.00 to 1.00)")]
)
def test_the_sentence_of_text_alone_speaks_of_no_way_back(found, after, said):
    shown = summarize(replace(found, alone=True, cosines={"unsteered": (1.0,) * LAYERS, "steered": (after,) * LAYERS}))
    assert shown.endswith(
        f", and as the prompt is text alone, its state at layer 3 began in its text-only place and {said}."
    )


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (0, ["75.0%", "layer 3", "13 to 2.5 there", "10 to 2.5 at layer 0", "14 to 2.5 at the last one, 4"]),
        (1, ["40.0%", "80.0%", "layer 4"]),
        (2, ["0.30", "0.80", "layer 3", "0.20 to 0.70"]),
        (3, ["at 0.3 ", "at 1.3 ", "at 2.3 steered", "at 3.3,", "at 4.3."]),
        (4, ["1.0% at 0", "62.5% at 1.1", "99.0% at 2"]),
    ],
)
def test_the_words_hold_the_numbers(found, index, said):
    alt = pictures(found)[index].alt
    for part in said:
        assert part in alt
    assert alt.endswith(".")


def test_the_slider_holds_every_layer_and_starts_at_the_last_steered_one(found):
    figure = json.loads(pictures(found)[0].figure.to_json())
    (slider,) = figure["layout"]["sliders"]
    assert slider["active"] == 3
    assert len(slider["steps"]) == LAYERS
    for layer, step in enumerate(slider["steps"]):
        data, layout = step["args"]
        series = [*found.gaps[layer].anchors.values(), *found.gaps[layer].prompt.values()]
        assert [list(zip(x, y, strict=True)) for x, y in zip(data["x"], data["y"], strict=True)] == [
            list(one) for one in series
        ]
        assert layout["xaxis.title.text"] == "PC1 (50%): harmless → harmful"
    assert [trace["x"] for trace in figure["data"]] == slider["steps"][3]["args"][0]["x"]
    assert figure["data"][0]["marker"]["symbol"] == ["circle", "circle", "circle-open", "circle-open"]


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("background", ["#ffffff", "#1e293b", "#0f172a"])
def test_colours_stand_out_on_light_and_dark(background):
    for colour in COLOURS.values():
        high, low = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG AA of graphical objects


def test_pictures_are_part_of_any_page_and_ask_for_nothing_outside(found):
    for picture in [*pictures(found), alpha_curves({1: (Rate(1, 2), None, None)})]:
        html = picture.div()
        assert "Plotly.newPlot" in html
        assert not re.search(r'(src|href)="http', html)
        assert picture.figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert "currentColor" in STYLE


def test_rates_over_alpha_have_their_intervals():
    some = {1.0: (Rate(90, 100), Rate(5, 100), Rate(80, 100)), 0.0: (Rate(10, 100), Rate(0, 0), None)}
    picture = alpha_curves(some)
    refusal, over, right = picture.figure.data
    assert list(refusal.x) == [0, 1]
    assert list(refusal.y) == [10, 90]
    assert list(over.x) == list(right.x) == [1]
    low, high = Rate(90, 100).interval
    assert refusal.error_y.array[1] == pytest.approx(high - 90)
    assert refusal.error_y.arrayminus[1] == pytest.approx(90 - low)
    assert "90.0% (82.6 to 94.5) at 1" in picture.alt
    assert "over-refusal: 5.0%" in picture.alt
