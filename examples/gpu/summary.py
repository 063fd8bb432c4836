"""summary.py OUT RUN: what checks, bench and run came to, as Markdown on standard output."""

import json
import sys
from pathlib import Path


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def checks(found: dict) -> list[str]:
    if not found:
        return []
    rows = found["checks"]
    failed = [row for row in rows if row["result"] == "failed"]
    counts = {kind: sum(row["result"] == kind for row in rows) for kind in ("passed", "failed", "skipped")}
    lines = ["", "## Device checks", "", f"{found['device']}, torch {found['torch']}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items())
             + f" in {found['seconds']:.0f} s{'' if found['finished'] else ', cut'}."]  # fmt: skip
    for precision, worst in found.get("worst", {}).items():
        lines += [
            f"- {precision}: smallest cosine to the CPU's fp32 descriptors {worst['cosine']:.6f} ({worst['model']})"
        ]
    for row in failed[:20]:  # checks.json has all
        lines += ["", f"**{row['name']}**", "```", row["why"][-700:], "```"]
    return lines


def bench(found: dict) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        "## Bench",
        "",
        "| row | peers | ours | ratio | parity | of the machine's limit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found["rows"].items():
        if "skipped" in row:
            lines += [f"| {name} | | | | {row['skipped']} | |"]
            continue
        parity = ", ".join(f"{what} {value:.4g}" for what, value in row["parity"].items())
        lines += [f"| {name}: {row['what']}, {row['size']} | {row['peers_s']:.3f} s | {row['ours_s']:.3f} s | x{row['ratio']:.2f} | {parity} | "
                  f"{row.get('limit', '')} |"]  # fmt: skip
    limits = found["machine"].get("gpu_limits") or {}
    return (
        [*lines, "", "Measured limits: " + ", ".join(f"{name} {value:.4g}" for name, value in limits.items())]
        if limits
        else lines
    )


def run(status: dict) -> list[str]:
    if not status:
        return []
    lines = ["", f"## Run {status['run_id']}", "", f"Profile {status['profile']}, {status['device']}, exit code {status['exit_code']}.", "",
             "| notebook | status | s | cells | headline or reason |", "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for book in status["notebooks"]:
        told = (book["headline"] or book["reason"]).replace("\n", " ").replace("|", "/")[:300]
        lines += [
            f"| {book['name']} | {book['status']} | {book['seconds'] or 0:.0f} | {book['cells_done']}/{book['cells']} | {told} |"
        ]
    return [*lines, "", f"{sum(book['seconds'] or 0 for book in status['notebooks']):.0f} s in notebooks."]


if __name__ == "__main__":
    out, folder = map(Path, sys.argv[1:3])
    parts = [checks(read(out / "checks.json")), bench(read(out / "bench.json")), run(read(folder / "status.json"))]
    print("\n".join(["# What the GPU showed", *(line for part in parts for line in part)]))
