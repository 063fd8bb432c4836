"""Which state of the project a number came from."""

import subprocess

from vpr_lib.paths import project_root


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
