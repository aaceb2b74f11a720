"""A vLLM server as the page sees it: what is sent to it, and each way in which it fails as one sentence."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain

import httpx
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.Image import Image

from cmrm import CmrmError, Settings
from cmrm.engines.server import CHAT, Server
from cmrm.engines.vllm import VllmEngine, read_chances, read_counts, steer
from cmrm.engines.vllm_plugin.spec import Spec
from cmrm.errors import NotThereError, ServerError
from cmrm.steering.vectors import Prompt, Steered, Vectors

Answer = Callable[[BaseHTTPRequestHandler], None]
BODY = {"messages": []}


@contextmanager
def scripted(answer: Answer) -> Iterator[str]:
    """A server that answers every request by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
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


def whole(*ids: int, reason: str = "stop", prompt: int = 3, **more: object) -> Answer:
    choice = {"token_ids": list(ids), "finish_reason": reason, **more}
    return plain(200, json.dumps({"prompt_token_ids": [1] * prompt, "choices": [choice]}))


def engine_at(url: str) -> VllmEngine:
    """An engine of a context of 512 tokens."""
    return VllmEngine(Server(url), "tiny", tiny.vlm().identity, 512, tiny.processor(), frozenset([257]), (), 64)


def flat(stream: Iterator[list]) -> list:
    return list(chain.from_iterable(stream))


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
        (plain(401, "{}"), "rejects the key"),
        (plain(404, json.dumps(error("The model `pocket` does not exist.", 404))), "another model than before"),
        (plain(400, json.dumps(error("alpha is 3.0, but it must be a number from 0 to 2."))), "^alpha is 3.0"),
        (plain(500, "<html>"), "status 500"),
        (events(error("The prompt is too long; shorten it.")), "^The prompt is too long; shorten it.$"),
        (events(token(5), error("The engine died.", 500)), "^The engine died.$"),
        (events(token(5)), "broke off"),
        (events(), "broke off"),
        (events(token(5), token(reason="abort")), "broke off"),
    ],
    ids=["key", "model", "refused", "no JSON", "refused event", "error in a stream", "cut off", "nothing", "aborted"],
)
def test_each_fault_is_one_sentence(answer, sentence):
    with scripted(answer) as url, pytest.raises(CmrmError, match=sentence):
        list(Server(url).stream_all([BODY, BODY]))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (plain(401, "{}"), "rejects the key"),
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


def test_a_whole_answer_that_was_aborted_is_none():
    with scripted(whole(5, reason="abort")) as url, pytest.raises(ServerError, match="broke off"):
        list(Server(url).answer_all(CHAT, [BODY]))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (plain(400, json.dumps(error("No."))), CmrmError),
        (events(error("No.")), CmrmError),
        *((plain(status, "{}"), ServerError) for status in (401, 403, 404, 409, 429, 500)),
        *((plain(status, "<html>"), NotThereError) for status in (502, 503, 504)),
        (events(token(5), error("No.", 500)), ServerError),
        (events(token(5)), ServerError),
    ],
)
def test_a_fault_of_the_server_is_told_from_one_of_the_request(answer, kind):
    with scripted(answer) as url, pytest.raises(CmrmError) as caught:
        list(Server(url).stream_all([BODY]))
    assert type(caught.value) is kind


@pytest.mark.parametrize("raised", [httpx.ConnectTimeout("x"), httpx.ConnectError("x")])
def test_a_server_that_takes_no_connection_may_do_so_later(raised, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(httpx.Client, "get", fail)
    with pytest.raises(NotThereError, match="no vLLM server at"):
        Server("http://127.0.0.1:9").get("/metrics")


@pytest.mark.parametrize("streamed", [True, False])
def test_what_had_arrived_comes_before_the_fault(streamed):
    looking, sent = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.body["k"] == 0:
            looking.wait(timeout=60)
            (events(token(5, reason="stop")) if streamed else whole(5))(handler)
            sent.set()
        else:
            sent.wait(timeout=60)
            time.sleep(1)
            plain(400, json.dumps(error("No.")))(handler)

    bodies, arrived = [{"k": 0}, {"k": 1}], []
    with scripted(answer) as url:
        server = Server(url)
        stream = server.stream_all(bodies) if streamed else server.answer_all(CHAT, bodies)
        assert next(stream) == []
        looking.set()
        time.sleep(2)  # both are there when it is looked at again
        with pytest.raises(CmrmError, match=r"^No\.$"):
            arrived.extend(chain.from_iterable(stream))
    assert {number for number, _ in arrived} == {0}


@pytest.mark.parametrize("streamed", [True, False])
def test_what_does_not_fit_the_context_is_rejected_in_the_local_engines_words(streamed):
    local = tiny.vlm()
    with pytest.raises(CmrmError) as expected:
        local.check_length(500, 20)
    first = {"prompt_token_ids": [1] * 500, **token()}
    answer = events(first, token(5, reason="length")) if streamed else whole(5, prompt=500)

    def ask(engine: VllmEngine) -> None:
        if streamed:
            list(engine.prepare(Prompt("Hi"), Settings(max_new_tokens=20), 1).answer(None))
        else:
            engine.answer_batch([Prompt("Hi")], max_new_tokens=20)

    with scripted(answer) as url, pytest.raises(CmrmError) as caught:
        ask(engine_at(url))
    assert str(caught.value) == str(expected.value)
    assert not isinstance(caught.value, ServerError)


@contextmanager
def silent_after(*answers: Answer) -> Iterator[tuple[str, threading.Semaphore]]:
    """A server that answers by `answers`, and then says nothing and counts who waits for it no longer."""
    left, gone = iter(answers), threading.Semaphore(0)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        known = next(left, None)
        if known is not None:
            return known(handler)
        handler.connection.settimeout(60)
        if not handler.connection.recv(1):
            gone.release()

    with scripted(answer) as url:
        yield url, gone


@pytest.mark.parametrize("answered", [0, 1], ids=["before a token", "while the answer is scored"])
def test_an_answer_can_be_closed_while_nothing_arrives(answered):
    with silent_after(*[events(token(5, reason="stop"))] * answered) as (url, gone):
        stream = engine_at(url).prepare(Prompt("Hi"), Settings(max_new_tokens=20), 1).answer(None, fluency=True)
        steps = [next(stream) for _ in range(5)]
        stream.close()
        assert gone.acquire(timeout=30)
    assert [step.rows[0].tokens for step in steps][-1] == answered
    assert bool(steps[-1].progress) == (not answered)
    assert not steps[-1].done


@pytest.mark.parametrize("answered", [0, 1], ids=["before the prompt is read", "while its state is fetched"])
def test_a_reading_can_be_closed_while_nothing_arrives(answered):
    with silent_after(*[whole(5)] * answered) as (url, gone):
        stream = engine_at(url).reading([Prompt("Hi")]).states(None, int)
        done = [next(stream) for _ in range(3)]
        stream.close()
        assert gone.acquire(timeout=30)
    assert done[-1] == answered


def test_each_answer_is_a_pass_also_of_those_that_come_together():
    together = threading.Barrier(5)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path != CHAT:
            return plain(500, "{}")(handler)
        together.wait(timeout=60)
        return whole(5)(handler)

    passes = set()
    with scripted(answer) as url, pytest.raises(ServerError):  # as it has no states
        list(engine_at(url).reading([Prompt("Hi")] * 5).states(None, passes.add))
    assert passes - {0} == {1, 2, 3, 4, 5}


def test_a_server_that_was_started_anew_is_told():
    seen = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["X-CMRM-Instance"])
        plain(409, json.dumps(error("Another start.", 409)))(handler)

    with scripted(answer) as url:
        server = Server(url, instance="first")
        with pytest.raises(ServerError, match="started anew since this page connected"):
            list(server.answer_all(CHAT, [BODY]))
        with pytest.raises(ServerError, match="started anew since this page connected"):
            list(server.stream_all([BODY]))
    assert seen == ["first", "first"]


