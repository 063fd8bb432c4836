"""MSLS from the arrays that MixVPR, SALAD and OpenVPRLab ship instead of the tables. Spec: datasets §4."""

from pathlib import Path

from vpr_lib.data.ground_truth import Benchmark, Positives
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.arrays import keep_listed, read_arrays, read_truth
from vpr_lib.data.readers.lists import first_file, read_names
from vpr_lib.data.readers.msls import CITIES, read_msls

RELEASES = {  # file of matches -> database names, query names, matches, and perhaps the positions that are kept
    "msls_val_pIdx.npy": ("msls_val_dbImages.npy", "msls_val_qImages.npy", "msls_val_pIdx.npy", "msls_val_qIdx.npy"),
    "msls_val_gt_25m.npy": ("msls_val_dbImages.npy", "msls_val_qImages.npy", "msls_val_gt_25m.npy"),
    "msls_val_ground_truth_25m.npy": (
        "msls_val_ref_image_names.npy",
        "msls_val_query_image_names.npy",
        "msls_val_ground_truth_25m.npy",
    ),
}


def read_msls_val(root: Path, metadata: Path | None = None) -> Benchmark:
    """MSLS val, whichever way it is on disk: the release's tables (`read_msls`), or arrays of the 740 queries.

    The arrays carry the card `msls_val@740` only, equal to the one of the tables; panoramas, the seven queries without a
    positive and the 11k are not in them.

    Raises:
        FileNotFoundError: naming everything that was looked for.
    """
    root, name = Path(root), "msls_val"
    if (root / "train_val" / CITIES["val"][0]).is_dir() and not metadata:
        tables = list((root / "train_val").glob("*/query/postprocessed.csv"))
        if tables or not any((root / file).is_file() for file in RELEASES):
            return read_msls(root, "val", name=name)
    matches = first_file(Path(metadata or root), list(RELEASES), f"msls_val (nor train_val/{CITIES['val'][0]})")
    card = dict(name=f"{name}@740", rule="radius_m", threshold=25.0, denominator="with_positive")
    return read_arrays(root, RELEASES[matches.name], name, metadata, dataset="msls", split="val", card=card)


def read_official_matches(folder: Path, n_database: int) -> tuple[list[str], list[str], Positives]:
    """All listed queries (747), those that are scored (740) and their positives, from `msls_val_{qImages,qIdx,pIdx}.npy`.

    For folders without the list of the database, whose length must then be said.
    """
    listed = read_names(Path(folder) / "msls_val_qImages.npy")
    scored = keep_listed(listed, Path(folder) / "msls_val_qIdx.npy")
    return listed, scored, read_truth(Path(folder) / "msls_val_pIdx.npy", len(scored), n_database)


def read_msls_test(root: Path, metadata: Path | None = None) -> Benchmark:
    """MSLS test: from the release's tables, or from SALAD's lists, which have no ground truth.

    It was withheld until April 2026; where its tables lie in the test cities as in the others, `read_msls` makes cards of them.
    """
    folder, truth = Path(metadata or root), Path(root, "test", CITIES["test"][0], "query", "postprocessed.csv")
    if truth.is_file() or not (folder / "msls_test_dbImages.npy").is_file():
        return read_msls(root, "test")
    sides = [
        build_manifest(
            root, "msls", "test", role, {"image_path": read_names(folder / f"msls_test_{file}.npy")}, keep_order=True
        )
        for role, file in (("db", "dbImages"), ("query", "qImages"))
    ]
    return Benchmark("msls_test", *sides)
