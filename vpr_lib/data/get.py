"""From a public address to a folder that can be read."""

import logging
from pathlib import Path

from vpr_lib.data.catalogue import Download
from vpr_lib.data.download import fetch, remember
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
