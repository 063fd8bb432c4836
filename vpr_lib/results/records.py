"""Records: one row per query and evaluation. Tables, figures and widgets read nothing else. DESIGN §4."""

import hashlib
import logging
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.files import PARQUET_ERRORS, atomic_path, locked, visible_files
from vpr_lib.paths import cache_root, data_root, git_state
from vpr_lib.retrieval.metrics import distances_m
from vpr_lib.retrieval.protocol import Scored

log = logging.getLogger(__name__)
TOP = 25  # database images kept per query
COMMAND_LINE = "command line"  # sorts after the notebooks' numbers


@dataclass(frozen=True)
class Run:
    """Where a number comes from; these columns ride on every row."""

    model: str
    system: str = ""
    dim: int = 0
    profile: str = "none"
    notebook: str = ""
    run_id: str = ""
    seed: int = 0
    weights: str = ""  # what was loaded: a file, 'untrained', 'training-free'
    device: str = "cpu"
    precision: str = "fp32"
    git: str = field(default_factory=git_state)
    host: str = field(default_factory=platform.machine)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def query_records(
    benchmark: Benchmark,
    scored: Scored,
    similarity: np.ndarray,
    run: Run,
) -> pd.DataFrame:
    """One row per query.

    Args:
        scored: ranking, first hits and denominator under one protocol.
        similarity: scores of the ranking before suppression, (Q, R).
    Returns:
        columns query, first_hit (0 = none), counted, n_positives, top (database rows, best first), top_score,
        top_correct, top_distance_m (NaN without metric positions), nearest_m, conditions, and those of `run` and of the
        protocol card (dataset, protocol, card, k-independent).
    """
    protocol, n = scored.protocol, len(benchmark.queries)
    top = scored.ranking[:, :TOP]
    queries = np.broadcast_to(np.arange(n)[:, None], top.shape)
    distance = distances_m(benchmark.database, benchmark.queries, top)
    suppressed = protocol.card.nms != "none"
    table = pd.DataFrame(
        {
            "query": np.arange(n),
            "query_id": benchmark.queries.table["sample_id"].to_numpy(),
            "first_hit": scored.first_hits.astype(np.int32),
            "counted": scored.counted,
            "n_positives": protocol.positives.counts.astype(np.int32),
            "top": list(top.astype(np.int32)),
            "top_score": list((np.full(top.shape, np.nan) if suppressed else similarity[:, :TOP]).astype(np.float32)),
            "top_correct": list(protocol.positives.contains(queries, top)),
            "top_distance_m": list(distance.astype(np.float32)),
        }
    )
    if "conditions" in benchmark.queries.table:
        table["conditions"] = [",".join(c) if c is not None else "" for c in benchmark.queries.table["conditions"]]
    constants = {
        "dataset": benchmark.name,
        "protocol": protocol.card.name,
        "card": protocol.card.hash,
        "images": protocol.card.images_hash,
        "root": _place(benchmark.database.root),
        "rule": protocol.card.rule_in_words(),
        "n_database": len(benchmark.database),
        **asdict(run),
    }
    for name, value in constants.items():
        table[name] = value
    return table


def _place(root: Path) -> str:
    """A folder as records name it: below the data or the cache where it is there, so that a moved checkout is the same."""
    for known in (data_root(), cache_root()):
        if Path(root).is_relative_to(known):
            return Path(root).relative_to(known).as_posix()
    return str(root)


