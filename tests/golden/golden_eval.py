"""Recall, ground truth by radius, panorama suppression."""

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_at_k, suppress_panoramas
from vpr_lib.retrieval.run_pairs import score_pairs
from vpr_lib.retrieval.search import search


def compute(fixture):
    config, outputs = fixture.config, set(fixture.outputs)
    if "recall_all" in outputs:
        return recall(fixture)
    if config.get("rule") == "radius":
        return radius(fixture)
    if "recall_nms" in outputs:
        return panoramas(fixture)
    if config.get("protocol", "").startswith("PointNetVLAD"):
        return run_pairs(fixture)
    return None


def run_pairs(fixture):
    n, sizes = fixture.config["runs"], fixture.config["database_per_run"]
    databases = [fixture.input(f"database.{run}") for run in range(n)]
    noise = [fixture.input(f"query.{run}") for run in range(n)]
    queries = [databases[(run + 1) % n][::3][: len(noise[run])] + noise[run] for run in range(n)]
    pairs = [(q, d) for d in range(n) for q in range(n) if q != d]
    positives = {(q, d): Positives.from_lists(fixture.input(f"positives.{q}.{d}"), sizes[d]) for q, d in pairs}
    outputs = {}
    for metric in ("cosine", "euclidean"):
        scores = score_pairs(databases, queries, positives, metric)
        outputs |= {
            f"{metric}.recall": scores.recall, f"{metric}.one_percent": scores.one_percent,
            f"{metric}.AR": scores.average_recall, f"{metric}.AR_one_percent": scores.average_one_percent,
            f"{metric}.per_database_run": scores.per_database_run,
        }  # fmt: skip
    outputs["evaluated"] = [scores.counted[pair].sum() for pair in scores.pairs]
    outputs["threshold"] = [scores.threshold(run) for run in range(n)]
    return outputs


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def recall(fixture):
    raw, noise = fixture.input("database"), fixture.input("queries")
    database, queries = unit(raw), unit(raw[: len(noise)] + noise)
    positives = Positives.from_lists(fixture.input("positives"), len(database))
    ks = fixture.config["k"]
    ranking = search(database, queries, max(ks)).indices
    hits = first_hit_ranks(ranking, positives)
    counted = positives.counts > 0
    return {
        "ranking": ranking,
        "recall_all": list(recall_at_k(ranking, positives, ks).values()),
        "recall_with_positives": list(recall_at_k(ranking, positives, ks, counted).values()),
        "queries_with_positives": counted.sum(),
        "hits": [((hits > 0) & (hits <= k)).sum() for k in ks],
    }


def radius(fixture):
    database = fixture.input("database").astype(np.float64)
    queries = fixture.input("queries").astype(np.float64)
    limit = fixture.config["threshold_m"]
    found = Positives.from_radius(database, queries, limit)
    matrix = np.zeros((len(queries), len(database)))
    for query, row in enumerate(found):
        matrix[query, row] = 1
    distance = np.sqrt(((queries[:, None] - database) ** 2).sum(-1))
    return {
        "positives": matrix,
        "count": found.counts,
        "total": found.counts.sum(),
        "empty": (found.counts == 0).sum(),
        "at_threshold": (distance == limit).sum(),
    }


def panoramas(fixture):
    raw, noise, config = fixture.input("database"), fixture.input("queries"), fixture.config
    database = unit(raw)
    queries = unit(raw[(3 * np.arange(len(noise))) % len(raw)] + noise)
    groups = np.arange(len(database)) // config["crops"]
    positives = Positives.from_lists(fixture.input("positives"), len(database))
    depth = 25 * config["crops"]
    full = search(database, queries, depth).indices
    kept = suppress_panoramas(full, groups, 25)
    return {
        "recall_plain": list(recall_at_k(full, positives, config["k"]).values()),
        "recall_nms": list(recall_at_k(kept, positives, config["k"]).values()),
        "ranking_plain": full[:, :25],
        "ranking_nms": kept,
        "spatial_nms_example": suppress_panoramas(np.array([[5, 4, 0, 1, 3, 2]]), np.array([7, 7, 8, 8, 9, 9]), 6)[0][
            :3
        ],
    }