def test_a_key_is_sent_without_the_space_around_it():
    seen = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        plain(200, "")(handler)

    with scripted(answer) as url:
        Server(url, " secret\n").get("/metrics")
    assert seen == ["Bearer secret"]


@pytest.mark.parametrize("key", ["se\ncret", "secr\u00e9t", "se\0cret"])
def test_a_key_that_cannot_be_sent_is_one_sentence_without_it(key):
    with pytest.raises(CmrmError, match="characters that can't be sent") as caught:
        Server("http://127.0.0.1:9", key)
    assert "cr" not in str(caught.value).replace("correct", "")


def test_what_could_not_be_sent_is_not_quoted(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise httpx.LocalProtocolError("Illegal header value b'secret'")

    monkeypatch.setattr(httpx.Client, "get", fail)
    with pytest.raises(ServerError, match="could not be sent") as caught:
        Server("http://127.0.0.1:9").get("/metrics")
    assert "secret" not in str(caught.value)


def test_a_picture_is_written_once_for_all_that_is_asked_about_it(monkeypatch):
    written, save = [], Image.save
    monkeypatch.setattr(Image, "save", lambda *given, **options: (written.append(1), save(*given, **options)))
    engine = engine_at("http://127.0.0.1:9")
    one, other = (engine.ask(Prompt(text, tiny.PICTURE.copy())) for text in ("Hi", "Hello"))
    turned = engine.ask(Prompt("Hi", tiny.PICTURE.rotate(180)))
    urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in (one, other, turned)]
    assert urls[0] == urls[1] != urls[2]
    assert len(written) == 2


def test_chances_are_asked_for_the_first_token_alone():
    openings, bodies = frozenset({7, 3}), []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.body
        bodies.append(body)
        likely = [{"token": f"token_id:{token}", "logprob": np.log(0.25)} for token in sorted(openings)]
        logprobs = {"content": [{"top_logprobs": likely}]} if body.get("logprobs") else None
        whole(*[32] * body["max_tokens"], reason="length", logprobs=logprobs)(handler)

    with scripted(answer) as url:
        engine, steered = engine_at(url), Steered(Vectors(np.ones((4, 64), np.float32)), 1.0)
        answers = engine.answer_batch([Prompt("Hi"), Prompt("Ho")], steered, max_new_tokens=9, openings=openings)
        plain_answers = engine.answer_batch([Prompt("Hi")], max_new_tokens=9)
    assert [(one.text, one.opening) for one in answers] == [("A" * 9, pytest.approx(0.5))] * 2
    assert [(one.text, one.opening) for one in plain_answers] == [("A" * 9, 0)]
    assert sorted((body["max_tokens"], bool(body.get("logprobs"))) for body in bodies) == [
        (1, True),
        (1, True),
        (9, False),
        (9, False),
        (9, False),
    ]
    assert len({json.dumps(body.get("vllm_xargs")) for body in bodies[:4]}) == 1


def clients() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "vllm-client"}


def test_a_server_has_one_thread_which_ends_with_it():
    before = clients()
    with scripted(whole(5)) as url:
        server = Server(url)
        for _ in range(3):
            assert len(flat(server.answer_all(CHAT, [BODY] * 2))) == 2
        [mine] = clients() - before
        del server
        mine.join(timeout=30)
    assert not mine.is_alive()


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