def write_records(folder: Path, table: pd.DataFrame) -> Path:
    """Write one evaluation as `<folder>/<dataset>/<protocol>/<model>__<seed>.parquet`, replacing an earlier one.

    Another folder of the same name is another data set: its records stand beside these, with a mark in their name. Records
    of other weights under one name are replaced, and that is told.
    """
    first = table.iloc[0]
    path = Path(folder) / first["dataset"] / first["protocol"] / f"{first['model']}__{first['seed']}.parquet"
    with locked(path, "writing it"):
        root, weights = _said_by(path)
        if root not in (None, first.get("root")):
            mark = hashlib.sha256(str(first.get("root")).encode()).hexdigest()[:8]
            path = path.with_name(f"{path.stem}__{mark}.parquet")
            _, weights = _said_by(path)
        if weights not in (None, first.get("weights")):
            told = (first["dataset"], first["protocol"], first["model"], weights, first.get("weights"))
            log.warning("%s, %s: the records of %s with weights %s are replaced by those with weights %s", *told)
        with atomic_path(path) as temporary:
            written = pa.Table.from_pandas(table, preserve_index=False)
            rows = {b"rows": str(len(table)).encode()}  # no page's sum covers the footer's count
            written = written.replace_schema_metadata(written.schema.metadata | rows)
            pq.write_table(written, temporary, compression="zstd", write_page_checksum=True)
    return path


def _said_by(path: Path) -> tuple[str | None, str | None]:
    """The folder and the weights that kept records are about; None where they do not say, or cannot be read."""
    try:
        kept = pq.read_table(path, columns=["root", "weights"]).slice(0, 1).to_pylist()
    except PARQUET_ERRORS:
        kept = []
    return (kept[0]["root"], kept[0]["weights"]) if kept else (None, None)


class DamagedRecord(ValueError):
    """A file of records that cannot be read."""


def record_files(folder: Path) -> list[Path]:
    """The records below a folder, sorted; what a killed writer left hidden is none."""
    return visible_files(folder, "*.parquet")


def read_record(file: Path) -> pd.DataFrame:
    """One evaluation (DamagedRecord naming the file when it cannot be read)."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        if [column["name"] for column in table.schema.pandas_metadata["columns"]] != table.column_names:
            raise ValueError("its columns are not those that were written")
        if int(table.schema.metadata.get(b"rows", table.num_rows)) != table.num_rows:
            raise ValueError("its rows are not those that were written")
        return table.to_pandas()
    except PARQUET_ERRORS as error:
        raise DamagedRecord(
            f"{file} is damaged ({str(error).splitlines()[0]}): remove it and measure '{Path(file).stem.split('__')[0]}' again."
        ) from error


def read_records(folder: Path, also: Path | None = None) -> pd.DataFrame:
    """All evaluations below `folder`, told apart as `tell_apart` does; an empty frame when there are none.

    Args:
        also: the folder of the command line's, which come after the notebooks'. One that was scored under another card than
            a notebook's protocol of the same name is left out: a table refuses to mix them.
    """
    evaluations = [table for file in record_files(folder) if len(table := read_record(file))]
    cards = {table["protocol"].iloc[0]: table["card"].iloc[0] for table in evaluations}
    for table in map(read_record, record_files(also) if also is not None else []):
        if len(table) and cards.setdefault(table["protocol"].iloc[0], table["card"].iloc[0]) == table["card"].iloc[0]:
            evaluations.append(table.assign(notebook=COMMAND_LINE))
    return tell_apart(evaluations) if evaluations else pd.DataFrame()


def tell_apart(evaluations: list[pd.DataFrame]) -> pd.DataFrame:
    """One table of evaluations in which no query counts twice for a model.

    Several notebooks measure the same baseline: equal evaluations enter once. Where one name stands for other weights, the
    later notebook's number goes into the name: `gem_toy_160 (05)`.
    """
    known: dict[tuple, list[pd.DataFrame]] = {}
    for table in sorted(evaluations, key=lambda table: str(table["notebook"].iloc[0])):
        first = table.iloc[0]
        earlier = known.setdefault(
            (first["dataset"], first["protocol"], first["card"], first["model"], first["seed"]), []
        )
        if any(table["first_hit"].equals(other["first_hit"]) for other in earlier):
            continue
        if earlier:
            whose = str(first["notebook"])
            table = table.assign(model=f"{first['model']} ({whose if whose == COMMAND_LINE else whose[:2]})")
        earlier.append(table)
    return pd.concat([table for tables in known.values() for table in tables], ignore_index=True)
