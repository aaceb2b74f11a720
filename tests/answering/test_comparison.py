"""The stream of steps: what is the same as stock generate, what stops, what is refused."""

import gc
import itertools

import pytest
import tiny
import torch
from PIL import Image

from cmrm import CmrmError, CmrmWarning, LocalEngine, compare, extract_offsets, steer
from cmrm.answering.generation import Sampling, lockstep
from cmrm.settings import parse_alphas

PROMPT = "What is this?"


def last(stream):
    *_, step = stream
    return step


def stock(vlm, image, tokens=24, **options):
    inputs = vlm.encode(PROMPT, image)
    ids = vlm.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)
    return vlm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).lstrip()


@pytest.mark.parametrize("image", [tiny.PICTURE, None], ids=["image", "text"])
def test_row_0_is_what_stock_generate_answers(vlm, offsets, image):
    step = last(compare(vlm, image, PROMPT, offsets, (1.0, 2.0), max_new_tokens=24))
    assert step.rows[0].text == stock(vlm, image)
    assert step.rows[1].text != step.rows[0].text


def test_a_steered_row_is_what_stock_generate_answers_under_the_same_hooks(vlm, offsets):
    step = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.7,), max_new_tokens=16, steps="all", positions="all"))
    with steer(vlm, offsets, 0.7, steps="all", positions="all"):
        assert step.rows[1].text == stock(vlm, tiny.PICTURE, 16)
    step = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.7,), max_new_tokens=16))
    with steer(vlm, offsets, 0.7):
        assert step.rows[1].text == stock(vlm, tiny.PICTURE, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prefill_once_gives_the_logits_of_the_plain_batch(dtype):
    """Shared prefill against a full forward: within 1e-4 in float32, 0.15 in bfloat16 (logits of some 5)."""
    vlm = tiny.vlm(dtype=dtype)
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    ids = inputs["input_ids"]
    past = vlm.network.read(inputs, ids.shape[1] - 1).fan_out(3)
    shared = vlm.network.forward({"input_ids": ids[:, -1:].expand(3, -1)}, past, torch.no_grad())[:, -1]
    with torch.no_grad():
        plain = vlm.model(**inputs).logits[:, -1].float()
    torch.testing.assert_close(shared, plain.expand(3, -1), rtol=0, atol=1e-4 if dtype == torch.float32 else 0.15)


def test_row_0_is_bit_identical_to_the_unhooked_model_at_the_same_batch_shape(vlm, offsets):
    """The decode loop with hooks on the other rows against the same loop without any hook."""
    inputs = vlm.encode(PROMPT, tiny.PICTURE)

    def logits(hooks):
        ids = inputs["input_ids"]
        past = vlm.network.read(inputs, ids.shape[1] - 1).fan_out(2)
        feed, seen = ids[:, -1:].expand(2, -1), []
        for _ in range(6):
            seen.append(vlm.network.forward({"input_ids": feed}, past, hooks())[:, -1])
            feed = seen[-1].argmax(-1)[:, None]
        return [step[0] for step in seen]

    hooked = logits(lambda: steer(vlm, offsets, (0.0, 1.5), steps="all"))
    plain = logits(torch.no_grad)
    assert all(torch.equal(a, b) for a, b in zip(hooked, plain, strict=True))


def test_alpha_0_equals_row_0(vlm, offsets):
    for temperature in (0.0, 1.0):
        step = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.0,), max_new_tokens=12, temperature=temperature))
        assert step.rows[1].text == step.rows[0].text


def test_a_seed_repeats_an_answer_and_another_seed_changes_it(vlm, offsets):
    def texts(seed):
        return [
            r.text
            for r in last(
                compare(vlm, tiny.PICTURE, PROMPT, offsets, max_new_tokens=12, temperature=1.5, top_p=0.95, seed=seed)
            ).rows
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_each_step_holds_all_rows_and_text_only_grows(vlm, offsets):
    steps = list(compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.5, 1.0), max_new_tokens=10))
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all([row.alpha for row in step.rows] == [0.0, 0.5, 1.0] for step in steps)
    for before, after in itertools.pairwise(steps):
        assert all(a.tokens <= b.tokens for a, b in zip(before.rows, after.rows, strict=True))
    assert all(row.ended and row.verdict for row in steps[-1].rows)


def test_text_held_back_is_never_half_a_character(vlm, offsets):
    steps = list(compare(vlm, None, PROMPT, offsets, max_new_tokens=20))
    assert not any(row.text.endswith("\ufffd") for step in steps[:-1] for row in step.rows if not row.ended)


