"""`vpr check`: what a run of a profile would find on this machine, before it starts."""

from typing import Annotated

import typer

from vpr_lib.cli.common import JsonFile, write_json


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    profile: Annotated[str, typer.Option("--profile", "-p", help="A profile by name, or a YAML file.")] = "toy",
    measure: Annotated[bool, typer.Option(help="Measure this machine's speed for the estimate of hours.")] = True,
    json: JsonFile = None,
) -> None:
    """Say what of a profile's data and weights is here, what will be left out and why, disk, GPU and expected hours.

    The exit code is 1 when a notebook would be left out.
    """
    from vpr_lib.workbook.run.preflight import in_words, look_ahead

    outlook = look_ahead(profile, measure)
    typer.echo("\n".join(in_words(outlook)))
    write_json(json, {"profile": outlook.profile.name, "missing": outlook.missing, "left_out": outlook.left_out, "free_gb": outlook.free_gb,
                      "to_write_gb": outlook.to_write_gb, "to_fetch_gb": outlook.to_fetch_gb, "gpu_gb": outlook.gpu_gb,
                      "images_per_s": outlook.images_per_s, "hours": outlook.hours})  # fmt: skip
    if outlook.left_out:
        raise typer.Exit(1)
