"""At the start: does the op act in the compiled and captured model, and does the model take its output as meant?"""

import numpy as np

from ...errors import CmrmError
from .spec import Spec
from .steerer import Steerer
from .table import Span

_TOKENS = 1
# Of the state's length. One sum is off by its rounding; over many layers that grows, but a part lost or doubled is
# about as long as the state.
_ONE_SUM, _MANY_LAYERS = 0.02, 0.2


def check_steering(steerer: Steerer) -> None:
    """Run a few dummy passes through the model as it will answer, and compare.

    1. One steered state with its formula: the state before plus the vector.
    2. Later layers are reached: their states change.
    3. Adding nothing changes nothing. There the op only moves the state from (hidden, residual) to (sum, 0), which a
       model whose layers mean something else by their two outputs would read otherwise.

    Raises:
        CmrmError: any of these fails, so that the model can't be steered in vLLM.
    """
    first, hidden = steerer.mine[0], steerer.table.shape[1]
    vector = np.random.default_rng(0).standard_normal(hidden).astype(np.float32)
    before = _states(steerer, None)
    added = _states(steerer, _adding(steerer, vector, (first,)))
    moved = _states(steerer, _adding(steerer, vector, steerer.mine))
    _require(_near(added[0], before[0] + vector, _ONE_SUM), "a steered state is not the state plus its vector")
    if len(steerer.mine) > 1:
        _require(not np.array_equal(added[-1], before[-1]), "a steered state does not reach the layers behind")
    worst = next((k for k in range(len(added)) if not _near(moved[k], added[k], _MANY_LAYERS)), None)
    _require(worst is None, f"layer {worst} puts out something else than a state in two parts")


def _adding(steerer: Steerer, vector: np.ndarray, layers: tuple[int, ...]) -> Spec:
    """Add a vector at the first layer that is here, and nothing at the others of `layers`."""
    values = np.zeros(steerer.table.shape, np.float32)
    values[steerer.mine[0]] = vector
    return Spec(values, layers=layers, capture="self-test", digest=b"self-test %d" % len(layers))


def _states(steerer: Steerer, spec: Spec | None) -> np.ndarray:
    """Return what a dummy pass leaves at its first token, float32 `(len(mine), hidden)`."""
    chosen = spec or Spec(capture="self-test")
    with steerer.saying([Span.of(chosen, 0, 0, _TOKENS, _TOKENS)]):
        # With attention: without, a CPU leaves its output as it happens to be. The V2 runner always has it.
        steerer.runner._dummy_run(_TOKENS, force_attention=True)
        states = steerer.recorded(1)
    steerer.fetch(["self-test"])
    return states


def _near(found: np.ndarray, expected: np.ndarray, part: float) -> bool:
    return float(np.linalg.norm(found - expected)) <= part * max(float(np.linalg.norm(expected)), 1e-6)


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise CmrmError(f"The model can't be steered in vLLM, as {wrong}; use another model, or this project's engine.")
