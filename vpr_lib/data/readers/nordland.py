"""Nordland under the name of each variant: frames are compared, not metres. Spec: datasets §6."""

import logging
import re
from pathlib import Path, PurePosixPath

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, Protocol, make_protocol
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.readers.arrays import read_arrays
from vpr_lib.data.readers.berton import split_folders
from vpr_lib.data.readers.lists import list_paths, read_names
from vpr_lib.data.readers.names import are_at_names, parse_name
from vpr_lib.data.readers.vpr_bench import read_vpr_bench

log = logging.getLogger(__name__)
CLEAN_NAMES = "cleanImageNames.txt"
SECTIONS = 3  # of the test drive of Olid et al., 1,150 frames each


def read_nordland_27592(root: Path, database: str = "summer", queries: str = "winter") -> Benchmark:
    """The whole drive, frame i of one season against frame i of another: summer database, winter queries.

    Cards, all over the same lists: `nordland_27592_pm10` (Berton, DINO-Mix; the default), `_pm7` (what Patch-NetVLAD's
    radius of 10 amounts to, because its coordinates are (i, i)), `_pm2`, `_pm1`.

    Reads the '@' layout, or one folder of frames per season; the latter are filtered by `cleanImageNames.txt` beside them.

    Raises:
        ValueError: when the two seasons do not show the same frames; pairing them in order would be wrong from there on.
    """
    sides = _frames(Path(root), "nordland_27592", database, queries)
    return Benchmark("nordland_27592", *sides, _cards(*sides, "nordland_27592", (10, 7, 2, 1)))


