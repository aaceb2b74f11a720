"""The page while the server with its model is not up yet."""

import json
import urllib.request

import pytest

from cmrm import CmrmError, cli
from cmrm.errors import NotThereError
from cmrm.server.waiting import serve_waiting_page
from cmrm.settings import ModelChoice

REASON = "There is no vLLM server at <http://nowhere> now."


def read(port: int, path: str = "") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
        return response.read().decode()


def test_it_says_what_it_waits_for_looks_again_and_leaves_its_port():
    with serve_waiting_page(None, None, REASON) as port:
        page = read(port)
        assert "There is no vLLM server at &lt;http://nowhere&gt; now." in page
        assert 'http-equiv="refresh"' in page
        assert json.loads(read(port, "health")) == {"status": "starting", "reason": REASON}
        with pytest.raises(CmrmError, match=f"port {port}"), serve_waiting_page(None, port, REASON):
            pass
    with serve_waiting_page(None, port, REASON) as again:
        assert again == port


def test_the_app_opens_once_the_server_is_up_and_keeps_its_port(monkeypatch):
    tries = []

    def open_workbench(chosen, offsets):
        tries.append(chosen)
        if len(tries) < 3:
            raise NotThereError(REASON)
        return "a workbench"

    monkeypatch.setattr(cli, "open_workbench", open_workbench)
    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    bench, port = cli._wait_for_server(ModelChoice(engine="vllm"), None, None, None, REASON)
    assert (bench, len(tries)) == ("a workbench", 3)
    assert port >= 7860
