"""The '@' file-name convention: a UTM position and more in sixteen tokens. Spec: datasets §1.1."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vpr_lib.data.readers.image_files import IMAGE_SUFFIXES

TOKENS = (
    *("", "utm_east", "utm_north", "utm_zone", "utm_band", "lat", "lon", "pano_id", "tile", "heading", "pitch"),
    *("roll", "height", "timestamp", "note", "extension"),
)
_EXTENSION = rf"(?i)@?\.({'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})$"
_CHUNK = 200_000  # names split at once: 32 tokens each are short-lived, millions of them would not be
_TIMES = {4: ("%Y", "year"), 6: ("%Y%m", "month"), 8: ("%Y%m%d", "day"), 14: ("%Y%m%d%H%M%S", "second")}


def parse_name(name: str) -> dict[str, str]:
    """Tokens of a file name by field; only the basename is read, so an '@' in a parent folder does no harm.

    Raises:
        ValueError: if the name does not start with '@', or its easting and northing are not numbers.
    """
    parts = PurePosixPath(name).name.split("@")
    if len(parts) < 3 or parts[0]:
        raise ValueError(f"'{name}' does not follow the '@easting@northing@...' convention.")
    fields = dict(zip(TOKENS, parts))
    for key in ("utm_east", "utm_north"):
        try:
            number = float(fields[key])
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ValueError(f"'{name}': token {TOKENS.index(key)} ({key}) is '{fields[key]}', not a number.")
    return fields


def is_at_name(name: str) -> bool:
    """Whether `parse_name` accepts the name."""
    try:
        parse_name(name)
    except ValueError:
        return False
    return True


def are_at_names(paths: Sequence[str]) -> bool:
    """Whether all names claim to follow the convention; numbers are not looked at."""
    return bool(pc.all(pc.match_substring_regex(pa.array(paths, pa.large_string()), r"(^|/)@[^/@]*@[^/]+$")).as_py())


def columns_from_names(paths: Sequence[str]) -> dict[str, object]:
    """Manifest columns of '@'-named images: positions, and whatever else any name carries.

    Built for millions of names: they are split a chunk at a time, and values stay in arrays.

    Returns:
        image_path, utm_east, utm_north (float64, N); where some name has them also utm_zone, utm_band, lat, lon,
        pano_id, tile, heading_deg with heading_raw, pitch_deg, timestamp (µs since 1970) with time_resolution, and
        conditions (the words of the note).
    Raises:
        ValueError: for a name outside the convention, or a number that is none, with name and token.
    """
    names = pa.array(paths, pa.large_string())
    chunks = [_split(names[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK)]
    tokens = {key: pa.chunked_array([chunk[key] for chunk in chunks], pa.large_string()) for key in _KEPT}
    columns: dict[str, object] = {"image_path": names}
    for key in ("utm_east", "utm_north"):
        columns[key] = _numbers(tokens[key], key, names)
    for key, column in _OPTIONAL_NUMBERS.items():
        if _any(tokens[key]):
            columns[column] = _numbers(tokens[key], key, names)
    for key in ("utm_band", "pano_id"):
        if _any(tokens[key]):
            columns[key] = tokens[key]
    for column in ("utm_zone", "tile"):
        if column in columns:
            columns[column] = _integers(columns[column])
    if "heading_deg" in columns:
        columns["heading_raw"] = tokens["heading"]
    if _any(tokens["timestamp"]):
        columns |= _times(tokens["timestamp"])
    if _any(tokens["note"]):
        columns["conditions"] = _words(tokens["note"])
    return columns


_KEPT = tuple(key for key in TOKENS if key not in ("", "roll", "height", "extension"))
_OPTIONAL_NUMBERS = {
    **{"utm_zone": "utm_zone", "lat": "lat", "lon": "lon", "tile": "tile", "heading": "heading_deg"},
    "pitch": "pitch_deg",
}


def _split(names: pa.Array) -> dict[str, pa.Array]:
    """The kept tokens of some names. The extension is cut off first, so that a short name does not shift into it."""
    base = pc.replace_substring_regex(pc.replace_substring_regex(names, r"^.*/", ""), _EXTENSION, "")
    good = pc.and_(pc.starts_with(base, "@"), pc.greater_equal(pc.count_substring(base, "@"), 2))
    if not pc.all(good).as_py():
        parse_name(names[pc.index(good, False).as_py()].as_py())  # says what is wrong with it
    padding = (pa.scalar(text, pa.large_string()) for text in ("@" * len(TOKENS), ""))
    tokens = pc.split_pattern(pc.binary_join_element_wise(base, *padding), "@")
    return {key: pc.list_element(tokens, TOKENS.index(key)) for key in _KEPT}


def _any(tokens: pa.ChunkedArray) -> bool:
    return pc.any(pc.not_equal(tokens, "")).as_py() or False


def _numbers(tokens: pa.ChunkedArray, key: str, names: pa.Array) -> np.ndarray:
    """float64 (N,), NaN for an empty token; easting and northing must be there and finite."""
    try:
        filled = pc.if_else(pc.equal(tokens, ""), pa.scalar(None, pa.large_string()), tokens)
        numbers = pc.cast(filled, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        numbers = np.array([_number(token) for token in tokens.to_pylist()])
    required = key in ("utm_east", "utm_north")
    bad = ~np.isfinite(numbers) if required else np.isnan(numbers) & (tokens.to_numpy() != "")
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"'{names[row]}': token {TOKENS.index(key)} ({key}) is '{tokens[row]}', not a number.")
    return numbers


def _number(token: str) -> float:
    try:
        return float(token)
    except ValueError:
        return float("nan")


def _integers(numbers: np.ndarray) -> np.ndarray | list[int | None]:
    if np.isnan(numbers).any():
        return [None if np.isnan(number) else int(number) for number in numbers]
    return numbers.astype(np.int64)


def _times(tokens: pa.ChunkedArray) -> dict[str, object]:
    """`timestamp` in µs since 1970 at the start of what the token names (201708 is a month), None where unreadable."""
    coded = pc.dictionary_encode(tokens.combine_chunks())
    values = [_time(token) for token in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy()
    resolutions = {resolution for _, resolution in values if resolution}
    stamps = np.array([stamp for stamp, _ in values], object)[codes]
    whole = resolutions.pop() if len(resolutions) == 1 else np.array([r for _, r in values], object)[codes]
    return {"timestamp": stamps.tolist(), "time_resolution": whole}


def _time(token: str) -> tuple[int | None, str | None]:
    digits = token.replace("_", "")
    layout, resolution = _TIMES.get(len(digits), ("", None))
    try:
        moment = datetime.strptime(digits, layout).replace(tzinfo=UTC) if resolution else None
    except ValueError:
        moment = None
    return (None, None) if moment is None else (int(moment.timestamp()) * 1_000_000, resolution)


def _words(notes: pa.ChunkedArray) -> np.ndarray:
    """Per name the words of its note, an object array of lists; equal notes share one list."""
    coded = pc.dictionary_encode(notes.combine_chunks())
    lists = np.empty(len(coded.dictionary), object)
    lists[:] = [[word for word in note.split("_") if word] for note in coded.dictionary.to_pylist()]
    return lists[coded.indices.to_numpy()]
