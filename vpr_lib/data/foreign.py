"""Queries from somewhere else: what a robot sees before it has come into its map. A protocol of its own."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Benchmark, make_protocol
from vpr_lib.data.manifest import Manifest

VARIANT = "foreign queries mixed in"
HASHES = {"database_hash", "query_hash", "positives_hash", "builder_version"}


def with_foreign(benchmark: Benchmark, foreign: Manifest) -> Benchmark:
    """The benchmark with queries that have no true match added after its own.

    Every protocol gets a card of its own, `<name>+foreign`, so that its numbers never share a column with the plain ones.
    The foreign images must show nothing of the database; that cannot be seen here, except that they are not in it.

    Raises:
        ValueError: without foreign images, or for one that is also in the database.
    """
    if len(foreign) == 0:
        raise ValueError(f"No foreign images to mix into '{benchmark.name}'.")
    if shared := set(foreign.image_paths()) & set(benchmark.database.image_paths()):
        raise ValueError(f"{len(shared)} foreign images are in the database of '{benchmark.name}', e.g. {min(shared)}.")
    queries, protocols = _joined(benchmark.queries, foreign), []
    for protocol in benchmark.protocols:
        own = protocol.positives
        ends = np.full(len(foreign), own.indptr[-1], own.indptr.dtype)
        positives = replace(own, indptr=np.concatenate([own.indptr, ends]))
        mask = np.concatenate([protocol.query_mask, np.ones(len(foreign), bool)])
        fields = protocol.card.model_dump(exclude=HASHES) | {
            "name": f"{protocol.card.name}+foreign",
            "variant": VARIANT,
        }
        made = make_protocol(benchmark.database, queries, positives, mask, **fields)
        protocols.append(replace(made, nms_groups=protocol.nms_groups))
    return Benchmark(benchmark.name, benchmark.database, queries, tuple(protocols))


def _joined(own: Manifest, foreign: Manifest) -> Manifest:
    """Both lists under the folder they share; the foreign rows have no position in this map."""
    root = Path(os.path.commonpath([own.root, foreign.root]))
    tables = []
    for manifest in (own, foreign):
        below = manifest.root.relative_to(root).as_posix()
        tables.append(manifest.table.assign(image_path=[f"{below}/{path}" for path in manifest.table["image_path"]]))
    rows = tables[1].reindex(columns=tables[0].columns)
    rows["sample_id"] = [f"foreign/{sample}" for sample in rows["sample_id"]]
    for column in {"utm_east", "utm_north"} & set(rows.columns):
        rows[column] = np.nan
    if "position_kind" in rows:
        rows["position_kind"] = tables[0]["position_kind"].iloc[0]
    table = pd.concat([tables[0], rows], ignore_index=True)
    return Manifest(table.assign(uid=np.arange(len(table))), root)
