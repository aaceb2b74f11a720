"""Pictures of why answers differ and of rates over alpha: legible on light and dark, each with its numbers in words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import plotly.graph_objects as go

from .answering.steps import Row
from .explaining.explanation import Explanation, Gap
from .judging.statistics import Rate

# At least 3:1 on white and on slate 800, told apart by brightness-blind eyes through symbols and dashes.
COLOURS = {"green": "#16963f", "orange": "#d56a10", "violet": "#a259e6", "blue": "#4a7cf0", "grey": "#76859a"}
TEXT = "#76859a"  # readable on both; CSS gives text its full contrast, where it is used
STYLE = ".js-plotly-plot text { fill: currentColor !important; } .js-plotly-plot .modebar { display: none; }"

SCRIPT = Path(__file__).with_suffix(".js").read_text("utf-8")
"""Lets buttons with `data-take` take the plot beside them along, as "png", "svg" or "csv"."""
TAKES = ("png", "svg", "csv")

TITLES = (
    "From text to image, and back",
    "How large the shift is",
    "How near to the text-only state",
    "Along the refusal direction",
    "How likely a refusal opens",
)

_GRID = "rgba(128, 140, 160, 0.25)"
_LOOKS = {
    "text only": ("green", "circle", "solid"),
    "image": ("orange", "square", "solid"),
    "unsteered": ("orange", "square", "solid"),
    "blank image": ("violet", "diamond", "solid"),
    "steered": ("blue", "triangle-up", "solid"),
    "added": ("violet", "diamond", "dot"),
    "moved": ("blue", "triangle-up", "solid"),
    "harmful": ("grey", "cross", "dash"),
    "harmless": ("grey", "circle-open", "dot"),
    "refusal": ("blue", "triangle-up", "solid"),
    "over-refusal": ("orange", "square", "dash"),
    "right answers": ("green", "circle", "dot"),
    "refused": ("blue", "triangle-up", "solid"),
    "complied": ("orange", "square", "solid"),
    "broken": ("violet", "x", "solid"),
}
_NAMES = {
    "image": "beside the image",
    "blank image": "beside a blank image",
    "added": "added at the layer",
    "moved": "moved in all",
    "harmful": "mean of harmful anchors",
    "harmless": "mean of harmless anchors",
}


@dataclass(frozen=True)
class Plot:
    """A figure, its heading, and `alt`: what it shows, in words and numbers."""

    title: str
    figure: go.Figure
    alt: str

    def div(self) -> str:
        """Return the figure as a part of a page that has plotly.js and `STYLE`."""
        return self.figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True})


def pictures(found: Explanation) -> list[Plot]:
    """Return all pictures of an explanation, in the order to read them."""
    return [gap(found), shift_norms(found), cosines(found), projections(found), opening_curve(found)]


def gap(found: Explanation) -> Plot:
    """Draw each layer's anchors and prompt on two principal components, with a slider over layers."""
    shown = max(found.layers)
    hollow = ["" if group == "harmful" else "-open" for group in found.groups]
    first = found.gaps[shown]
    traces = [
        _scatter(name, points, "anchors", size=8, symbol=[_LOOKS[name][1] + suffix for suffix in hollow], opacity=0.8)
        for name, points in first.anchors.items()
    ] + [
        _scatter(name, points, "your prompt", size=15, symbol="star", line={"width": 1.5, "color": TEXT})
        for name, points in first.prompt.items()
    ]
    figure = _figure(traces)
    layers = [_layer_update(one) for one in found.gaps]
    figure.update_layout(
        layers[shown][1],
        height=520,
        margin={"b": 10},
        sliders=[
            {
                "active": shown,
                "steps": [
                    {"method": "update", "label": str(layer), "args": [*update]} for layer, update in enumerate(layers)
                ],
                "currentvalue": {"prefix": "Layer ", "font": {"size": 14}},
                "pad": {"t": 60},
                "font": {"color": TEXT},
                "bgcolor": COLOURS["blue"],
                "bordercolor": COLOURS["blue"],
                "tickcolor": TEXT,
            }
        ],
    )
    ways = [f"from {one.distances[0]:.3g} to {one.distances[1]:.3g}" for one in found.gaps]
    return Plot(
        TITLES[0],
        figure,
        f"States of {len(found.groups)} anchor texts (filled: harmful, hollow: harmless) and the prompt, in the plane "
        f"where unsteered anchors vary most: {sum(first.shares):.1%} of their variance at layer {shown}. "
        "Steering changes how far the anchors' mean beside the image is from their text-only mean "
        f"{ways[shown]} there, {ways[0]} at layer 0, and {ways[-1]} at the last one, {len(ways) - 1}.",
    )


