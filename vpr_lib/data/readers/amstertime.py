"""AmsterTime as published, new/ and old/ with equal names, or in the '@' layout. Spec: datasets §9.3."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.berton import read_mock_pairs
from vpr_lib.data.readers.lists import list_paths


def read_amstertime(root: Path, name: str = "amstertime") -> Benchmark:
    """Archival queries (`old/`) and modern database images (`new/`); a pair has one name. Card: `amstertime@pairs`.

    Raises:
        FileNotFoundError: if a folder is absent. ValueError: when a picture has no partner.
    """
    root = Path(root)
    if not (root / "new").is_dir():
        return read_mock_pairs(root, name=name)
    paths = [[f"{folder}/{path}" for path in list_paths(root / folder)] for folder in ("new", "old")]
    stems = [[PurePosixPath(path).stem for path in side] for side in paths]
    if alone := sorted(set(stems[0]) ^ set(stems[1])):
        raise ValueError(f"{root}: {len(alone)} pictures have no partner of the same name, for instance '{alone[0]}'.")
    if twins := sorted(stem for side in stems for stem, count in Counter(side).items() if count > 1):
        raise ValueError(
            f"{root}: {len(twins)} names stand for two pictures of one folder, for instance '{twins[0]}'. Move one elsewhere."
        )
    sides = [
        build_manifest(root, name, "test", role, {"image_path": own, "place_id": [f"{name}/{stem}" for stem in named]})
        for role, own, named in zip(("db", "query"), paths, stems)
    ]
    places = [side.table["place_id"].to_numpy(str) for side in sides]
    order = np.argsort(places[0])
    same = Positives.from_lists(order[np.searchsorted(places[0], places[1], sorter=order)][:, None], len(places[0]))
    return Benchmark(name, *sides, (make_protocol(*sides, same, name=f"{name}@pairs", dataset=name, rule="place_id"),))
