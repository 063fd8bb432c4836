"""Data sets in the '@' layout: images/{train,val,test}/{database,queries}. Spec: datasets §1.1, §9."""

from pathlib import Path

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.data.readers.names import is_at_name


def read_berton(
    root: Path,
    split: str = "test",
    radius_m: float = 25.0,
    name: str | None = None,
    queries: str = "queries",
    dataset: str | None = None,
    matchable: bool = False,
) -> Benchmark:
    """One split of a data set in the '@' layout; `gallery` is accepted for `database` (SVOX).

    Args:
        queries: folder of the queries, for sets that have several (`queries_night`).
        dataset: name in the manifests; query sets that share one database share it, and so its descriptors.
        matchable: also a card over the queries that have a positive.
    Raises:
        FileNotFoundError, ValueError: as `folder_manifest`, or when a name carries no position.
    """
    name = name or Path(root).name
    dataset = dataset or name
    folders = zip(split_folders(root, split, queries), ("db", "query"))
    sides = [folder_manifest(folder, role, dataset, split) for folder, role in folders]
    benchmark = Benchmark(name, *sides, radius_cards(*sides, name, dataset, radius_m, matchable))
    if not benchmark.protocols:
        _refuse(benchmark)
    return benchmark


def read_mock_pairs(root: Path, split: str = "test", name: str | None = None) -> Benchmark:
    """A set of image pairs in the '@' layout, where equal mock positions mean the same place (AmsterTime, SPED).

    The card is `<name>@pairs`: same place id, every query counts. Positions say nothing about metres, so none are drawn.
    """
    name = name or Path(root).name
    folders = zip(split_folders(root, split), ("db", "query"))
    sides = [folder_manifest(folder, role, name, split, position_kind="mock_pair") for folder, role in folders]
    if not all("utm_east" in side.table for side in sides):
        _refuse(Benchmark(name, *sides))
    same = Positives.from_radius(sides[0].positions(), sides[1].positions(), 0.0)
    return Benchmark(name, *sides, (make_protocol(*sides, same, name=f"{name}@pairs", dataset=name, rule="place_id"),))


def split_folders(root: Path, split: str, queries: str = "queries") -> tuple[Path, Path]:
    """Database and query folder of a split: below images/<split>/, <split>/ or the root itself."""
    root = Path(root)
    folder = next((path for path in (root / "images" / split, root / split) if path.is_dir()), root)
    names = ("database", "gallery")
    there = (folder / part for part in names if _has_images(folder / part))
    return next(there, folder / names[0]), folder / queries


def _has_images(folder: Path) -> bool:
    return folder.is_dir() or (folder.parent / f"{folder.name}_images_paths.txt").is_file()


def _refuse(benchmark: Benchmark) -> None:
    """Name the first image without a position."""
    for side in (benchmark.database, benchmark.queries):
        plain = [path for path in side.table["image_path"] if not is_at_name(path)]
        if plain:
            raise ValueError(
                f"{side.root}: some names carry no '@easting@northing@' position ({len(plain)} of {len(side)}, for "
                f"instance '{plain[0]}'), so there is no ground truth. Remove them, or read the set with `folders`."
            )
