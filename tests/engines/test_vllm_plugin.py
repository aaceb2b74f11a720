"""The plugin for vLLM, as far as it needs no vLLM: requests, the table, the op, the cache's names, the routes."""

import asyncio
import base64
import hashlib
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmrm.engines.vllm_plugin import __main__ as entry
from cmrm.engines.vllm_plugin import admission, config, http, op
from cmrm.engines.vllm_plugin import torchvision_ops as declared
from cmrm.engines.vllm_plugin.prefix import keep_apart
from cmrm.engines.vllm_plugin.selftest import check_steering
from cmrm.engines.vllm_plugin.spec import KEY, MODES, Spec
from cmrm.engines.vllm_plugin.steerer import Steerer
from cmrm.engines.vllm_plugin.table import Span, Table
from cmrm.errors import CmrmError
from cmrm.steering.steer import Reach, steer
from cmrm.steering.vectors import Vectors

ROOT = Path(__file__).parents[2]
LAYERS, HIDDEN = SHAPE = 3, 8
VALUES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def asked(values: np.ndarray = VALUES, **more) -> dict:
    return {"vectors": base64.b64encode(values.tobytes()).decode(), "shape": list(values.shape), **more}


def spec_of(values: np.ndarray = VALUES, **more) -> Spec:
    return Spec.parse(json.dumps(asked(values, **more)))


# What is importable where.


def test_all_that_runs_in_vllm_needs_none_of_the_projects_requirements():
    lacking = [
        "transformers",
        "gradio",
        "typer",
        "bitsandbytes",
        "accelerate",
        "plotly",
        "pyarrow",
        "safetensors",
        "vllm",
    ]
    names = ["op", "steerer", "selftest", "http", "config", "prefix", "__main__", "torchvision_ops"]
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking}))\n"
    code += "".join(f"import cmrm.engines.vllm_plugin.{name}\n" for name in names)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Requests.


@given(
    mode=st.sampled_from(MODES),
    alpha=st.floats(0, 2),
    layers=st.none() | st.sets(st.integers(0, LAYERS - 1), min_size=1),
    steps=st.sampled_from(["prompt", "all"]),
    everywhere=st.booleans(),
    capture=st.none() | st.from_regex(r"[a-z0-9_.-]{1,64}", fullmatch=True),
)
def test_a_request_is_read_as_it_was_written(mode, alpha, layers, steps, everywhere, capture):
    positions = "all" if everywhere and mode != "reach" else "last"
    more = {"mode": mode, "alpha": alpha, "positions": positions, "steps": steps}
    more |= {"layers": None if layers is None else list(layers), "capture": capture}
    if mode == "project":
        more["levels"] = [1.5] * LAYERS
    spec = spec_of(**more)
    assert spec.values is not None
    assert np.array_equal(spec.values, VALUES)
    assert (spec.mode, spec.alpha, spec.positions, spec.steps) == (mode, alpha, positions, steps)
    assert spec.layers == (tuple(range(LAYERS)) if layers is None else tuple(sorted(layers)))
    assert spec.capture == capture
    assert spec.steers == (alpha > 0)
    assert spec.digest == spec_of(**(more | {"alpha": 2 - alpha, "capture": "other"})).digest
    assert spec.digest != spec_of(VALUES + 1, **more).digest


