"""Requests to a workbench on a fake ZeroGPU, in a process of their own, as it forks; prints what came of them."""

import json
import time

import fake_spaces
import serving
from gradio_client.utils import is_file_obj_with_meta

from cmrm import CmrmError
from cmrm.server.zerogpu import on_zero_gpu
from cmrm.ui import Ask, answer

PICTURE = {"path": str(serving.CIRCLE), "meta": {"_type": "gradio.FileData"}}
ASKS = (
    Ask(PICTURE, "What is this?", 0.5, "dataset", 6),
    Ask(None, "What is this?", None, "sample", 6, 1.0, 3),
    Ask(PICTURE, "Hello", (0.5, 1.0), "dataset", 4),
)


def last(bench, ask) -> list:
    *_, step = answer(bench, ask)
    return [[row.text, row.alpha, row.verdict, row.fluency] for row in step.rows]


def explained(bench) -> str:
    *told, found = bench.explain(serving.CIRCLE, "What is this?", max_new_tokens=6)
    assert told
    assert all(isinstance(sentence, str) for sentence in told)
    return repr(found)


def measured(bench) -> list:
    *passes, offsets = bench.extracting(["a cat", "two dogs", "bake bread"])
    done, total = passes[-1]
    assert done == total
    return offsets.values.tolist()


def refused(bench, **changes) -> str:
    try:
        last(bench, Ask(**{**vars(ASKS[0]), **changes}))
    except CmrmError as error:
        return str(error)
    return ""


def main() -> dict:
    assert is_file_obj_with_meta(PICTURE)
    bench = serving.workbench()
    alone = [*(last(bench, ask) for ask in ASKS), explained(bench), measured(bench)]
    bench.states.clear()
    pace = {"seconds": 0.0}
    bench.vlm.model.register_forward_pre_hook(lambda *_: time.sleep(3 if "slow" in asked[-1] else pace["seconds"]))
    asked: list[str] = [""]
    # The worker learns what is asked from the request itself.
    whole = type(bench.vlm).encode

    def encode(vlm, prompt, image):
        asked.append(prompt)
        if prompt == "explode":
            raise ZeroDivisionError("boom")
        return whole(vlm, prompt, image)

    type(bench.vlm).encode = encode
    fake_spaces.after = lambda: bench.vlm.hook_count
    hooks = bench.vlm.hook_count
    zero = on_zero_gpu(bench, fake_spaces.GPU, "cpu")
    away = [*(last(zero, ask) for ask in ASKS), explained(zero), measured(zero)]
    sentences = [refused(zero, alpha=9), refused(zero, prompt=""), refused(zero, max_new_tokens="many")]
    sentences.append(refused(zero, prompt="explode"))
    try:
        list(zero.explain(None, ""))
    except CmrmError as error:
        sentences.append(str(error))

    stream = answer(zero, Ask(None, "go on", 1.0, "dataset", 400))
    for _ in range(3):
        next(stream)
    stream.close()

    start = time.monotonic()
    stream = answer(zero, Ask(None, "slow", 1.0, "dataset", 400))
    next(stream)
    first = time.monotonic() - start
    stream.close()
    closed = time.monotonic() - start
    again = [*(last(zero, ask) for ask in ASKS), explained(zero), measured(zero)]
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
