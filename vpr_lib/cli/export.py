"""`vpr export`: a model as an ONNX or OpenVINO file, with how close and how fast it is written beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpr_lib.cli.common import DataRoot, JsonFile, ModelName, Untrained, Weights, load_model, plain, show, write_json

if TYPE_CHECKING:
    from vpr_lib.models.export import ExportInfo


def export_model(
    model: ModelName,
    format_: Annotated[str, typer.Option("--format", help="onnx or openvino.")] = "openvino",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 (openvino) or int8; default: what suits the backbone.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to calibrate on and to compare descriptors on.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Benchmark to measure the change of recall on; calibrates on its database.")
    ] = None,
    root: DataRoot = None,
    calibration: Annotated[int, typer.Option(help="Images to calibrate int8 on, evenly spread; at most half.")] = 300,
    weights: Weights = None,
    untrained: Untrained = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default data/cache/exports/MODEL/FORMAT-PRECISION.")] = None,
    seconds: Annotated[float, typer.Option(help="Time spent per speed measurement.")] = 2.0,
    json: JsonFile = None,
) -> None:
    """Export a model; calibrate on images; measure cosine, recall change, size and speed against torch fp32."""
    from vpr_lib.data.catalogue import open_benchmark
    from vpr_lib.data.readers.folders import folder_manifest
    from vpr_lib.models.export import check_precision, default_precision, export, export_folder
    from vpr_lib.results.parity import calibration_images, calibration_rows, nearest_lost, recall_lost, write_parity

    network, source = load_model(model, weights, untrained)
    check_precision(format_, precision or "fp32")
    precision = precision or default_precision(network.config, format_)
    if images is None and dataset is None:
        raise ValueError("Say on which images to calibrate and compare: --images DIR, --dataset NAME, or both.")
    benchmark = open_benchmark(dataset, root) if dataset is not None else None
    seen = (
        folder_manifest(images, "db", images.resolve().name, "calibration")
        if images is not None
        else benchmark.database
    )
    folder = out or export_folder(model, format_, precision)
    pictures, judge = None, None
    if precision == "int8":
        pictures, rows = calibration_images(network, seen, calibration), calibration_rows(seen, calibration)
        if benchmark is None:
            judge = nearest_lost(network, seen, rows) if len(seen) > 2 else None
        else:
            judge = recall_lost(network, benchmark, rows if images is None else rows[:0])
    info = export(network, model, folder, format_, precision, pictures, judge)
    content = write_parity(network, folder, seen, benchmark, seconds)
    _print(content, source, folder)
    if precision == "int8":
        show(_int8_in_words(info, benchmark is not None))
    write_json(json, content | {"folder": str(folder), "source": source})


def _int8_in_words(info: "ExportInfo", by_recall: bool) -> str:
    """What whole numbers cost on images that were not calibrated on, and what to take instead where that is too much."""
    from vpr_lib.models.export import LEAST_INT8, MOST_LOST, PRECISIONS

    share = f"{100 * (info.int8_share or 0):.0f} % of the arithmetic in int8"
    kept = f"  calibrated on {info.calibration_images} images, in float: {info.kept_in_float}, {share}; "
    if info.lost is None:
        return kept + "too few images to say what int8 loses on others: give more, or --dataset"
    what = (
        "R@1 lost on other images with two standard errors, or 1 - cosine if more:"
        if by_recall
        else "nearest images lost on other images:"
    )
    said = f"{what} {100 * info.lost:.1f} points"
    if info.lost <= MOST_LOST and info.int8_share >= LEAST_INT8:
        return kept + said
    other = " or ".join(p for p in reversed(PRECISIONS[info.format]) if p != "int8")
    why = f"more than {100 * MOST_LOST:g}" if info.lost > MOST_LOST else "but little is left in int8"
    return f"{kept}[yellow]{said}, {why}: take --precision {other}[/yellow]"


def _print(content: dict, source: str, folder: Path) -> None:
    parity = content["parity"]
    show(
        f"[bold]{content['model']}[/bold] ({plain(source)}) as {content['format']} {content['precision']}, "
        f"{content['bytes'] / 1e6:.2f} MB: {plain(folder)}"
    )
    if parity["runs_in"] != content["precision"]:
        show(f"  [yellow]this processor has no {content['precision']}: it ran in {parity['runs_in']} here[/yellow]")
    show(f"  cosine to torch fp32: mean {parity['cosine_mean']:.5f}, least {parity['cosine_min']:.5f}")
    for k, change in parity.get("recall_change", {}).items():
        show(
            f"  R@{k:<3s} {100 * parity['recall'][k]:5.1f} -> {100 * parity['recall_exported'][k]:5.1f} %  ({100 * change:+.1f})"
        )
    if "p_value" in parity:
        show(
            f"  R@1 lost {parity['only_before']}, gained {parity['only_after']} queries, McNemar p = {parity['p_value']:.2g}"
        )
    for row in parity["speed"]:
        show(f"  {row['runner']:<15s} batch {row['batch']:<3d} {row['images_per_s']:8.1f} img/s  x{row['ratio']:.2f}")
