"""Knowing how a served page is: /health, one line a request, and what a busy page says."""

import json
import logging
import re
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError
from serving import CIRCLE, serving, workbench

from cmrm import CmrmError, Settings
from cmrm.progress import finish
from cmrm.ui import Request, answer, explain_answers, parse_request
from cmrm.ui.requests_log import log_to_standard_error
from cmrm.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

PROMPT = "Zanzibar marmalade"
LONG = {"prompt": "What is this?", "max_new_tokens": 450}


@pytest.fixture(scope="module")
def bench():
    return workbench()


@pytest.fixture
def served(bench, monkeypatch):
    monkeypatch.setattr("cmrm.ui.events.MOST_WAITING", 1)
    monkeypatch.setattr("cmrm.ui.page.QUEUE", 2)
    with serving(bench, pace=0.02) as served:
        yield served


def health(served) -> dict:
    return httpx.get(f"{served.url}health").raise_for_status().json()


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_health_says_what_is_served_and_that_nothing_is_left_behind(served):
    before = health(served)
    assert (before["status"], before["model"], before["quantization"]) == ("ok", "tiny", "none")
    assert before["offsets"] == {"anchors": "anchors", "estimator": "mean", "corruption": "white"}
    client = Client(served.url, verbose=False)
    client.predict(handle_file(str(CIRCLE)), PROMPT, max_new_tokens=3, api_name="/compare")
    with pytest.raises(AppError):
        client.predict(None, "", api_name="/compare")
    until(lambda: not health(served)["queue"]["running"])
    after = health(served)
    assert after["hooks"] == after["hooks_at_start"] == before["hooks"]
    assert after["queue"]["seconds"] > 0
    assert not after["working"]
    assert PROMPT not in json.dumps(after)
    client.close()


def test_a_full_queue_rejects_at_once_and_goes_on(served):
    expected = Client(served.url, verbose=False).predict(None, PROMPT, max_new_tokens=3, api_name="/compare")[:2]
    clients, jobs = [Client(served.url, verbose=False) for _ in range(3)], []
    late = Client(served.url, verbose=False)
    with served.vlm.network.lock:  # nobody is answered meanwhile
        for count, client in enumerate(clients):  # each once the one before has its place
            jobs.append(client.submit(**LONG, api_name="/compare"))
            until(
                lambda count=count: (
                    (health(served)["queue"]["running"], health(served)["queue"]["waiting"]) == (1, count)
                )
            )
        start = time.monotonic()
        with pytest.raises(QueueError, match="full"):
            late.predict(None, PROMPT, api_name="/compare")
        refused = httpx.post(f"{served.url}gradio_api/call/v2/compare", json={"prompt": PROMPT})
        assert time.monotonic() - start < 5
        assert refused.status_code == 503
        assert re.fullmatch(r"The model is busy: 3 before you, about \d+ s; try again then\.", refused.json()["detail"])
        assert int(refused.headers["Retry-After"]) > 0

        with pytest.raises(gr.Error, match=r"The model is busy: 3 before you, about \d+ s; try again then\."):
            click(served)
    for job in jobs:
        job.cancel()
    until(lambda: not health(served)["queue"]["waiting"] and not health(served)["queue"]["running"])
    assert late.predict(None, PROMPT, max_new_tokens=3, api_name="/compare")[:2] == expected


def click(served) -> list:
    """What a click on Run brings before its turn."""
    begin = next(one.fn for one in served.blocks.fns.values() if one.name == "begin")
    return begin(SimpleNamespace(target=None), View(False), False, "", None, PROMPT, *asdict(Settings()).values())


def lines(caplog) -> list[dict]:
    def no_json(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    messages = [record.getMessage() for record in caplog.records if record.name == "cmrm.requests"]
    return [json.loads(message, parse_constant=no_json) for message in messages]


def test_one_line_a_request_says_how_it_ended_and_not_what_it_asked(bench, caplog):
    short = Settings(alpha=1.0, max_new_tokens=4)
    drawn = Settings(alpha=0.5, method="sample", max_new_tokens=4, temperature=1.0, seed=7)
    with caplog.at_level(logging.INFO, "cmrm.requests"):
        list(answer(bench, Request(str(CIRCLE), PROMPT, drawn)))
        list(answer(bench, Request(None, PROMPT, short, alphas=(0.5, 1.0))))
        stream = answer(bench, Request(None, PROMPT, replace(short, max_new_tokens=40)))
        next(stream)
        stream.close()
        for alpha in (9, PROMPT, float("nan"), 10**400, [PROMPT]):
            with pytest.raises(CmrmError):
                parse_request("compare", None, PROMPT, {"alpha": alpha, "method": PROMPT})
        handle = bench.engine.vlm.model.register_forward_pre_hook(lambda *_: 1 / 0)
        try:
            with pytest.raises(CmrmError):
                list(answer(bench, Request(None, "another", short)))
        finally:
            handle.remove()
        finish(explain_answers(bench, Request(None, PROMPT, short)))
        stream = explain_answers(bench, Request(None, PROMPT, short))
        next(stream)
        stream.close()
    told = lines(caplog)
    assert [line["outcome"] for line in told] == [
        "done", "done", "stopped", *["rejected"] * 5, "failed", "done", "stopped"
    ]  # fmt: skip
    assert [line["request"] for line in told] == ["compare", "sweep", *["compare"] * 7, "explain", "explain"]
    assert len({line["id"] for line in told}) == len(told)
    first = told[0]
    settings = ("image", "alpha", "method", "max_new_tokens", "temperature", "seed")
    assert [first[name] for name in settings] == [True, 0.5, "sample", 4, 1.0, 7]
    assert len(first["tokens"]) == 2
    assert 0 < first["first_token_seconds"] <= first["seconds"]
    assert told[1]["alpha"] == [0.5, 1.0]
    assert len(told[1]["tokens"]) == 3
    assert PROMPT not in "".join(record.getMessage() for record in caplog.records if record.name == "cmrm.requests")


def test_lines_go_to_standard_error_when_the_app_asks_for_it(bench, capsys):
    logger = logging.getLogger("cmrm.requests")
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        log_to_standard_error()
        list(answer(bench, Request(None, PROMPT, Settings(max_new_tokens=2))))
        assert json.loads(capsys.readouterr().err)["outcome"] == "done"
    finally:
        logger.handlers, logger.level, logger.propagate = before
