"""What a visitor sees who comes before the server is up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from browsers import IN_BROWSER, open_page
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.sync_api import expect

from cmrm.server.waiting import _listen, serve_waiting_page

pytestmark = IN_BROWSER


@contextmanager
def opened(port: int) -> Iterator[None]:
    """Serve what is there once the server is up."""
    app = FastAPI()
    app.add_api_route("/health", lambda: {"status": "ok"})
    app.add_api_route("/", lambda: HTMLResponse("<h1>Compare</h1>"))
    with _listen("127.0.0.1", [port]) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield
        server.should_exit = True
        thread.join()


def test_the_page_opens_by_itself_though_nobody_listens_for_a_while(browser):
    page = open_page(browser)
    with serve_waiting_page(None, None, "There is no vLLM server now.") as port:
        page.goto(f"http://127.0.0.1:{port}/?prompt=hello")
        expect(page.get_by_role("status")).to_have_text("There is no vLLM server now.")
    page.wait_for_timeout(5000)  # two looks that find nobody
    expect(page.get_by_role("status")).to_have_text("There is no vLLM server now.")
    with opened(port):
        expect(page.get_by_role("heading", name="Compare")).to_be_visible()
        assert page.url.endswith("/?prompt=hello")
        page.close()
