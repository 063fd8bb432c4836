"""`vpr models` and `vpr weights`: what can be built, and which weights are at hand."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import JsonFile, write_json


def register(app: typer.Typer) -> None:
    app.command("models")(list_models)
    weights = typer.Typer(help="Register official or own checkpoints.", no_args_is_help=True)
    weights.command("add")(add)
    weights.command("list")(list_weights)
    app.add_typer(weights, name="weights")


def list_models(json: JsonFile = None) -> None:
    """List the zoo: name, system, input size, and whether weights are registered."""
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.checkpoints import trained_path
    from vpr_lib.models.zoo import TRAINING_FREE, ZOO

    table = Table("model", "system", "backbone", "aggregator", "input (h x w)", "weights")
    for name, config in ZOO.items():
        state = "needs none" if name in TRAINING_FREE else "yes" if trained_path(name).is_file() else "-"
        table.add_row(
            name, config.system, config.backbone, config.aggregator, "{} x {}".format(*config.image_size), state
        )
    Console().print(table)
    write_json(json, {name: config.model_dump() for name, config in ZOO.items()})


def add(
    file: Annotated[Path, typer.Argument(help="Checkpoint: raw state dict, Lightning file, safetensors, MatConvNet.")],
    model: Annotated[str, typer.Option("--as", help="The model it belongs to; known for published file names.")] = "",
    source: Annotated[str, typer.Option(help="Where it came from, for the record.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence, for the record.")] = "",
    json: JsonFile = None,
) -> None:
    """Check a checkpoint against a model (strictly) and keep it for all commands; record name, sha256, source, licence."""
    from vpr_lib.digests import digest_file
    from vpr_lib.models.backbones import build_backbone
    from vpr_lib.models.checkpoints import load_weights, save_weights, trained_path
    from vpr_lib.models.published import PUBLISHED, TRUNKS, Published, published_at
    from vpr_lib.models.zoo import build_model

    trunks = {trunk.file: Published(name, trunk.source, trunk.licence) for name, trunk in TRUNKS.items()}
    known = (PUBLISHED | trunks).get(file.name, Published(model, "", "not stated"))
    model = model or known.model
    if not model:
        raise ValueError(f"{file.name} is no published file name: say which model it belongs to with --as NAME.")
    if not file.is_file():
        raise FileNotFoundError(f"No checkpoint {file}.{published_at(model)}")
    network = build_backbone(TRUNKS[model].backbone) if model in TRUNKS else build_model(model)
    load_weights(network, file)
    about = {"model": model, "file": file.name, "sha256": digest_file(file), "source": source or known.source,
             "licence": licence or known.licence, "added": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
    path = save_weights(network, trained_path(model), about)
    typer.echo(f"{file.name} fits {model}; kept as {path} (sha256 {about['sha256'][:16]}…)")
    write_json(json, about | {"path": str(path)})


def list_weights(json: JsonFile = None) -> None:
    """List the weights at hand: model, file they came from, sha256, source, licence."""
    from json import loads

    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.checkpoints import trained_path

    folder = trained_path("any").parent
    found = {path.stem: loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    table = Table("model", "file", "sha256", "source", "licence")
    for name, about in found.items():
        trained = f"trained here to '{about['recipe']}'" if "recipe" in about else "-"
        table.add_row(name, about.get("file", "-"), about.get("sha256", "-")[:16], about.get("source", trained),
                      about.get("licence", "-"))  # fmt: skip
    Console().print(table if found else f"No weights under {folder}: `vpr weights add FILE` or `vpr train RECIPE`.")
    write_json(json, found)