def _layer_update(one: Gap) -> tuple[dict[str, object], dict[str, object]]:
    """Return the data and the layout that show a layer."""
    sets = [*one.anchors.values(), *one.prompt.values()]
    meaning = {"image": "text → image", "harmful": "harmless → harmful"}
    titles = [
        f"PC{k} ({share:.0%}): {meaning[towards]}"
        for k, (share, towards) in enumerate(zip(one.shares, one.towards, strict=True), 1)
    ]
    data = {"x": [[p[0] for p in points] for points in sets], "y": [[p[1] for p in points] for points in sets]}
    return {**data}, {"xaxis.title.text": titles[0], "yaxis.title.text": titles[1]}


def shift_norms(found: Explanation) -> Plot:
    """Draw what each layer adds, and how far the prompt's state moved in all, relative to the state's norm."""
    return Plot(
        TITLES[1],
        _over_layers({"added": found.added, "moved": found.moved}, "share of the state's norm", ".0%"),
        f"The vector that a layer adds is at most {max(found.added):.1%} as long as the prompt's unsteered state "
        f"(layer {_argmax(found.added)}); with what the layers below carried, steering moved the state by at most "
        f"{max(found.moved):.1%} of its length (layer {_argmax(found.moved)}).",
    )


def cosines(found: Explanation) -> Plot:
    """Draw how near the prompt's states are to its text-only ones."""
    last = max(found.layers)
    before, after = found.cosines["unsteered"], found.cosines["steered"]
    return Plot(
        TITLES[2],
        _over_layers(found.cosines, "cosine to the text-only state"),
        f"At layer {last}, the last one that is steered, the cosine of the prompt's state to its text-only state is "
        f"{before[last]:.2f} unsteered and {after[last]:.2f} steered; the mean over all layers goes from "
        f"{_mean(before):.2f} to {_mean(after):.2f}.",
    )


def projections(found: Explanation) -> Plot:
    """Draw the prompt's states along the refusal direction, between the means of both anchor groups."""
    last = max(found.layers)
    at = {name: values[last] for name, values in found.projections.items()}
    return Plot(
        TITLES[3],
        _over_layers(found.projections, "projection on the refusal direction"),
        f"On the refusal direction of layer {last} the prompt lies at {at['text only']:.3g} as text alone, at "
        f"{at['unsteered']:.3g} unsteered and at {at['steered']:.3g} steered; the mean of the harmful anchors is at "
        f"{at['harmful']:.3g}, that of the harmless ones at {at['harmless']:.3g}.",
    )


def opening_curve(found: Explanation) -> Plot:
    """Draw the probability that the answer opens with a refusal, over alpha."""
    at = dict(zip(found.alphas, found.openings, strict=True))
    line = _line("refusal", found.alphas, found.openings)
    figure = _figure([line], "alpha", "probability of a refusal opening", ".0%")
    figure.update_yaxes(range=[-0.03, 1.03])
    figure.add_vline(
        found.alpha, line={"color": TEXT, "dash": "dot"}, annotation_text="this run", annotation_position="bottom right"
    )
    points = ", ".join(f"{at[alpha]:.1%} at {alpha:g}" for alpha in found.alphas)
    return Plot(TITLES[4], figure, f"Probability of a refusal opening by alpha: {points}.")


def alpha_curves(rates: Mapping[float, Sequence[Rate | None]]) -> Plot:
    """Draw an evaluation's rates over alpha, with 95% Wilson intervals as whiskers.

    At each alpha they are those of refusal, over-refusal and right answers, None for what was not asked.
    """
    series = {
        name: [(alpha, rate) for alpha in sorted(rates) if (rate := rates[alpha][k]) is not None and rate.n]
        for k, name in enumerate(("refusal", "over-refusal", "right answers"))
    }
    shown = {name: points for name, points in series.items() if points}
    figure = _figure([_whiskers(name, points) for name, points in shown.items()], "alpha", "percent")
    figure.update_yaxes(range=[-3, 103])
    said = (f"{name}: " + ", ".join(f"{rate} at {alpha:g}" for alpha, rate in points) for name, points in shown.items())
    return Plot("Refusal, over-refusal and right answers over alpha", figure, f"By alpha, {'; '.join(said)}.")


