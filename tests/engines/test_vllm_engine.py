"""A vLLM server as the page sees it: what is sent to it, and each way in which it fails as one sentence."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm import CmrmError
from cmrm.engines.server import CHAT, Server
from cmrm.engines.vllm import VllmEngine, read_chances, read_counts, steer
from cmrm.engines.vllm_plugin.spec import Spec
from cmrm.steering.vectors import Steered, Vectors

Answer = Callable[[BaseHTTPRequestHandler], None]
BODY = {"messages": []}


@contextmanager
def scripted(answer: Answer) -> Iterator[str]:
    """A server that answers every request by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def plain(status: int, text: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return answer


def events(*lines: object) -> Answer:
    """A stream of events that ends when the last one was sent."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for line in lines:
            handler.wfile.write(f"data: {json.dumps(line)}\n\n".encode())

    return answer


def token(*ids: int, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"token_ids": list(ids), "finish_reason": reason}]}


def error(sentence: str, code: int = 400) -> dict[str, object]:
    return {"error": {"message": sentence, "code": code}}


def test_answers_of_several_rows_arrive_by_their_number_and_end():
    with scripted(events(token(), token(5), token(6, 7, reason="stop"))) as url:
        arrived = list(chain.from_iterable(Server(url).stream_all([BODY, BODY, BODY])))
    for row in range(3):
        assert [ids for number, ids in arrived if number == row] == [[5], [6, 7], []]


def test_what_arrives_while_nobody_looks_comes_together():
    sent = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        events(*[token(5)] * 50, token(6, reason="stop"))(handler)
        sent.set()

    with scripted(answer) as url:
        stream = Server(url).stream_all([BODY])
        arrived = [next(stream)]
        assert sent.wait(timeout=60)
        time.sleep(1)
        arrived += stream
    assert [one for part in arrived for _, ids in part for one in ids] == [5] * 50 + [6]
    assert len(arrived) < 50


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (plain(401, "{}"), "refuses the key"),
        (plain(404, json.dumps(error("The model `pocket` does not exist.", 404))), "another model than before"),
        (plain(400, json.dumps(error("alpha is 3.0, but it must be a number from 0 to 2."))), "^alpha is 3.0"),
        (plain(500, "<html>"), "status 500"),
        (events(error("The prompt is too long; shorten it.")), "^The prompt is too long; shorten it.$"),
        (events(token(5), error("The engine died.", 500)), "^The engine died.$"),
        (events(token(5)), "broke off"),
        (events(), "broke off"),
    ],
    ids=["key", "model", "refused", "no JSON", "refused as an event", "error in a stream", "cut off", "nothing"],
)
def test_each_fault_is_one_sentence(answer, sentence):
    with scripted(answer) as url, pytest.raises(CmrmError, match=sentence):
        list(Server(url).stream_all([BODY, BODY]))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (plain(401, "{}"), "refuses the key"),
        (plain(404, "not found"), "without the plugin"),
        (plain(200, "<html>"), "no vLLM server with this version"),
        (plain(200, "[]"), "no vLLM server with this version"),
        (plain(200, '{"model": "pocket"}'), "no vLLM server with this version"),
    ],
)
def test_what_is_no_such_server_is_told_at_the_start(answer, sentence):
    with scripted(answer) as url, pytest.raises(CmrmError, match=sentence):
        VllmEngine.connect(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nowhere", "http://", "http://[", "ftp://127.0.0.1"])
def test_a_place_without_a_server_is_one_sentence(url):
    with pytest.raises(CmrmError, match="vLLM server"):
        VllmEngine.connect(url)
    with pytest.raises(CmrmError, match="vLLM server"):
        list(Server(url).answer_all(CHAT, [BODY]))


def test_the_health_of_a_server_that_is_gone_is_a_sentence():
    engine = VllmEngine(Server("http://127.0.0.1:9"), "pocket", tiny.vlm().identity, 512, None, frozenset(), (), 64)
    assert "no vLLM server at http://127.0.0.1:9" in engine.health().problem


def endless(gone: threading.Semaphore) -> Answer:
    """A stream that goes on until nobody reads it, which `gone` counts."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(f"data: {json.dumps(token(5))}\n\n".encode())
                time.sleep(0.02)
        except OSError:
            gone.release()

    return answer


def test_a_stream_that_is_closed_closes_its_connections_within_a_second():
    gone = threading.Semaphore(0)
    with scripted(endless(gone)) as url:
        stream = Server(url).stream_all([BODY, BODY])
        next(stream)
        closing = time.monotonic()
        stream.close()
        assert all(gone.acquire(timeout=5) for _ in range(2))
        assert time.monotonic() - closing < 1


def test_the_first_fault_ends_the_other_requests():
    gone, all_there = threading.Semaphore(0), threading.Barrier(4)
    answers = iter([events(token(5), error("No.")), *[endless(gone)] * 3])

    def answer(handler: BaseHTTPRequestHandler) -> None:
        mine = next(answers)
        all_there.wait(timeout=60)
        mine(handler)

    with scripted(answer) as url:
        with pytest.raises(CmrmError, match=r"^No\.$"):
            list(Server(url).stream_all([BODY] * 4))
        assert all(gone.acquire(timeout=5) for _ in range(3))


@settings(max_examples=50, deadline=None)
@given(
    mode=st.sampled_from(["add", "reach", "project"]),
    alphas=st.lists(st.floats(0, 2), min_size=1, max_size=4),
    layers=st.none() | st.sets(st.integers(0, 2), min_size=1).map(lambda found: tuple(sorted(found))),
    steps=st.sampled_from(["prompt", "all"]),
    everywhere=st.booleans(),
    seed=st.integers(0, 9),
)
def test_what_the_engine_sends_of_a_row_is_what_the_plugin_reads(mode, alphas, layers, steps, everywhere, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(alphas), 3, 5)).astype(np.float32)
    levels = rng.normal(size=3).astype(np.float32) if mode == "project" else None
    positions = "all" if everywhere and mode != "reach" else "last"
    rows = [Vectors(one, mode, levels) for one in values]
    steered = Steered(rows, tuple(alphas), layers, positions, steps)
    for row, alpha in enumerate(alphas):
        read = Spec.of(steer(BODY, steered, row, capture="name").get("vllm_xargs"))
        assert read.capture == "name"
        assert read.steers == (alpha > 0)
        if read.values is not None:
            np.testing.assert_array_equal(read.values, values[row])
            assert (read.mode, read.alpha, read.steps, read.positions) == (mode, alpha, steps, positions)
            assert read.layers == (layers or (0, 1, 2))
        if read.levels is not None:
            np.testing.assert_array_equal(read.levels, levels)


def test_an_unsteered_row_asks_for_nothing():
    steered = Steered(Vectors(np.ones((3, 5), np.float32)), (0.0, 1.0))
    assert steer(BODY, steered, 0) == BODY
    assert steer(BODY, None, 0) == BODY
    assert "vllm_xargs" in steer(BODY, steered, 1)


def test_counts_and_chances_are_read():
    lines = ["# HELP vllm:num_requests_running x", 'vllm:num_requests_running{engine="0"} 3.0']
    lines += ['vllm:num_requests_waiting{engine="0"} 1.0', 'vllm:num_requests_waiting_by_reason{a="b"} 7.0']
    assert read_counts("\n".join(lines)) == (3, 1)
    likely = [{"token": "token_id:7", "logprob": np.log(0.25)}, {"token": "token_id:3", "logprob": np.log(0.5)}]
    choice = {"logprobs": {"content": [{"top_logprobs": likely}]}}
    assert read_chances(choice, frozenset({7, 3})) == pytest.approx([0.5, 0.25])
    assert read_chances({}, frozenset()) == []
