"""Write the numbers of README and docs/scoreboard.md from a run: time and headline of every notebook, and the scoreboard.

python tests/write_readme.py            # of the latest run; what notebooks it did not execute checked comes from their last green run
"""

import re
import sys
from pathlib import Path

from vpr_lib import paths
from vpr_lib.config import Profile, load_profile
from vpr_lib.workbook.book.sentinel import read_sentinel
from vpr_lib.workbook.run.scoreboard import checks_table, findings_table
from vpr_lib.workbook.run.status import checked_of, find_run, read_status

ROOT = Path(__file__).resolve().parent.parent
README, BOARD_PAGE = ROOT / "README.md", ROOT / "docs" / "scoreboard.md"
ROW = re.compile(r"^(?P<start>\| \[\d\d [^]]+\]\(notebooks/(?P<name>\w+)\.ipynb\) \| [^|]+) \|.*$", re.MULTILINE)
BOARD = re.compile(r"(?<=<!-- scoreboard -->\n).*?(?=<!-- /scoreboard -->)", re.DOTALL)


def main(run: str) -> None:
    status, folder = read_status(run), find_run(run)
    profile = load_profile(status.profile)
    text, cells = README.read_text(), {}
    for name in profile.notebooks:
        _, checked_in = checked_of(status.profile, name, folder)
        sentinel = read_sentinel(paths.runs_root() / (checked_in or folder.name), name)
        if sentinel is None:
            sys.exit(f"{name} has not been green under profile '{status.profile}': run it first.")
        cells[name] = f"{profile.notebooks[name].minutes:g} min | {sentinel.headline}"
    README.write_text(ROW.sub(lambda row: f"{row['start']} | {cells[row['name']]} |", text))
    BOARD_PAGE.write_text(BOARD.sub(lambda _: scoreboard(profile, folder), BOARD_PAGE.read_text()))


def scoreboard(profile: Profile, run: Path) -> str:
    found, checks = findings_table(profile, run), checks_table(profile, run)
    counted = ", ".join(f"{n} {verdict[2:]}" for verdict, n in found["verdict"].value_counts().items())
    lines = [f"{checks['verdict'].str.startswith('✓').sum()} of {checks['verdict'].str.contains('hold').sum()} checks of profile `{profile.name}` hold. "
             f"Of the papers' statements ({len(found)} findings): {counted}.", ""]  # fmt: skip
    lines += ["| | the paper's statement | measured here | expected | |", "|---|---|---|--:|---|"]
    for row in found.to_dict("records"):
        told = row["the paper's statement"], row["source"], row["measured here"], row["expected"], row["verdict"]
        lines.append("| {} | {} ({}) | {} | {} | {} |".format(row["notebook"], *told))
    lines += [
        "",
        "<details><summary>The checks</summary>",
        "",
        "| | check | target | measured | |",
        "|---|---|---|--:|---|",
    ]
    for row in checks.to_dict("records"):
        source = f" ({row['source']})" if row["source"] else ""
        lines.append(
            f"| {row['notebook']} | {row['check']}{source} | {row['target']} | {row['measured']} | {row['verdict']} |"
        )
    return "\n".join([*lines, "", "</details>", ""])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "latest")
