"""Where things live on disk. Nothing here touches the disk until a function is called."""

import os
import subprocess
from pathlib import Path

from vpr_lib.files import atomic_path as atomic_path
from vpr_lib.files import write_text as write_text


def project_root() -> Path:
    """The folder that holds notebooks/, data/, figures/ and runs/.

    The environment variable VPR_HOME wins; otherwise the checkout this package was imported from; otherwise (an
    installed wheel) the current folder.
    """
    if home := os.environ.get("VPR_HOME"):
        return Path(home).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def git_state() -> str:
    """Commit of the project, with '+changes' when files differ from it; 'unknown' outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def data_root() -> Path:
    """Folder of the data sets: the environment variable VPR_DATA, otherwise data/ in the project."""
    override = os.environ.get("VPR_DATA")
    return Path(override).expanduser().resolve() if override else project_root() / "data"


def cache_root() -> Path:
    """Folder of everything that can be computed again (descriptors, trained models): VPR_CACHE or data/cache."""
    override = os.environ.get("VPR_CACHE")
    return Path(override).expanduser().resolve() if override else data_root() / "cache"


def bench_file() -> Path:
    """What `vpr bench` measured last on this machine; the report of a run shows it."""
    return cache_root() / "bench" / "last.json"


def figures_root() -> Path:
    return project_root() / "figures"


def runs_root() -> Path:
    return project_root() / "runs"


def notebooks_root() -> Path:
    return project_root() / "notebooks"


def content_memory() -> Path:
    """What the bytes of images and descriptors hashed to when they were last read (`files.content_hashes`)."""
    return cache_root() / "content.sqlite"
