"""What a claim about CMRM has to stand beside and is measured as it is; random vectors are in `steering.chance`."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..data.records import Record
from ..errors import CmrmError
from ..steering.offsets import Offsets
from .cmrm import SampleLevel
from .defence import Defence


@dataclass(frozen=True)
class OtherPrompt(Defence):
    """Sample-level offsets of another prompt: what is left of them when they don't fit.

    The other prompt is drawn from `prompts` by `seed` and the record's own prompt, so it does not depend on
    the batch.
    """

    sample: SampleLevel
    prompts: tuple[str, ...]
    seed: int = 0

    def steering(self, records: Sequence[Record]) -> list[Offsets]:
        """Measure each record's other prompt.

        Raises:
            CmrmError: `prompts` holds none but the record's own.
        """
        return self.sample.steering([replace(record, prompt=self.draw_other(record.prompt)) for record in records])

    def draw_other(self, prompt: str) -> str:
        """Return the prompt that stands in for `prompt`."""
        others = [one for one in self.prompts if one != prompt]
        if not others:
            raise CmrmError("There is no other prompt to measure offsets on; give at least two different prompts.")
        return random.Random(f"{self.seed} {prompt}").choice(others)
