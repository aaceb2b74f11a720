"""What the tests ask of a server: HTTP alone, as any client would."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

END = 3  # the token that ends an answer of the pocket model
LENGTH = 48


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the token ids without the end, and the sentence of an error."""

    status: int
    ids: tuple[int, ...] = ()
    error: str = ""


def packed(values: np.ndarray) -> dict[str, Any]:
    return {"vectors": base64.b64encode(values.astype("<f4").tobytes()).decode(), "shape": list(values.shape)}


def chat(text: str, image: Path | None = None, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text.strip()}]
    if image is not None:
        url = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    body = {"model": "pocket", "messages": [{"role": "user", "content": parts}], "temperature": 0}
    body |= {"max_tokens": LENGTH, "stream": True, "return_token_ids": True, **more}
    return body if spec is None else body | {"vllm_xargs": {"cmrm": json.dumps(spec)}}


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    ids: list[int] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return Answer(response.status_code, error=json.loads(await response.aread())["error"]["message"])
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:  # of a stream that has begun
                return Answer(event["error"]["code"], error=event["error"]["message"])
            for choice in event["choices"]:
                ids += choice.get("token_ids") or []
    return Answer(200, tuple(token for token in ids if token != END))


def ask_all(url: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Ask everything at once."""

    async def run() -> list[Answer]:
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            return await asyncio.gather(*(stream(client, body) for body in bodies))

    return asyncio.run(run())


def fetch(url: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    response = httpx.post(f"{url}/v1/cmrm/states", json={"names": list(names)}, timeout=60)
    assert response.status_code == 200, response.text
    made = response.json()
    return {
        name: np.frombuffer(base64.b64decode(text), "<f4").reshape(made["shape"])
        for name, text in made["states"].items()
    }


def complete(url: str, ids: Sequence[int], spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """One completion of token ids, whole."""
    body = {"model": "pocket", "prompt": list(ids), "temperature": 0, "max_tokens": 1, "return_token_ids": True, **more}
    if spec is not None:
        body["vllm_xargs"] = {"cmrm": json.dumps(spec)}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def cached(answer: dict[str, Any]) -> int:
    return (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
