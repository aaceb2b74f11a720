"""The engine in this process: one model, steered through hooks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from ..answering.batches import answer_batch, group_alike
from ..answering.comparison import Comparison
from ..answering.fluency import pair_log_probabilities
from ..answering.steps import Answered
from ..images import digest_image
from ..lru import Lru
from ..model.identity import Identity
from ..model.network import Inputs
from ..model.vlm import Vlm
from ..settings import Corruption, DeviceMap, Quantization, Settings
from ..steering.reading import LocalReading
from ..steering.steer import steer_rows
from ..steering.vectors import Prompt, Steered
from .base import EngineHealth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENCODED_LIMIT = 1 << 28


@dataclass(frozen=True)
class LocalEngine:
    """An `engines.base.Engine` over a loaded model; what each method does is said there."""

    vlm: Vlm
    at_once: int = 1
    _encoded: Lru[Inputs] = field(default_factory=lambda: Lru(_ENCODED_LIMIT), compare=False, repr=False)

    @classmethod
    def load(
        cls,
        model: str = "pocket",
        quantization: Quantization = "auto",
        device_map: DeviceMap | None = None,
        *,
        plain_template: bool = False,
    ) -> "LocalEngine":
        """Load a model, as `Vlm.load` does.

        Raises:
            CmrmError: a model that can't be used, with the reason.
        """
        return cls(Vlm.load(model, quantization, device_map, plain_template=plain_template))

    @property
    def identity(self) -> Identity:
        """What the model is."""
        return self.vlm.identity

    @property
    def context_length(self) -> int | None:
        """How many tokens a prompt and its answer may take."""
        return self.vlm.context_length

    @property
    def notes(self) -> tuple[str, ...]:
        """How the model was loaded."""
        return self.vlm.notes

    @property
    def layers_path(self) -> str:
        """Where the hooked layers are."""
        return self.vlm.layers_path

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The processor's tokenizer."""
        return self.vlm.tokenizer

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""
        return self.vlm.end_tokens

    def blank(self, corruption: Corruption) -> Image.Image:
        """Return the meaningless image, in the size the model looks at."""
        return self.vlm.blank(corruption)

    def reading(self, prompts: Sequence[Prompt]) -> LocalReading:
        """Make prompts ready to be read, in batches of one shape."""
        return LocalReading.of(self.vlm, prompts)

    def prepare(self, prompt: Prompt, settings: Settings, rows: int) -> Comparison:
        """Check and lay out a request."""
        return Comparison.prepare(self.vlm, prompt, settings, rows)

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        steered: Steered | None = None,
        *,
        max_new_tokens: int,
        openings: frozenset[int] = frozenset(),
    ) -> list[Answered]:
        """Answer in padded batches, one for each shape of picture."""
        found: dict[int, Answered] = {}
        with self.vlm.network.enough_memory():
            inputs = [self._encode(prompt) for prompt in prompts]
            for one in inputs:
                self.vlm.check_length(one["input_ids"].shape[1], max_new_tokens)
            for group in group_alike(inputs):
                hooks = steer_rows(self.vlm, steered and steered.pick(group))
                chosen = [inputs[k] for k in group]
                answers = answer_batch(self.vlm, chosen, hooks, max_new_tokens=max_new_tokens, openings=openings)
                found.update(zip(group, answers, strict=True))
        return [found[k] for k in range(len(prompts))]

    def log_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float | None]:
        """Score answers behind their prompts."""
        with self.vlm.network.enough_memory():
            return pair_log_probabilities(self.vlm.network, [self._encode(prompt) for prompt in prompts], answers)

    def health(self) -> EngineHealth:
        """Say how the model is doing."""
        return EngineHealth(self.vlm.network.lock.locked(), self.vlm.network.hook_count)

    @property
    def movable(self) -> bool:
        """Whether the weights are whole and on the CPU, so that they can move to another device."""
        return self.identity.quantization == "none" and self.vlm.device.type == "cpu"

    def move(self, device: str) -> None:
        """Move the weights to another device."""
        self.vlm.model.to(device)

    def _encode(self, prompt: Prompt) -> Inputs:
        """Lay out a prompt of a batch: many conditions ask the same."""
        digest = hashlib.sha256(prompt.text.encode(errors="surrogatepass"))
        if prompt.image is not None:
            digest.update(digest_image(prompt.image))
        key = digest.hexdigest()
        inputs = self._encoded.get(key)
        if inputs is None:
            inputs = self.vlm.encode(prompt.text, prompt.image)
            self._encoded.keep(key, inputs, sum(value.nbytes for value in inputs.values()))
        return inputs