def changed(value: float) -> np.ndarray:
    values = VALUES.copy()
    values[1, 3] = value
    return values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (asked(changed(math.nan)), "not finite"),
        (asked(changed(math.inf)), "not finite"),
        (asked(shape=[3, 9]), "96 bytes, but 3 layers of width 9 take 108"),
        (asked(shape=[3]), r"give \[layers, hidden\]"),
        (asked(shape=[True, 8]), r"give \[layers, hidden\]"),
        (asked(shape=[0, 0]), r"give \[layers, hidden\]"),
        (asked(vectors="§"), "no base64"),
        (asked(vectors=3), "no base64"),
        (asked(mode="push"), "mode is 'push'"),
        (asked(mode=["add"]), "mode is"),
        (asked(positions="x" * 10_000), "positions is 'x"),
        (asked(steps=None), "steps is"),
        (asked(alpha=2.1), "alpha is 2.1"),
        (asked(alpha=-0.5), "would remove safety"),
        (asked(alpha=math.nan), "alpha is nan"),
        (asked(alpha=math.inf), "alpha is inf"),
        (asked(alpha=True), "alpha is True"),
        (asked(alpha=["a" * 10_000]), "alpha is nan"),
        (asked(layers=[3]), "from 0 to 2"),
        (asked(layers=[]), "from 0 to 2"),
        (asked(layers=[-1]), "from 0 to 2"),
        (asked(layers="0"), "from 0 to 2"),
        (asked(layers=list(range(10_000))), "from 0 to 2"),
        (asked(mode="project"), "levels is no list of 3"),
        (asked(mode="project", levels=[1, 2]), "levels is no list of 3"),
        (asked(mode="project", levels=[1, 2, math.nan]), "levels is no list of 3"),
        (asked(mode="project", levels=[1, 2, 1e39]), "levels is no list of 3"),
        (asked(mode="project", levels=[1, 2, 10**400]), "levels is no list of 3"),
        (asked(levels=[1, 2, 3]), "leave them out"),
        (asked(mode="reach", positions="all"), "last position"),
        (asked(capture="a b"), "no name"),
        (asked(capture=""), "no name"),
        (asked(capture=1), "no name"),
        (asked(behind=-1), "behind"),
        (asked(behind=1.5), "behind"),
        (asked(behind=True), "behind"),
        (asked(strength=1), "'strength', which is unknown"),
        ({"alpha": 1}, "alpha is given, but there are no vectors"),
        ({}, "nothing to do"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(given, said):
    with pytest.raises(CmrmError, match=said) as refused:
        Spec.parse(json.dumps(given))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", "[" * 100_000, '{"alpha": ' + "9" * 5000 + "}", {}, 3, b"{}"]
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(CmrmError, match="JSON"):
        Spec.parse(text)


def test_megabytes_are_refused_unread():
    with pytest.raises(CmrmError, match="characters"):
        Spec.parse("[" * (9 << 20))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = ("shape", "mode", "levels", "alpha", "layers", "positions", "steps", "capture", "behind", "vectors", "more")


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4), st.booleans())
def test_any_request_is_read_or_refused_in_words(members, whole):
    text = json.dumps({**asked(), **members} if whole else members)
    try:
        spec = Spec.parse(text)
    except CmrmError:
        with pytest.raises(CmrmError, match=r"(?s)^.{1,400}$"):
            Spec.parse(text)
    else:
        assert 0 <= spec.alpha <= 2
        assert spec.shape in (None, SHAPE)


def test_nothing_asked_for_is_nothing():
    assert Spec.of(None) is None
    assert Spec.of({"other": 1}) is None


def test_the_front_end_knows_the_model():
    extra = {KEY: json.dumps(asked())}
    admission.admit(extra)
    try:
        admission.learn((32, 4096))
        with pytest.raises(CmrmError, match="3 layers of width 8, but this model has 32 of width 4096"):
            admission.admit(extra)
        admission.admit({KEY: '{"capture": "a"}'})
        admission.admit(None)
    finally:
        admission.learn(None)


# Which tokens are steered.


@given(
    prompt=st.integers(1, 12),
    answer=st.integers(0, 6),
    positions=st.sampled_from(["last", "all"]),
    steps=st.sampled_from(["prompt", "all"]),
    cuts=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    preempted=st.sets(st.integers(0, 9), max_size=2),
)
def test_the_same_tokens_are_steered_however_a_request_is_cut_and_computed_again(
    prompt, answer, positions, steps, cuts, preempted
):
    spec = spec_of(positions=positions, steps=steps, capture="a")
    steered: set[int] = set()
    recorded: set[int] = set()
    computed = seen = 0
    for number, cut in enumerate(cycle(cuts)):
        if computed == prompt + answer:
            break
        # Behind the prompt each token is a pass of its own, but where it is computed again.
        scheduled = min(cut, max(prompt, seen, computed + 1) - computed)
        span = Span.of(spec, 1000, computed, scheduled, prompt)
        assert 1000 <= span.begin <= span.end <= 1000 + scheduled
        steered |= {computed + row - 1000 for row in range(span.begin, span.end)}
        if span.last is not None:
            recorded.add(computed + span.last - 1000)
        computed += scheduled
        seen = max(seen, computed)
        if number in preempted and computed < prompt + answer:
            computed = 0
    first = 0 if positions == "all" else prompt - 1
    assert steered == set(range(first, prompt if steps == "prompt" else prompt + answer))
    assert recorded == {prompt - 1}


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        (spec_of(), 9),
        (spec_of(positions="all"), 0),
        (spec_of(alpha=0), None),
        (Spec(capture="a"), None),  # the last token of what is sent is always computed
        (Spec(capture="a", behind=3), 9),
        (spec_of(alpha=0, capture="a", behind=3, positions="all"), 9),
    ],
)
def test_what_is_steered_or_must_be_computed_again_is_kept_apart(spec, first):
    assert spec.apart(10) == first


