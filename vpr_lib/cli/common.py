"""What several commands share: finding weights, writing JSON, the options they have in common."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from torch import nn

ModelName = Annotated[str, typer.Argument(help="A name of the zoo; `vpr models` lists them.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where the data set is.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this JSON file too.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[
    Literal["fp32", "tf32", "bf16", "fp16"],
    typer.Option(help="What the network computes in; tf32 lets a GPU round fp32 products."),
]
Weights = Annotated[
    Path | None, typer.Option(help="Checkpoint; default: what `vpr train` or `vpr weights add` stored.")
]
Index = Annotated[
    str,
    typer.Option(
        help="exact; flat (faiss; on the GPU with faiss-gpu); ivfpq (approximate, from 10,000 images on); milvus (extra 'engine')."
    ),
]
Runtime = Annotated[
    str, typer.Option(help="torch, an export of the model (onnx, openvino-int8 ...), or the path of an export.")
]
PACKAGE = "part of the package"  # where the weights of a bundled model come from
RawFrame = Annotated[
    bool, typer.Option("--raw-frame", help="Keep pictures as stored, whatever their EXIF orientation says.")
]
Untrained = Annotated[bool, typer.Option(help="Use random weights, as a baseline.")]


def sum_up(here: int, count: int, things: str, failed: list[str], by_hand: list[str]) -> None:
    """The last lines of a command that fetches several: what is here, what failed, what waits for a person."""
    show(f"[bold]{here} of {count} {things}are here[/bold]")
    if failed:
        show(f"  failed, run this again: {', '.join(failed)}")
    if by_hand:
        show(f"  by hand, see above: {', '.join(by_hand)}; without them the notebooks leave holes")


def choose_device(name: str) -> str:
    """`auto` becomes cuda where there is one (ValueError for a device that does not exist here)."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"Device '{name}' asked for, but torch sees no CUDA device here. Use --device cpu.")
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    here = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if name not in here:
        raise ValueError(f"Unknown device '{name}'. Known here: auto, {', '.join(here)}.")
    return name


