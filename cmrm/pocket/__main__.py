"""`python -m cmrm.pocket train | ablation | tune | rivals | everyday`."""

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from ..files import ASSETS, POCKET_FOLDER
from ..terminal import run_commands

app = typer.Typer(help="Make the pocket model.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Work = Annotated[Path, typer.Option(help="Where checkpoints are kept; a second run goes on from them.")]
Seed = Annotated[int, typer.Option(help="Decides data and weights.")]
Scale = Annotated[float, typer.Option(help="Share of the full step counts, for a quick look.")]
Model = Annotated[str, typer.Option(help="'pocket', or a folder.")]


@app.command("train")
def train_command(
    out: Annotated[Path, typer.Option(help="Where the model goes.")] = POCKET_FOLDER,
    work: Work = Path("pocket-work"),
    seed: Seed = 0,
    scale: Scale = 1.0,
) -> None:
    """Train the model from nothing, or from where a run was interrupted."""
    from .making.training import TrainingPlan, train

    train(TrainingPlan(seed=seed, scale=scale), work, out)


@app.command("ablation")
def ablation_command(work: Work = Path("pocket-work"), seed: Seed = 0, scale: Scale = 1.0) -> None:
    """Repeat the image stage with harmful requests beside images, refused, and print the dev figures."""
    from ..engines.local import LocalEngine
    from .making.training import TrainingPlan, train_ablation
    from .making.tuning import BARE, DevSet

    out = work / "ablation" / "model"
    train_ablation(TrainingPlan(seed=seed, scale=scale), work, out)
    print(DevSet(LocalEngine.load(str(out)), 400).judge(BARE))


@app.command("tune")
def tune_command(model: Model = "pocket") -> None:
    """Choose the shipped steering on the dev split; write recipes, anchors and offsets to assets/."""
    from .making.tuning import tune

    tune(ASSETS, model)


@app.command("rivals")
def rivals_command(model: Model = "pocket") -> None:
    """Choose the rivals' alpha and layers on the dev split; add them to the recipes in assets/."""
    from .making.tuning import tune_rivals

    for name, rates in tune_rivals(ASSETS, model).items():
        print(f"{name}: {rates}")


@app.command("everyday")
def everyday_command(model: Model = "pocket") -> None:
    """Answer thirty sentences that visitors may type, unsteered."""
    from ..answering.comparison import compare
    from ..model.vlm import Vlm
    from .scenes import Scene, Thing, draw

    vlm = Vlm.load(model)
    things = Thing("house", "red", "on the left", large=True), Thing("star", "yellow", "on the right")
    image = draw(Scene(things, "white"), random.Random(0), 256)
    for line in (ASSETS / "everyday.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        *_, step = compare(vlm, image if entry["image"] else None, entry["prompt"], None, (), max_new_tokens=64)
        print(f"{entry['prompt']}\n    {step.rows[0].text}")


if __name__ == "__main__":
    run_commands(app)
