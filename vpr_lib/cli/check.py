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

    found = look_ahead(profile, measure)
    typer.echo("\n".join(in_words(found)))
    write_json(json, {"profile": found.profile.name, "missing": found.missing, "left_out": found.left_out, "free_gb": found.free_gb,
                      "to_write_gb": found.to_write_gb, "to_fetch_gb": found.to_fetch_gb, "gpu_gb": found.gpu_gb,
                      "images_per_s": found.images_per_s, "hours": found.hours})  # fmt: skip
    if found.left_out:
        raise typer.Exit(1)
