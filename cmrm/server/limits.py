"""What the server rejects before any event: bodies that are too long, and requests when the queue is full."""

import gradio as gr
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..ui.events import Queue

MOST_BODY = 64_000_000
"""Bytes of one HTTP request: an upload, or the JSON of a call, which may hold a picture as a data URI."""


class BoundedBody:
    """ASGI middleware that ends a request with status 413 once its body is longer than `MOST_BODY`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise HTTPException(413, f"The request has more than {MOST_BODY // 1_000_000} MB; send less.")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)


async def say_busy(blocks: gr.Blocks, request: Request, error: Exception) -> JSONResponse:
    """Answer a request in place of Gradio's word on a full queue."""
    queue = Queue.read(blocks)
    seconds = max(1, round(queue.ahead * queue.seconds))
    return JSONResponse({"detail": queue.busy}, 503, {"Retry-After": str(seconds)})
