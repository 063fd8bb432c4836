"""Images whose names are numbers that a ground truth refers to: in order of the number, with what is missing in between."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

log = logging.getLogger(__name__)
OFFICIAL_WIDTH = 7  # VPR-Bench's seven digits begin with 0


def numbered(
    paths: list[str], folder: Path, other: list[str] | None = None, rows: int | None = None, needed: int = 0
) -> list[str]:
    """The images of a folder by the number in their names, those that are missing included.

    A ground truth refers to numbers: one lost file, and a plain listing would shift every later index by one. A missing one
    stays in the list, so that `vpr data check` names it and describing it fails. Numbers may rise by a step (every tenth
    frame). Time stamps and other numbers that are no indices are ordered, without what lies in between; names without a
    number stay as they are sorted.

    Args:
        folder: for messages.
        other: the names of the other side, which tells where counting begins when the first image is missing.
        rows: how many images the ground truth is about, where it says.
        needed: how many there are at least, by the largest index in the ground truth.
    Raises:
        ValueError: for names that do not follow the others, a number that two files have, names whose order depends on who
            sorts them, or names that do not tell which images of those `needed` are missing.
    """
    pattern = _pattern(paths)
    if pattern is None:
        _check_order(paths, folder)
        return _complete(paths, folder, needed)
    by_number = _by_number(paths, pattern, folder)
    ordered = [by_number[number] for number in sorted(by_number)]
    if rows == len(paths):
        return ordered
    least, last, step, room = min(by_number), max(by_number), _step(by_number), 2 * len(paths) + 10
    if last - least > room * step or any((number - least) % step for number in by_number):
        return _complete(ordered, folder, needed)
    far = last > room * step  # counting does not begin here, and what is skipped may never have been there
    if far and rows is None and needed <= len(paths):
        if needed and (skipped := (last - least) // step + 1 - len(paths)):
            told = "%s: the numbers skip %d between %d and %d; the ground truth is taken to count the images that are there"
            log.warning(told, folder, skipped, least, last)
        return ordered
    sample = pattern.fullmatch(paths[0])
    padded = len({len(pattern.fullmatch(path)["number"]) for path in paths}) == 1
    width = len(sample["number"]) if padded else 0
    start, theirs = least, [int(match["number"]) for path in other or () if (match := pattern.fullmatch(path))]
    if not far and (least == 0 or (width == OFFICIAL_WIDTH and step == 1)):
        start = 0
    elif rows is not None and 0 <= last - (rows - 1) * step <= least:
        start = last - (rows - 1) * step
    elif not far:
        start = min([least, *(number for number in theirs if (least - number) % step == 0)])
        enough = (last - least) // step + 1 >= needed
        if needed and (enough if start < least else not enough and not theirs):
            raise _unsure(ordered, folder, needed)
    numbers = range(start, last + 1, step)
    if missing := [number for number in numbers if number not in by_number]:
        log.warning("%s: %d images are missing, the first is number %d", folder, len(missing), missing[0])
    name = lambda number: f"{sample['before']}{number:0{width}d}{sample['after']}{sample['suffix']}"
    return [by_number.get(number, name(number)) for number in numbers]


def _by_number(paths: list[str], pattern: re.Pattern, folder: Path) -> dict[int, str]:
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
    return by_number


def _step(numbers: Iterable[int]) -> int:
    """By how much most numbers differ from the one before, 1 where there are few."""
    rising = sorted(numbers)
    steps = Counter(after - before for before, after in pairwise(rising))
    step, count = steps.most_common(1)[0] if steps else (1, 0)
    return step if count > max(2, (len(rising) - 1) // 2) else 1


def _check_order(paths: list[str], folder: Path) -> None:
    """Refuse names of one make that are in another order as text than as numbers: the ground truth may mean either."""
    before: dict[str, tuple[list[int], str]] = {}
    for path in paths:
        own = [int(run) for run in re.findall(r"\d+", path)]
        last, earlier = before.get(make := re.sub(r"\d+", "#", path), ([], ""))
        if own < last:
            raise ValueError(
                f"{folder}: the ground truth counts images, and '{earlier}' comes before '{path}' as text, after it as a number. "
                "Give their numbers equal length (0002, 0010)."
            )
        before[make] = own, path


def _complete(paths: list[str], folder: Path, needed: int) -> list[str]:
    if len(paths) < needed:
        raise _unsure(paths, folder, needed)
    return paths


def _unsure(paths: list[str], folder: Path, needed: int) -> ValueError:
    return ValueError(
        f"{folder} holds {len(paths)} images, from '{paths[0]}' to '{paths[-1]}', and the ground truth refers to {needed}, counted from "
        "0: the names do not tell whether the first is missing, or which. Complete the folder, or number its images from 0."
    )


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


def _first(found: list) -> str:
    return next(path for match, path in found if match is not None)
