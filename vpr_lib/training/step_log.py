"""What a training says of its batches: log.csv, a row for each, the same after a kill as without one, and the progress line."""

import csv
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch

from vpr_lib.files import write_text
from vpr_lib.machine import peak_memory_bytes


def line_values(
    values: Mapping[str, float], done: int, left: int, seconds: float, processes: int, on_gpu: bool
) -> dict[str, str]:
    """The progress line's words and numbers after `done` batches in `seconds`, with `left` to come in the whole training."""
    shown = {"loss": f"{values['loss']:.3f}"}
    if "useful" in values:
        shown["useful"] = f"{100 * values['useful']:.0f} %"
    if "images" in values:
        shown["img/s"] = f"{done * values['images'] * processes / max(seconds, 1e-9):.0f}"
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes()
    shown["GPU GB" if on_gpu else "GB"] = f"{peak / 2**30:.1f}"
    shown["training left"] = str(timedelta(seconds=round(left * seconds / done)))
    return shown


def append_row(path: Path, epoch: int, batch: int, values: Mapping[str, float]) -> None:
    """Add a batch's values; the first row of the file says what they are."""
    row = {"epoch": epoch, "batch": batch, **values}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def cut_after(path: Path, epoch: int, batch: int) -> None:
    """Drop the rows that were logged after the checkpoint at (epoch, batch), whose batches are done again, those logged
    twice, and one that a kill or a full disk cut short."""
    if not path.is_file():
        return
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    fields = first.count(",")
    rows = {_position(line): line for line in lines if line.count(",") == fields and _position(line) is not None}
    logged = [line for place, line in rows.items() if place <= (epoch, batch)]
    write_text(path, "".join(f"{line}\n" for line in [first, *logged] if line))


def _position(line: str) -> tuple[int, int] | None:
    """Epoch and batch of a row; None when its numbers are none."""
    try:
        epoch, batch, *rest = line.split(",")
        [float(value) for value in rest]
        return int(epoch), int(batch)
    except ValueError:
        return None