# The table.


TOKENS, REQUESTS = 24, 4
SPEC = st.builds(
    lambda number, layers, alpha, capture: spec_of(
        VALUES + number, layers=sorted(layers), alpha=alpha, capture="a" if capture else None
    ),
    st.integers(0, 9),
    st.sets(st.integers(0, LAYERS - 1), min_size=1),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(SPEC, st.integers(1, 6)), max_size=REQUESTS), max_size=8))
def test_each_token_finds_what_it_asked_for_pass_after_pass(passes):
    table = Table(SHAPE, TOKENS, REQUESTS, torch.device("cpu"))
    for requests in passes:
        spans, start = [], 0
        for spec, tokens in requests:
            spans.append(Span.of(spec, start, 0, tokens, tokens))
            start += tokens
        numbers = table.fill(spans)
        assert table.held <= REQUESTS
        wanted = dict.fromkeys(range(TOKENS))
        for span in spans:
            wanted.update(dict.fromkeys(range(span.begin, span.end), span.spec))
        for token, spec in wanted.items():
            slot = int(table.slots[token])
            assert float(table.alphas[token]) == (0.0 if spec is None else spec.alpha)
            assert (slot > 0) == (spec is not None)
            if spec is not None:
                assert np.array_equal(table.vectors[slot].numpy(), spec.values)
                assert tuple(np.flatnonzero(table.chosen[slot].numpy())) == spec.layers
        last = {span.last for span in spans if span.last is not None}
        assert set(np.flatnonzero(table.kept.numpy())) == last
        assert set(numbers) == ({"a"} if last else set())
        # Each has a place of its own, also where two have one name, as the answers to one request with n=2.
        assert len(set(table.kept[table.kept > 0].tolist())) == len(last)


def test_requests_that_ask_for_the_same_share_a_slot():
    table = Table(SHAPE, TOKENS, REQUESTS, torch.device("cpu"))
    table.fill([Span.of(spec_of(alpha=alpha), 2 * k, 0, 2, 2) for k, alpha in enumerate((0.5, 1.0, 2.0))])
    assert (table.held, table.steered) == (1, 3)


# The op, held against what hooks do in this process.


def hooked_away(hidden: torch.Tensor, vectors, alphas, layer: int, **where) -> torch.Tensor:
    """What a layer of the project's own engine hands on, `(rows, positions, hidden)`."""
    layers = tuple(nn.Identity() for _ in range(LAYERS))
    with steer(SimpleNamespace(layers=layers), vectors, alphas, **where):
        return layers[layer](hidden)


def vectors_of(mode: str, rng: np.random.Generator) -> Vectors:
    values = rng.standard_normal(SHAPE).astype(np.float32)
    if mode != "project":
        return Vectors(values, mode)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Vectors(values, mode, rng.standard_normal(LAYERS).astype(np.float32))


