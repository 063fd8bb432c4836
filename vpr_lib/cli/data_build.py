"""`vpr data build`: the pickles of Oxford and Boreas from what their owners publish."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import plain, show


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
