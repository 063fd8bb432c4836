"""What several commands share: finding weights, writing JSON, the options they have in common."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this JSON file too.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
Weights = Annotated[
    Path | None, typer.Option(help="Checkpoint; default: what `vpr train` or `vpr weights add` stored.")
]
Untrained = Annotated[bool, typer.Option(help="Use random weights, as a baseline.")]


def choose_device(name: str) -> str:
    """`auto` becomes cuda where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"Device '{name}' asked for, but torch sees no CUDA device here. Use --device cpu.")
    return name


def load_model(name: str, weights: Path | None, untrained: bool) -> tuple["nn.Module", str]:
    """A model of the zoo with its weights, and in words where they came from.

    Raises:
        ValueError: for an unknown model, or when no weights are known; the message says how to get some.
    """
    from vpr_lib.models.checkpoints import load_weights, trained_path
    from vpr_lib.models.published import published_at
    from vpr_lib.models.zoo import TRAINING_FREE, build_model

    model = build_model(name)
    if name in TRAINING_FREE:
        return model, "training-free"
    if untrained:
        return model, "untrained"
    path = weights or trained_path(name)
    if not path.is_file():
        if weights is not None:
            raise FileNotFoundError(f"No checkpoint {weights}.{published_at(name)}")
        raise ValueError(
            f"No weights for '{name}'. Give a checkpoint with --weights FILE, register an official one with "
            f"`vpr weights add FILE --as {name}`, train it (`vpr train {name}`), or see the random network "
            f"with --untrained.{published_at(name)}"
        )
    load_weights(model, path)
    return model, str(path)


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write `content` when a file was asked for."""
    if path is not None:
        from vpr_lib.paths import write_text

        write_text(path, json.dumps(content, indent=1, default=str))


def show(text: str) -> None:
    """Print with rich's markup; long lines stay whole, so that paths can be copied."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(text)
