"""Files from the network, when asked for: resumed after a break, complete, and the same as the last time.

gdown moves the bytes, from direct addresses as well as from Google Drive, huggingface_hub those of the Hub; what is
added here is what a workbook owes its reader: a look at the disk before, a sum after, and one message for each way to fail.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from vpr_lib.digests import digest_file
from vpr_lib.paths import data_root, write_text
from vpr_lib.progress import ProgressLine

TIMEOUT_S = 60
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may change
MARGIN_BYTES = 1 << 30  # to be left free on the disk
QUOTA = ("too many users", "quota", "many accesses")  # of Drive's page instead of the file
UNREACHED = (
    "NameResolutionError",
    "NewConnectionError",
    "ConnectTimeoutError",
    "ProxyError",
)  # nothing arrived, and nothing will
PAGES = (b"<!doctype html", b"<html")


class DownloadError(ValueError):
    """A file that could not be had; what did arrive is kept and goes on next time, unless the message says otherwise."""


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    wait_s: float = 2.0,
    quiet: bool = False,
) -> Path:
    """Download an http(s) address or a Google Drive file to `path`, continuing what an earlier call left.

    The file appears under its name only when it is complete. Its SHA-256 must be `sha256`; where none is known, that of the
    first download, once `remember` has recorded it in data/downloads.json. A file that is there already and has the right sum
    is not fetched again.

    Args:
        size: bytes, where known.
        attempts: transfers in a row that may fail before it gives up.
        wait_s: pause after the first answer of a busy server; it doubles each time, up to half a minute.
    Raises:
        DownloadError: for an address that is refused, a quota that is used up, a page instead of a file, a server that sends
            less than it announces, a wrong size or sum, a disk too full.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"'{url}' is no http(s) address.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        if digest_file(path) == (sha256 or recorded_sum(url)):
            return path
        path.unlink()
    _transfer(url, path, size, attempts, wait_s, quiet)
    _verify(path, url, size, sha256)
    return path


def fetch_member(folder: str, pattern: str, path: Path, **options: object) -> Path:
    """Download the one file of a public Google Drive folder whose path fits `pattern`, letters of either case.

    Args:
        folder: the folder's id.
        options: as `fetch`.
    Raises:
        DownloadError: also when the folder cannot be listed, or not exactly one file fits: the message names what it holds.
    """
    import gdown

    try:
        listed = gdown.download_folder(id=folder, skip_download=True, quiet=True, use_cookies=False) or []
    except (gdown.exceptions.DownloadError, OSError) as error:
        why = _silent("https://drive.google.com") if _unreached(error) else _short(error)
        raise DownloadError(f"The Google Drive folder {folder} cannot be listed ({why}).") from error
    fitting = [entry for entry in listed if fnmatch(entry.path.lower(), pattern.lower())]
    if len(fitting) != 1:
        held = ", ".join(entry.path for entry in listed[:20]) or "nothing"
        raise DownloadError(
            f"{len(fitting)} files of the Google Drive folder {folder} fit '{pattern}', expected one; it holds {held}. Fetch "
            "the right one with a browser and register it with `vpr weights add FILE --as NAME`."
        )
    return fetch(f"https://drive.google.com/uc?id={fitting[0].id}", path, **options)


def fetch_from_hub(repository: str, file: str, path: Path, sha256: str | None = None) -> Path:
    """Download a file of a Hugging Face repository to `path`; resumed and kept by huggingface_hub.

    Raises:
        DownloadError: when it is not there, not public, or has another sum.
    """
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = hf_hub_download(repository, file)
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError) as error:
        raise DownloadError(
            f"{repository}, {file}: the Hugging Face Hub does not give it ({_short(error)})."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fetched, path)
    _verify(path, f"hub:{repository}/{file}", None, sha256)
    return path


