"""`vpr evaluate`: a model on a benchmark, under every protocol of the set; `vpr submit msls`: on one whose server keeps the truth."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import (
    PACKAGE,
    DataRoot,
    Device,
    Index,
    JsonFile,
    ModelName,
    Precision,
    RawFrame,
    Runtime,
    Untrained,
    Weights,
    choose_device,
    found_in_words,
    join_processes,
    load_model,
    open_network,
    plain,
    show,
    write_json,
)


def evaluate(
    model: ModelName,
    dataset: Annotated[str, typer.Option(help="A data set by name; an unknown name lists the known ones.")] = "toycity",
    root: DataRoot = None,
    weights: Weights = None,
    untrained: Untrained = False,
    raw_frame: RawFrame = False,
    records: Annotated[
        Path | None, typer.Option(help="Folder for the per-query records; default data/cache/records.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw picture strips and a page of the top 10 into this folder.")
    ] = None,
    json: JsonFile = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    transform: Annotated[
        str | None,
        typer.Option(help="Evaluate as a paper does: a name of retrieval/transforms.py; sets the precision."),
    ] = None,
    whiten_on: Annotated[
        str | None, typer.Option(help="Whiten by PCA, fitted on up to 10,000 images of this training set (by name).")
    ] = None,
    whiten_to: Annotated[int, typer.Option(help="Length after whitening.")] = 4096,
    queries: Annotated[
        str, typer.Option(help="Queries as crops: central_crop, five_crops (mean), nearest_crop, majority_vote.")
    ] = "",
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Re-rank the whole database by k-reciprocal neighbours (k1 = 25).")
    ] = False,
    runtime: Runtime = "torch",
    index: Index = "exact",
    foreign: Annotated[
        str | None,
        typer.Option(help="Data set (its queries) or folder that shows nothing of this map: can the model tell?"),
    ] = None,
    batch_size: int = 32,
) -> None:
    """Describe, search, score; print recalls with their 95 % interval and keep one record per query.

    Started by torchrun, the processes share the images; the first one goes on alone.
    """
    from vpr_lib.config import Compute
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.data.ground_truth import Benchmark
    from vpr_lib.paths import cache_root
    from vpr_lib.results.measure import Variant, measure
    from vpr_lib.results.records import Run
    from vpr_lib.retrieval.transforms import under

    network, source, device, _ = open_network(model, weights, untrained, runtime, device, precision, raw_frame)
    precision = precision if runtime == "torch" else "fp32"  # an export's precision is in its file
    if foreign is not None and (transform or whiten_on or rerank):
        raise ValueError("--foreign compares plain similarities: leave --transform, --whiten-on and --rerank away.")
    process, processes, device = join_processes(device)
    benchmark = open_dataset(dataset, root)
    variant = Variant(transform, _training_images(whiten_on), whiten_to, index, queries, rerank)
    compute = Compute(device=device, precision=precision, batch_size=batch_size)
    if processes > 1:
        if whiten_on is not None:
            raise ValueError("--whiten-on is fitted in one process: run this once without torchrun, or leave it away.")
        described = (network, benchmark, precision) if transform is None else under(transform, network, benchmark)
        _describe_together(*described, cache_root() / "descriptors", device, batch_size)
        if process > 0:
            return
    run = Run(model=model, system=network.config.system, weights=source)
    measured = measure(network, benchmark, run, records or cache_root() / "records", compute, variant)
    protocols = [_protocol(*each) for each in zip(measured.rows(), measured.cards, measured.files)]
    result, of_exact = measured.evaluation, {}
    about = {"model": measured.run.model, "dataset": benchmark.name, "weights": source, "device": device,
             "precision": measured.run.precision, "index": index}  # fmt: skip
    if isinstance(benchmark, Benchmark):
        of_exact = result.found
        about |= {"database": len(benchmark.database), "queries": len(benchmark.queries),
                  "seconds": result.database.seconds + result.queries.seconds}  # fmt: skip
    for row, card in zip(measured.rows(), measured.cards):
        _print(row, card, source)
    for file in measured.files:
        show(f"  [dim]records: {plain(file)}[/dim]")
    if of_exact:
        show(f"  {found_in_words(index, of_exact)}")
    if foreign is not None:
        about["foreign"] = _tell_foreign(network, result, foreign, compute, model if source == PACKAGE else "")
    if out is not None:
        _draw(result, out, measured.run)
    write_json(json, about | {"found_of_exact": of_exact, "protocols": protocols})


def _tell_foreign(network, result, foreign: str, compute, bundled: str) -> dict:
    """Print how well the best similarity tells the map's queries from foreign ones, and what a bundled threshold does."""
    from vpr_lib.data.catalogue import load_table, open_benchmark
    from vpr_lib.data.readers.folders import folder_manifest
    from vpr_lib.models.checkpoints import foreign_below
    from vpr_lib.paths import cache_root
    from vpr_lib.retrieval.foreign import against, tell_foreign

    if not hasattr(result, "queries"):
        raise ValueError("--foreign needs one database and its queries; pairs of drives have no one database.")
    known = foreign in load_table().datasets
    strangers = open_benchmark(foreign).queries if known else folder_manifest(Path(foreign), "query", "foreign", "test")
    own, others = against(network, result, strangers, cache=cache_root() / "descriptors", **compute.model_dump())
    measured = tell_foreign(own, others)
    about = vars(measured)
    show(f"  {len(own)} queries of this map against {len(others)} of {foreign}, by the best similarity: AUROC "
         f"{measured.auroc:.3f}; precision {100 * measured.precision:.1f} % where 95 % of the map's are kept")  # fmt: skip
    if bundled:
        below = foreign_below(bundled)
        kept, refused = (own >= below).mean(), (others < below).mean()
        about |= {"below": below, "kept_by_it": float(kept), "refused_by_it": float(refused)}
        show(f"  'not in this map' under {below:.3f}, as set in the generated city: keeps {100 * kept:.1f} % of the map's, "
             f"refuses {100 * refused:.1f} % of the foreign")  # fmt: skip
    return about


