"""The API: `/compare`, `/sweep`, `/explain`, `/extract` and `/inspect`, named and documented."""

from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.utils import get_function_description

from ..answering.comparison import Row, Step
from ..saved_run import NAMES, origin, settled
from ..settings import Method
from ..steering.offsets import Offsets
from ..steering.offsets_file import OffsetsFile
from ..workbench import Workbench
from .anchors import kept
from .events import IN_TURN, ONE_AT_A_TIME, refusing
from .requests import LENGTH, Ask, answer, explanation, measurement, named, parsed_range, uploaded


def add_endpoints(bench: Workbench, blocks: gr.Blocks) -> None:
    """Offer each function by its name to programs, and as a tool to MCP clients."""
    for endpoint in (_compare_endpoint(bench), _sweep_endpoint(bench), _explain_endpoint(bench)):
        _offer(blocks, endpoint, **ONE_AT_A_TIME)
    _offer(blocks, _extract_endpoint(bench, blocks), **ONE_AT_A_TIME)
    _offer(blocks, _inspect_endpoint(), **IN_TURN)


def _offer(blocks: gr.Blocks, function: Any, **options: Any) -> None:
    """Offer a function by its name; its docstring says what each parameter and each return is.

    Gradio shows that to MCP clients alone; this puts it on the API page and into `Client.view_api` as well.
    """
    fn = blocks.fns[gr.api(function, api_name=function.__name__, **options)["id"]]
    _, parameters, returns = get_function_description(function)
    for component, text in zip(fn.inputs, parameters.values(), strict=True):
        component.api_info()["additional_description"] = text
    for component, line in zip(fn.outputs, returns, strict=True):
        component.label, _, text = line.partition(": ")
        component.api_info()["description"] = text


def _compare_endpoint(bench: Workbench) -> Any:
    # Gradio reads the parameters, their defaults and the three outputs off this signature.
    def compare(  # type: ignore[misc]
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        alpha: float | None = None,
        method: Method = "dataset",
        max_new_tokens: int = LENGTH,
        temperature: float = 0.0,
        seed: int = 0,
        top_p: float = 1.0,
        estimator: str = "",
        corruption: str = "",
        layers: str = "",
        positions: str = "",
        steps: str = "",
        third: str = "none",
    ) -> tuple[str, str, dict]:
        """Answer one prompt about one image twice: by the model as it is, and steered by CMRM to refuse as for text.

        Streams; each result holds both texts so far, and the last one has the verdicts.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for a text-only answer
            prompt: what to ask
            alpha: strength of steering, 0 to 2; left out, the method's default
            method: whose offsets are added: "dataset" (of an anchor set) or "sample" (of this prompt)
            max_new_tokens: length of the longest answer, in tokens
            temperature: of sampling; 0, the default, is greedy
            seed: of sampling, the same for all answers, if the temperature is above 0; and of the random direction
            top_p: of sampling: draw from the likeliest tokens whose probabilities reach this sum; 1 is from all
            estimator: "mean", "pc1" or "sequential"; another than the offsets' own is measured first; "" is their own
            corruption: "white", "black", "mean" or "noise", the image of the offsets, likewise
            layers: decoder layers to steer, such as "0-6,9"; "" for the recipe's
            positions: "last" or "all" of a pass; "" for the recipe's
            steps: "prompt", or "all" for each new token too; "" for the recipe's
            third: "text" adds an answer to the prompt alone, "random" one steered in a random direction; to the details
        Returns:
            unsteered: the answer of the model as it is
            steered: the answer of the same model, steered
            details: each answer's verdict (refused, complied or broken), tokens and seconds; what to repeat it by
        """
        where = (estimator, corruption, layers, positions, steps)
        ask = Ask(image, prompt, alpha, method, max_new_tokens, temperature, seed, top_p, *where, third)
        with refusing():
            for step in answer(bench, ask):
                unsteered, steered = step.rows[:2]
                yield unsteered.text, steered.text, details(bench, ask, step)

    return compare


