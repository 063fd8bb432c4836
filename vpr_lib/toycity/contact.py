"""Contact sheets: the same places under different conditions."""

from collections.abc import Sequence

import numpy as np

from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.city import ToyCitySpec, build_street, sites
from vpr_lib.toycity.conditions import CONDITIONS, Visit
from vpr_lib.toycity.render import render
from vpr_lib.toycity.view import Pose


def contact_sheet(
    spec: ToyCitySpec,
    split: str = "test",
    places: int = 6,
    conditions: Sequence[str] = tuple(CONDITIONS),
    image_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """One row per place, one column per condition, uint8 (places * H, len(conditions) * W, 3).

    The pose changes a little from column to column, as it would between visits.

    Args:
        split: whose streets are shown; places are spread over them.
        conditions: names from CONDITIONS.
        image_size: (height, width) of one picture; default that of the spec.
    """
    streets, rows = sites(spec, split), []
    for place in range(places):
        site = streets[place % len(streets)]
        rng = np.random.default_rng(derive_seed(spec.seed, "contact sheet", split, place))
        x, facing = rng.uniform(0.1, 0.9) * site.length_m, 180.0 * rng.integers(2)
        row = []
        for name in conditions:
            visit = Visit.sample(CONDITIONS[name], derive_seed(spec.seed, "contact sheet", split, place, name))
            pose = Pose(x + rng.uniform(-1.5, 1.5), rng.uniform(-1.2, 1.2), facing + rng.normal(0, 6))
            row.append(render(build_street(site), visit, pose, image_size or spec.image_size, visit.seed))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)
