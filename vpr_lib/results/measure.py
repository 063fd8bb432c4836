"""The one door to a measured number: a model and a benchmark in, records of every query out. DESIGN §3."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from vpr_lib.config import Compute
from vpr_lib.data.ground_truth import Benchmark, ProtocolCard
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.paths import cache_root
from vpr_lib.results.records import Run, query_records, write_records
from vpr_lib.results.run_pairs import pair_records, run_pair_table
from vpr_lib.results.tables import recall_table
from vpr_lib.retrieval.feature_maps import describe_on_maps, has_frozen_layers
from vpr_lib.retrieval.protocol import KS, Evaluation, evaluate, evaluate_described
from vpr_lib.retrieval.query_modes import POOLED, with_queries
from vpr_lib.retrieval.rerank import reranked
from vpr_lib.retrieval.run_pairs import PairScores, evaluate_run_pairs
from vpr_lib.retrieval.sequences import in_sequence
from vpr_lib.retrieval.transforms import under
from vpr_lib.retrieval.whitening import whiten

PAIR_KS = (1, 5, 10, 20, 25)  # of run pairs, which are ranked to 25


@dataclass(frozen=True)
class Variant:
    """What an evaluation does beside the plain way; all but the transform, which goes onto the card, enter the name."""

    transform: str | None = None  # a name of retrieval/transforms.py: as that paper evaluates, in its precision
    whiten_on: Sequence[Manifest] = ()  # fit a PCA whitening on up to 10,000 images of these
    whiten_to: int = 4096
    index: str = "exact"  # a name of retrieval/indexes.py
    queries: str = ""  # a name of retrieval/query_modes.py: queries as crops in their own shape
    rerank: bool = False  # by k-reciprocal neighbours, over the whole database
    sequence: int = 1  # frames matched together, where both lists are drives in order (retrieval/sequences.py)
    metric: Literal["cosine", "euclidean"] = "cosine"  # of run pairs
    columns: tuple[int, int] | None = None  # of run pairs: only these numbers of the descriptors, from and before

    def name(self, model: str) -> str:
        """What tables call the model under this variant."""
        whitened, approximate = (
            f" PCA {self.whiten_to}" * bool(self.whiten_on),
            f" {self.index}" * (self.index != "exact"),
        )
        frames = f" sequence {self.sequence}" * (self.sequence > 1)
        queries = self.queries and f" {self.queries.replace('_', ' ')}"
        return f"{model}{whitened}{approximate}{queries}{' reranked' * self.rerank}{frames}"


@dataclass(frozen=True)
class Measured:
    """An evaluation with its records, one table and file per protocol card."""

    evaluation: Evaluation | PairScores
    cards: tuple[ProtocolCard, ...]
    run: Run
    records: tuple[pd.DataFrame, ...]
    files: tuple[Path, ...]

    @property
    def ks(self) -> tuple[int, ...]:
        """The cut-offs that the ranking holds."""
        return PAIR_KS if isinstance(self.evaluation, PairScores) else tuple(self.evaluation.recall)

    def rows(self) -> list[dict[str, Any]]:
        """The row of the recall table for every card, with intervals; of run pairs the mean over the pairs."""
        table = run_pair_table if isinstance(self.evaluation, PairScores) else recall_table
        return [table(records, self.ks).to_dict("records")[0] for records in self.records]


def measure(
    model: nn.Module,
    benchmark: Benchmark | RunPairs,
    run: Run,
    folder: Path,
    compute: Compute = Compute(),
    variant: Variant = Variant(),
) -> Measured:
    """Describe, search, score, and write one record per query.

    Args:
        run: what the records say of the number; model name, D, device and precision are put in here.
        folder: of the records.
    Raises:
        ValueError: without ground truth, for an unknown transform or index, or a variant that run pairs do not have.
    """
    cache, precision = cache_root() / "descriptors", compute.precision
    options = compute.model_dump(exclude={"precision", "maps"})
    if variant.transform is not None:
        model, benchmark, precision = under(variant.transform, model, benchmark)
    if variant.whiten_on:
        where = cache_root() / "whitening"
        model = whiten(model, variant.whiten_on, variant.whiten_to, where, precision=precision, **options)
    run = replace(run, model=variant.name(run.model), device=compute.device, dim=model.dim,
                  precision=getattr(model, "computed_in", precision))  # fmt: skip
    if isinstance(benchmark, RunPairs):
        if variant.index != "exact" or variant.queries or variant.rerank or variant.sequence > 1:
            raise ValueError(
                "Run pairs are ranked exactly and as they are: leave index, queries, rerank, sequence away."
            )
        columns = slice(*variant.columns) if variant.columns else slice(None)
        run = replace(run, dim=len(range(model.dim)[columns]))
        options["columns"] = columns
        scores = evaluate_run_pairs(model, benchmark, cache, variant.metric, precision=precision, **options)
        return _written(scores, (benchmark.card,), run, [pair_records(benchmark, scores, run)], folder)
    _check_queries(variant)
    whole = variant.transform is not None or variant.queries != ""
    how = compute.model_copy(update={"precision": precision} | ({"maps": None} if whole else {}))
    result, computed_in = answer(model, benchmark, how, variant.index)
    run = replace(run, precision=getattr(model, "computed_in", computed_in))
    if variant.queries:
        result = with_queries(result, model, variant.queries, cache, how)
    if variant.rerank:
        result = reranked(result, device=compute.device)
    if variant.sequence > 1:
        result = in_sequence(result, variant.sequence)
    tables = [query_records(result.benchmark, scored, result.ranking.scores, run) for scored in result.scores]
    return _written(result, tuple(scored.protocol.card for scored in result.scores), run, tables, folder)


def answer(model: nn.Module, benchmark: Benchmark, compute: Compute, index: str = "exact") -> tuple[Evaluation, str]:
    """`evaluate`, through cached maps where the model has frozen layers and `compute.maps` a folder; and the precision of it."""
    precision = compute.precision
    if compute.maps is None or not has_frozen_layers(model):
        options = compute.model_dump(exclude={"maps"})
        return evaluate(model, benchmark, cache_root() / "descriptors", KS, index=index, **options), precision
    options = dict(device=compute.device, precision=precision, quiet=compute.quiet)
    database = describe_on_maps(model, benchmark.database, compute.maps, **options)
    queries = describe_on_maps(model, benchmark.queries, compute.maps, **options)
    result = evaluate_described(benchmark, database, queries, KS, compute.device, index, compute.quiet)
    return result, f"{precision}, maps fp16"


def _check_queries(variant: Variant) -> None:
    """ValueError for what does not go together with queries as crops."""
    several = variant.queries not in POOLED and (variant.rerank or variant.sequence > 1)
    if variant.queries and (variant.index != "exact" or several):
        raise ValueError(
            f"queries={variant.queries} ranks every crop exactly: leave index away"
            + (f", and with rerank or sequence take one of {', '.join(POOLED)}." if several else ".")
        )


def _written(
    result: Evaluation | PairScores, cards: tuple[ProtocolCard, ...], run: Run, tables: list[pd.DataFrame], folder: Path
) -> Measured:
    return Measured(result, cards, run, tuple(tables), tuple(write_records(folder, table) for table in tables))
