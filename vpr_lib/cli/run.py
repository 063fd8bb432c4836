"""`vpr run`, `vpr status`, `vpr report` and `vpr check`. Imports stand inside the functions, so that `vpr --help` stays fast."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr_lib.cli.common import JsonFile, plain, show, write_json

if TYPE_CHECKING:
    from vpr_lib.workbook.run.prepare import Request
    from vpr_lib.workbook.run.runner import RunResult


def run(
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="toy, city, released, light, paper, or a YAML file.")
    ] = "toy",
    only: Annotated[list[str] | None, typer.Option(help="Run just this notebook: name or prefix; repeatable.")] = None,
    start_from: Annotated[str | None, typer.Option("--from", help="Run this notebook and everything after it.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Parameter, as 02.epochs=3; repeatable.")] = None,
    force: Annotated[bool, typer.Option(help="Run also what is green already.")] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Let models fetch the pre-training they start from.")] = False,
    keep_going: Annotated[bool, typer.Option(help="After a failure, run what does not depend on it.")] = True,
    run_id: Annotated[str | None, typer.Option(help="Name of the run's folder; default: time and profile.")] = None,
    report: Annotated[bool, typer.Option(help="Build the HTML report at the end.")] = True,
    json: JsonFile = None,
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
    places = {
        "folder": result.folder,
        "figures": result.figures,
        "report": result.report or "",
        "problem": result.problem,
    }
    write_json(json, result.status.model_dump(mode="json") | places)
    _print_recalls(result)
    _print_result(result)
    raise typer.Exit(result.exit_code)


def status(
    run: Annotated[str, typer.Argument(help="Run id; default: the latest run.")] = "latest",
    json: JsonFile = None,
) -> None:
    """Show how a run stands."""
    from vpr_lib.workbook.run.status import read_status
    from vpr_lib.workbook.run.terminal import print_status

    state = read_status(run)
    print_status(state)
    write_json(json, state.model_dump(mode="json"))


def report(run: Annotated[str, typer.Argument(help="Run id; default: the latest run.")] = "latest") -> None:
    """Build the HTML report of a run again."""
    typer.echo(_pages(run))


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
    from vpr_lib.workbook.run.preflight import in_words, look_ahead

    try:
        needs = needs_of(profile)
        if needs.data or needs.weights or needs.trunks:
            found = look_ahead(profile)
            typer.echo("\n".join(in_words(found)) + "\n")
            return found.limits
    except (ValueError, OSError, KeyError):
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


def _print_recalls(result: "RunResult") -> None:
    """Print recall@1/5/10 with intervals of everything the profile has records of."""
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.paths import cache_root
    from vpr_lib.results.records import read_records
    from vpr_lib.results.tables import recall_table

    try:
        records = read_records(cache_root() / result.profile / "records")
    except ValueError as error:  # the run's own exit code stays what it is
        show(f"no table of recalls: {plain(error)}")
        return
    if records.empty:
        return
    table = Table("data set", "protocol", "model", "R@1 (95 %)", "R@5", "R@10", title=f"Recall, profile '{result.profile}'",
                  title_justify="left")  # fmt: skip
    for row in recall_table(records).sort_values(["dataset", "protocol", "R@1"], kind="stable").to_dict("records"):
        interval = f"{row['R@1']:5.1f}  ({row['R@1 low']:.1f} to {row['R@1 high']:.1f})"
        table.add_row(
            plain(row["dataset"]),
            row["protocol"],
            plain(row["model"]),
            interval,
            f"{row['R@5']:.1f}",
            f"{row['R@10']:.1f}",
        )
    Console().print(table)
    show(
        f"[dim]{records['device'].iloc[0]}, {records['precision'].iloc[0]}; per-query records under "
        f"{plain(cache_root() / result.profile / 'records')}[/dim]"
    )
