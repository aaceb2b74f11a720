"""Everything that decides what a training makes, noted beside its checkpoints."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...errors import CmrmError

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains, on how many examples at once, and how fast."""

    steps: int
    batch: int
    rate: float


STAGES = {
    "vision": Schedule(2400, 96, 1.5e-3),
    "text": Schedule(2000, 64, 2e-3),
    "look": Schedule(3000, 32, 2.5e-3),
    "image": Schedule(1500, 48, 8e-4),
}


@dataclass(frozen=True)
class TrainingPlan:
    """Seed, scale and stages, with the shipped values as defaults."""

    seed: int = 0
    scale: float = 1.0
    stages: dict[str, Schedule] = field(default_factory=STAGES.copy)

    def count_steps(self, stage: str) -> int:
        """Return how many steps a stage has at this scale."""
        return max(4, round(self.stages[stage].steps * self.scale))

    def claim(self, folder: Path) -> None:
        """Note in `folder` that what it keeps is this plan's.

        Raises:
            CmrmError: it keeps something of another plan, or of none that was noted.
        """
        note, mine = folder / "plan.json", asdict(self)
        unnoted = any(folder.glob("*.pt")) or (folder / TOKENIZER).exists()
        made = json.loads(note.read_text()) if note.exists() else {} if unnoted else mine
        if made != mine:
            differ = ", ".join(f"{key} {value}" for key, value in made.items() if value != mine.get(key))
            raise CmrmError(
                f"{str(folder)!r} holds checkpoints of another plan ({differ or 'not noted'}), so training can't go on "
                "from them; give the options they were made with, or another --work."
            )
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(mine))