def table_for(vectors: list[Vectors], alphas: list[float], length: int, **where) -> tuple[Table, dict[str, int]]:
    table = Table(SHAPE, len(alphas) * length, len(alphas), torch.device("cpu"))
    spans = []
    for k, (one, alpha) in enumerate(zip(vectors, alphas, strict=True)):
        levels = {} if one.levels is None else {"levels": one.levels.tolist()}
        spec = spec_of(one.values, mode=one.mode, alpha=alpha, capture=f"row-{k}", **levels, **where)
        spans.append(Span.of(spec, k * length, 0, length, length))
    return table, table.fill(spans)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    modes=st.lists(st.sampled_from(MODES), min_size=1, max_size=4),
    length=st.integers(1, 5),
    layer=st.integers(0, LAYERS - 1),
    layers=st.none() | st.sets(st.integers(0, LAYERS - 1), min_size=1),
    everywhere=st.booleans(),
    split=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    data=st.data(),
)
def test_the_op_does_what_hooks_do(seed, modes, length, layer, layers, everywhere, split, dtype, data):
    rng = np.random.default_rng(seed)
    positions = "all" if everywhere and "reach" not in modes else "last"
    where = {"layers": None if layers is None else sorted(layers), "positions": positions}
    vectors = [vectors_of(mode, rng) for mode in modes]
    alphas = [data.draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])) for _ in modes]
    hidden = torch.from_numpy(rng.standard_normal((len(modes), length, HIDDEN))).to(dtype)
    residual = torch.from_numpy(rng.standard_normal(hidden.shape)).to(dtype) if split else None
    state = hidden if residual is None else hidden + residual

    expected = hooked_away(state, vectors, alphas, layer, **where)
    table, _ = table_for(vectors, alphas, length, **where)
    left, right = hidden.clone().view(-1, HIDDEN), None if residual is None else residual.clone().view(-1, HIDDEN)
    op.steer(left, right, layer, table)
    found = (left if right is None else left + right).view(hidden.shape)
    # A projection is summed in another order; all else is bit for bit.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype] if "project" in modes else 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    # Whatever is not steered keeps both of its parts; of what is, the second is nothing.
    on = torch.zeros(len(modes), length, dtype=torch.bool)
    if layers is None or layer in layers:
        on[torch.tensor(alphas) > 0, slice(None) if positions == "all" else -1] = True
    off = ~on.view(-1)
    assert torch.equal(left[off], hidden.view(-1, HIDDEN)[off])
    if right is not None and residual is not None:
        assert torch.equal(right[off], residual.view(-1, HIDDEN)[off])
        assert not right[~off].any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    alphas=st.lists(st.sampled_from([0.0, 0.7, 1.0]), min_size=2, max_size=4),
    layers=st.none() | st.sets(st.integers(0, LAYERS - 1), min_size=1),
    mode=st.sampled_from(MODES),
)
def test_what_is_recorded_is_the_state_after_or_the_gap_before(seed, alphas, layers, mode):
    rng = np.random.default_rng(seed)
    where = {"layers": None if layers is None else sorted(layers)}
    vectors = [vectors_of(mode, rng) for _ in alphas]
    hidden = torch.from_numpy(rng.standard_normal((len(alphas), 3, HIDDEN)).astype(np.float32))
    table, numbers = table_for(vectors, alphas, 3, **where)
    gaps = torch.zeros(len(alphas), *SHAPE)
    reach = Reach(torch.stack([torch.from_numpy(one.values) for one in vectors]), gaps)
    for layer in range(LAYERS):
        op.steer(hidden.clone().view(-1, HIDDEN), None, layer, table)
        after = hooked_away(hidden, reach if mode == "reach" else vectors, alphas, layer, **where)[:, -1]
        expected = gaps[:, layer] if mode == "reach" else after
        found = torch.stack([table.states[numbers[f"row-{k}"], layer] for k in range(len(alphas))])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_op_is_known_to_torch_and_does_nothing_without_a_table():
    op.register()
    op.register()
    op.use(None)
    hidden = torch.ones(2, HIDDEN)
    torch.ops.cmrm.steer(hidden, None, 0)
    assert torch.equal(hidden, torch.ones(2, HIDDEN))
    table = Table(SHAPE, 2, 1, torch.device("cpu"))
    table.fill([Span.of(spec_of(alpha=1.0), 0, 0, 2, 2)])
    op.use(table)
    try:
        compiled = torch.compile(
            lambda x: (torch.ops.cmrm.steer(x, None, 1), x + 0)[1], backend="eager", fullgraph=True
        )
        found = compiled(torch.ones(2, HIDDEN))
        torch.testing.assert_close(found, torch.stack([torch.ones(HIDDEN), 1 + torch.from_numpy(VALUES[1])]))
        op.steer(torch.ones(1, HIDDEN), None, 1, table)  # a dummy pass that is shorter than the last real one
    finally:
        op.use(None)


# A whole model runner, as far as the plugin looks at one.


