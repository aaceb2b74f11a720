"""Requests to a workbench on a fake ZeroGPU, in a process of their own, as it forks; prints what came of them."""

import json
import time

import fake_spaces
import serving

from cmrm import CmrmError, Settings
from cmrm.progress import Progress, finish
from cmrm.server.zerogpu import on_zero_gpu
from cmrm.ui import Request, answer

PICTURE, LONG = str(serving.CIRCLE), Settings(alpha=1.0, max_new_tokens=400)
REQUESTS = (
    Request(PICTURE, "What is this?", Settings(alpha=0.5, max_new_tokens=6)),
    Request(None, "What is this?", Settings(method="sample", max_new_tokens=6, temperature=1.0, seed=3)),
    Request(PICTURE, "Hello", Settings(max_new_tokens=4), alphas=(0.5, 1.0)),
)


def last(bench, request) -> list:
    *_, step = answer(bench, request)
    return [[row.text, row.alpha, row.verdict, row.fluency] for row in step.rows]


def explain(bench) -> str:
    stages: list[Progress] = []
    found = finish(bench.explain(PICTURE, "What is this?", Settings(max_new_tokens=6)), stages.append)
    assert {"reading", "answering", "parting"} <= {progress.stage for progress in stages}
    return repr(found)


def measure(bench) -> list:
    passes: list[Progress] = []
    offsets = finish(bench.extract(["a cat", "two dogs", "bake bread"]), passes.append)
    assert passes[-1].done == passes[-1].total
    return offsets.values.tolist()


def answer_all(bench) -> list:
    return [*(last(bench, request) for request in REQUESTS), explain(bench), measure(bench)]


def reject(bench, prompt: str, settings: Settings) -> str:
    try:
        finish(bench.compare(PICTURE, prompt, settings))
    except CmrmError as error:
        return str(error)
    return ""


def main() -> dict:
    bench = serving.workbench()
    alone = answer_all(bench)
    for kept in (bench._states, bench._measured):
        kept.clear()
    pace = {"seconds": 0.0}
    vlm = bench.engine.vlm
    vlm.model.register_forward_pre_hook(lambda *_: time.sleep(3 if "slow" in asked[-1] else pace["seconds"]))
    asked: list[str] = [""]
    # The worker learns what is asked from the request itself.
    whole = type(vlm).encode

    def encode(self, prompt, image):
        asked.append(prompt)
        if prompt == "explode":
            raise ZeroDivisionError("boom")
        return whole(self, prompt, image)

    type(vlm).encode = encode
    fake_spaces.after = lambda: vlm.network.hook_count
    hooks = vlm.network.hook_count
    zero = on_zero_gpu(bench, fake_spaces.GPU, "cpu")
    away = answer_all(zero)
    sentences = [
        reject(zero, "Hello", Settings(layers=(999,))),
        reject(zero, "", LONG),
        reject(zero, "Hello", Settings(max_new_tokens=2048)),
        reject(zero, "explode", LONG),
    ]
    try:
        finish(zero.explain(None, ""))
    except CmrmError as error:
        sentences.append(str(error))

    stream = answer(zero, Request(None, "go on", LONG))
    for _ in range(3):
        next(stream)
    stream.close()

    start = time.monotonic()
    stream = answer(zero, Request(None, "slow", LONG))
    next(stream)
    first = time.monotonic() - start
    stream.close()
    closed = time.monotonic() - start
    again = answer_all(zero)
    return {
        "alone": alone,
        "away": away,
        "again": again,
        "sentences": sentences,
        "hooks": [hooks, *fake_spaces.told],
        "workers": len(set(fake_spaces.workers)),
        "durations": fake_spaces.durations,
        "first": first,
        "closed": closed,
    }


if __name__ == "__main__":
    print(json.dumps(main()))
