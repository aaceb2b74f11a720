"""What is served at the page's place until the server with its model is up."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

from ..errors import CmrmError
from ..ui.html import parts

PORTS = range(7860, 7960)  # as Gradio chooses


@contextmanager
def serve_waiting_page(host: str | None, port: int | None, reason: str) -> Iterator[int]:
    """Say in a browser and at `/health` what the start waits for; yields the port, which the page takes then.

    All else is answered by status 503, and to come again.

    Raises:
        CmrmError: the address can't be used.
    """

    def later(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": reason}, 503, {"Retry-After": "2"})

    app = FastAPI(openapi_url=None, exception_handlers={404: later, 405: later})
    app.add_api_route("/health", lambda: {"status": "starting", "reason": reason})
    app.add_api_route("/", lambda: parts.waiting(reason), response_class=HTMLResponse)
    with _listen(host or "127.0.0.1", [port] if port else PORTS) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def _listen(host: str, ports: range | list[int]) -> socket.socket:
    for port in ports:
        try:
            return socket.create_server((host, port))
        except OSError:
            continue
    raise CmrmError(f"The page can't be served on {host}, port {ports[0]}: it is taken; choose another.")