class Layer(nn.Module):
    """Carries its state in two parts, as vLLM's layers do; one that `forgets` reads the first alone."""

    def __init__(self, seed: int, forgets: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.forgets = forgets
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        state = hidden if residual is None or self.forgets else hidden + residual
        return torch.tanh(self.linear(state)), state


class Runner:
    """A runner of either kind: positions for tokens, and a pass over them."""

    max_num_tokens, max_num_reqs, device = 32, 4, torch.device("cpu")

    def __init__(self, v2: bool = False, forgets: bool = False, layers: int = LAYERS) -> None:
        model = nn.Module()
        model.layers = nn.ModuleList(Layer(k, forgets) for k in range(layers))
        self.model = nn.Module()
        self.model.model = model
        self.model_config = SimpleNamespace(get_total_num_hidden_layers=lambda: LAYERS, get_hidden_size=lambda: HIDDEN)
        self.seen = torch.empty(0)
        if v2:
            self.model_state = SimpleNamespace(preprocess_state=lambda *_: None)

    @torch.no_grad()
    def forward(self, tokens: int) -> torch.Tensor:
        hidden, residual = torch.arange(tokens * HIDDEN, dtype=torch.float32).view(tokens, HIDDEN) / 50, None
        for layer in self.model.model.layers:
            hidden, residual = layer(hidden, residual)
        self.seen = hidden + residual
        return self.seen

    def _model_forward(self, tokens: int) -> torch.Tensor:
        return self.forward(tokens)

    def execute_model(self, scheduled) -> torch.Tensor:
        names = list(scheduled.num_scheduled_tokens)
        counts = np.array([scheduled.num_scheduled_tokens[name] for name in names])
        starts = np.concatenate([[0], np.cumsum(counts)])
        computed = np.array([scheduled.computed[name] for name in names])
        if hasattr(self, "model_state"):
            batch = SimpleNamespace(req_ids=names, query_start_loc_np=starts, num_computed_tokens_np=computed)
            self.model_state.preprocess_state(batch, None, None, None)
            return self.forward(int(starts[-1]))
        self.input_batch = SimpleNamespace(
            req_id_to_index={name: k for k, name in enumerate(names)},
            num_reqs=len(names),
            num_computed_tokens_cpu=computed,
        )
        self.query_start_loc = SimpleNamespace(np=starts)
        return self._model_forward(int(starts[-1]))

    def _dummy_run(self, tokens: int, **_) -> None:
        self.forward(tokens)


def scheduled(new: dict[str, Spec | None], counts: dict[str, int], computed: dict[str, int], finished=()):
    made = []
    for name, spec in new.items():
        extra = None if spec is None else {KEY: spec}
        params = SimpleNamespace(extra_args=extra)
        made.append(SimpleNamespace(req_id=name, sampling_params=params, prompt_token_ids=[1] * 4, prompt_embeds=None))
    return SimpleNamespace(
        scheduled_new_reqs=made, finished_req_ids=set(finished), num_scheduled_tokens=counts, computed=computed
    )


@pytest.mark.parametrize("v2", [False, True])
def test_a_runner_of_either_kind_steers_each_request_for_itself(v2):
    plain = Runner()
    expected = plain.forward(9)
    runner = Runner(v2)
    steerer = Steerer(runner)
    try:
        text = json.dumps(asked(layers=[LAYERS - 1], capture="mine"))
        # Three tokens of "b"'s prompt of four, so that its last is not yet there.
        first = scheduled({"a": None, "b": text, "c": text}, {"a": 2, "b": 3, "c": 4}, {"a": 0, "b": 0, "c": 0})
        found = runner.execute_model(first)
        torch.testing.assert_close(found[:8], expected[:8], rtol=0, atol=0)
        torch.testing.assert_close(found[8], expected[8] + torch.from_numpy(VALUES[-1]))
        assert steerer.running == 2
        [kept] = steerer.fetch(["mine", "nobody"]).values()
        torch.testing.assert_close(torch.from_numpy(kept[-1]), found[8])
        # The last token of "b"'s prompt, beside a token of "c"'s answer, which is left alone.
        counts, computed = {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 3, "c": 4}
        found = runner.execute_model(scheduled({}, counts, computed))
        torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
        torch.testing.assert_close(found[1], expected[1] + torch.from_numpy(VALUES[-1]))
        assert steerer.fetch(["mine"]).keys() == {"mine"}
        runner.execute_model(scheduled({}, {"c": 1}, {"c": 5}, finished=["a", "b"]))
        assert (steerer.running, steerer.table.steered) == (1, 2)
        assert steerer.fetch(["mine"]) == {}
    finally:
        op.use(None)


def test_what_is_answered_already_is_not_of_the_prompt():
    expected = Runner().forward(4)
    runner = Runner()
    Steerer(runner)
    try:
        for steps, steered in (("prompt", [1]), ("all", [1, 2, 3])):
            text = json.dumps(asked(layers=[LAYERS - 1], behind=2, steps=steps))
            found = runner.execute_model(scheduled({steps: text}, {steps: 4}, {steps: 0}))
            moved = expected.clone()
            moved[steered] += torch.from_numpy(VALUES[-1])
            torch.testing.assert_close(found, moved)
    finally:
        op.use(None)


@pytest.mark.parametrize("v2", [False, True])
def test_the_self_test_passes_where_steering_acts_as_meant_and_leaves_nothing_behind(v2):
    runner = Runner(v2)
    steerer = Steerer(runner)
    try:
        check_steering(steerer)
        assert steerer.fetch(["self-test"]) == {}
        torch.testing.assert_close(runner.forward(9), Runner().forward(9), rtol=0, atol=0)
    finally:
        op.use(None)


def test_the_self_test_refuses_a_model_whose_layers_mean_something_else_by_their_two_outputs():
    runner = Runner(forgets=True)
    try:
        with pytest.raises(CmrmError, match="state in two parts; use another model"):
            check_steering(Steerer(runner))
    finally:
        op.use(None)


def test_the_self_test_refuses_an_op_that_does_not_act():
    runner = Runner()
    steerer = Steerer(runner)
    op.use(Table(SHAPE, 4, 1, torch.device("cpu")))  # another table than the one that is filled
    try:
        with pytest.raises(CmrmError, match="not the state plus its vector"):
            check_steering(steerer)
    finally:
        op.use(None)


def test_states_that_nobody_fetches_are_dropped(monkeypatch):
    monkeypatch.setattr("cmrm.engines.vllm_plugin.steerer.KEPT_BYTES", 0)
    runner = Runner()
    steerer = Steerer(runner)
    try:
        for k in range(20):
            text = json.dumps({"capture": f"s{k}"})
            runner.execute_model(scheduled({f"r{k}": text}, {f"r{k}": 4}, {f"r{k}": 0}))
        kept = steerer.fetch([f"s{k}" for k in range(20)])
        assert list(kept) == [f"s{k}" for k in range(4, 20)]
    finally:
        op.use(None)


def test_a_model_whose_layers_are_not_found_is_refused():
    with pytest.raises(CmrmError, match="3 decoder layers, but 2 were found"):
        Steerer(Runner(layers=2))
    runner = Runner()
    runner.model = nn.Module()
    with pytest.raises(CmrmError, match="were not found"):
        Steerer(runner)


# Names in the prefix cache.


class Asking:
    """A request of vLLM, as far as its blocks of `size` tokens have names."""

    def __init__(self, tokens: list[int], size: int) -> None:
        self.tokens, self.block_hashes = list(tokens), []

        def hasher(request: "Asking") -> list[bytes]:
            names, done = [], len(request.block_hashes)
            for k in range(done, len(request.tokens) // size):
                parent = [b"", *request.block_hashes, *names][k]
                names.append(hashlib.sha256(parent + bytes(request.tokens[k * size : (k + 1) * size])).digest())
            return names

        self._block_hasher = hasher
        self.update()

    def update(self) -> None:
        self.block_hashes.extend(self._block_hasher(self))


@given(
    prompt=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    answer=st.lists(st.integers(0, 255), max_size=12),
    size=st.integers(1, 5),
    everywhere=st.booleans(),
)
def test_no_other_request_finds_the_blocks_of_steered_tokens(prompt, answer, size, everywhere):
    first = 0 if everywhere else len(prompt) - 1
    mine, twin = Asking(prompt, size), Asking(prompt, size)
    for request in (mine, twin):
        keep_apart(request, first // size, request._block_hasher)
    longer = Asking(prompt + answer, size)
    for token in answer:
        for request in (mine, twin):
            request.tokens.append(token)
            request.update()
    assert len(mine.block_hashes) == len(longer.block_hashes)
    shared = first // size
    assert mine.block_hashes[:shared] == longer.block_hashes[:shared]
    others = {*longer.block_hashes, *twin.block_hashes[shared:]}
    assert not others & set(mine.block_hashes[shared:])
    assert len(set(mine.block_hashes)) == len(mine.block_hashes)


# The configuration.


def configured(**changes):
    made = SimpleNamespace(
        parallel_config=SimpleNamespace(
            prefill_context_parallel_size=1,
            decode_context_parallel_size=1,
            data_parallel_size=1,
            use_ubatching=False,
            enable_hc_sp=False,
        ),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False, fuse_gemm_comms=False)),
        speculative_config=None,
        kv_transfer_config=None,
        model_config=SimpleNamespace(
            runner_type="generate", is_encoder_decoder=False, logits_processors=[config.ADMISSION]
        ),
        scheduler_config=SimpleNamespace(scheduler_cls=config.SCHEDULER),
    )
    for path, value in changes.items():
        *owners, name = path.split("__")
        owner = made
        for step in owners:
            owner = getattr(owner, step)
        setattr(owner, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parallel_config__prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode context parallelism"),
        ({"parallel_config__use_ubatching": True}, "micro-batching"),
        ({"parallel_config__enable_hc_sp": True}, "sequence parallelism"),
        ({"compilation_config__pass_config__enable_sp": True}, "sequence parallelism"),
        ({"compilation_config__pass_config__fuse_gemm_comms": True}, "sequence parallelism"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "fast prefill"),
        ({"parallel_config__data_parallel_size": 2}, "data parallelism"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"kv_transfer_config": object()}, "KV transfer"),
        ({"model_config__runner_type": "pooling"}, "don't generate"),
        ({"model_config__is_encoder_decoder": True}, "encoder-decoder"),
        ({"scheduler_config__scheduler_cls": None}, "needs its scheduler"),
        ({"model_config__logits_processors": None}, "needs its admission"),
    ],
)
def test_what_might_steer_another_token_is_refused_at_the_start(changes, said):
    config.check_config(configured())
    with pytest.raises(CmrmError, match=said):
        config.check_config(configured(**changes))


