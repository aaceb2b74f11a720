"""The page while the server with its model is not up yet, and how servers are started."""

import json
import shlex
import threading
import urllib.request

import gradio as gr
import httpx
import pytest

from cmrm import CmrmError, cli
from cmrm.errors import NotThereError
from cmrm.server.launch import launch
from cmrm.server.waiting import serve_waiting_page
from cmrm.terminal import mask_keys

REASON = "There is no vLLM server at <http://nowhere> now."


def read(port: int, path: str = "") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
        return response.read().decode()


def test_it_says_what_it_waits_for_looks_again_and_leaves_its_port():
    with serve_waiting_page(None, None, REASON) as port:
        page = read(port)
        assert "There is no vLLM server at &lt;http://nowhere&gt; now." in page
        assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page
        assert json.loads(read(port, "health")) == {"status": "starting", "reason": REASON}
        for path in ("config", "gradio_api/call/compare"):
            later = httpx.post(f"http://127.0.0.1:{port}/{path}")
            assert (later.status_code, later.headers["Retry-After"]) == (503, "2")
            assert later.json() == {"detail": REASON}
        with pytest.raises(CmrmError, match=f"port {port}"), serve_waiting_page(None, port, REASON):
            pass
    with serve_waiting_page(None, port, REASON) as again:
        assert again == port


def broken() -> CmrmError:
    error = CmrmError("The server broke off.")
    error.__cause__ = httpx.ReadError("reset")
    return error


def test_the_app_opens_once_the_server_is_up_and_keeps_its_port(monkeypatch):
    faults = [NotThereError(REASON), broken()]

    def open_page():
        if faults:
            raise faults.pop()
        assert threading.active_count() > before, "the waiting page is there until its own is built"
        return "a workbench", "a page"

    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    before = threading.active_count()
    opened, port = cli._wait_for_server(open_page, None, None, REASON)
    assert (opened, faults) == (("a workbench", "a page"), [])
    assert port >= 7860


@pytest.mark.parametrize("fault", [CmrmError("The key is wrong."), ValueError("a mistake of ours")])
def test_what_does_not_pass_ends_the_wait(monkeypatch, fault):
    def open_page():
        raise fault

    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=str(fault)):
        cli._wait_for_server(open_page, None, None, REASON)


# Starting servers.


@pytest.mark.parametrize(("at_once", "threads"), [(1, 40), (32, 52), (128, 148)])
def test_the_page_has_a_thread_for_each_answer_that_its_engine_makes_at_once(monkeypatch, at_once, threads):
    given = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: given.update(options) or (None, "url", None))
    assert launch(gr.Blocks(), at_once=at_once) == "url"
    assert given["max_threads"] == threads


def test_the_command_of_a_server_is_printed_without_its_key(monkeypatch, capsys):
    run = []
    monkeypatch.setattr(cli.os, "execvp", lambda python, command: run.append(command))
    monkeypatch.setattr("sys.argv", ["cmrm", "serve-vllm", "--api-key", "s3cret", "--enforce-eager"])
    with pytest.raises(SystemExit):
        cli.main()
    assert run[0][-3:] == ["--api-key", "s3cret", "--enforce-eager"]
    assert capsys.readouterr().err.endswith("--api-key '***' --enforce-eager\n")


def test_keys_are_hidden_however_they_are_given():
    given = "evaluate --engine-key a --out b --api-key=c --api-key d -e --hf-token f --max-tokens 3 --key"
    shown = "evaluate --engine-key *** --out b --api-key=*** --api-key *** *** --hf-token *** --max-tokens 3 --key"
    assert mask_keys(shlex.split(given)) == shlex.split(shown)
