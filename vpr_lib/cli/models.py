"""`vpr models`: what can be built, and whether its weights are at hand."""

import typer

from vpr_lib.cli.common import JsonFile, write_json


def register(app: typer.Typer) -> None:
    app.command("models")(list_models)


def list_models(json: JsonFile = None) -> None:
    """List the zoo: name, system, input size, and whether weights are at hand or where they come from."""
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.checkpoints import bundled_path, trained_path
    from vpr_lib.models.published import load_published
    from vpr_lib.models.zoo import TRAINING_FREE, ZOO

    table = Table("model", "system", "reads", "backbone", "aggregator", "input (h x w)", "weights")
    for name, config in ZOO.items():
        known = load_published().get(name)
        if name in TRAINING_FREE:
            state = "works at once (no weights)"
        elif trained_path(name).is_file():
            state = "registered here"
        elif bundled_path(name).is_file():
            state = "works at once (package)"
        else:
            state = (
                f"vpr weights get {name}" if known is not None and known.by_hand is None else "train, or weights add"
            )
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