def test_what_is_compiled_is_not_taken_for_what_vllm_compiled_without_the_op():
    plain = SimpleNamespace(additional_config={"other": 2})
    config.mark_compiled(plain)
    assert plain.additional_config == {"other": 2, "cmrm": 1}
    config.mark_compiled(SimpleNamespace(additional_config=object()))  # the self-test would notice


def test_the_command_adds_what_steering_needs(monkeypatch):
    made = entry.arguments(["--model", "m"], on_cpu=True)
    assert made == [
        *("--max-logprobs", "-1", "--model", "m", "--worker-cls", config.CPU_WORKER),
        *("--scheduler-cls", config.SCHEDULER, "--logits-processors", config.ADMISSION),
    ]
    assert config.GPU_WORKER in entry.arguments([], on_cpu=False)
    assert entry.allowed_plugins("a,b") == "a,b,cmrm"
    assert "cmrm" in entry.allowed_plugins(None).split(",")
    monkeypatch.setattr(entry, "entry_points", lambda group: [])
    with pytest.raises(SystemExit, match="pip install --no-deps"):
        entry.main()


@pytest.mark.parametrize(
    ("torch_version", "vision_version", "needed"),
    [
        ("2.13.0+cpu", "0.28.0+cu130", True),
        ("2.13.0+cpu", "0.28.0+cpu", False),
        ("2.13.0+cu130", "0.28.0+cu130", False),
    ],
)
def test_operators_are_declared_only_beside_another_build_of_torch(
    tmp_path, monkeypatch, torch_version, vision_version, needed
):
    for name, said in (("torch", torch_version), ("torchvision", vision_version)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "version.py").write_text(f"__version__ = '{said}'\n")
    found = {name: SimpleNamespace(origin=str(tmp_path / name / "__init__.py")) for name in ("torch", "torchvision")}
    monkeypatch.setattr(declared, "find_spec", found.get)
    environment = {"PYTHONPATH": "before"}
    declared.declare_in_children(environment)
    assert environment["PYTHONPATH"].endswith(f"startup{os.pathsep}before") == needed
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    declared.declare_if_needed()
    declared.declare_if_needed()
    assert len(sys.meta_path) - before == int(needed)


