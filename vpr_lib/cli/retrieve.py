"""`vpr retrieve`: your photos against your map; matches, distances, picture strips and a page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import (
    PACKAGE,
    Device,
    Index,
    JsonFile,
    Precision,
    RawFrame,
    Runtime,
    Untrained,
    Weights,
    found_in_words,
    open_network,
    plain,
    show,
    write_json,
)

PRINTED = 10  # queries whose match is printed; all are in the files


def retrieve(
    query: Annotated[Path, typer.Option(help="Folder of query images, searched recursively; or a film.")],
    database: Annotated[Path, typer.Option(help="Folder of database images, searched recursively; or a film.")],
    model: Annotated[
        str, typer.Option(help="A name of the zoo; 'places' needs no training and no download.")
    ] = "places",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("retrieval"),
    weights: Weights = None,
    untrained: Untrained = False,
    raw_frame: RawFrame = False,
    positions: Annotated[Path | None, typer.Option(help="CSV with image and easting, northing (or lat, lon).")] = None,
    matches: Annotated[
        Path | None, typer.Option(help="VPR-Bench ground truth; found by itself beside the folders.")
    ] = None,
    top_k: int = 10,
    frames_per_second: Annotated[
        float, typer.Option(help="Of films. A GPX track of the film's name beside it gives positions.")
    ] = 1.0,
    strips: Annotated[int, typer.Option(help="Draw strips for this many queries, evenly spread; 0 for none.")] = 200,
    runtime: Runtime = "torch",
    index: Index = "exact",
    json: JsonFile = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Find the best matches of every query; unreadable images are left out and named.

    Distances, a map and recall come with positions: '@' names, --positions, GPS in the EXIF of photos, a film's GPX track.
    """
    from vpr_lib.data.readers.film import folder_of
    from vpr_lib.data.readers.folders import read_folders
    from vpr_lib.models.checkpoints import foreign_below
    from vpr_lib.models.cost import count_parameters
    from vpr_lib.paths import cache_root
    from vpr_lib.results.records import Run
    from vpr_lib.retrieval.folders import retrieve_folders
    from vpr_lib.retrieval.protocol import unanswerable
    from vpr_lib.widgets.found import find_all
    from vpr_lib.widgets.retrieval_files import write_retrieval

    if inside := next(
        (side for side in (query, database) if side.resolve() in (out.resolve(), *out.resolve().parents)), None
    ):
        raise ValueError(
            f"--out {out} lies in {inside}: its strips would be images of the next run. Give a folder elsewhere."
        )
    start = time.perf_counter()
    network, source, device, precision = open_network(model, weights, untrained, runtime, device, precision, raw_frame)
    torch = runtime == "torch"  # an export's size and precision are in its file
    size = f"{count_parameters(network) / 1e6:.2f} M parameters" if torch else f"{network.config.bytes / 1e6:.2f} MB"
    beside = query.resolve().parent / "ground_truth_new.npy"
    if matches is None and positions is None and beside.is_file() and beside.parent == database.resolve().parent:
        matches = beside
    sides = [folder_of(side, frames_per_second) for side in (database, query)]
    benchmark = read_folders(*sides, positions, matches=matches, name=query.resolve().parent.name)
    below = foreign_below(model) if source == PACKAGE else None
    options = {"device": device, "precision": precision} if torch else {}
    found = retrieve_folders(
        network, benchmark, top_k, cache_root() / "descriptors", index=index, foreign_below=below, **options
    )
    run = Run(model, network.config.system, network.dim, weights=source, device=device, precision=precision)
    about = {"model": model, "weights": source, "size": size, "runtime": runtime, "device": device, "precision": precision,
             "queries": len(found.benchmark.queries), "database": len(found.benchmark.database),
             "left_out": found.left_out, "describe_s": found.describe_s, "search_s": found.search_s,
             "described": dict(zip(("database", "queries"), found.described)),
             "per_image_ms": dict(zip(("database", "queries"), found.per_image_ms)),
             "search_ms_per_query": 1000 * found.search_s / len(found.benchmark.queries),
             "index": index, "found_of_exact": found.found_of_exact, "recall": found.recall,
             "unanswerable": unanswerable(found.benchmark.protocol) if found.benchmark.protocols else ""}  # fmt: skip
    if below is not None:
        about["foreign_below"] = below
        about["foreign"] = found.benchmark.queries.table["image_path"][found.foreign].tolist()
    writing = time.perf_counter()
    files = write_retrieval(found, out, run, strips)
    about |= {
        "write_s": time.perf_counter() - writing,
        "total_s": time.perf_counter() - start,
        "files": {name: str(path) for name, path in files.items()},
    }
    write_json(out / "run.json", about)
    write_json(json, about)
    _print_found(find_all(found))
    _print(about, found.left_out)


def _print_found(found: list) -> None:
    for one in found[:PRINTED]:
        show(f"  {plain(one.query)} {'[yellow]✗[/yellow]' if one.foreign else '→'} {plain(one.in_words())}")
    if len(found) > PRINTED:
        show(f"  ... and {len(found) - PRINTED} more in matches.csv")


def _print(about: dict, left_out: dict[str, str]) -> None:
    for path, reason in left_out.items():
        show(f"[yellow]left out[/yellow] {plain(f'{path}: {reason}')}")
    show(
        f"{about['queries']} queries against {about['database']} database images with {about['model']} "
        f"({plain(about['weights'])}; {about['size']}): described in {about['describe_s']:.1f} s, searched in "
        f"{about['search_s']:.2f} s, written in {about['write_s']:.1f} s"
    )
    for side, count in about["described"].items():
        kept = about[side] - count
        timed = f"{about['per_image_ms'][side]:.1f} ms per image" if count else "nothing to describe"
        show(f"  {side}: {timed}{f', {kept} descriptors from disk' if kept > 0 else ''}")
    show(f"  search: {about['search_ms_per_query']:.3f} ms per query, {about['device']} {about['precision']}")
    if about["found_of_exact"]:
        show(f"  {found_in_words(about['index'], about['found_of_exact'])}")
    if about.get("foreign"):
        names = ", ".join(about["foreign"][:5]) + (", ..." if len(about["foreign"]) > 5 else "")
        show(
            f"  not in this map, by a best similarity under {about['foreign_below']:.3f}: {len(about['foreign'])} of "
            f"{about['queries']} queries ({plain(names)})"
        )
    if about["unanswerable"]:
        show(f"  {about['unanswerable']}")
    if about["recall"]:
        show("  ".join(f"R@{k} {100 * value:.1f} %" for k, value in about["recall"].items()))
    for name, path in about["files"].items():
        show(f"  {name}: {plain(path)}")
