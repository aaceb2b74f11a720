"""The same tokens and states where vLLM cuts prompts, computes them again, compiles the model or shares it out."""

import re

import httpx
import pytest
from checks import GROUPS, different, near, rows_of, states_of
from client import packed
from conftest import serving

EAGER = "--enforce-eager"
# On a CPU vLLM steps in time with the model, and uses its V2 runner only beside a build of Triton for CPUs; there,
# $VLLM_USE_V2_MODEL_RUNNER=1 runs all of these tests with it.
CONFIGURATIONS = {
    "chunked": (EAGER, "--max-num-batched-tokens", "64", "--max-num-seqs", "16"),
    "preempted": (EAGER, "--max-num-seqs", "64", "--kv-cache-memory-bytes", str(8 << 20)),
    "uncached": (EAGER, "--no-enable-prefix-caching"),
    "compiled": (),
    "tensor parallel": (EAGER, "--tensor-parallel-size", "2"),
}


def preemptions(url: str) -> float:
    found = re.search(r"^vllm:num_preemptions_total{.*} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_same_in_every_configuration(name, reference):
    with serving(*CONFIGURATIONS[name]) as url:
        assert different(url, reference, rows_of(reference, *GROUPS)) == []
        reach = [packed(text) | {"mode": "reach"} for text in reference.arrays["states text"]]
        near(states_of(url, reference, "gaps", reach), reference.arrays["states gaps"])
        assert (preemptions(url) > 0) == (name == "preempted")


def test_a_model_that_vllm_compiled_without_the_op_is_not_taken(reference, tmp_path):
    plain = ("-m", "vllm.entrypoints.openai.api_server")
    with serving(module=plain, VLLM_CACHE_ROOT=str(tmp_path)):
        pass
    with serving(VLLM_CACHE_ROOT=str(tmp_path)) as url:
        assert different(url, reference, rows_of(reference, "alphas")) == []


def test_what_might_steer_another_token_is_refused_at_the_start():
    said = "CMRM has not been tried with data parallelism, and might steer the wrong token"
    with pytest.raises(AssertionError, match=said), serving(EAGER, "--data-parallel-size", "2"):
        pass