def join_processes(device: str) -> tuple[int, int, str]:
    """Rank, number of processes and this one's device: (0, 1, device) unless `torchrun` started the command."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1, device
    import torch.distributed as dist

    dist.init_process_group("gloo")  # descriptors travel from processor memory, from GPUs as well
    return dist.get_rank(), world, f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device


def load_model(name: str, weights: Path | None, untrained: bool) -> tuple["nn.Module", str]:
    """A model of the zoo with its weights, and in words where they came from.

    Raises:
        ValueError: for an unknown model, or when no weights are known; the message says how to get some.
    """
    from vpr_lib.models.checkpoints import bundled_path, load_bundled, load_weights, trained_path
    from vpr_lib.models.published import published_at
    from vpr_lib.models.zoo import TRAINING_FREE, ZOO, build_model
    from vpr_lib.registry import lookup

    lookup(ZOO, name, "model")
    free = name in TRAINING_FREE
    if weights is not None and (free or untrained):
        why = f"'{name}' needs none" if free else "--untrained is given"
        raise ValueError(f"--weights {weights} would not be used: {why}.")
    if free or untrained:
        return build_model(name, pretrained=free), "training-free" if free else "untrained"
    path = weights or trained_path(name)
    if path.is_file():
        model = build_model(name)
        load_weights(model, path)
        return model, str(path)
    if weights is not None:
        raise FileNotFoundError(f"No checkpoint {weights}.{published_at(name)}")
    if bundled_path(name).is_file():
        model = build_model(name, pretrained=True)
        load_bundled(model, name)
        return model, PACKAGE
    raise ValueError(
        f"No weights for '{name}': run `{how_to_get(name)[1]}`, give a checkpoint of yours with --weights FILE (or keep it by "
        f"`vpr weights add FILE --as {name}`), or see the random network with --untrained.{published_at(name)}"
    )


def how_to_get(name: str) -> tuple[str, str]:
    """What a model of the zoo needs before it works ('' for nothing), and the command that gets it, or where its weights are."""
    from vpr_lib.models.checkpoints import bundled_path, trained_path
    from vpr_lib.models.published import load_published
    from vpr_lib.models.zoo import TRAINING_FREE
    from vpr_lib.training.recipes import load_recipe, recipe_of

    here = ((name in TRAINING_FREE, "no weights"), (trained_path(name).is_file(), str(trained_path(name))),
            (bundled_path(name).is_file(), PACKAGE))  # fmt: skip
    if place := next((words for is_so, words in here if is_so), ""):
        return "", place
    known = load_published().get(name)
    if known is not None and known.by_hand is None:
        return f"a file, {known.size_in_words}", f"vpr weights get {name}"
    if known is None and (recipe := recipe_of(name)):
        return f"training on {load_recipe(recipe[0]).train_set}", f"vpr train {' '.join(recipe)}"
    return "a file from its authors" if known else "a file", f"vpr weights add FILE --as {name}"


def open_network(
    model: str, weights: Path | None, untrained: bool, runtime: str, device: str, precision: str, raw_frame: bool
) -> tuple["nn.Module", str, str, str]:
    """A model or an export of it, with where it came from, its device and what it computes in; see `load_model`, `_load_export`."""
    if runtime == "torch":
        device = choose_device(device)
        network, source = load_model(model, weights, untrained)
    else:
        network, source, device, precision = _load_export(model, runtime, weights, device)
    if raw_frame:
        _keep_raw_frame(network)
        source += ", pictures as stored"  # what records, and their replacement, say
    return network, source, device, precision


def _load_export(model: str, runtime: str, weights: Path | None, device: str) -> tuple["nn.Module", str, str, str]:
    """An export with where it came from, the device it runs on and the precision it computes in; says so when the weights
    that the model's name stands for are others.

    Raises:
        ValueError: with --weights, or for an export of another model; what `find_export` raises.
    """
    from vpr_lib.models.checkpoints import weights_hash
    from vpr_lib.models.export import ShippedModel, find_export

    if weights is not None:
        raise ValueError("--weights goes with --runtime torch: an export holds its own. Export those weights first.")
    folder = find_export(runtime, model)
    shipped = ShippedModel(folder, "cpu" if device == "auto" else device)
    if shipped.config.model != model:
        raise ValueError(f"{folder} is an export of '{shipped.config.model}', not of '{model}'.")
    with suppress(ValueError):  # no weights are registered: nothing to compare with
        network, source = load_model(model, None, untrained=False)
        if weights_hash(network) != shipped.config.weights:
            show(f"[yellow]{plain(folder)} holds other weights than {plain(source)}: `vpr export` again[/yellow]")
    return shipped, str(folder), "cpu" if device == "auto" else device, f"{shipped.config.format} {shipped.runs_in}"


def _keep_raw_frame(model: "nn.Module") -> None:
    """Let a model read pictures as they are stored (ValueError for one that has no such choice)."""
    from dataclasses import replace

    if hasattr(type(model), "input_spec"):
        if "upright" not in type(model.config).model_fields:
            raise ValueError(f"--raw-frame is not for {type(model).__name__}.")
        model.config = model.config.model_copy(update={"upright": False})
    else:
        model.input_spec = replace(model.input_spec, upright=False)


def found_in_words(index: str, found: dict[int, float]) -> str:
    """What an approximate index costs: its share of the exact neighbours."""
    shares = ", ".join(f"{100 * share:.1f} % of the exact first {k}" for k, share in found.items())
    return f"index {index} finds {shares}"


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write `content` when a file was asked for."""
    if path is not None:
        from vpr_lib.paths import write_text

        write_text(path, json.dumps(content, indent=1, default=str))


def plain(text: object) -> str:
    """Text from outside (names, paths, messages) whose square brackets are no markup."""
    from rich.markup import escape

    return escape(str(text))


def show(text: str) -> None:
    """Print with rich's markup; long lines stay whole, so that paths can be copied. What came from outside goes through `plain`."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(text)
