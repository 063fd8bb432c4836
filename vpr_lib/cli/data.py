"""`vpr data`: which data sets there are, how to get or build them, whether they are whole, what they look like."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import JsonFile, plain, show, sum_up, write_json

Name = Annotated[str, typer.Argument(help="A data set; `vpr data list` names them.")]
Root = Annotated[Path | None, typer.Option(help="Where the data set is; default its folder below VPR_DATA.")]
USERS = {"MixVPR": "M", "Lightweight-MixVPR": "L", "DINO-Mix": "D", "ClusVPR": "C", "DistilVPR": "K"}
WIDE = 110  # columns of a terminal
WIDTHS, SIDES = (20, 10, 8, 7, 5, 7, 8), ("left", "right", "right", "right", "left", "left", "left")
COLOURS = {"failure": "red", "warning": "yellow", "note": "dim"}


def list_datasets(
    family: Annotated[str | None, typer.Option(help="Only one family, for instance msls.")] = None,
    json: JsonFile = None,
) -> None:
    """List what is known: sizes, licence, who uses it, how to get it, and what is on this disk."""
    from vpr_lib.data.catalogue import load_table, status
    from vpr_lib.registry import lookup

    table = load_table()
    if family is not None:
        lookup(table.families, family, "family")
    chosen = {name: entry for name, entry in table.datasets.items() if family in (None, entry.family)}
    _print_list(chosen, table.families)
    write_json(json, {name: entry.model_dump() | status(name) for name, entry in chosen.items()})


def get(
    name: Annotated[str, typer.Argument(help="A data set; `vpr data list` names them.")] = "",
    profile: Annotated[str, typer.Option(help="Every data set that the notebooks of this profile ask for.")] = "",
    keep_archive: Annotated[bool, typer.Option(help="Keep the archive after unpacking.")] = False,
) -> None:
    """Fetch data sets where a public address exists (resumed, checked, unpacked safely); otherwise say what to do by hand.

    One that cannot be had does not stop the others; the exit code is 1 when any is missing in the end.
    """
    from vpr_lib.data.catalogue import find, is_here
    from vpr_lib.data.download import DownloadError
    from vpr_lib.data.unpack import ArchiveError

    if bool(name) == bool(profile):
        raise ValueError("Say NAME or --profile P. `vpr data list` shows what there is.")
    names = [name]
    if profile:
        from vpr_lib.workbook.run.needs import needs_of

        names = list(needs_of(profile).data)
    told, failed = {}, []
    for wanted in names:
        try:
            _get(wanted, keep_archive, told)
        except (DownloadError, ArchiveError) as error:
            if not profile:
                raise
            failed.append(wanted)
            show(f"  [red]✗[/red] {plain(error)}")
    missing = [wanted for wanted in names if not find(wanted).generated and not is_here(wanted)]
    if profile:
        by_hand = [wanted for wanted in missing if wanted not in failed]
        sum_up(len(names) - len(missing), len(names), "data sets ", failed, by_hand)
    if missing:
        raise typer.Exit(1)


def _get(name: str, keep_archive: bool, told: dict[tuple[str, ...], str]) -> None:
    """Fetch one data set, or say its steps; `told` says of whom they were said already."""
    from vpr_lib.data.catalogue import default_root, find, how_to_get, is_here, load_table
    from vpr_lib.data.get import disk_need_gb, fetch_all

    dataset, way, need = find(name), how_to_get(name), disk_need_gb(name)
    room = f"; needs about {need:.1f} GB of disk" if need else ""
    show(f"[bold]{name}[/bold]: {dataset.about}\n  licence: {load_table().families[dataset.family].licence}{room}")
    folder = default_root(name) or Path("<your folder>")
    place = fetch_all(name, keep_archive)
    if place is not None:
        show(f"  in {plain(place)}" + (f"; next: vpr data check {name}" if is_here(name) else ", to be made ready:"))
    if place is None or not is_here(name):
        steps = tuple(step.format(folder=folder) for step in way.steps)
        if told.setdefault(steps, name) != name:
            return show(f"  the same steps as for {told[steps]}, above")
        for number, step in enumerate(steps, 1):
            show(f"  {number}. {plain(step)}")
    if way.kaggle and place is None:
        show(
            "  Kaggle's client fetches it, too: pip install kaggle, put its token into ~/.kaggle/kaggle.json, run this again."
        )
    elif place is None and not dataset.generated:
        show(f"There is no public address to fetch [bold]{name}[/bold] from; the steps above are for you.")


def build(
    name: Annotated[str, typer.Argument(help="oxford or boreas.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set; the pickles are written here.")],
    raw: Annotated[Path | None, typer.Option(help="Boreas: folder of the raw drives.")] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Drive to test on; repeatable. Oxford: the published 23.")
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="Drive to train on; repeatable. Oxford: all but the last.")
    ] = None,
) -> None:
    """Build the training and evaluation pickles of run pairs.

    Oxford: from the tables of submap locations, by the published rules. Boreas: submaps, images and pickles from raw drives;
    its own generator is not published, the choices made here are in `vpr_lib/data/boreas.py`.
    """
    from vpr_lib.data import boreas
    from vpr_lib.data.readers import pointnetvlad, submaps
    from vpr_lib.registry import lookup

    def oxford():
        pairs = submaps.build_run_pairs(root, test)
        tuples = submaps.build_training_tuples(root, train or submaps.run_folders(root)[:-1])
        pointnetvlad.write_evaluation_pickles(root, pairs)
        pointnetvlad.write_training_pickle(root, tuples)
        return pairs, tuples

    def from_raw():
        if raw is None:
            raise ValueError("Boreas is built from raw drives: say where they are with --raw.")
        return boreas.build_boreas(raw, root, test or [], train or [])

    pairs, tuples = lookup({"oxford": oxford, "boreas": from_raw}, name, "data set with a builder")()
    matched = sum(pairs.counted.values())
    show(
        f"{plain(root)}: {len(pairs.runs)} drives to test with {sum(map(len, pairs.databases)):,} submaps, {matched:,} queries with a "
        f"match; {len(tuples.database):,} submaps to train on, {len(tuples.usable):,} of them with a positive and a negative"
    )


def prepare(name: Name, root: Root = None, json: JsonFile = None) -> None:
    """Build tables and ground truth once and keep them; print the totals."""
    import time

    from vpr_lib.data.catalogue import find, prepare_dataset
    from vpr_lib.data.totals import totals

    start = time.monotonic()
    content, folder = prepare_dataset(name, root)
    numbers = totals(content)
    _print_totals(numbers, find(name).expected)
    show(f"  [dim]{time.monotonic() - start:.1f} s; kept in {plain(folder)}[/dim]")
    write_json(json, {"name": name, "totals": numbers, "kept": str(folder)})


def check(
    name: Name,
    root: Root = None,
    decode: Annotated[
        bool, typer.Option(help="Open every file completely; --no-decode checks counts and names only.")
    ] = True,
    workers: Annotated[int | None, typer.Option(help="Threads; default all cores.")] = None,
    json: JsonFile = None,
) -> None:
    """Check counts, lists, names, every file, and duplicates; the exit code is 1 when something must be mended."""
    from vpr_lib.data.catalogue import find
    from vpr_lib.data.findings import check_dataset, summary

    report = check_dataset(name, root, decode, workers)
    show(f"[bold]{name}[/bold] in {plain(report.root)}")
    _print_totals(report.totals, find(name).expected)
    for finding in sorted(report.findings, key=lambda finding: list(COLOURS).index(finding.level)):
        show(f"  [{COLOURS[finding.level]}]{finding.level:8s}[/] {plain(finding.what)}")
        for line in (*finding.examples, *([finding.do] if finding.do else [])):
            show(f"           [dim]{plain(line)}[/dim]")
    show(f"  {summary(report.findings)} ({report.files:,} files, {report.seconds:.1f} s)")
    write_json(json, report.as_dict())
    if not report.ok:
        raise typer.Exit(1)


def show_dataset(
    name: Name,
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; default figures/data.")] = None,
    count: Annotated[int, typer.Option(help="Pictures on the sheet.")] = 24,
    seed: int = 1,
) -> None:
    """Draw a sheet of sample pictures and, where there are positions, a map; print where they are."""
    from vpr_lib.cli.data_pictures import draw_dataset
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.paths import figures_root

    for path in draw_dataset(name, open_dataset(name, root), out or figures_root() / "data", count, seed):
        show(plain(path))


def _print_list(chosen: dict, families: dict) -> None:
    """One block per family; what each data set is about is left out on a narrow terminal."""
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table

    from vpr_lib.data.catalogue import status

    console = Console()
    for family, entries in groupby(chosen.items(), lambda item: item[1].family):
        about = families[family]
        console.print(f"\n[bold]{about.title}[/bold]  [dim]{about.licence}[/dim]", highlight=False)
        block = Table(box=None, show_header=False, padding=(0, 1))
        for width, side in zip(WIDTHS, SIDES):
            block.add_column(width=width, justify=side, no_wrap=True)
        for name, entry in entries:
            state = status(name)
            count = entry.count("database") or entry.count("images")
            size = "" if entry.size_gb is None else f"{entry.size_gb[0]:g} GB"
            users = {used.split(" (")[0] for used in entry.users}
            letters = "".join(letter for user, letter in USERS.items() if user in users)
            row = [name, count, entry.count("queries"), size, letters, state["get"], state["here"]]
            block.add_row(*row, *([entry.about] if console.width >= WIDE else []))
        console.print(block)
    console.print("\n[dim]columns: data set, database (or training) images, queries, size, used by, get, here; ~ not verified\n"
                  f"used by: {', '.join(f'{letter} {user}' for user, letter in USERS.items())}\n"
                  "`vpr data get NAME` fetches, or says what to do by hand[/dim]", highlight=False)  # fmt: skip


def _print_totals(numbers: dict[str, int], expected: dict) -> None:
    for what, number in numbers.items():
        wanted, tag = expected.get(what, (None, ""))
        verdict = "as expected" if wanted == number else f"expected {wanted}"
        show(f"  {plain(what):44s} {number:>14,}" + ("" if wanted is None else plain(f"  [{tag}] {verdict}")))
