"""`vpr evaluate`: a model on a benchmark, under every protocol of the set."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import (
    Device,
    Index,
    JsonFile,
    Precision,
    Runtime,
    Untrained,
    Weights,
    choose_device,
    found_in_words,
    join_processes,
    load_export,
    load_model,
    show,
    write_json,
)


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="A name of the zoo, or a cloud model for drives; `vpr models` lists them.")],
    dataset: Annotated[str, typer.Option(help="A data set by name; an unknown name lists the known ones.")] = "toycity",
    root: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    weights: Weights = None,
    untrained: Untrained = False,
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
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Re-rank the whole database by k-reciprocal neighbours (k1 = 25).")
    ] = False,
    runtime: Runtime = "torch",
    index: Index = "exact",
    batch_size: int = 32,
) -> None:
    """Describe, search, score; print recalls with their 95 % interval and keep one record per query.

    Started by torchrun, the processes share the images; the first one goes on alone.
    """
    from vpr_lib.data.catalogue import find, open_benchmark
    from vpr_lib.paths import cache_root
    from vpr_lib.results.records import Run, query_records, write_records
    from vpr_lib.results.tables import recall_table
    from vpr_lib.retrieval.protocol import KS
    from vpr_lib.retrieval.protocol import evaluate as run_evaluation
    from vpr_lib.retrieval.transforms import under

    if find(dataset).kind == "run_pairs":
        from vpr_lib.cli.evaluate_runs import evaluate_runs

        return evaluate_runs(model, dataset, root, weights, untrained, records, json, (choose_device(device), precision))
    if runtime == "torch":
        device = choose_device(device)
        network, source = load_model(model, weights, untrained)
        computed_in = None
    else:
        network, source, device, computed_in = load_export(model, runtime, weights, device)
        precision = "fp32"  # an export's precision is in its file
    process, processes, device = join_processes(device)
    benchmark = open_benchmark(dataset, root)
    if transform is not None:
        network, benchmark, precision = under(transform, network, benchmark)
    name, system = model, network.config.system
    if whiten_on is not None:
        network, name = _whitened(network, whiten_on, whiten_to, device, precision), f"{name} PCA {whiten_to}"
    if processes > 1:
        if whiten_on is not None:
            raise ValueError("--whiten-on is fitted in one process: run this once without torchrun, or leave it away.")
        _describe_together(network, benchmark, cache_root() / "descriptors", device, precision, batch_size)
        if process > 0:
            return
    result = run_evaluation(
        network, benchmark, cache_root() / "descriptors", KS, device, precision, batch_size, index=index
    )
    if index != "exact":
        name = f"{name} {index}"
    if rerank:
        from vpr_lib.retrieval.rerank import reranked

        result, name = reranked(result, device=device), f"{name} reranked"
    dim, precision = result.database.array.shape[1], computed_in or precision
    run = Run(model=name, system=system, dim=dim, weights=source, device=device, precision=precision)
    tables = [query_records(benchmark, scored, result.ranking.scores, run) for scored in result.scores]
    files = [write_records(records or cache_root() / "records", table) for table in tables]
    rows = [row for table in tables for row in recall_table(table, KS).to_dict("records")]
    for scored, row, file in zip(result.scores, rows, files):
        _print(scored, row, source, file)
    if result.found:
        show(f"  {found_in_words(index, result.found)}")
    if out is not None:
        _draw(result, out, run)
    write_json(json, {"model": name, "dataset": benchmark.name, "weights": source, "device": device,
                      "precision": precision, "index": index, "found_of_exact": result.found,
                      "database": len(benchmark.database), "queries": len(benchmark.queries),
                      "seconds": result.database.seconds + result.queries.seconds,
                      "protocols": [{"card": scored.protocol.card.model_dump(), "card_hash": scored.protocol.card.hash,
                                     "queries_counted": int(scored.counted.sum()), "records": str(file),
                                     "recall": {str(k): v for k, v in scored.recall.items()},
                                     "interval": {str(k): [row[f"R@{k} low"] / 100, row[f"R@{k} high"] / 100]
                                                  for k in scored.recall}}
                                    for scored, row, file in zip(result.scores, rows, files)]})  # fmt: skip


def _describe_together(network, benchmark, cache: Path, device: str, precision: str, batch_size: int) -> None:
    """Both sides described by all processes of torchrun, each image by one; the descriptors are on disk afterwards."""
    import torch.distributed as dist

    from vpr_lib.retrieval.describe import describe

    for manifest in (benchmark.database, benchmark.queries):
        describe(network, manifest, cache, device, precision, batch_size, quiet=dist.get_rank() > 0, together=True)
    dist.destroy_process_group()


def _whitened(network, dataset: str, dim: int, device: str, precision: str):
    """The network with a whitening fitted on a training set, kept with the descriptors."""
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.data.prepare import manifests_of
    from vpr_lib.paths import cache_root
    from vpr_lib.retrieval.whitening import whiten

    manifests = list(manifests_of(open_dataset(dataset)).values())
    return whiten(network, manifests, dim, cache_root() / "whitening", device=device, precision=precision)


def _print(scored, row: dict, source: str, file: Path) -> None:
    card = scored.protocol.card
    show(
        f"[bold]{row['model']}[/bold] on [bold]{row['dataset']}[/bold]  ({card.name}: {card.rule_in_words()}; "
        f"{row['queries']} queries, weights: {source}, {row['device']} {row['precision']})"
    )
    for k in scored.recall:
        show(f"  R@{k:<4d} {row[f'R@{k}']:6.2f} %   [dim]{row[f'R@{k} low']:.1f} to {row[f'R@{k} high']:.1f}[/dim]")
    show(f"  [dim]records: {file}[/dim]")


def _draw(result, out: Path, run) -> None:
    from vpr_lib.retrieval.folders import FolderRetrieval
    from vpr_lib.retrieval.search import Ranking
    from vpr_lib.widgets.retrieval_files import write_retrieval

    top = Ranking(result.ranking.indices[:, :10], result.ranking.scores[:, :10])
    for path in write_retrieval(FolderRetrieval(result.benchmark, top), out, run, strips=200).values():
        show(f"  [dim]{path}[/dim]")
