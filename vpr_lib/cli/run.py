"""`vpr run`, `vpr status` and `vpr report`. Imports stand inside the functions, so that `vpr --help` stays fast."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vpr_lib.workbook.run.prepare import Request
    from vpr_lib.workbook.run.runner import RunResult

After = Callable[["RunResult"], None]


def register(app: typer.Typer, after: After | None = None) -> None:
    """Add the three commands to the app; `after` is called with the result of every run, before the closing lines."""

    @app.command()
    def run(
        profile: Annotated[
            str, typer.Option("--profile", "-p", help="toy, city, released, light, paper, or a YAML file.")
        ] = "toy",
        only: Annotated[
            list[str] | None, typer.Option(help="Run just this notebook: name or prefix; repeatable.")
        ] = None,
        start_from: Annotated[
            str | None, typer.Option("--from", help="Run this notebook and everything after it.")
        ] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="Parameter, as 02.epochs=3; repeatable.")] = None,
        force: Annotated[bool, typer.Option(help="Run also what is green already.")] = False,
        fetch: Annotated[
            bool, typer.Option("--fetch", help="Let models fetch the pre-training they start from.")
        ] = False,
        keep_going: Annotated[bool, typer.Option(help="After a failure, run what does not depend on it.")] = True,
        run_id: Annotated[str | None, typer.Option(help="Name of the run's folder; default: time and profile.")] = None,
        report: Annotated[bool, typer.Option(help="Build the HTML report at the end.")] = True,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
        jobs: Annotated[
            int | None, typer.Option(min=1, help="Notebooks side by side, each with its share of the threads.")
        ] = None,
        nightly: Annotated[
            bool, typer.Option("--nightly", help="One at a time, with retries, compared with the last green night.")
        ] = False,
        keep: Annotated[int, typer.Option(help="Nightly: keep so many green and so many other nights.")] = 14,
        accept: Annotated[
            bool, typer.Option("--accept", help="Nightly: take this night as the reference even if recall fell.")
        ] = False,
    ) -> None:
        """Execute the workbook's notebooks in order; what is green already is not run again.

        Exit codes: 0 all green (nightly: and same as the last green night, or better), 1 a notebook failed (or the
        report), 2 refused before the start (also while a night runs; nightly: while any run does), 3 only blocked, 130 Ctrl-C,
        143 SIGTERM. Nightly only: 4 recall fell significantly, 5 the disk is full, 6 a result of the last green night is
        gone or no longer comparable.
        """
        from vpr_lib.workbook.run.plan import UsageError
        from vpr_lib.workbook.run.prepare import Request
        from vpr_lib.workbook.run.runner import run_workbook
        from vpr_lib.workbook.run.terminal import choose_display

        if fetch:
            os.environ["VPR_FETCH"] = "1"
        limits = _look_ahead(profile)
        request = Request(profile, only, start_from, set_ or (), force, keep_going, run_id, jobs, limits)
        try:
            if nightly:
                result = _night(request, report, keep, accept)
            else:
                result = run_workbook(request, _pages if report else None, choose_display())
        except UsageError as error:
            typer.echo(f"Cannot start: {error}", err=True)
            raise typer.Exit(2) from error
        if json_file:
            _write_json(json_file, result)
        if after:
            after(result)
        _print_result(result)
        raise typer.Exit(result.exit_code)

    @app.command()
    def status(
        run: Annotated[str, typer.Argument(help="Run id; default: the latest run.")] = "latest",
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the status to this file.")] = None,
    ) -> None:
        """Show how a run stands."""
        from vpr_lib import paths
        from vpr_lib.workbook.run.status import read_status
        from vpr_lib.workbook.run.terminal import print_status

        state = _or_exit(lambda: read_status(run))
        print_status(state)
        if json_file:
            paths.write_text(json_file, state.model_dump_json(indent=1))

    @app.command()
    def report(run: Annotated[str, typer.Argument(help="Run id; default: the latest run.")] = "latest") -> None:
        """Build the HTML report of a run again."""
        typer.echo(_or_exit(lambda: _pages(run)))


def _pages(run: "Path | str") -> Path:
    """Build the report of a run; imported when the run is over."""
    from vpr_lib.workbook.report.build import build_report

    return build_report(run)


def _look_ahead(profile: str) -> dict[str, float]:
    """Open with what of the profile's needs is here; a generated profile needs nothing, and nothing is said.

    Returns:
        the seconds that a cell of each notebook may take on this machine, where the profile is about data on disk.
    """
    from vpr_lib.workbook.run.needs import needs_of
    from vpr_lib.workbook.run.plan import UsageError
    from vpr_lib.workbook.run.preflight import in_words, look_ahead

    try:
        needs = needs_of(profile)
        if needs.data or needs.weights or needs.trunks:
            found = look_ahead(profile)
            typer.echo("\n".join(in_words(found)) + "\n")
            return found.limits
    except (UsageError, ValueError, OSError, KeyError):
        pass  # the run itself refuses it, with the whole message
    return {}


def _night(request: "Request", report: bool, keep: int, accept: bool) -> "RunResult":
    import errno

    from vpr_lib.workbook.night.nightly import run_nightly
    from vpr_lib.workbook.run.terminal import choose_display

    try:
        return run_nightly(request, report, choose_display(), keep, accept)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        typer.echo(f"Cannot start: {error}. Free some space, or pass a smaller --keep.", err=True)
        raise typer.Exit(5) from error


def _or_exit(action: Callable):
    """The action's value; a missing or damaged run ends the command with exit code 2 and its message."""
    try:
        return action()
    except (FileNotFoundError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


def _write_json(path: Path, result: "RunResult") -> None:
    import json

    from vpr_lib import paths

    places = {"folder": str(result.folder), "figures": str(result.figures), "report": str(result.report or "")}
    facts = result.status.model_dump(mode="json") | places | {"problem": result.problem}
    paths.write_text(path, json.dumps(facts, indent=1) + "\n")


def _print_result(result: "RunResult") -> None:
    """Why a notebook is not green, then where everything is."""
    from vpr_lib.workbook.run.status import BROKEN, EXIT_CODES, Status

    for line in result.notebooks:
        if line.status in BROKEN | {Status.BLOCKED}:
            typer.echo(f"\n{line.name} is {line.status}: {line.reason}", err=True)
        if line.status in BROKEN:
            typer.echo(f"  log: {result.folder / line.name}.log", err=True)
    if result.problem:
        typer.echo(result.problem, err=True)
    typer.echo(f"\nfigures  {result.figures}\nrun      {result.folder}")
    if result.report:
        typer.echo(f"report   {result.report}")
    if night := getattr(result, "night", None):
        typer.echo(f"night    {result.folder / 'nightly.html'}\n\n" + "\n".join(night.summary))
    if result.exit_code:
        typer.echo(f"exit code {result.exit_code}: {EXIT_CODES[result.exit_code]}", err=True)