def test_an_ended_row_stays_as_it_was_while_others_go_on(vlm, offsets):
    rows = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (1.0, 2.0), max_new_tokens=12)).rows
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    first = vlm.tokenizer(rows[0].text or "x", add_special_tokens=False).input_ids
    assert first
    plain = list(
        lockstep(
            vlm.network,
            inputs,
            2,
            hooks=lambda _: torch.no_grad(),
            end_tokens=vlm.end_tokens,
            sampling=Sampling(),
            max_new_tokens=8,
        )
    )
    stop = plain[3][0]
    ends = vlm.model.generation_config.eos_token_id
    vlm.model.generation_config.eos_token_id = [ends, stop]
    try:
        step = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (2.0,), max_new_tokens=12))
    finally:
        vlm.model.generation_config.eos_token_id = ends
    cut = next(k for k, tokens in enumerate(plain) if tokens[0] == stop)
    assert step.rows[0].tokens == cut
    assert step.rows[1].tokens > cut


@pytest.mark.parametrize("ending", ["finished", "closed", "dropped", "failed"])
def test_hooks_after_are_hooks_before(vlm, offsets, ending):
    class Failing:
        def delta(self, layer, state):
            raise RuntimeError("boom")

    steering = Failing() if ending == "failed" else offsets
    before = vlm.network.hook_count
    stream = compare(vlm, tiny.PICTURE, PROMPT, steering, max_new_tokens=8, steps="all")
    if ending == "failed":
        with pytest.raises(RuntimeError, match="boom"):
            next(stream)
    else:
        next(stream)
        assert vlm.network.hook_count == before  # not even between two steps
        next(stream)
        if ending == "finished":
            last(stream)
        elif ending == "closed":
            stream.close()
        else:
            del stream
            gc.collect()
    assert vlm.network.hook_count == before
    assert not vlm.network.lock.locked()
    assert last(compare(vlm, tiny.PICTURE, PROMPT, offsets, max_new_tokens=4)).rows[0].text == stock(
        vlm, tiny.PICTURE, 4
    )


def test_two_streams_interleave_without_mixing(vlm, offsets):
    alone = [last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (a,), max_new_tokens=8)).rows[1].text for a in (0.5, 2.0)]
    one, two = (compare(vlm, tiny.PICTURE, PROMPT, offsets, (a,), max_new_tokens=8) for a in (0.5, 2.0))
    steps = list(zip(one, two, strict=False))
    assert [steps[-1][0].rows[1].text, steps[-1][1].rows[1].text] == alone


