"""Write the README's numbers from a run: time and headline of every notebook, and the scoreboard.

python tests/write_readme.py            # of the latest run; claims of notebooks it did not execute come from their last green run
"""

import re
import sys
from pathlib import Path

from vpr_lib import paths
from vpr_lib.config import load_profile
from vpr_lib.workbook.book.sentinel import read_sentinel
from vpr_lib.workbook.run.status import claims_of, find_run, read_status

README = Path(__file__).resolve().parent.parent / "README.md"
ROW = re.compile(r"^(?P<start>\| \[\d\d [^]]+\]\(notebooks/(?P<name>\w+)\.ipynb\) \| [^|]+) \|.*$", re.MULTILINE)
BOARD = re.compile(r"(?<=<!-- scoreboard -->\n).*?(?=<!-- /scoreboard -->)", re.DOTALL)


def main(run: str) -> None:
    status, folder = read_status(run), find_run(run)
    profile = load_profile(status.profile)
    text, claims, cells = README.read_text(), {}, {}
    for name in profile.notebooks:
        claims[name], checked_in = claims_of(status.profile, name, folder)
        sentinel = read_sentinel(paths.runs_root() / (checked_in or folder.name), name)
        if sentinel is None:
            sys.exit(f"{name} has not been green under profile '{status.profile}': run it first.")
        cells[name] = f"{profile.notebooks[name].minutes:g} min | {sentinel.headline}"
    text = ROW.sub(lambda row: f"{row['start']} | {cells[row['name']]} |", text)
    README.write_text(BOARD.sub(lambda _: scoreboard(status.profile, claims), text))


def scoreboard(profile: str, claims: dict) -> str:
    every = [claim for checked in claims.values() for claim in checked]
    lines = [f"{sum(claim.holds for claim in every)} of {len(every)} claims of profile `{profile}` hold.", "", "<details><summary>All of them</summary>", "",
             "| | claim | target | measured | |", "|---|---|---|--:|---|"]  # fmt: skip
    for name, checked in claims.items():
        for claim in checked:
            source = f" ({claim.source})" if claim.source else ""
            lines.append(
                f"| {name[:2]} | {claim.statement}{source} | {claim.target} | {claim.measured:.4g} | {'✓' if claim.holds else '✗'} {claim.verdict} |"
            )
    return "\n".join([*lines, "", "</details>", ""])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "latest")
