"""The Triton kernel does what the op does in torch: on a GPU if there is one, else in Triton's interpreter."""

import base64
import json
import os

import numpy as np
import pytest
import torch

from cmrm.engines.vllm_plugin import op
from cmrm.engines.vllm_plugin.spec import Spec
from cmrm.engines.vllm_plugin.table import Span, Table

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
from cmrm.engines.vllm_plugin import kernel  # noqa: E402  # Triton looks at it

LAYERS, REQUESTS, TOKENS = 3, 4, 3
# Of bfloat16 one place, as the interpreter rounds halves otherwise than torch.
NEAR = {torch.float32: 1e-5, torch.bfloat16: 7e-2, torch.float16: 2e-3}


def draw(rng: np.random.Generator, hidden: int) -> Spec:
    values = rng.standard_normal((LAYERS, hidden)).astype(np.float32)
    spec = {"mode": str(rng.choice(["add", "reach", "project"])), "alpha": float(rng.choice([0.0, 0.5, 2.0]))}
    spec |= {"layers": rng.choice(LAYERS, 2, replace=False).tolist(), "capture": f"c{rng.integers(1 << 40)}"}
    if spec["mode"] == "project":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        spec["levels"] = [1.0, 2.0, 3.0]
    if spec["mode"] != "reach":
        spec["positions"] = str(rng.choice(["last", "all"]))
    spec |= {"vectors": base64.b64encode(values.tobytes()).decode(), "shape": list(values.shape)}
    return Spec.parse(json.dumps(spec))


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("hidden", [8, 192, 1500])
@pytest.mark.parametrize("split", [False, True])
def test_the_kernel_does_what_the_op_does(dtype, hidden, split):
    rng = np.random.default_rng(hidden)
    for _ in range(5):
        spans = [Span.of(draw(rng, hidden), k * TOKENS, 0, TOKENS, TOKENS) for k in range(REQUESTS)]
        # One token more than the requests have, as a padded pass has.
        parts = [torch.from_numpy(rng.standard_normal((REQUESTS * TOKENS + 1, hidden))).to(dtype) for _ in range(2)]
        tables = [Table((LAYERS, hidden), 32, REQUESTS, device) for device in (torch.device("cpu"), DEVICE)]
        for table in tables:
            table.fill(spans)
        for layer in range(LAYERS):
            expected = [part.clone() for part in parts[: 1 + split]] + [None]
            found = [part.clone().to(DEVICE) for part in parts[: 1 + split]] + [None]
            op.steer(expected[0], expected[1], layer, tables[0])
            kernel.launch(found[0], found[1], layer, tables[1])
            near = {"rtol": NEAR[dtype], "atol": NEAR[dtype]}
            torch.testing.assert_close(found[0].cpu(), expected[0], **near)
            if split:
                assert torch.equal(found[1].cpu(), expected[1])
            off = tables[0].slots[: len(parts[0])] == 0
            assert torch.equal(found[0].cpu()[off], parts[0][off])
            torch.testing.assert_close(tables[1].states[1:, layer].cpu(), tables[0].states[1:, layer], **near)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no GPU to capture a graph on")
def test_a_captured_graph_steers_by_what_the_table_says_when_it_is_replayed():
    hidden, table = torch.ones(4, 192, device=DEVICE), Table((LAYERS, 192), 8, REQUESTS, DEVICE)
    op.register()
    op.use(table)
    torch.ops.cmrm.steer(hidden, None, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.cmrm.steer(hidden, None, 1)
    text = json.dumps({"vectors": base64.b64encode(np.ones((3, 192), "<f4").tobytes()).decode(), "shape": [3, 192]})
    for spans, expected in (([Span.of(Spec.parse(text), 0, 0, 4, 4)], 2.0), ([], 1.0)):
        hidden.fill_(1)
        table.fill(spans)
        graph.replay()
        assert hidden[:, 0].tolist() == [1.0, 1.0, 1.0, expected]
    op.use(None)
