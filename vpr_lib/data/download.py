"""Files from the network, when asked for: resumed after a break, complete, and the same as the last time."""

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vpr_lib.paths import data_root, write_text
from vpr_lib.progress import ProgressLine

BLOCK = 1 << 20
TIMEOUT_S = 60
RETRY = (408, 425, 429, 500, 502, 503, 504)
MARGIN_BYTES = 1 << 30  # to be left free on the disk


class DownloadError(ValueError):
    """A file that could not be had; what did arrive is kept and goes on next time, unless the message says otherwise."""


class _Broken(Exception):
    """A transfer that ended early and may be continued."""


@dataclass
class _Part:
    """What is there of a file, with what the server said about it."""

    path: Path
    url: str
    etag: str = ""
    total: int | None = None

    @classmethod
    def open(cls, path: Path, url: str) -> "_Part":
        """The part of an earlier attempt, if it was the same address; otherwise nothing yet."""
        part = cls(path.with_name(path.name + ".part"), url)
        try:
            told = json.loads(part._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        if part.path.is_file() and told.get("url") == url:
            part.etag, part.total = told.get("etag", ""), told.get("total")
        else:
            part.drop()
        return part

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def told(self, etag: str, total: int | None) -> None:
        self.etag, self.total = etag, total
        write_text(self._note, json.dumps({"url": self.url, "etag": etag, "total": total}))

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.etag, self.total = "", None

    def become(self, path: Path) -> None:
        self.path.replace(path)
        self._note.unlink(missing_ok=True)


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    wait_s: float = 2.0,
    quiet: bool = False,
) -> Path:
    """Download `url` to `path`, continuing what an earlier call left in `<path>.part`.

    The file appears under its name only when it is complete. Its SHA-256 must be `sha256`; where none is known, that of the
    first download, once `remember` has recorded it in data/downloads.json. A file that is there already and has the right sum
    is not fetched again.

    Args:
        size: bytes, where known.
        attempts: transfers in a row that may bring nothing before it gives up.
        wait_s: pause after the first of them; it doubles each time, up to half a minute.
    Raises:
        DownloadError: for an address that is refused, a server that sends less than it announces, a wrong size or sum, a disk
            too full.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"'{url}' is no http(s) address.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and hash_file(path) == (sha256 or recorded_sum(url)):
        return path
    part, failures = _Part.open(path, url), 0
    furthest = part.size
    while True:
        try:
            _transfer(part, size, quiet)
            break
        except _Broken as error:
            failures = failures + 1 if part.size <= furthest else 0
            furthest = max(furthest, part.size)
            if failures >= attempts:
                raise DownloadError(
                    f"{url}: {part.size:,} of {part.total or size or 0:,} bytes arrived, then {attempts} attempts brought "
                    f"nothing more ({error}). They are kept; run the same command again later, or get the file by hand."
                ) from None
            time.sleep(min(30.0, wait_s * 2**failures))
    _verify(part, url, size, sha256)
    part.become(path)
    return path


def _transfer(part: _Part, size: int | None, quiet: bool) -> None:
    """Append what is missing of `part`; _Broken when the connection ends before the announced end."""
    start = part.size
    if part.total is not None and start == part.total:
        return
    with closing(_connect(part.url, start, part.etag)) as response:
        start, total = _begin(response, part, start)
        _check_disk(part, (total or size or 0) - start)
        line = ProgressLine(f"downloading {part.path.stem} (MB)", (total or size or 0) >> 20, quiet)
        with part.path.open("ab") as file, closing(line):
            for block in _blocks(response):
                file.write(block)
                line.update(file.tell() >> 20, {})
    if total is not None and part.size != total:
        raise _Broken(f"the server announced {total:,} bytes and closed after {part.size:,}")


def _connect(url: str, start: int, etag: str) -> http.client.HTTPResponse:
    """The answer of the server from byte `start` on; one that says "nothing after that" (416) is an answer too."""
    headers = {"User-Agent": "vpr-workbook", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({} if etag.startswith("W/") or not etag else {"If-Range": etag})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return error
        if error.code in RETRY:
            raise _Broken(f"HTTP {error.code}") from error
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}. Has the address changed?") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    if response.status == 416:
        return
    while True:
        try:
            block = response.read(BLOCK)
        except http.client.IncompleteRead as error:
            yield error.partial
            raise _Broken("the connection ended early") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(str(error) or type(error).__name__) from error
        if not block:
            return
        yield block


def _begin(response: http.client.HTTPResponse, part: _Part, start: int) -> tuple[int, int | None]:
    """Where this answer goes on, and the size of the whole; a part that does not fit the answer is dropped."""
    status, told = response.status, response.headers
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", told.get("Content-Range", ""))
    total = int(match[2]) if match and match[2].isdigit() else None
    if status == 416:
        if total == start:
            part.told(part.etag, total)
            return start, total
        part.drop()
        raise _Broken(f"the server has {total} bytes, {start:,} are here; beginning again")
    if status == 206 and match and match[1] == str(start) and part.total in (None, total):
        part.told(told.get("ETag", ""), total)
        return start, total
    if status == 206:  # another piece, or the file has another size by now
        part.drop()
        raise _Broken("the server sent another piece than the one asked for; beginning again")
    part.drop()  # 200: the whole file, whatever was asked for
    length = told.get("Content-Length", "")
    part.told(told.get("ETag", ""), int(length) if length.isdigit() else None)
    return 0, part.total


def _check_disk(part: _Part, missing: int) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if missing + MARGIN_BYTES > free:
        raise DownloadError(
            f"{part.url} needs {missing / 1e9:.1f} GB more and {part.path.parent} has {free / 1e9:.1f} GB free; make room, or set "
            "VPR_DATA to another disk."
        )


def _verify(part: _Part, url: str, size: int | None, sha256: str | None) -> None:
    if size is not None and part.size != size:
        found = part.size
        part.drop()
        raise DownloadError(
            f"{url}: {found:,} bytes, expected {size:,}. The file was deleted; the address may serve another one."
        )
    found, expected = hash_file(part.path), sha256 or recorded_sum(url)
    if expected is not None and found != expected:
        part.drop()
        origin = "the catalogue" if sha256 else f"its first download (in {_records_file()})"
        raise DownloadError(
            f"{url}: SHA-256 {found[:16]}…, expected {expected[:16]}… from {origin}. The file was deleted: either it was damaged on "
            "the way, or the source has changed it."
        )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sum(url: str) -> str | None:
    """The SHA-256 that the first download of an address had."""
    return _records().get(url, {}).get("sha256")


def remember(url: str, path: Path) -> str:
    """Record the SHA-256 of a download that proved good, if it is the first of its address; returns it."""
    if (known := recorded_sum(url)) is not None:
        return known
    entry = {
        "sha256": hash_file(path),
        "bytes": Path(path).stat().st_size,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(_records_file(), json.dumps(_records() | {url: entry}, indent=1) + "\n")
    return entry["sha256"]


def _records() -> dict[str, dict]:
    path = _records_file()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _records_file() -> Path:
    return data_root() / "downloads.json"
