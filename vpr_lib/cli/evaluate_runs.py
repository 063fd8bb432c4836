"""`vpr evaluate MODEL --dataset oxford`: drives compared two at a time, by camera and cloud models alike."""

from pathlib import Path

from vpr_lib.cli.common import show, write_json


def evaluate_runs(
    name: str, dataset: str, root: Path | None, weights: Path | None, untrained: bool, records: Path | None,
    json: Path | None, on: tuple[str, str],
) -> None:  # fmt: skip
    """Describe every submap once, score every ordered pair of drives, print the averages, keep one record per query.

    Args:
        on: device and precision.
    """
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.paths import cache_root
    from vpr_lib.results.records import Run, write_records
    from vpr_lib.results.run_pairs import pair_records, run_pair_table
    from vpr_lib.retrieval.run_pairs import evaluate_run_pairs

    device, precision = on
    model, source = _load(name, weights, untrained)
    runs = open_dataset(dataset, root)
    scores = evaluate_run_pairs(model, runs, cache_root() / "descriptors", "cosine", device, precision)
    run = Run(model=name, system=_system(model, name), dim=model.dim, weights=source, device=device, precision=precision)
    table = pair_records(runs, scores, run)
    file = write_records(records or cache_root() / "records", table)
    row = run_pair_table(table).iloc[0]
    show(f"[bold]{name}[/bold] on [bold]{dataset}[/bold]  ({runs.card.name}: {runs.card.rule_in_words()}; mean over "
         f"{row['pairs']} pairs of drives, weights: {source}, {device} {precision})")  # fmt: skip
    for k in ("1", "5", "10", "1%"):
        show(f"  AR@{k:<3s} {row[f'R@{k}']:6.2f} %")
    show(f"  [dim]records: {file}[/dim]")
    write_json(json, {"model": name, "dataset": dataset, "weights": source, "records": str(file),
                      "average_recall": {k: float(row[f"R@{k}"]) for k in ("1", "5", "10", "1%")}})  # fmt: skip


def _load(name: str, weights: Path | None, untrained: bool):
    from vpr_lib.cli.common import load_model
    from vpr_lib.models.checkpoints import load_weights, trained_path
    from vpr_lib.models.minkloc import CLOUD_MODELS, build_cloud_model, load_official
    from vpr_lib.models.published import published_at

    if name not in CLOUD_MODELS:
        return load_model(name, weights, untrained)
    model, path = build_cloud_model(name), weights or trained_path(name)
    if untrained:
        return model, "untrained"
    if not path.is_file():
        raise FileNotFoundError(f"No weights {path}.{published_at(name)}")
    (load_weights if path.suffix == ".safetensors" else load_official)(model, path)
    return model, str(path)


def _system(model, name: str) -> str:
    """What the papers' tables call it: a cloud model is a teacher there."""
    from vpr_lib.models.minkloc import CLOUD_MODELS

    return f"{CLOUD_MODELS[name].system} (teacher)" if name in CLOUD_MODELS else model.config.system
