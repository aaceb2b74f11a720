"""`python -m cmrm.pocket train|ablation|tune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .train import Plan, ablation, train
from .tune import tune, unsteered

ASSETS = Path(__file__).parents[2] / "assets"


def main() -> None:
    """Run one task."""
    parser = argparse.ArgumentParser(prog="python -m cmrm.pocket", description=__doc__)
    parser.add_argument("task", choices=("train", "ablation", "tune"))
    parser.add_argument("--out", type=Path, default=None, help="where the model goes")
    parser.add_argument("--work", type=Path, default=Path("pocket-work"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full step counts")
    args = parser.parse_args()
    plan = Plan(seed=args.seed, scale=args.scale)
    if args.task == "train":
        train(plan, args.work, args.out or ASSETS / "pocket")
    elif args.task == "ablation":
        ablation(plan, args.work, args.out or args.work / "ablation" / "model")
        print(unsteered(args.out or args.work / "ablation" / "model"))
    else:
        tune(ASSETS, args.out or "pocket")


if __name__ == "__main__":
    main()
