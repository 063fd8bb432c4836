"""From a model and a benchmark to records, with everything the book knows about the run written on every row."""

from typing import Literal

import pandas as pd
from torch import nn

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.paths import cache_root
from vpr_lib.results.records import Run, query_records, read_records, write_records
from vpr_lib.results.run_pairs import pair_records
from vpr_lib.retrieval.protocol import KS, Evaluation, evaluate
from vpr_lib.retrieval.run_pairs import PairScores, evaluate_run_pairs
from vpr_lib.retrieval.transforms import under
from vpr_lib.workbook.book.session import Book


def measure(
    book: Book,
    model: nn.Module,
    benchmark: Benchmark,
    name: str,
    system: str,
    weights: str = "trained here",
    seed: int | None = None,
    transform: str | None = None,
) -> Evaluation:
    """Evaluate a model on a benchmark and write its records, one file per protocol card.

    Args:
        name, system: what tables call the model and its method.
        weights: what was loaded, in words.
        seed: of the training run; default the profile's.
        transform: a name of TRANSFORMS: evaluate as that paper does, under cards of its own.
    """
    device, precision = str(book.device), book.profile.precision
    if transform is not None:
        model, benchmark, precision = under(transform, model, benchmark)
    result = evaluate(model, benchmark, cache_root() / "descriptors", KS, device, precision, quiet=True)
    keep(book, result, name, system, weights, seed, precision)
    return result


def keep(
    book: Book,
    result: Evaluation,
    name: str,
    system: str,
    weights: str = "trained here",
    seed: int | None = None,
    precision: str | None = None,
) -> None:
    """Write the records of an evaluation that was made otherwise, for instance with reduced descriptors."""
    run = Run(
        model=name, system=system, dim=result.database.array.shape[1], profile=book.profile.name, notebook=book.name, run_id=book.run_id,
        seed=book.seed if seed is None else seed, weights=weights, device=str(book.device),
        precision=precision or book.profile.precision,
    )  # fmt: skip
    for scored in result.scores:
        write_records(book.records, query_records(result.benchmark, scored, result.ranking.scores, run))


def measure_runs(
    book: Book,
    model: nn.Module,
    runs: RunPairs,
    name: str,
    system: str,
    metric: Literal["cosine", "euclidean"] = "cosine",
    weights: str = "trained here",
    seed: int | None = None,
) -> PairScores:
    """`measure` for run pairs: every submap is described once, every ordered pair of runs is scored and recorded."""
    device = str(book.device)
    scores = evaluate_run_pairs(
        model, runs, cache_root() / "descriptors", metric, device, book.profile.precision, quiet=True
    )
    run = Run(
        model=name, system=system, dim=model.dim, profile=book.profile.name, notebook=book.name, run_id=book.run_id,
        seed=book.seed if seed is None else seed, weights=weights, device=device, precision=book.profile.precision,
    )  # fmt: skip
    write_records(book.records, pair_records(runs, scores, run))
    return scores


def own_records(book: Book) -> pd.DataFrame:
    """The records this notebook has written so far."""
    return read_records(book.records)


def all_records(book: Book) -> pd.DataFrame:
    """The records of every notebook of this profile, and those of `vpr evaluate`."""
    return read_records(book.cache / "records", cache_root() / "records")
