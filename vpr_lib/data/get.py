"""From a public address to a folder that can be read: archives, rsync shares, Kaggle's client, the Hugging Face Hub."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

from vpr_lib.data.catalogue import Dataset, Download, Get, default_root, find, holds, how_to_get
from vpr_lib.data.download import DownloadError, check_disk, fetch, remember
from vpr_lib.data.unpack import ArchiveError, unpack
from vpr_lib.paths import data_root

log = logging.getLogger(__name__)
ROUGHLY = 0.5  # a size that is only known roughly may be off by half


def fetch_dataset(download: Download, keep_archive: bool = False, **options: object) -> Path:
    """Fetch an archive and unpack it to its folder below `data_root()`; a folder that holds something is left as it is.

    The checksum is recorded once the archive has proved good; an archive that has not is deleted, so that the next call
    fetches it anew.

    Args:
        options: as `download.fetch`.
    Raises:
        DownloadError, ArchiveError.
    """
    folder = data_root() / download.into
    if folder.is_dir() and any(folder.iterdir()):
        log.info("%s is there already", folder)
        return folder
    archive = fetch(download.url, data_root() / "archives" / download.file, download.bytes, download.sha256, **options)
    size = archive.stat().st_size
    if download.about_gb and abs(size / 1e9 - download.about_gb) > ROUGHLY * download.about_gb:
        log.warning("%s has %.2f GB, expected about %g GB", archive, size / 1e9, download.about_gb)
    try:
        unpack(archive, folder, inner=download.inner)
    except ArchiveError:
        archive.unlink()
        raise
    remember(download.url, archive)
    if not keep_archive:
        archive.unlink()
    return folder


def disk_need_gb(name: str) -> float | None:
    """Room that fetching a data set takes, archives and what is unpacked together; None where no size is known."""
    way, dataset = how_to_get(name), find(name)
    if way.gb is not None:
        return way.gb
    archives = [download.about_gb or (download.bytes or 0) / 1e9 for download in way.downloads]
    unpacked = dataset.size_gb[0] if dataset.size_gb else sum(archives)
    return sum(archives) + unpacked if sum(archives) or dataset.size_gb else None


def fetch_all(name: str, keep_archive: bool = False) -> Path | None:
    """Fetch a data set by whichever way is known and possible here; None when it is for a person.

    What is there is left as it is, what broke off goes on. The room is looked at before.

    Raises:
        DownloadError: when a way is known and fails, or the disk has no room. ArchiveError.
    """
    way, dataset, folder = how_to_get(name), find(name), default_root(name)
    if folder is None or dataset.generated:
        return None
    if holds(folder, dataset):
        return folder
    if not (way.downloads or way.rsync or way.hub or (way.kaggle and kaggle_ready())):
        return None
    data_root().mkdir(parents=True, exist_ok=True)
    if need := disk_need_gb(name):
        check_disk(data_root(), int(1e9 * need), name)
    for download in way.downloads:
        folder = fetch_dataset(download, keep_archive)
    if way.rsync:
        _from_share(way.rsync, folder)
    elif way.hub:
        _from_hub(way.hub, folder)
    elif way.kaggle and not way.downloads:
        _from_kaggle(way, dataset, folder)
    return folder


def _from_share(share: str, folder: Path) -> None:
    """Copy a public rsync share; what is there and whole is not copied again, what is half there goes on."""
    _run(["rsync", "-rhz", "--partial", "--info=progress2", f"{share.rstrip('/')}/", f"{folder}/"], share, folder)


def _from_hub(repository: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, repo_type="dataset", local_dir=folder)
    except OSError as error:
        raise DownloadError(f"{repository}: the Hugging Face Hub does not give it ({error}).") from error


def kaggle_ready() -> bool:
    """Whether Kaggle's client is installed and has credentials: a token file, or KAGGLE_USERNAME and KAGGLE_KEY."""
    own = Path(os.environ.get("KAGGLE_CONFIG_DIR", Path.home() / ".kaggle")) / "kaggle.json"
    has_key = (
        own.is_file() or {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys() or "KAGGLE_API_TOKEN" in os.environ
    )
    return has_key and shutil.which("kaggle") is not None


def _from_kaggle(way: Get, dataset: Dataset, folder: Path) -> None:
    """Kaggle's client fetches the archive (it resumes by itself); it is unpacked here, with the checks of every archive."""
    archives = data_root() / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    _run(["kaggle", "datasets", "download", way.kaggle, "-p", str(archives)], way.kaggle, archives)
    archive = archives / f"{way.kaggle.split('/')[1]}.zip"
    unpack(archive, folder)
    archive.unlink()


def _run(command: list[str], source: str, folder: Path) -> None:
    """Run another program and show what it says (DownloadError when it is missing or fails)."""
    if shutil.which(command[0]) is None:
        raise DownloadError(f"{command[0]} is not installed: `{' '.join(command)}` is what would have run.")
    folder.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise DownloadError(
            f"{source}: {command[0]} ended with code {code}. What arrived is kept in {folder}; the same command goes on."
        )
