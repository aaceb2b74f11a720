"""Persistent buffers that the one custom op reads: graphs and compiled code keep their places, contents change."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import CmrmError
from .spec import MODES, Shape, Spec

REACH, PROJECT = MODES.index("reach"), MODES.index("project")


@dataclass(frozen=True)
class Span:
    """What one request's tokens of a pass get: rows `begin` to `end` are steered, and row `last` is recorded.

    `begin` equals `end` where nothing is steered; `last` is None where the last prompt token is not in this pass.
    """

    spec: Spec
    begin: int
    end: int
    last: int | None = None

    @classmethod
    def of(cls, spec: Spec, start: int, computed: int, scheduled: int, prompt: int) -> "Span":
        """Find it for a request whose `scheduled` tokens of this pass begin at row `start`, behind `computed` ones."""
        first, end = spec.steered(computed, scheduled, prompt) if spec.steers else (0, 0)
        place = prompt - 1 - computed
        watched = spec.capture is not None and 0 <= place < scheduled
        return cls(spec, start + first, start + end, start + place if watched else None)

    @property
    def idle(self) -> bool:
        """Whether this pass does nothing for the request."""
        return self.begin == self.end and self.last is None


class Table:
    """What each token of a pass gets, and where states are recorded.

    Of a pass with up to `tokens` tokens of up to `requests` requests, on one device:

        slots, kept  int32 `(tokens,)`: which slot's vectors a token gets, and under which number its state is
                     recorded; 0 for none
        alphas       float32 `(tokens,)`; a token of alpha 0 keeps its bits
        vectors      float32 `(slots, layers, hidden)`, `levels` float32 and `chosen` int32 `(slots, layers)`,
                     `modes` int32 `(slots,)`: what a slot does; slot 0 is nobody's
        states       float32 `(requests + 1, layers, hidden)`: what was recorded; number 0 is nobody's

    There are as many slots as requests in a pass, so that they can't run out; requests that ask for the same share
    one, and what was there stays until the place is needed. All of it takes 8 bytes for each request, layer and
    dimension: 1 MiB a request of a 7B model, so `--max-num-seqs` says how much.
    """

    def __init__(self, shape: Shape, tokens: int, requests: int, device: torch.device) -> None:
        layers, hidden = shape
        self.shape = shape

        def zeros(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        self.slots = zeros(tokens, dtype=torch.int32)
        self.kept = zeros(tokens, dtype=torch.int32)
        self.alphas = zeros(tokens)
        self.vectors = zeros(requests + 1, layers, hidden)
        self.levels = zeros(requests + 1, layers)
        self.chosen = zeros(requests + 1, layers, dtype=torch.int32)
        self.modes = zeros(requests + 1, dtype=torch.int32)
        self.states = zeros(requests + 1, layers, hidden)
        # On the host, as the CPU's op would have to look for them: the tokens of this pass that get anything.
        self.active: torch.Tensor | None = None
        self.steered = 0
        self._held: OrderedDict[bytes, int] = OrderedDict()
        self._busy = 0

    @property
    def held(self) -> int:
        """How many slots hold vectors."""
        return len(self._held)

    def fill(self, spans: Sequence[Span]) -> dict[str, int]:
        """Say what the tokens of the next pass get; return under which number each captured state is recorded."""
        self._clear()
        spans = [span for span in spans if not span.idle]
        if not spans:
            return {}
        size = max(max(span.end, 0 if span.last is None else span.last + 1) for span in spans)
        slots, kept = np.zeros(size, np.int32), np.zeros(size, np.int32)
        alphas = np.zeros(size, np.float32)
        needed = {span.spec.digest for span in spans if span.spec.needs_vectors}
        numbers: dict[str, int] = {}
        for number, span in enumerate(spans, start=1):
            spec, rows = span.spec, slice(span.begin, span.end)
            slot = self._slot(spec, needed) if spec.needs_vectors else 0
            slots[rows], alphas[rows] = slot, spec.alpha
            self.steered += span.end - span.begin
            if span.last is not None and spec.capture is not None:
                numbers[spec.capture] = kept[span.last] = number
                if spec.needs_vectors:  # a row that reaches by 0 has a slot for its gaps alone
                    slots[span.last] = slot
        for buffer, values in ((self.slots, slots), (self.kept, kept), (self.alphas, alphas)):
            buffer[:size].copy_(_staged(values, buffer.device), non_blocking=True)
        self._busy, self.active = size, torch.from_numpy(np.flatnonzero(slots | kept))
        return numbers

    def _clear(self) -> None:
        for buffer in (self.slots, self.kept, self.alphas):
            buffer[: self._busy].zero_()
        self._busy, self.active = 0, None

    def _slot(self, spec: Spec, needed: set[bytes]) -> int:
        """Return the slot that does what `spec` says, filling one if there is none."""
        if spec.digest not in self._held:
            self._held[spec.digest] = self._write(spec, self._free(needed))
        self._held.move_to_end(spec.digest)
        return self._held[spec.digest]

    def _free(self, needed: set[bytes]) -> int:
        if len(self._held) + 1 < len(self.modes):
            return len(self._held) + 1
        stale = next(digest for digest in self._held if digest not in needed)
        return self._held.pop(stale)

    def _write(self, spec: Spec, slot: int) -> int:
        spec.check_fits(self.shape)
        if spec.values is None:
            raise CmrmError("There are no vectors to steer by; send some.")
        device = self.vectors.device
        chosen = np.zeros(self.shape[0], np.int32)
        chosen[list(spec.layers)] = 1
        levels = np.zeros(self.shape[0], np.float32) if spec.levels is None else spec.levels
        for buffer, values in ((self.vectors, spec.values), (self.chosen, chosen), (self.levels, levels)):
            buffer[slot].copy_(_staged(values, device), non_blocking=True)
        self.modes[slot] = MODES.index(spec.mode)
        return slot


def _staged(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return a tensor that a device can fetch by itself, while the next pass is being prepared."""
    if device.type == "cpu":
        return torch.from_numpy(values if values.flags.writeable else values.copy())
    return torch.from_numpy(values.copy()).pin_memory()
