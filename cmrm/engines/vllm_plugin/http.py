"""What the server offers beside OpenAI's routes, and what it refuses before vLLM reads it.

    GET  /v1/cmrm         {"model", "revision", "architecture", "layers", "hidden", "dtype", "quantization",
                           "context_length", "max_num_seqs", "instance", "modes",
                           "workers": [{"runner", "running", "slots", "steered"}, ...]}
    POST /v1/cmrm/states  {"names": [...]} -> {"shape": [layers, hidden], "states": {name: base64 of float32},
                                                "missing": [...]}

`instance` is new at each start. A POST with another in its header X-CMRM-Instance is answered with status 409, so that
a client which has asked once what is served notices when that may have changed.

States are there once their request's first token has come, and are handed over once. Being under /v1, both routes ask
for the server's API key if it has one.
"""

import base64
import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from huggingface_hub import try_to_load_from_cache
from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import CmrmError
from ...files import fingerprint
from . import admission
from .config import INSTANCE_VARIABLE, check_config, model_shape
from .spec import KEY, MODES, Shape

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.engine.protocol import EngineClient

# The environment's, as several processes may answer for one server.
INSTANCE = os.environ.get(INSTANCE_VARIABLE) or token_hex(16)
_INSTANCE_HEADER = b"x-cmrm-instance"

# A picture of 20 MB and the vectors of the largest models.
MAX_BYTES = 48 << 20
MOST_NAMES = 4096
# Where vllm_xargs reach the sampling parameters of the one request that they were given for.
_STEERABLE = ("/v1/chat/completions", "/v1/completions")


class CmrmEndpoints:
    """An entry point of `vllm.endpoint_plugins`; `VLLM_PLUGINS` must name it."""

    name = "cmrm"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the door."""
        app.add_middleware(Door)
        app.add_api_route("/v1/cmrm", describe, methods=["GET"])
        app.add_api_route("/v1/cmrm/states", hand_over, methods=["POST"])

    async def init_state(self, engine_client: "EngineClient | None", state: State, args: Namespace) -> None:
        """Learn what the model is, before the first request.

        Raises:
            CmrmError: a configuration that can't be steered. A worker says so too, but of several replicas each thinks
                that it is alone.
        """
        if engine_client is not None:
            check_config(engine_client.vllm_config)
            state.cmrm_revision = revision_of(engine_client.model_config)
            admission.learn(model_shape(engine_client.model_config))


def revision_of(config: "ModelConfig") -> str | None:
    """Return a hash of a local model's files, or which commit of the hub was loaded, if that is known."""
    folder = Path(config.model)
    if folder.is_dir():
        return fingerprint(folder)
    loaded = try_to_load_from_cache(config.model, "config.json", revision=config.revision)  # in its commit's folder
    return Path(loaded).parent.name if isinstance(loaded, str) else config.revision


async def describe(request: Request) -> dict[str, object]:
    """Say what the model is and how steering is going."""
    engine = request.app.state.engine_client
    config = engine.model_config
    layers, hidden = model_shape(config)
    return {
        "model": config.model,
        "revision": request.app.state.cmrm_revision,
        "architecture": f"{config.architecture}/{config.hf_text_config.model_type}",
        "layers": layers,
        "hidden": hidden,
        "dtype": str(config.dtype).removeprefix("torch."),
        "quantization": config.quantization,
        "context_length": config.max_model_len,
        "max_num_seqs": engine.vllm_config.scheduler_config.max_num_seqs,
        "instance": INSTANCE,
        "modes": list(MODES),
        "workers": await engine.collective_rpc("cmrm_health"),
    }


async def hand_over(request: Request) -> JSONResponse:
    """Hand over kept states."""
    engine = request.app.state.engine_client
    try:
        names = read_names(await request.body())
    except CmrmError as error:
        return refusal(str(error))
    parts = await engine.collective_rpc("cmrm_states", args=(names,))
    return JSONResponse(join_states(parts, names, model_shape(engine.model_config)))


def read_names(body: bytes) -> list[str]:
    """Read which states are asked for.

    Raises:
        CmrmError: something else than a list of names.
    """
    try:
        names = json.loads(body)["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MOST_NAMES:
        raise CmrmError(f'The body names no states; send {{"names": [...]}}, at most {MOST_NAMES} names of captures.')
    return names


def join_states(
    parts: Sequence[dict[str, tuple[list[int], bytes]]], names: Sequence[str], shape: Shape
) -> dict[str, object]:
    """Put together what each worker holds of each state: its layers, and float32 `(its layers, hidden)` as bytes."""
    states: dict[str, str] = {}
    for name in names:
        whole, seen = np.zeros(shape, "<f4"), set()
        for part in parts:
            if name in part:
                layers, content = part[name]
                whole[layers] = np.frombuffer(content, "<f4").reshape(len(layers), shape[1])
                seen.update(layers)
        if len(seen) == shape[0]:
            states[name] = base64.b64encode(whole.tobytes()).decode()
    return {"shape": list(shape), "states": states, "missing": [name for name in names if name not in states]}


class Door:
    """Rejects what is too long, what was meant for another server, and what vLLM would answer without its steering."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a whole body, hand it on or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        body, whole = bytearray(), False
        while not whole:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            whole = not message.get("more_body", False)
            if len(body) > MAX_BYTES:
                long = f"The request has more than {MAX_BYTES >> 20} MiB; send a smaller picture."
                return await refusal(long, 413)(scope, receive, send)
        if dict(scope["headers"]).get(_INSTANCE_HEADER, INSTANCE.encode()) != INSTANCE.encode():
            anew = "The server was started anew since the client asked what it serves; ask GET /v1/cmrm again."
            return await refusal(anew, 409)(scope, receive, send)
        if (problem := unsteered(scope["path"].removeprefix(scope.get("root_path", "")), bytes(body))) is not None:
            return await refusal(problem)(scope, receive, send)
        rest = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def again() -> Message:
            return next(rest, None) or await receive()

        return await self.app(scope, again, send)


def unsteered(path: str, body: bytes) -> str | None:
    """Say why a request would be answered without the steering that it asks for, None if it would not."""
    body = _plain(body)
    if f'"{KEY}"'.encode() not in body or path.startswith("/v1/cmrm"):
        return None
    if path not in _STEERABLE:
        return f"{path} can't be steered; ask {' or '.join(_STEERABLE)}, or leave out vllm_xargs.{KEY}."
    if b"use_beam_search" not in body:
        return None
    try:
        beams = json.loads(body).get("use_beam_search")
    except (ValueError, AttributeError, RecursionError):
        return None  # vLLM says what is wrong with it
    return "Beam search can't be steered; leave out use_beam_search." if beams else None


def _plain(body: bytes) -> bytes:
    """Return JSON in UTF-8 where no escape hides a member's name."""
    if rb"\u" not in body and b"\0" not in body:
        return body
    try:
        return json.dumps(json.loads(body)).encode()
    except (ValueError, RecursionError):
        return body  # vLLM says what is wrong with it


def refusal(sentence: str, status: int = 400) -> JSONResponse:
    """Return an error as vLLM writes its own."""
    error = {"message": sentence, "type": "BadRequestError", "param": KEY, "code": status}
    return JSONResponse({"error": error}, status)
