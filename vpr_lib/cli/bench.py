"""`vpr bench`: the plain way beside ours, in one process, with how far the results agree beside every ratio."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vpr_lib.cli.common import JsonFile, show, write_json


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, one repeat: checks parity, not speed.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="8,000 queries and 64 images: about 20 minutes on two cores.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="The rows of a CUDA device, a good minute together.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run, by name; repeat the option for several.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Timed runs of each way.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch and faiss; default torch's own.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure describe, decode, search, scoring and clouds against the plain implementations, and compare results.

    What was measured last is kept, row by row, for the report of a run; --quick is not. The exit code is 1 where results
    differ; a missed target is only said, since it depends on what else runs.
    """
    import gc
    import tempfile

    import torch

    from vpr_lib.bench.gpu_ways import gpu_limits
    from vpr_lib.bench.measure import SIZES, Skipped, bare_products, compare, machine, sustained_rate
    from vpr_lib.bench.rows import ROWS
    from vpr_lib.paths import bench_file
    from vpr_lib.registry import lookup

    if quick + full + gpu > 1:
        raise ValueError("--quick, --full or --gpu, not both.")
    if threads is not None:
        torch.set_num_threads(threads)
    size = SIZES["quick" if quick else "full" if full else "gpu" if gpu else "normal"]
    makers = {
        name: lookup(ROWS, name, "bench row") for name in only or [row for row in ROWS if row[:4] == "gpu_" or not gpu]
    }
    found, products = {}, bare_products()
    rates = {name: max(sustained_rate(product) for _ in range(3)) for name, product in products.items()}
    limits = gpu_limits() if torch.cuda.is_available() and any(name[:4] == "gpu_" for name in makers) else None
    for name, make in makers.items():
        show(f"[dim]{name} ...[/dim]")
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = compare(make(size, Path(folder)), repeats or size.repeats, products)
            except Skipped as reason:
                found[name] = {"skipped": str(reason)}
            except Exception as error:
                if not gpu:
                    raise
                found[name] = {"skipped": f"failed: {type(error).__name__}: {error}"[:500]}  # the others still count
        if limits and found[name].get("gflop_per_s"):
            found[name]["limit"] = (
                f"{found[name]['gflop_per_s'] / limits['bf16 TFLOP/s'] / 10:.0f} % of its bf16 products"
            )
        found[name]["when"] = datetime.now(UTC).isoformat(timespec="seconds")
        gc.collect()
        about = machine() | {"matrix_rates": rates} | ({"gpu_limits": limits} if limits else {})
        write_json(json, {"machine": about, "quick": quick, "rows": found})  # row by row: it takes minutes
        if not quick:
            write_json(bench_file(), {"machine": about, "rows": _kept(bench_file(), about, list(ROWS)) | found})
    _print(found, about)
    if different := [name for name, row in found.items() if not row.get("same", True)]:
        raise ValueError(
            f"Results differ in {', '.join(different)}: the ratios there mean nothing until that is mended."
        )


def _kept(file: Path, about: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Rows that were measured earlier on the same machine with the same torch and threads."""
    import json

    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    same = all(before.get("machine", {}).get(key) == about[key] for key in ("cpu", "cores", "threads", "gpu", "torch"))
    return {name: row for name, row in before["rows"].items() if name in names} if same else {}


def _print(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vpr_lib.workbook.run.terminal import brief

    table = Table(
        "row", "size", "peers", "ours", "ratio (rounds)", "CPU time", "of bare rate", "target", "parity", "extra MB"
    )
    for name, row in found.items():
        if "skipped" in row:
            table.add_row(name, "", "", "", "", "", "", "", row["skipped"], "")
            continue
        parity = ", ".join(f"{what} {value:.6g}" for what, value in row["parity"].items())
        table.add_row(
            name, row["size"], brief(row["peers_s"]), brief(row["ours_s"]),
            f"x{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f}, n={row['repeats']})",
            f"x{row['cpu_ratio']:.2f}", f"{100 * row['share']:.0f} %" if row["share"] else "", _target(row), parity,
            f"{row['peers_extra_mb']} / {row['ours_extra_mb']}",
        )  # fmt: skip
    Console(width=None if Console().is_terminal else 180).print(table)
    show(
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, load {about['load_1min']}, "
        f"GPU {about['gpu'] or 'none'}, torch {about['torch']}; ratio = median of peers / median of ours"
    )
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in about["matrix_rates"].items())
    show(f"bare matrix products here, in 10^9 operations per second: {rates}")
    if limits := about.get("gpu_limits"):
        show("the GPU bare: " + ", ".join(f"{name} {value:.0f}" for name, value in limits.items()))
    for name, row in found.items():
        if "bound" in row:
            rate = f" ({row['gflop_per_s']:.0f} GFLOP/s)" if row["gflop_per_s"] else ""
            show(f"  {name} is bounded by {row['bound']}{rate}")


def _target(row: dict[str, Any]) -> str:
    if row["target"] is None:
        return "none here"
    wanted = f"{100 * row['target']:g} % of bare {row['rate']}" if row["rate"] else f"x{row['target']:g}"
    return f"{wanted} {'reached' if row['reached'] else 'not reached'}"
