"""Base: make a trained model the network that comes with fnst, where `init: base` begins.

No stage of the pipeline: it is run once for a change of the network or the loss, and its result is
committed. docs/recipe.md says how the present one was trained, and what others were worth.

    python -m stages.base data/models/great-wave
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fnst import checkpoint, params
from fnst.errors import CheckpointError
from stages import run


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the model as fnst's own, in half the space.

    Raises:
        CheckpointError: when it is damaged, has another shape than recipe ``laptop``, or did not
            begin with noise.
    """
    asked = _parser().parse_args(arguments)
    trained = checkpoint.load(asked.model)
    history = trained.card["training"]
    wanted = asdict(params.load().recipes["laptop"].network)
    if trained.network.architecture != wanted:
        raise CheckpointError(
            f"{asked.model}: expected a network of {wanted}, as recipe laptop has it, "
            f"got {trained.network.architecture}."
        )
    # or its card would not say all that it is made of
    if (init := _init(history)) != "scratch":
        raise CheckpointError(f"{asked.model}: expected it trained with init: scratch, got {init}.")
    # a weight is rounded by at most a two-thousandth
    checkpoint.save(
        checkpoint.BASE, trained.network, style="base", training=history, dtype=torch.float16
    )
    print(f"base: {checkpoint.BASE}/ is {trained.card['style']} from now on; commit it")


def _init(history: Mapping[str, Any]) -> str:
    """With what a training began, as its card has it."""
    try:
        return str(history["params"]["train"]["init"])
    except (KeyError, TypeError):  # a card may come from anywhere
        return "no word"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stages.base",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a checkpoint's folder, as `train` makes it")
    return parser


if __name__ == "__main__":
    run(main, again="the same command does it once more")