def sweep_curve(rows: Sequence[Row]) -> Plot:
    """Draw a finished sweep: each answer's fluency over alpha, its symbol the verdict; a band lies where it refuses."""
    scored = sorted((row for row in rows if row.fluency is not None), key=lambda row: row.alpha)
    line = go.Scatter(
        x=[row.alpha for row in scored],
        y=[row.fluency for row in scored],
        mode="lines",
        line={"color": _GRID},
        showlegend=False,
        hoverinfo="skip",
    )
    kinds = [(name, [row for row in scored if row.verdict == name]) for name in ("refused", "complied", "broken")]
    marks = [
        _scatter(name, [(row.alpha, row.fluency or 0.0) for row in kind], size=12, symbol=_LOOKS[name][1])
        for name, kind in kinds
        if kind
    ]
    said = ", ".join(f"{row.verdict} ({row.fluency:.2f}) at {row.alpha:g}" for row in scored)
    figure = _figure([line, *marks], "alpha", "mean log-probability of a token")
    for start, end in _refused_spans(scored):
        figure.add_vrect(start, end, fillcolor=COLOURS["blue"], opacity=0.12, line_width=0, layer="below")
    if scored:
        figure.update_yaxes(range=_widen([row.fluency or 0.0 for row in scored]))
    return Plot(
        "Refusal and fluency over alpha",
        figure,
        "Verdict and, in brackets, fluency (the mean log-probability of the answer's tokens under the unsteered model; "
        f"nearer to 0 is more natural) by alpha: {said or 'no answer has a token'}.",
    )


def _refused_spans(rows: Sequence[Row]) -> Iterator[tuple[float, float]]:
    """Return from where to where answers refuse: halfway to the neighbours that don't, of `rows` by alpha."""
    ends = [rows[0].alpha, *((a.alpha + b.alpha) / 2 for a, b in pairwise(rows)), rows[-1].alpha] if rows else []
    for refused, group in groupby(range(len(rows)), lambda k: rows[k].verdict == "refused"):
        if refused:
            first, *_, last = [*group] * 2
            yield ends[first], ends[last + 1]


def _widen(values: Sequence[float], least: float = 1.0) -> list[float]:
    """Return the range of an axis that holds values, and no smaller than `least`: noise is not to look like a cliff."""
    middle, half = (max(values) + min(values)) / 2, max(least, 1.2 * (max(values) - min(values))) / 2
    top = min(middle + half, least / 20)  # no logarithm of a probability is above 0
    return [top - 2 * half, top]


def vector_lengths(norms: Sequence[float]) -> Plot:
    """Draw how long the offset vector of each decoder layer is."""
    figure = _over_layers({"added": norms}, "length (Euclidean norm)")
    figure.update_layout(height=240)
    return Plot(
        "How long the vectors are",
        figure,
        f"The vector of layer 0 is {norms[0]:.3g} long, that of the last layer, {len(norms) - 1}, {norms[-1]:.3g}; the "
        f"longest is that of layer {_argmax(norms)}, {max(norms):.3g}.",
    )


def _figure(traces: list[go.Scatter], x: str = "", y: str = "", tickformat: str | None = None) -> go.Figure:
    """Return a figure, with the titles of its axes; `tickformat` is that of y."""
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        height=360,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": TEXT, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        dragmode=False,  # a finger on the picture scrolls the page
    )
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    figure.update_xaxes(axis, title={"font": {"size": 13}, "text": x})
    figure.update_yaxes(axis, title={"font": {"size": 13}, "text": y}, tickformat=tickformat)
    return figure


def _over_layers(series: Mapping[str, Sequence[float]], what: str, tickformat: str | None = None) -> go.Figure:
    lines = [_line(name, range(len(values)), values) for name, values in series.items()]
    return _figure(lines, "decoder layer", what, tickformat)


def _line(name: str, x: Iterable[float], y: Sequence[float], **more: object) -> go.Scatter:
    colour, symbol, dash = _LOOKS[name]
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=_NAMES.get(name, name),
        mode="lines+markers",
        line={"color": COLOURS[colour], "dash": dash},
        marker={"symbol": symbol, "size": 8},
        **more,
    )


def _whiskers(name: str, rates: Sequence[tuple[float, Rate]]) -> go.Scatter:
    above = [rate.interval[1] - rate.percent for _, rate in rates]
    below = [rate.percent - rate.interval[0] for _, rate in rates]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2}
    return _line(name, [alpha for alpha, _ in rates], [rate.percent for _, rate in rates], error_y=bars)


def _scatter(name: str, points: Sequence[tuple[float, float]], whose: str = "", **marker: object) -> go.Scatter:
    return go.Scatter(
        x=[point[0] for point in points],
        y=[point[1] for point in points],
        name=f"{whose}, {_NAMES.get(name, name)}" if whose else name,
        mode="markers",
        marker={"color": COLOURS[_LOOKS[name][0]], **marker},
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda k: values[k])
