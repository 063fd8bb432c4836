"""`vpr weights` and `vpr models`: what can be built, which weights are at hand, published files fetched, others registered."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import JsonFile, how_to_get, plain, show, sum_up, write_json

WIDE = 130  # columns of a terminal


def get(
    name: Annotated[str, typer.Argument(help="A model, trunk or cloud model; `vpr weights list` names them.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every file that a program can fetch.")] = False,
    profile: Annotated[str, typer.Option(help="What the notebooks of this profile can use.")] = "",
    json: JsonFile = None,
) -> None:
    """Fetch published weights (resumed), load them strictly, keep them for all commands.

    One that cannot be had does not stop the others; the exit code is 1 when any is missing in the end.
    """
    from vpr_lib.data.download import DownloadError
    from vpr_lib.models.checkpoints import CheckpointError
    from vpr_lib.models.pretraining import fetch_pretraining, is_fetched
    from vpr_lib.models.published import load_published
    from vpr_lib.models.registration import fetch_weights

    if sum((bool(name), everything, bool(profile))) != 1:
        raise ValueError("Say one of: NAME, --all, --profile P. `vpr weights list` shows what is published.")
    names = [name] if name else list(load_published())
    if profile:
        from vpr_lib.workbook.run.needs import needs_of

        needs = needs_of(profile)
        names = [*(needed for needed in needs.weights if needed in load_published()), *needs.trunks]
    outcomes, failed = {}, []
    for wanted in names:
        known = load_published().get(wanted)
        if everything and known.by_hand:
            continue
        try:
            if known is None and is_fetched(wanted):
                outcomes[wanted] = "fetched" if fetch_pretraining(wanted) else "here already"
            else:
                entry = fetch_weights(wanted)
                outcomes[wanted] = "here already" if entry is None else f"fits, kept as {entry.path}"
            show(
                f"[green]✓[/green] {wanted}: {plain(outcomes[wanted])} [dim]({known.licence if known else 'ImageNet pre-training'})[/dim]"
            )
        except (DownloadError, CheckpointError, OSError) as error:
            outcomes[wanted] = str(error)
            failed.append(wanted)
            show(f"[red]✗[/red] {wanted}: {plain(error)}")
    write_json(json, outcomes)
    if len(names) > 1:
        by_hand = [wanted for wanted in failed if wanted in load_published() and load_published()[wanted].by_hand]
        again = [wanted for wanted in failed if wanted not in by_hand]
        sum_up(len(names) - len(failed), len(names), "", again, by_hand)
    if failed:
        raise typer.Exit(1)


def add(
    file: Annotated[Path, typer.Argument(help="Checkpoint: raw state dict, Lightning file, safetensors, MatConvNet.")],
    model: Annotated[str, typer.Option("--as", help="The model it belongs to; known for published file names.")] = "",
    source: Annotated[str, typer.Option(help="Where it came from, for the record.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence, for the record.")] = "",
    json: JsonFile = None,
) -> None:
    """Check a checkpoint against a model (strictly) and keep it for all commands; record name, sha256, source, licence."""
    from vpr_lib.models.published import name_of_file, published_at
    from vpr_lib.models.registration import register_weights

    model = model or name_of_file(file.name)
    if not model:
        raise ValueError(f"{file.name} is no published file name: say which model it belongs to with --as NAME.")
    if not file.is_file():
        raise FileNotFoundError(f"No checkpoint {file}.{published_at(model)}")
    entry = register_weights(file, model, source, licence)
    typer.echo(f"{file.name} fits {model}; kept as {entry.path} (sha256 {entry.about['sha256'][:16]}…)")
    write_json(json, entry.about | {"path": str(entry.path)})


def list_weights(json: JsonFile = None) -> None:
    """List published files and the weights at hand: name, file, size, how to get it, licence."""
    from json import loads

    from rich.console import Console
    from rich.table import Table

    from vpr_lib.models.checkpoints import trained_path
    from vpr_lib.models.published import load_published
    from vpr_lib.models.registration import kept_at

    stored = {
        path.stem: loads(path.read_text(encoding="utf-8")) for path in sorted(trained_path("any").parent.glob("*.json"))
    }
    rows = [
        (name, "yes" if kept_at(name).is_file() else "by hand" if known.by_hand else "-", known.size_in_words, known.licence, known.source,
         known.file)
        for name, known in load_published().items()
    ]  # fmt: skip
    for name, about in stored.items():
        if name not in load_published():
            trained = f"trained here to '{about['recipe']}'" if "recipe" in about else "-"
            source = about.get("source") or trained
            rows.append((name, "yes", "", about.get("licence", "-"), source, about.get("file", "-")))
    console = Console()
    shown = 6 if console.width >= WIDE else 4  # source and file are left out on a narrow terminal
    heads = ("name", "here", "size", "licence", "source", "file")[:shown]
    table = Table(box=None)
    for head in heads:
        table.add_column(head, no_wrap=head in heads[:3])  # names are to be copied
    for row in rows:
        table.add_row(*map(plain, row[:shown]))
    console.print(table)
    write_json(json, stored)


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
