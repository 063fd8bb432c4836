"""`vpr models`: what can be built, and whether its weights are at hand."""

import typer

from vpr_lib.cli.common import JsonFile, write_json


def register(app: typer.Typer) -> None:
    app.command("models")(list_models)


def list_models(json: JsonFile = None) -> None:
    """List the zoo: name, system, input size, and whether weights are registered."""
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.checkpoints import trained_path
    from vpr_lib.models.zoo import TRAINING_FREE, ZOO

    table = Table("model", "system", "reads", "backbone", "aggregator", "input (h x w)", "weights")
    for name, config in ZOO.items():
        state = "needs none" if name in TRAINING_FREE else "yes" if trained_path(name).is_file() else "-"
        table.add_row(
            name,
            config.system,
            " ".join(config.reads),
            config.backbone if "image" in config.reads else "-",
            config.aggregator,
            "{} x {}".format(*config.image_size) if "image" in config.reads else "-",
            state,
        )
    Console().print(table)
    write_json(json, {name: config.model_dump() for name, config in ZOO.items()})
