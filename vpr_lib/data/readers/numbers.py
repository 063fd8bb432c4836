"""Images whose names are numbers that a ground truth refers to: in order of the number, with what is missing in between."""

import logging
import re
from collections import Counter
from pathlib import Path

log = logging.getLogger(__name__)
OFFICIAL_WIDTH = 7  # VPR-Bench's seven digits begin with 0


def numbered(paths: list[str], folder: Path, other: list[str] | None = None, rows: int | None = None) -> list[str]:
    """The images of a folder by the number in their names, those that are missing included.

    A ground truth refers to numbers: one lost file, and a plain listing would shift every later index by one. A missing one
    stays in the list, so that `vpr data check` names it and describing it fails. Time stamps and other numbers that are no
    indices are ordered, without what lies in between; names without a number stay as they are sorted.

    Args:
        folder: for messages.
        other: the names of the other side, which tells where counting begins when the first image is missing.
        rows: how many images the ground truth is about, where it says.
    Raises:
        ValueError: for names that do not follow the others, or a number that two files have.
    """
    pattern = _pattern(paths)
    if pattern is None:
        return paths
    matches = [(pattern.fullmatch(path), path) for path in paths]
    if strangers := [path for match, path in matches if match is None]:
        raise ValueError(
            f"{folder}: the ground truth counts images by the number in their names, and {len(strangers)} of {len(paths)} "
            f"names do not follow the others, for instance '{strangers[0]}' beside '{_first(matches)}'. Move them elsewhere."
        )
    by_number: dict[int, str] = {}
    for match, path in matches:
        number = int(match["number"])
        if number in by_number:
            raise ValueError(
                f"{folder}: '{by_number[number]}' and '{path}' are both number {number}. Move one elsewhere."
            )
        by_number[number] = path
    if max(by_number) > 2 * len(paths) + 10:
        return [by_number[number] for number in sorted(by_number)]
    sample = matches[0][0]
    padded = len({len(match["number"]) for match, _ in matches}) == 1
    width = len(sample["number"]) if padded else 0
    start = _start(by_number, width, other, rows)
    numbers = range(start, max(by_number) + 1)
    if missing := [number for number in numbers if number not in by_number]:
        log.warning("%s: %d images are missing, the first is number %d", folder, len(missing), missing[0])
    name = lambda number: f"{sample['before']}{number:0{width}d}{sample['after']}{sample['suffix']}"
    return [by_number.get(number, name(number)) for number in numbers]


def _pattern(paths: list[str]) -> re.Pattern | None:
    """What most names look like: one number that differs, between texts that do not; None when there is no such thing."""
    runs = [list(re.finditer(r"\d+", path.rsplit(".", 1)[0])) for path in paths]
    shapes = Counter(
        (path[: run.start()], path.rsplit(".", 1)[0][run.end() :]) for path, found in zip(paths, runs) for run in found
    )
    if not shapes:
        return None
    (before, after), count = max(shapes.items(), key=lambda item: (item[1], len(item[0][0])))
    if 2 * count <= len(paths) or (count < 2 and len(paths) > 1):
        return None
    return re.compile(rf"(?P<before>{re.escape(before)})(?P<number>\d+)(?P<after>{re.escape(after)})(?P<suffix>\.\w+)")


def _start(numbers: dict[int, str], width: int, other: list[str] | None, rows: int | None) -> int:
    least, last = min(numbers), max(numbers)
    if least == 0 or width == OFFICIAL_WIDTH:
        return 0
    if rows is not None and 0 <= last + 1 - rows <= least:
        return last + 1 - rows
    pattern = _pattern(other) if other else None
    theirs = [int(match["number"]) for path in other or () if pattern and (match := pattern.fullmatch(path))]
    return min(least, min(theirs, default=least))


def _first(found: list) -> str:
    return next(path for match, path in found if match is not None)