def _describe_together(network, benchmark, precision: str, cache: Path, device: str, batch_size: int) -> None:
    """Both sides described by all processes of torchrun, each image by one; the descriptors are on disk afterwards."""
    import torch.distributed as dist

    from vpr_lib.data.ground_truth import Benchmark
    from vpr_lib.retrieval.describe import describe

    if not isinstance(benchmark, Benchmark):
        raise ValueError(f"'{benchmark.name}' is pairs of drives: run this in one process, without torchrun.")
    for manifest in (benchmark.database, benchmark.queries):
        describe(network, manifest, cache, device, together=True, precision=precision, batch_size=batch_size)
    dist.destroy_process_group()


def _training_images(dataset: str | None) -> list:
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.data.prepare import manifests_of

    return list(manifests_of(open_dataset(dataset)).values()) if dataset else []


def _ks(row: dict) -> list[int]:
    """The cut-offs that a row of a recall table has."""
    return [int(name[2:]) for name in row if name.startswith("R@") and name[2:].isdigit()]


def _protocol(row: dict, card, file: Path) -> dict:
    return {"card": card.model_dump(), "card_hash": card.hash, "queries_counted": row["queries"], "records": str(file),
            "recall": {str(k): row[f"R@{k}"] / 100 for k in _ks(row)},
            "interval": {str(k): [row[f"R@{k} low"] / 100, row[f"R@{k} high"] / 100] for k in _ks(row)}}  # fmt: skip


def _print(row: dict, card, source: str) -> None:
    show(
        f"[bold]{row['model']}[/bold] on [bold]{plain(row['dataset'])}[/bold]  ({card.name}: {card.rule_in_words()}; "
        f"{row['queries']} queries, weights: {plain(source)}, {row['device']} {row['precision']})"
    )
    if "pairs" in row:
        show(f"  mean over {row['pairs']} pairs of drives; R@1% {row['R@1%']:.2f} %")
    for k in _ks(row):
        show(f"  R@{k:<4d} {row[f'R@{k}']:6.2f} %   [dim]{row[f'R@{k} low']:.1f} to {row[f'R@{k} high']:.1f}[/dim]")


def _draw(result, out: Path, run) -> None:
    if not hasattr(result, "queries"):
        raise ValueError("--out draws queries and their matches; pairs of drives have no one database to draw from.")
    from vpr_lib.retrieval.folders import FolderRetrieval
    from vpr_lib.retrieval.search import Ranking
    from vpr_lib.widgets.retrieval_files import write_retrieval

    top = Ranking(result.ranking.indices[:, :10], result.ranking.scores[:, :10])
    for path in write_retrieval(FolderRetrieval(result.benchmark, top), out, run, strips=200).values():
        show(f"  [dim]{plain(path)}[/dim]")


def submit_msls(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("msls_submission.txt"),
    root: Annotated[Path | None, typer.Option(help="Where MSLS is.")] = None,
    dataset: Annotated[str, typer.Option(help="msls_test, or msls_val to try the way.")] = "msls_test",
    top_k: Annotated[int, typer.Option(help="Database images per query.")] = 20,
    weights: Weights = None,
    untrained: Untrained = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: int = 32,
) -> None:
    """Describe the test cities, search, write the challenge's file, and read it back."""
    import numpy as np

    from vpr_lib.data.catalogue import open_benchmark
    from vpr_lib.data.readers.msls import read_msls_submission, write_msls_submission
    from vpr_lib.paths import cache_root
    from vpr_lib.retrieval.describe import describe
    from vpr_lib.retrieval.search import search

    device = choose_device(device)
    network, source = load_model(model, weights, untrained)
    benchmark = open_benchmark(dataset, root)
    options = dict(cache=cache_root() / "descriptors", device=device, precision=precision, batch_size=batch_size)
    database, queries = (describe(network, side, **options).array for side in (benchmark.database, benchmark.queries))
    ranking = np.asarray(search(database, queries, top_k, device=device).indices)
    file = write_msls_submission(out, benchmark, ranking, top_k)
    if not np.array_equal(read_msls_submission(file, benchmark), ranking[:, :top_k]):
        raise ValueError(f"{file} does not read back as it was written: two images of the test cities share a key.")
    show(
        f"{plain(file)}: {len(ranking)} queries, {top_k} of {len(benchmark.database):,} database images each, by {model} ({plain(source)}); read back and equal"
    )
