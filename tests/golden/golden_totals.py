"""Totals on public metadata files, by our readers; what needs a file that is not at hand is left out, with a warning."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.readers.lists import read_names
from vpr_lib.data.readers.msls_arrays import read_official_matches
from vpr_lib.data.readers.nordland import read_nordland_2760
from vpr_lib.data.readers.pittsburgh import read_npz_positions, read_patchnetvlad
from vpr_lib.data.readers.tokyo import panorama_blocks
from vpr_lib.data.readers.vpr_bench import read_vpr_bench

SHARED = Path(os.environ.get("VPR_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MSLS_DATABASE = 18871  # length of the list that is not among the files; specs/datasets.md §4
PAIRED = {"sped": "SPED", "essex": "ESSEX", "inria_holidays": "Inria", "crossseason": "CrossSeason"}


def compute(fixture):
    if "files_md5" not in fixture.config:
        return None
    files = files_at_hand(fixture.config["files_md5"])
    outputs = {}
    for names, total in PARTS:
        if all(name in files for name in names):
            outputs |= total(*(files[name] for name in names))
    if outputs and (absent := [name for name in fixture.outputs if name not in outputs]):
        warnings.warn(f"not checked, their files are not at hand: {', '.join(absent)}", stacklevel=1)
        fixture.outputs = {name: value for name, value in fixture.outputs.items() if name in outputs}
    return outputs or None


def files_at_hand(md5):
    """File name -> path, for the files of the fixture that lie beside the checkout with the right content."""
    wanted = {Path(name).name: value for name, value in md5.items()}
    found = (path for path in (SHARED / "real").rglob("*") if path.name in wanted)
    return {path.name: path for path in found if hashlib.md5(path.read_bytes()).hexdigest() == wanted[path.name]}


def digest(positives):
    rows, indices = positives.rows, positives.indices.astype(np.int64)
    weighted = ((rows + 1) * (indices + 1) % 1000003).sum() % 1000003
    return [len(indices), (positives.counts == 0).sum(), positives.counts.max(), indices.sum(), weighted]


def distinct(positions):
    return np.unique(positions, axis=0)


def pittsburgh(npz):
    lists = (npz.parent / f"pitts30k_imageNames_{side}.txt" for side in ("index", "query"))
    found = read_patchnetvlad(npz.parent, npz, *lists)
    database, places = found.database.positions(), distinct(found.queries.positions())
    exact, coarse, rounded = (
        Positives.from_radius(convert(database), convert(places), 25.0)
        for convert in (lambda x: x, lambda x: x.astype(np.float32).astype(np.float64), lambda x: x.round(2))
    )
    lost, gained = differences(exact, coarse)
    near = Positives.from_radius(database, found.queries.positions(), 10.0)
    return {
        "pitts30k_test.shape": [len(found.database), len(found.queries)],
        "pitts30k_test.positives_25m": digest(found.positives),
        "pitts30k_test.queries_without_database_within_10m": (near.counts == 0).sum(),
        "pitts30k_test.distinct_query_positions": len(places),
        "pitts30k_test.distinct_database_positions": len(distinct(database)),
        "pitts30k_test.pairs_distinct_positions": len(exact.indices),
        "pitts30k_test.float32_lost_gained": [lost, gained],
        "pitts30k_test.flips_after_centimetre_rounding": sum(differences(exact, rounded)),
    }


def differences(one, other):
    """Pairs that only the first has, pairs that only the second has."""
    return [int((~b.contains(a.rows, a.indices)).sum()) for a, b in ((one, other), (other, one))]


def pittsburgh_lists(small, large):
    queries, all_queries = read_names(small), set(read_names(large))
    return {
        "pitts250k_test.queries": len(all_queries),
        "pitts30k_test.queries_also_in_pitts250k_test": sum(name in all_queries for name in queries),
    }


def tokyo(npz):
    database, queries, radius_m = read_npz_positions(npz)
    return {
        "tokyo247.shape": [len(database), len(queries)],
        "tokyo247.blocks_of_12": panorama_blocks(database).max() + 1,
        "tokyo247.distinct_positions": len(distinct(database)),
        "tokyo247.positives_25m": digest(Positives.from_radius(database, queries, radius_m)),
        "tokyo247.distinct_query_positions": len(distinct(queries)),
    }


def msls(matches, *_):
    listed, scored, positives = read_official_matches(matches.parent, MSLS_DATABASE)
    return {
        "msls_val.queries_listed": len(listed),
        "msls_val.queries_scored": len(scored),
        "msls_val.positives": digest(positives),
        "msls_val.dropped_positions": [row for row, name in enumerate(listed) if name not in set(scored)],
        "msls_val.listed_cph_sf": [sum(f"/{city}/" in name for name in listed) for city in ("cph", "sf")],
    }


def nordland(matches, *_):
    return sizes("nordland_2760", read_nordland_2760(matches.parent))


def paired(name):
    return lambda truth, *_: sizes(name, read_vpr_bench(truth.parent, name, arrays=PAIRED[name]))


def sizes(name, found):
    return {
        f"{name}.shape": [len(found.database), len(found.queries)],
        f"{name}.positives": digest(found.positives),
    }


def triple(stem):
    return [f"{stem}_{part}.npy" for part in ("gt", "dbImages", "qImages")]


PARTS = [
    (["pitts30k_test.npz"], pittsburgh),
    (["pitts30k_test_qImages.npy", "pitts250k_test_qImages.npy"], pittsburgh_lists),
    (["tokyo247.npz"], tokyo),
    ([f"msls_val_{part}.npy" for part in ("pIdx", "qIdx", "qImages")], msls),
    (triple("Nordland"), nordland),
    *((triple(stem), paired(name)) for name, stem in PAIRED.items()),
]
