"""The choices of a run: defaults, text and JSON there and back, and one sentence for each bad value."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmrm import CmrmError, Settings
from cmrm.settings import ESTIMATORS, METHODS

LAYERS = st.lists(st.integers(0, 999), min_size=1, max_size=5).map(lambda chosen: tuple(sorted(set(chosen))))
ANY = (
    st.fixed_dictionaries(
        {
            "alpha": st.none() | st.floats(0, 2),
            "method": st.sampled_from(METHODS),
            "max_new_tokens": st.integers(1, 2048),
            "temperature": st.just(0.0) | st.floats(0.01, 5),
            "seed": st.integers(0, 2**63 - 1),
            "top_p": st.floats(0.001, 1),
            "estimator": st.none() | st.sampled_from(ESTIMATORS),
            "corruption": st.none() | st.sampled_from(["white", "black", "mean", "noise"]),
            "layers": st.none() | LAYERS,
            "positions": st.sampled_from([None, "last", "all"]),
            "steps": st.sampled_from([None, "prompt", "all"]),
            "third": st.sampled_from(["none", "text", "random"]),
        }
    )
    .filter(lambda chosen: (chosen["method"], chosen["estimator"]) != ("sample", "pc1"))
    .map(lambda chosen: Settings(**chosen))
)


@given(ANY)
def test_settings_come_back_from_json(settings):
    assert Settings.of_json(json.loads(json.dumps(settings.json()))) == settings


def test_what_is_left_empty_is_left_to_the_recipe():
    empty = {"alpha": None, "estimator": "", "corruption": "", "layers": "", "positions": "", "steps": ""}
    assert Settings.parse(**empty) == Settings()
    assert Settings.parse(layers="0-2,5", max_new_tokens=64.0) == Settings(layers=(0, 1, 2, 5), max_new_tokens=64)


@pytest.mark.parametrize("alpha", [-0.1, 2.1, math.nan, math.inf, True, "1"])
def test_alpha_is_a_number_from_0_to_2(alpha):
    with pytest.raises(CmrmError, match="alpha is"):
        Settings(alpha=alpha)


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "magic"},
        {"max_new_tokens": 0},
        {"temperature": 9},
        {"seed": -1},
        {"top_p": 0},
        {"estimator": "median"},
        {"corruption": "rain"},
        {"layers": ()},
        {"positions": "first"},
        {"steps": "some"},
        {"third": "fourth"},
    ],
)
def test_a_bad_value_is_one_sentence_that_names_it(bad):
    [name] = bad
    with pytest.raises(CmrmError, match=f"^{name} is .*") as error:
        Settings(**bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["method", "third", "max_new_tokens", "temperature", "seed", "top_p"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_what_no_recipe_fills_in_is_not_left_empty(name, nothing):
    with pytest.raises(CmrmError, match=f"^{name} is "):
        Settings.parse(**{name: nothing})