def read_nordland_3450(root: Path, database: str = "summer", queries: str = "winter") -> Benchmark:
    """The test drive of Olid et al.: three sections one after the other, as two folders of frames.

    Cards: `nordland_3450_pm2`, windows end where a section ends, and `nordland_3450_pm2_contiguous`, where they do not.

    Raises:
        ValueError: when the frames do not divide into three sections, or the seasons differ.
    """
    sides = _frames(Path(root), "nordland_3450", database, queries)
    if len(sides[0]) % SECTIONS:
        raise ValueError(f"{root}: {len(sides[0])} frames do not divide into {SECTIONS} equal sections.")
    clipped = _cards(*sides, "nordland_3450", (2,), section=len(sides[0]) // SECTIONS)
    return Benchmark("nordland_3450", *sides, clipped + _cards(*sides, "nordland_3450", (2,), suffix="_contiguous"))


def read_nordland_2760(root: Path, metadata: Path | None = None) -> Benchmark:
    """VPR-Bench's cut: all winter frames, every tenth summer frame as a query, frame 10 i within one frame.

    Reads `ground_truth_new.npy` or the arrays `Nordland_{dbImages,qImages,gt}.npy`. Card: `nordland_2760_pm1`.

    Raises:
        ValueError: when the stored matches are not 10 i - 1 to 10 i + 1: it is another cut.
    """
    name = "nordland_2760"
    if (Path(metadata or root) / "Nordland_gt.npy").is_file():
        files = ("Nordland_dbImages.npy", "Nordland_qImages.npy", "Nordland_gt.npy")
        stored = read_arrays(root, files, name, metadata)
    else:
        stored = read_vpr_bench(root, name)
    rule = Positives.from_window(10 * np.arange(len(stored.queries)), 1, len(stored.database))
    if rule.hash != stored.positives.hash:
        query = next(q for q, (a, b) in enumerate(zip(rule, stored.positives)) if a.tolist() != b.tolist())
        raise ValueError(
            f"{root}: query {query} is matched with {stored.positives[query].tolist()}, expected "
            f"{rule[query].tolist()} (frame 10 i, one to either side). Read another cut with `vpr_bench`."
        )
    database, queries = (_numbered(side, step) for side, step in ((stored.database, 1), (stored.queries, 10)))
    return Benchmark(name, database, queries, _cards(database, queries, name, (1,)))


def _numbered(side: Manifest, step: int) -> Manifest:
    """The same rows with their frame numbers."""
    kind = side.table["position_kind"].cat.rename_categories(["frame_index"])
    return Manifest(side.table.assign(frame_no=step * np.arange(len(side)), position_kind=kind), side.root)


def _cards(
    database: Manifest,
    queries: Manifest,
    name: str,
    half_widths: tuple[int, ...],
    section: int | None = None,
    suffix: str = "",
) -> tuple[Protocol, ...]:
    centres = queries.table["frame_no"].to_numpy(np.int64)
    return tuple(
        make_protocol(
            database, queries, Positives.from_window(centres, half, len(database), section),
            name=f"{name}_pm{half}{suffix}", dataset=name, rule="frame_window", threshold=float(half),
        )
        for half in half_widths
    )  # fmt: skip


def _frames(root: Path, name: str, database: str, queries: str) -> tuple[Manifest, Manifest]:
    """Both seasons; row i of one is row i of the other."""
    folders = split_folders(root, "test")
    if not folders[0].is_dir():
        folders = (_season(root, database), _season(root, queries))
    listed = root / CLEAN_NAMES
    listed_names = set(read_names(listed)) if listed.is_file() else None
    paths = [_ordered(list_paths(folder), folder, listed_names) for folder in folders]
    _check_pairing(paths, folders)
    return tuple(
        build_manifest(folder, name, "test", role, {"image_path": own, "frame_no": np.arange(len(own))}, variant=folder.name,
                       position_kind="frame_index", keep_order=True)
        for folder, role, own in zip(folders, ("db", "query"), paths)
    )  # fmt: skip


def _season(root: Path, season: str) -> Path:
    """The folder of a season, whatever the case of its name."""
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    matching = [path for path in folders if path.name.lower() == season.lower()]
    if not matching:
        raise FileNotFoundError(f"No folder '{season}' under {root}, nor images/test/database with '@' names.")
    return matching[0]


def _ordered(paths: list[str], folder: Path, kept: set[str] | None) -> list[str]:
    """Frames by number: '@' names carry it in their id, others at the end of their name."""
    if kept is not None:
        stems = {PurePosixPath(name).stem for name in kept}
        chosen = [path for path in paths if PurePosixPath(path).stem in stems]
        if len(chosen) < len(stems):
            told = "%s: %d of the %d frames that %s names are not there" + ("" if chosen else ": all frames are taken")
            log.warning(told, folder, len(stems) - len(chosen), len(stems), CLEAN_NAMES)
        paths = chosen or paths
    if not paths:
        raise ValueError(f"No image under {folder}: expected the frames of one season.")
    by_frame: dict[tuple[str, int], str] = {}
    for path in paths:
        if (twin := by_frame.setdefault((str(PurePosixPath(path).parent), frame_number(path)), path)) != path:
            raise ValueError(
                f"{folder}: '{twin}' and '{path}' are both frame {frame_number(path)}. Move one elsewhere."
            )
    return sorted(paths, key=lambda path: (str(PurePosixPath(path).parent), frame_number(path)))


def frame_number(path: str) -> int:
    """Number of a frame from its name: token 7 of '@' names, otherwise the last digits (ValueError without any)."""
    stem = parse_name(path).get("pano_id", "") if are_at_names([path]) else PurePosixPath(path).stem
    if not (digits := re.search(r"(\d+)\D*$", stem)):
        raise ValueError(f"'{path}' carries no frame number.")
    return int(digits[1])


def _check_pairing(paths: list[list[str]], folders: tuple[Path, Path]) -> None:
    numbers = [[frame_number(path) for path in own] for own in paths]
    if numbers[0] == numbers[1]:
        return
    only = [sorted(set(own) - set(other)) for own, other in (numbers, numbers[::-1])]
    example = f"frame {(only[0] or only[1])[0]} is in one of them only" if any(only) else "the order differs"
    raise ValueError(
        f"{folders[0]} has {len(numbers[0])} frames and {folders[1]} has {len(numbers[1])}, and they are not the same ones: "
        f"{example}. Either a file is lost, or one season still holds the unfiltered frames; then put {CLEAN_NAMES} beside the "
        "folders."
    )
