"""The recall table that `vpr run` prints when it is done."""

from typing import TYPE_CHECKING

from vpr_lib.cli.common import plain, show

if TYPE_CHECKING:
    from vpr_lib.workbook.run.runner import RunResult


def print_recalls(result: "RunResult") -> None:
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
