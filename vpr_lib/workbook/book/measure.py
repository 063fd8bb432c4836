"""From a model and a benchmark to records, with everything the book knows about the run written on every row."""

from collections.abc import Sequence

import pandas as pd
from torch import nn

from vpr_lib.config import Compute
from vpr_lib.data.catalogue import open_available
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.paths import cache_root
from vpr_lib.results import measure as results
from vpr_lib.results.measure import Variant
from vpr_lib.results.records import Run, read_records
from vpr_lib.retrieval.protocol import Evaluation
from vpr_lib.retrieval.run_pairs import PairScores
from vpr_lib.workbook.book.session import Book


def measure(
    book: Book,
    model: nn.Module,
    benchmark: Benchmark | RunPairs,
    name: str,
    system: str,
    weights: str = "trained here",
    seed: int | None = None,
    **variant: object,
) -> Evaluation | PairScores:
    """Evaluate a model on a benchmark or on pairs of drives, and write its records, one file per protocol card.

    Args:
        name, system: what tables call the model and its method.
        weights: what was loaded, in words.
        seed: of the training run; default the profile's.
        variant: fields of results.measure.Variant: `transform`, `queries`, `whiten_on`, `rerank` and so on.
    """
    run = Run(
        model=name, system=system, profile=book.profile.name, notebook=book.name, run_id=book.run_id,
        seed=book.seed if seed is None else seed, weights=weights,
    )  # fmt: skip
    return results.measure(model, benchmark, run, book.records, _compute(book), Variant(**variant)).evaluation


def answer(book: Book, model: nn.Module, benchmark: Benchmark) -> Evaluation:
    """Evaluate as `measure` does, and write nothing."""
    return results.answer(model, benchmark, _compute(book))[0]


def _compute(book: Book) -> Compute:
    maps = cache_root() / "maps"
    return Compute(device=str(book.device), precision=book.profile.precision, quiet=True, maps=maps)


def open_here(book: Book, names: Sequence[str]) -> dict[str, Benchmark]:
    """The benchmarks of these names that are on this disk; every other one leaves a hole with the command that gets it.

    Raises:
        ValueError: as `catalogue.open_available`, when none is here.
    """
    opened, missing = open_available(names)
    for name in missing:
        book.hole(name, f"Not on this disk: vpr data get {name}")
    return opened


def own_records(book: Book, benchmark: Benchmark | None = None) -> pd.DataFrame:
    """The records this notebook has written so far; of one benchmark, those under its default protocol."""
    records = read_records(book.records)
    return records if benchmark is None else records[records["protocol"] == benchmark.protocol.card.name]


def all_records(book: Book) -> pd.DataFrame:
    """The records of every notebook of this profile, and those of `vpr evaluate`."""
    return read_records(book.cache / "records", cache_root() / "records")