def _sweep_endpoint(bench: Workbench) -> Any:
    def sweep(  # type: ignore[misc]
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        alphas: str = "0:2:0.25",
        method: Method = "dataset",
        max_new_tokens: int = LENGTH,
    ) -> list[dict]:
        """Answer one prompt about one image at many strengths of steering, in one batch.

        Streams; each result has a row for each alpha, and the last one has the verdicts and the fluency.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for text-only answers
            prompt: what to ask
            alphas: strengths: a range start:end:step within 0 to 2, or a list such as "0.5,1"; 0 is always there
            method: whose offsets are added: "dataset" (of an anchor set) or "sample" (of this prompt)
            max_new_tokens: length of the longest answer, in tokens
        Returns:
            rows: each alpha's text, verdict, tokens, and fluency (the text's mean log-probability, unsteered)
        """
        with refusing():
            for step in answer(bench, Ask(image, prompt, parsed_range(alphas), method, max_new_tokens)):
                yield [{"alpha": row.alpha, "text": row.text, "fluency": row.fluency} | _row(row) for row in step.rows]

    return sweep


def _explain_endpoint(bench: Workbench) -> Any:
    def explain(  # type: ignore[misc]
        image: gr.FileData = None,  # no union with None: MCP clients could not send one
        prompt: str = "",
        alpha: float | None = None,
        method: Method = "dataset",
        max_new_tokens: int = LENGTH,
    ) -> dict:
        """Say why the model answers one prompt about one image differently when it is steered by CMRM.

        Streams; each result but the last is {"progress": a sentence}. Answers are greedy.

        Parameters:
            image: the picture (in MCP a URL or a data: URI); leave it out for text-only answers
            prompt: what to ask
            alpha: strength of steering, 0 to 2; left out, the method's default
            method: whose offsets are added: "dataset" (of an anchor set) or "sample" (of this prompt)
            max_new_tokens: length of the longest answer, in tokens
        Returns:
            explanation: by layer, how states moved; where the answers part; by alpha, the probability of a refusal
        """
        with refusing():
            for found in explanation(bench, Ask(image, prompt, alpha, method, max_new_tokens)):
                yield {"progress": found} if isinstance(found, str) else asdict(found)

    return explain


def _extract_endpoint(bench: Workbench, blocks: gr.Blocks) -> Any:
    def extract(  # type: ignore[misc]
        anchors: list[str],
        estimator: str | None = None,
        corruption: str | None = None,
    ) -> tuple[gr.FileData | None, dict]:
        """Measure CMRM's dataset-level offsets of the served model on anchor texts of your own.

        Streams; each result but the last is None and {"progress": a sentence}.

        Parameters:
            anchors: short texts such as requests, at most 512; a mix of harmful and harmless ones serves best
            estimator: "mean", "pc1" or "sequential"; left out, the model's default
            corruption: the image beside the texts: "white", "black", "mean" or "noise"; left out, the model's default
        Returns:
            file: the offsets, a safetensors file that is kept for an hour
            header: what the file fits, how it was made, and the norm of each layer's vector
        """
        with refusing():
            for found in measurement(bench, anchors, estimator, corruption):
                if isinstance(found, Offsets):
                    yield gr.FileData(path=kept(found, blocks)), found.file().header()
                else:
                    yield None, {"progress": str(found)}

    return extract


def _inspect_endpoint() -> Any:
    def inspect(file: gr.FileData) -> dict:
        """Say what a CMRM offsets file fits, how it was made, and how long the vector of each layer is.

        Parameters:
            file: a safetensors file of `/extract` or of `python -m cmrm extract` (in MCP a URL or a data: URI)
        Returns:
            header: format, fits (model, architecture, sizes), origin (estimator, anchors), norms by layer
        """
        with refusing():
            path = uploaded(file, "offsets")
            with named(path):
                return OffsetsFile.read(path).header()

    return inspect


def details(bench: Workbench, ask: Ask, step: Step) -> dict[str, Any]:
    """Return what is known about the answers besides two texts, the settings to repeat them included."""
    identity, settings = bench.vlm.identity, settled(bench, **ask.options)
    rows = {name: _row(row) for name, row in zip(NAMES, step.rows, strict=False)}
    if "third" in rows:
        rows["third"]["text"] = step.rows[2].text
    return {
        "model": identity.model,
        "revision": identity.revision,
        "quantization": identity.quantization,
        **settings,
        "offsets": origin(bench, settings, ask.offsets),
        "progress": step.note,
        **rows,
        "done": step.done,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "verdict": row.verdict,
        "tokens": row.tokens,
        "seconds": round(row.seconds, 3),
        "tokens_per_second": round(row.tokens_per_second, 2),
    }