# The routes.


def test_states_are_put_together_from_the_stages_that_hold_their_layers():
    first, second = np.ones((2, HIDDEN), "<f4"), np.full((1, HIDDEN), 2, "<f4")
    parts = [{"a": ([0, 1], first.tobytes()), "b": ([0, 1], first.tobytes())}, {"a": ([2], second.tobytes())}, {}]
    made = http.join_states(parts, ["a", "b", "c"], SHAPE)
    assert (made["shape"], made["missing"]) == ([LAYERS, HIDDEN], ["b", "c"])
    [text] = made["states"].values()
    whole = np.frombuffer(base64.b64decode(text), "<f4").reshape(SHAPE)
    assert np.array_equal(whole, np.concatenate([first, second]))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"names": "a"}', b'{"names": [1]}', b"[" * 100_000])
def test_what_names_no_states_is_refused(body):
    with pytest.raises(CmrmError, match="names"):
        http.read_names(body)


def test_too_many_states_at_once_are_refused():
    assert http.read_names(b'{"names": ["a"]}') == ["a"]
    with pytest.raises(CmrmError, match="at most 4096"):
        http.read_names(json.dumps({"names": ["a"] * 4097}).encode())


STEERED = json.dumps({"vllm_xargs": {"cmrm": "{}"}}).encode()