def test_no_alphas_and_no_offsets_is_one_plain_answer(vlm):
    step = last(compare(vlm, tiny.PICTURE, PROMPT, None, (), max_new_tokens=5))
    assert len(step.rows) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "   "}, "empty"),
        ({"prompt": "x" * 100_000}, "100,000 characters"),
        ({"prompt": "x" * 600}, "more than the model's context"),
        ({"alphas": (-1.0,)}, "alpha"),
        ({"alphas": (3.0,)}, "alpha"),
        ({"alphas": (float("nan"),)}, "alpha"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"steps": "none"}, "steps"),
        ({"offsets": None}, "no offsets"),
        ({"image": "/nowhere/picture.png"}, "no image file"),
        ({"image": Image.new("L", (20_000, 20_000))}, "megapixels"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs_and_the_next_request_works(vlm, offsets, options, says):
    given = {"image": tiny.PICTURE, "prompt": PROMPT, "offsets": offsets, **options}
    with pytest.raises(CmrmError, match=says) as caught:
        compare(vlm, **given)
    assert "\n" not in str(caught.value)
    assert last(compare(vlm, tiny.PICTURE, PROMPT, offsets, max_new_tokens=2)).done


def test_offsets_of_another_model_are_refused_and_of_another_revision_warned_about(vlm, offsets, checkpoint):
    wider = tiny.vlm(hidden=128)
    deeper = tiny.vlm(layers=5)
    with pytest.raises(CmrmError, match=r"hidden size 64.*has 128"):
        compare(wider, None, PROMPT, offsets)
    with pytest.raises(CmrmError, match=r"layer count 4.*has 5"):
        compare(deeper, None, PROMPT, offsets)
    other = tiny.vlm()
    object.__setattr__(other.identity, "revision", "abc")
    with pytest.warns(CmrmWarning, match="revision"):
        compare(other, None, PROMPT, offsets)


def test_nan_in_a_steered_row_never_reaches_row_0(vlm):
    class Nan:
        def delta(self, layer, state):
            return torch.full_like(state, float("nan"))

    step = last(compare(vlm, tiny.PICTURE, PROMPT, Nan(), (1.0,), max_new_tokens=4))
    assert step.rows[0].text == stock(vlm, tiny.PICTURE, 4)


def test_offsets_of_one_anchor_steer_like_prompt_offsets(vlm):
    """Beside the image that they were measured beside, both lead to the first token of the answer to the text alone."""
    how = {"estimator": "sequential", "corruption": "noise"}
    both = extract_offsets(LocalEngine(vlm), [PROMPT], **how), extract_offsets(LocalEngine(vlm), [PROMPT], **how)
    one, own = (last(compare(vlm, vlm.blank("noise"), PROMPT, made, max_new_tokens=8)).rows for made in both)
    (alone,) = last(compare(vlm, None, PROMPT, None, (), max_new_tokens=8)).rows
    assert one[1].ids == own[1].ids
    assert one[1].ids[0] == alone.ids[0] != one[0].ids[0]


def passes(vlm):
    """Count the forward passes of the model and of its vision tower."""
    counts = {"model": 0, "vision": 0}
    handles = [
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
        for name, module in (("model", vlm.model), ("vision", vlm.model.model.vision_tower))
    ]
    return counts, handles


def test_another_alpha_costs_no_prefill_and_another_prompt_no_image(vlm, offsets):
    def texts(prompt, alpha):
        return [row.text for row in last(compare(vlm, tiny.PICTURE, prompt, offsets, (alpha,), max_new_tokens=6)).rows]

    vlm.network.prefixes.clear()
    fresh = [texts(PROMPT, 0.5), texts("Why?", 1.0)]
    vlm.network.prefixes.clear()
    texts(PROMPT, 2.0)
    counts, handles = passes(vlm)
    try:
        assert texts(PROMPT, 0.5) == fresh[0]
        assert counts == {"model": 6, "vision": 0}  # as many as new tokens: nothing was prefilled
        assert texts("Why?", 1.0) == fresh[1]
        assert counts == {"model": 13, "vision": 0}
        assert texts(PROMPT, 0.5) == fresh[0]
    finally:
        for handle in handles:
            handle.remove()


def test_kept_prefixes_stay_within_their_limit(vlm, offsets):
    vlm.network.prefixes.clear()
    limit = vlm.network.prefixes.limit
    try:
        last(compare(vlm, tiny.PICTURE, PROMPT, offsets, max_new_tokens=2))
        one = vlm.network.prefixes.nbytes
        assert one > 0
        vlm.network.prefixes.limit = 2 * one
        for number in range(6):
            last(compare(vlm, tiny.PICTURE, f"What is number {number}?", offsets, max_new_tokens=2))
            assert vlm.network.prefixes.nbytes <= 2 * one
    finally:
        vlm.network.prefixes.limit = limit


def test_fluency_is_the_mean_log_probability_under_the_unsteered_model(vlm, offsets):
    """Against one plain full forward pass a row."""
    step = last(compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.5, 2.0), max_new_tokens=9, fluency=True))
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    for row in step.rows:
        answer = torch.tensor([row.ids])
        ids = torch.cat([inputs["input_ids"], answer], dim=1)
        with torch.no_grad():
            logits = vlm.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
        scores = logits[0, -len(row.ids) - 1 : -1].log_softmax(-1).gather(-1, answer.T)
        assert row.fluency == pytest.approx(scores.mean().item(), abs=1e-4)
    assert step.rows[0].fluency > step.rows[2].fluency


def test_too_many_alphas_for_the_memory_says_how_many_fit(vlm, offsets, monkeypatch):
    monkeypatch.setattr(type(vlm), "free_memory", 10 * vlm.network.row_bytes(100))
    with pytest.raises(CmrmError, match=r"There are 50 alphas, but memory holds \d rows"):
        compare(vlm, None, PROMPT, offsets, [1.0] * 50, max_new_tokens=70)


@pytest.mark.parametrize(
    ("text", "values"),
    [("0:2:0.5", (0, 0.5, 1, 1.5, 2)), ("0:1:0.3", (0, 0.3, 0.6, 0.9)), ("0.5, 1", (0.5, 1)), ("1:1:1", (1,))],
)
def test_alpha_ranges_and_lists(text, values):
    assert parse_alphas(text) == pytest.approx(values)


@pytest.mark.parametrize(
    "text", ["", ",", "0:2", "0:2:0", "2:0:0.5", "0:3:1", "-1,1", "a:b:c", "0:nan:1", "0:2:1e-400", "0:2:1e-9"]
)
def test_malformed_alpha_ranges_are_one_sentence(text):
    with pytest.raises(CmrmError, match="alpha"):
        parse_alphas(text)