def _transfer(url: str, path: Path, size: int | None, attempts: int, wait_s: float, quiet: bool) -> None:
    """gdown's download under our messages; a part that the server no longer has is dropped and begun anew."""
    import gdown
    import requests

    for attempt in range(attempts):
        line = ProgressLine(f"downloading {path.name} (MB)", (size or 0) >> 20, quiet)
        try:
            with closing(line):
                gdown.download(url, str(path), quiet=True, resume=True, retries=attempts - 1, use_cookies=False,
                               timeout=TIMEOUT_S, progress=_watch(url, path, line))  # fmt: skip
            return
        except gdown.exceptions.FileURLRetrievalError as error:
            raise DownloadError(_refused_by_drive(url, path, error)) from error
        except (gdown.exceptions.DownloadError, requests.RequestException) as error:
            code = getattr(getattr(error, "response", None), "status_code", None)
            if "byte range" in str(error) or code == 416:
                _drop_parts(path)  # no ranges there, or the file has another size by now
            elif code is not None and code not in BUSY:
                raise DownloadError(f"{url}: the server says {code}. Has the address changed?") from None
            elif code is None or attempt == attempts - 1:
                raise DownloadError(_gave_up(url, path, attempts, error)) from None
            else:
                time.sleep(min(30.0, wait_s * 2**attempt))
    raise DownloadError(_gave_up(url, path, attempts, "the server cannot continue a file"))


def _watch(url: str, path: Path, line: ProgressLine) -> Callable[[int, int | None], None]:
    """Told of every block: draws the line, and looks at the disk as soon as the size is known."""
    looked = False

    def told(done: int, total: int | None) -> None:
        nonlocal looked
        if total and not looked:
            looked = True
            check_disk(path.parent, total - done, url)
        line.update(done >> 20, {})

    return told


def check_disk(folder: Path, missing: int, what: str) -> None:
    """DownloadError when `folder` has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if missing + MARGIN_BYTES > free:
        raise DownloadError(
            f"{what} needs {missing / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free; make room, or set "
            "VPR_DATA (for weights: VPR_CACHE) to another disk."
        )


def _parts(path: Path) -> list[Path]:
    return [part for part in path.parent.iterdir() if part.name.startswith(path.name) and part.suffix == ".part"]


def _drop_parts(path: Path) -> None:
    for part in _parts(path):
        part.unlink()


def _gave_up(url: str, path: Path, attempts: int, error: object) -> str:
    arrived = sum(part.stat().st_size for part in _parts(path))
    if not arrived and _unreached(error):
        return f"{url}: {_silent(url)}"
    return (
        f"{url}: {arrived:,} bytes arrived and {attempts} attempts did not bring the rest ({_short(error)}). They are kept; run "
        "the same command again later, or get the file by hand."
    )


def _silent(url: str) -> str:
    return f"{urlsplit(url).hostname} cannot be reached. Is this machine on the network, or does it need a proxy (HTTPS_PROXY)?"


def _unreached(error: object) -> bool:
    return any(word in str(error) for word in UNREACHED)


def _refused_by_drive(url: str, path: Path, error: Exception) -> str:
    why = _short(error)
    if any(word in why.lower() for word in QUOTA):
        why = f"its quota for this file is used up for now: try again in a day ({why})"
    return f"{url}: Google Drive does not give {path.name}; {why}. A browser that is signed in may get it; then say where it is."


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _verify(path: Path, url: str, size: int | None, sha256: str | None) -> None:
    with path.open("rb") as file:
        page = file.read(20).lstrip().lower().startswith(PAGES)
    if page:
        path.unlink()
        raise DownloadError(
            f"{url}: a web page came instead of {path.name}. Open the address in a browser: it says why."
        )
    if size is not None and (found := path.stat().st_size) != size:
        path.unlink()
        raise DownloadError(
            f"{url}: {found:,} bytes, expected {size:,}. The file was deleted; the address may serve another one."
        )
    found, expected = digest_file(path), sha256 or recorded_sum(url)
    if expected is not None and found != expected:
        path.unlink()
        origin = "the catalogue" if sha256 else f"its first download (in {_records_file()})"
        raise DownloadError(
            f"{url}: SHA-256 {found[:16]}…, expected {expected[:16]}… from {origin}. The file was deleted: either it was damaged on "
            "the way, or the source has changed it."
        )


def recorded_sum(url: str) -> str | None:
    """The SHA-256 that the first download of an address had."""
    return _records().get(url, {}).get("sha256")


def remember(url: str, path: Path) -> str:
    """Record the SHA-256 of a download that proved good, if it is the first of its address; returns it."""
    if (known := recorded_sum(url)) is not None:
        return known
    entry = {
        "sha256": digest_file(path),
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
