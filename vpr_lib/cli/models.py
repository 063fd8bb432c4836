"""`vpr models`: what can be built, what works at once, and the command that gets what the others need."""

import typer

from vpr_lib.cli.common import JsonFile, how_to_get, write_json


def register(app: typer.Typer) -> None:
    app.command("models")(list_models)


def list_models(json: JsonFile = None) -> None:
    """List the zoo: what works at once first, then what each of the others needs and the command that gets it."""
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.zoo import ZOO

    ways = {name: how_to_get(name) for name in ZOO}
    table = Table("model", "system", "reads", "input (h x w)", "needs", "command, or where the weights are", box=None)
    for name in sorted(ZOO, key=lambda name: ways[name][0] != ""):
        config, (needs, way) = ZOO[name], ways[name]
        size = "{} x {}".format(*config.image_size) if "image" in config.reads else "-"
        told = needs or "[green]nothing: works at once[/green]"
        table.add_row(name, config.system, " ".join(config.reads), size, told, way)
    console = Console(soft_wrap=True)
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    write_json(
        json, {name: {**ZOO[name].model_dump(), "needs": ways[name][0], "command": ways[name][1]} for name in ZOO}
    )