def through_the_door(path: str, parts: list[bytes], **headers: bytes) -> tuple[int, bytes]:
    """What an app that says what it got answers behind the door: the status, and the body."""
    sent: list[dict] = []
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts[:-1]]
    waiting.append({"type": "http.request", "body": parts[-1], "more_body": False})

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        message = await receive()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    # In a thread of its own: a browser's tests leave a running loop in the main one.
    with ThreadPoolExecutor(1) as thread:
        named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": named}
        thread.submit(asyncio.run, http.Door(app)(scope, receive, send)).result()
    return sent[0]["status"], sent[1]["body"]


def test_the_door_hands_on_what_it_read(monkeypatch):
    assert through_the_door("/v1/chat/completions", [STEERED[:5], STEERED[5:]]) == (200, STEERED)
    assert through_the_door("/v1/cmrm/states", [b'{"names": ["cmrm"]}'])[0] == 200
    assert through_the_door("/v1/messages", [b"{}"])[0] == 200
    monkeypatch.setattr(http, "MAX_BYTES", 4)
    assert through_the_door("/v1/chat/completions", [b"{}", b"{}"])[0] == 200
    assert through_the_door("/v1/chat/completions", [b"{}", b"{}", b"{}"])[0] == 413


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/responses", "/v1/chat/completions/batch", "/inference/v1/generate"]
)
def test_a_route_that_might_leave_steering_out_is_refused(path):
    status, body = through_the_door(path, [STEERED])
    assert status == 400
    assert "can't be steered; ask /v1/chat/completions" in json.loads(body)["error"]["message"]
    for hidden in (STEERED.replace(b'"cmrm"', rb'"\u0063mrm"'), STEERED.decode().encode("utf-16")):
        assert through_the_door(path, [hidden])[0] == 400
    for other in ('{"prompt": "\\u00e4"}', "{\\u", '{"prompt": "\\u0022cmrm\\u0022"}'):
        assert through_the_door(path, [other.encode()]) == (200, other.encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/cmrm/states"])
def test_what_was_asked_of_an_earlier_start_of_the_server_is_not_answered(path):
    assert through_the_door(path, [b"{}"], x_cmrm_instance=http.INSTANCE.encode()) == (200, b"{}")
    status, body = through_the_door(path, [b"{}"], x_cmrm_instance=b"other")
    assert status == 409
    assert "started anew since the client asked what it serves" in json.loads(body)["error"]["message"]


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    cached = {"main": "/cache/snapshots/c0ffee/config.json"}
    monkeypatch.setattr(http, "try_to_load_from_cache", lambda model, file, revision: cached.get(revision or "main"))
    assert http.revision_of(SimpleNamespace(model="owner/name", revision=None)) == "c0ffee"
    assert http.revision_of(SimpleNamespace(model="owner/name", revision="other")) == "other"
    (tmp_path / "config.json").write_text("{}")
    assert http.revision_of(SimpleNamespace(model=str(tmp_path), revision=None)) == http.fingerprint(tmp_path)


def test_beam_search_is_refused_where_it_would_leave_steering_out():
    beams = json.loads(STEERED) | {"use_beam_search": True}
    status, body = through_the_door("/v1/completions", [json.dumps(beams).encode()])
    assert (status, b"Beam search" in body) == (400, True)
    hidden = json.dumps(beams).replace("use_beam", r"use\u005fbeam").encode()
    assert through_the_door("/v1/completions", [hidden])[0] == 400
    plain = json.dumps(beams | {"use_beam_search": False}).encode()
    assert through_the_door("/v1/completions", [plain]) == (200, plain)
    other = b'{"use_beam_search": true}'
    assert through_the_door("/v1/completions", [other]) == (200, other)
    assert through_the_door("/v1/completions", [b'"cmrm" use_beam_search'])[0] == 200
