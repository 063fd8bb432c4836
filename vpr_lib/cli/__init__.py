"""The `vpr` command. Every command imports what it needs when it runs, so that `vpr --help` answers at once."""

import logging
import sys
from io import TextIOWrapper

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Visual place recognition workbook: data, models, training, retrieval, results.")  # fmt: skip


def _register() -> None:
    if app.registered_commands:
        return
    from vpr_lib.cli import (
        bench,
        centres,
        check,
        data,
        evaluate,
        export,
        models,
        recalls,
        retrieve,
        run,
        submit,
        train,
        weights,
    )

    run.register(app, after=recalls.print_recalls)
    for module in (check, data, evaluate, retrieve, train, centres, models, weights, submit, export, bench):
        module.register(app)


def main() -> None:
    """Entry point: a mistake of the user ends in one message on stderr and exit code 2, not in a traceback."""
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a terminal without a sign gets '?' for it: no command dies from its own output
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
