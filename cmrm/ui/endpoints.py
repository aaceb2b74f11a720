"""The API: `/compare`, `/sweep`, `/explain`, `/extract` and `/inspect`, named and documented."""

from dataclasses import Field, asdict, dataclass
from inspect import Parameter
from typing import get_args

import gradio as gr

from ..answering.steps import Row, Step
from ..progress import relay
from ..saved_run import NAMES, describe_offsets
from ..settings import EXPLAINED, MEASURED, SWEPT
from ..signatures import choose_fields, take_settings
from ..steering.offsets import Offsets
from ..workbench import Workbench
from .events import IN_TURN, show_errors, take_turn
from .gradio_private import offer_download, offer_endpoint
from .requests import Request, answer, explain_answers, measure, name_upload, parse_request
from .stages import Countdown, describe


def add_endpoints(bench: Workbench, blocks: gr.Blocks) -> None:
    """Offer each function by its name to programs, and as a tool to MCP clients."""
    offered = _Endpoints(bench, blocks)
    for endpoint in (offered.compare, offered.sweep, offered.explain, offered.extract):
        offer_endpoint(blocks, endpoint, **take_turn(bench))
    offer_endpoint(blocks, offered.inspect, **IN_TURN)


def _show(setting: Field) -> Parameter:
    """Return a setting as programs give it: a number or the method as it is, any other choice as a text.

    Gradio reads the parameters, their defaults and the outputs off the signature.
    """
    if setting.name == "method" or {int, float} & {setting.type, *get_args(setting.type)}:
        kind, default = setting.type, setting.default
    else:
        kind, default = str, setting.default or ""
    return Parameter(setting.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)


def _name(choices: tuple[object, ...], *names: str) -> dict[str, object]:
    """Return what an endpoint took, by the names of the settings."""
    return dict(zip((one.name for one in choose_fields(*names)), choices, strict=False))


@dataclass(frozen=True)
class _Endpoints:
    """The functions; each streams, or returns at once, what its docstring says to programs."""

    bench: Workbench
    blocks: gr.Blocks

    @take_settings(_show, "prompt")
    def compare(  # type: ignore[misc]
        self,
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        *choices: object,
    ) -> tuple[str, str, dict]:
        """Answer one prompt about one image twice: by the model as it is, and steered by CMRM to refuse as for text.

        Streams; each result holds both texts so far, and the last one has the verdicts.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for a text-only answer
            prompt: what to ask
        Returns:
            unsteered: the answer of the model as it is
            steered: the answer of the same model, steered
            details: each answer's verdict (refused, complied or broken), tokens and seconds; what to repeat it by
        """
        with show_errors():
            request = parse_request("compare", image, prompt, _name(choices))
            repeat: dict[str, object] = {}
            for step in answer(self.bench, request):
                repeat = repeat or describe_request(self.bench, request)
                unsteered, steered = step.rows[:2]
                yield unsteered.text, steered.text, details(repeat, step)

    @take_settings(_show, "alphas", *SWEPT)
    def sweep(  # type: ignore[misc]
        self,
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        alphas: str = "0:2:0.25",
        *choices: object,
    ) -> list[dict]:
        """Answer one prompt about one image at many strengths of steering, in one batch.

        Streams; each result has a row for each alpha, and the last one has the verdicts and the fluency.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for text-only answers
            prompt: what to ask
            alphas: strengths: a range start:end:step within 0 to 2, or a list such as "0.5,1"; 0 is always there
        Returns:
            rows: each alpha's text, verdict, tokens, and fluency (the text's mean log-probability, unsteered)
        """
        with show_errors():
            request = parse_request("sweep", image, prompt, _name(choices, *SWEPT), alphas=alphas)
            for step in answer(self.bench, request):
                yield [
                    {"alpha": row.alpha, "text": row.text, "fluency": row.fluency} | _measures(row) for row in step.rows
                ]

    @take_settings(_show, "prompt", *EXPLAINED)
    def explain(  # type: ignore[misc]
        self,
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        *choices: object,
    ) -> dict:
        """Say why the model answers one prompt about one image differently when it is steered by CMRM.

        Streams; each result but the last is {"progress": a sentence}. Answers are greedy.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for text-only answers
            prompt: what to ask
        Returns:
            explanation: by layer, how states moved; where the answers part; by alpha, the probability of a refusal
        """
        with show_errors():
            request = parse_request("explain", image, prompt, _name(choices, *EXPLAINED))
            stages = explain_answers(self.bench, request)
            found = yield from relay(stages, lambda progress: {"progress": describe(progress)})
            yield asdict(found)

    @take_settings(_show, "anchors", *MEASURED)
    def extract(  # type: ignore[misc]
        self, anchors: list[str], *choices: object
    ) -> tuple[gr.FileData | None, dict]:
        """Measure CMRM's dataset-level offsets of the served model on anchor texts of your own.

        Streams; each result but the last is None and {"progress": a sentence}.

        Parameters:
            anchors: short texts such as requests, at most 512; a mix of harmful and harmless ones serves best
        Returns:
            file: the offsets, a safetensors file that is kept for an hour
            header: what the file fits, how it was made, and the norm of each layer's vector
        """
        with show_errors():
            passes, countdown = measure(self.bench, anchors, _name(choices, *MEASURED)), Countdown()
            offsets = yield from relay(passes, lambda one: (None, {"progress": countdown.describe(one)}))
            yield gr.FileData(path=offer_download(self.blocks, "offsets.safetensors", offsets.save)), offsets.header()

    def inspect(self, file: gr.FileData) -> dict:
        """Say what a CMRM offsets file fits, how it was made, and how long the vector of each layer is.

        Parameters:
            file: a safetensors file of `/extract` or of `python -m cmrm extract` (in MCP a URL or a data: URI)
        Returns:
            header: format, fits (model, architecture, sizes), origin (estimator, anchors), norms by layer
        """
        with show_errors(), name_upload(file, "offsets") as path:
            return Offsets.load(path).header()


def describe_request(bench: Workbench, request: Request) -> dict[str, object]:
    """Return what answers a request, and the settings to repeat it."""
    identity, settings = bench.engine.identity, bench.settle(request.settings, request.offsets)
    return {
        "model": identity.model,
        "revision": identity.revision,
        "quantization": identity.quantization,
        **settings.json(),
        "offsets": describe_offsets(bench, settings, request.offsets),
    }


def details(repeat: dict[str, object], step: Step) -> dict[str, object]:
    """Return what is known about the answers besides two texts: how to `repeat` them, and each row's figures."""
    rows = {name: _measures(row) for name, row in zip(NAMES, step.rows, strict=False)}
    if "third" in rows:
        rows["third"]["text"] = step.rows[2].text
    return {
        **repeat,
        "progress": describe(step.progress) if step.progress else "",
        **rows,
        "done": step.done,
    }


def _measures(row: Row) -> dict[str, object]:
    return {
        "verdict": row.verdict,
        "tokens": row.tokens,
        "seconds": round(row.seconds, 3),
        "tokens_per_second": round(row.tokens_per_second, 2),
    }
