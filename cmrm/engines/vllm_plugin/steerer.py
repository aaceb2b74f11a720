"""Sees each pass of one model runner, and says to the table which of its tokens get what."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np
import torch

from ...errors import CmrmError
from . import op
from .config import model_shape
from .spec import Spec
from .table import Span, Table

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as RunnerV2
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as RunnerV1

    Runner: TypeAlias = RunnerV1 | RunnerV2

Given = ParamSpec("Given")
Made = TypeVar("Made")

# States that nobody fetches are dropped, the oldest first.
KEPT_BYTES = 256 << 20

Request = tuple[str, int, int, int]
"""Of a request in a pass: its id, the row where its tokens begin, how many were computed before, how many are now."""


@dataclass(frozen=True)
class _Asked:
    """What a running request asks for, and its prompt's length in tokens, without what is answered already."""

    spec: Spec
    prompt: int


class Steerer:
    """Steers one model runner of vLLM, of either kind, for as long as the process lives.

    The runner's own methods are wrapped on this instance: nothing of vLLM's classes is changed. `mine` are the decoder
    layers that are in this process (the others are another pipeline stage's).
    """

    def __init__(self, runner: "Runner", elsewhere: type[torch.nn.Module] | None = None) -> None:
        """Install on a runner that has loaded its model; `elsewhere` is the class of other stages' layers.

        Raises:
            CmrmError: the decoder layers were not found.
        """
        self.runner = runner
        layers = decoder_layers(runner.model)
        shape = model_shape(runner.model_config)
        if len(layers) != shape[0]:
            raise CmrmError(
                f"The model says that it has {shape[0]} decoder layers, but {len(layers)} were found, so it can't be "
                "steered; use another model."
            )
        self.mine = tuple(k for k, layer in enumerate(layers) if elsewhere is None or not isinstance(layer, elsewhere))
        self.table = Table(shape, runner.max_num_tokens, runner.max_num_reqs, runner.device)
        self._asked: dict[str, _Asked] = {}
        self._numbers: dict[str, int] = {}
        self._states: OrderedDict[str, np.ndarray] = OrderedDict()
        self._most = max(16, KEPT_BYTES // (4 * shape[0] * shape[1]))
        op.register()
        op.use(self.table)
        for index in self.mine:
            layers[index].forward = _ending_in_op(layers[index].forward, index)
        self._wrap(runner, "execute_model", self._execute_model)
        # The V2 runner has a model state that is told of each real batch; the V1 runner a method around the forward.
        if (state := getattr(runner, "model_state", None)) is not None:
            self._wrap(state, "preprocess_state", self._see_v2)
        else:
            self._wrap(runner, "_model_forward", self._see_v1)

    @property
    def running(self) -> int:
        """How many requests that ask for something have not ended."""
        return len(self._asked)

    def fetch(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Hand over kept states, float32 `(len(mine), hidden)` each, and forget them; unknown names are left out."""
        return {name: self._states.pop(name) for name in names if name in self._states}

    @contextmanager
    def saying(self, spans: Sequence[Span]) -> Generator[None]:
        """Say what the tokens of dummy passes inside the block get, for the self-test."""
        self._numbers = self.table.fill(spans)
        try:
            yield
        finally:
            self._numbers = self.table.fill([])

    @staticmethod
    def _wrap(owner: object, name: str, around: Callable[..., object]) -> None:
        inner = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: around(inner, *args, **kwargs))

    def _execute_model(
        self,
        inner: "Callable[Concatenate[SchedulerOutput, Given], Made]",
        scheduler_output: "SchedulerOutput",
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Made:
        for name in scheduler_output.finished_req_ids:
            self._asked.pop(name, None)
        for new in scheduler_output.scheduled_new_reqs:
            params = new.sampling_params
            spec = None if params is None else Spec.of(params.extra_args)
            if spec is not None:
                spec.check_fits(self.table.shape)
                prompt = new.prompt_embeds if new.prompt_token_ids is None else new.prompt_token_ids
                self._asked[new.req_id] = _Asked(spec, len(prompt) - spec.behind)
        output = inner(scheduler_output, *args, **kwargs)
        self._keep()
        return output

    def _see_v1(self, inner: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
        batch, starts = self.runner.input_batch, self.runner.query_start_loc.np
        places = ((name, batch.req_id_to_index.get(name)) for name in self._asked)
        self._fill(
            (name, int(starts[k]), int(batch.num_computed_tokens_cpu[k]), int(starts[k + 1] - starts[k]))
            for name, k in places
            if k is not None and k < batch.num_reqs
        )
        return inner(*args, **kwargs)

    def _see_v2(
        self,
        inner: "Callable[Concatenate[InputBatch, Given], Made]",
        input_batch: "InputBatch",
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Made:
        starts, computed = input_batch.query_start_loc_np, input_batch.num_computed_tokens_np
        self._fill(
            (name, int(starts[k]), int(computed[k]), int(starts[k + 1] - starts[k]))
            for k, name in enumerate(input_batch.req_ids)
            if name in self._asked
        )
        return inner(input_batch, *args, **kwargs)

    def _fill(self, requests: Iterable[Request]) -> None:
        self._numbers = self.table.fill(
            [
                Span.of(asked.spec, start, computed, scheduled, asked.prompt)
                for name, start, computed, scheduled in requests
                for asked in (self._asked[name],)
            ]
        )

    def _keep(self) -> None:
        """Take what was recorded before the next pass writes there."""
        if not self._numbers:
            return
        for name, number in self._numbers.items():
            self._states[name] = self.recorded(number)
        while len(self._states) > self._most:
            self._states.popitem(last=False)
        self._numbers = {}

    def recorded(self, number: int) -> np.ndarray:
        """Return what the last pass recorded under a number, float32 `(len(mine), hidden)`."""
        return self.table.states[number, list(self.mine)].cpu().numpy()


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Return the text decoder's layers: vLLM's own accessor, then the one list of layers below it.

    Raises:
        CmrmError: there is no such list.
    """
    find = getattr(model, "get_language_model", lambda: model)
    inner: object = find()
    while inner is not None:
        if isinstance(layers := getattr(inner, "layers", None), torch.nn.ModuleList):
            return layers
        inner = getattr(inner, "model", None)
    raise CmrmError(
        f"The decoder layers of {type(model).__name__} were not found in vLLM, so it can't be steered; use another "
        "model."
    )


def _ending_in_op(forward: Callable[Given, Made], index: int) -> Callable[Given, Made]:
    """Return a layer's forward with the op at its end: of (hidden, residual), or of the hidden state alone."""

    def steered(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        output = forward(*args, **kwargs)
        if isinstance(output, tuple):
            torch.ops.cmrm.steer(output[0], output[1], index)
        else:
            torch.ops.cmrm.steer(output, None, index)
        return output

    return steered
