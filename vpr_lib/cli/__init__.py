"""The `vpr` command. Every command imports what it needs when it runs, so that `vpr --help` answers at once."""

import logging
import sys
from io import TextIOWrapper

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Visual place recognition workbook: data, models, training, retrieval, results.")  # fmt: skip


def _register() -> None:
    """Give every command its word, in the order in which `vpr --help` lists them."""
    if app.registered_commands:
        return
    from vpr_lib.cli import bench, data, evaluate, export, retrieve, run, train, weights

    words = {
        "run": run.run, "status": run.status, "report": run.report, "check": run.check, "evaluate": evaluate.evaluate,
        "retrieve": retrieve.retrieve, "train": train.train, "toy-start": train.toy_start, "bundle": train.bundle,
        "centres": train.centres, "models": weights.list_models, "export": export.export_model, "bench": bench.bench,
    }  # fmt: skip
    groups = {
        "data": ("Data sets: list, get, build, prepare, check, show.", {
            "list": data.list_datasets, "get": data.get, "build": data.build, "prepare": data.prepare, "check": data.check,
            "show": data.show_dataset,
        }),
        "weights": ("Published checkpoints: get, add, list.", {
            "get": weights.get, "add": weights.add, "list": weights.list_weights,
        }),
        "submit": ("Files for servers that keep their ground truth.", {"msls": evaluate.submit_msls}),
    }  # fmt: skip
    for word, command in words.items():
        app.command(word)(command)
    for group, (about, members) in groups.items():
        typer_group = typer.Typer(help=about, no_args_is_help=True)
        for word, command in members.items():
            typer_group.command(word)(command)
        app.add_typer(typer_group, name=group)


def main() -> None:
    """Entry point: a mistake of the user ends in one message on stderr and exit code 2, not in a traceback."""
    # a terminal without a sign gets '?' for it: no command dies from its own output
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "urllib3", "lightning", "lightning.fabric", "faiss.loader", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _register()
    try:
        app()
    except (ValueError, OSError) as error:  # OSError: absent files, no permission, a full disk
        if "--traceback" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
