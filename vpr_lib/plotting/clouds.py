"""Clouds seen from above beside the images taken there."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from vpr_lib.data.clouds import read_cloud
from vpr_lib.data.images import InputSpec, load_images
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import bare


def picture_of_submaps(
    drives: RunPairs, places: np.ndarray, columns: Sequence[int], spec: InputSpec, place: int = 4
) -> tuple[Picture, Tensor]:
    """One place in several drives, a column each: its image above, its cloud from above below, brighter where points are higher.

    Args:
        places: rows of one place in every drive, as of `RunPairs.same_places`. columns: the drives shown.
    Returns:
        the picture, and the images, uint8 (drives, 3, H, W).
    """
    place = min(place, len(places) - 1)
    tables = [drives.databases[run].take(places[:, run]) for run in columns]
    images = load_images([table.image_paths()[place] for table in tables], spec)
    kinds = [table.table["cloud_format"][place] for table in tables]
    clouds = [read_cloud(t.root / t.table["cloud_path"][place], kind) for t, kind in zip(tables, kinds)]
    figure, axes = plt.subplots(2, len(images), figsize=(2.3 * len(images), 3.4), squeeze=False, layout="constrained")
    low, high = np.percentile(np.concatenate([cloud[:, 2] for cloud in clouds]), [1, 99])
    for (above, below), image, cloud, run in zip(axes.T, images.permute(0, 2, 3, 1).numpy(), clouds, columns):
        above.imshow(image)
        above.set_title(f"drive {run + 1}", fontsize=10, loc="center")
        cloud = cloud[np.argsort(cloud[:, 2])]
        below.scatter(*cloud[:, :2].T, c=cloud[:, 2], s=0.8, cmap="cividis", vmin=low, vmax=high)
        below.set(aspect="equal", anchor="N")
        bare(above)
        bare(below)
    return Picture(
        figure,
        f"One place in {len(tables)} drives. The images above differ in light and weather; the clouds below, seen from above, show the "
        "same walls.",
        f"The place of query {places[place, 0]} in {len(tables)} drives of {drives.name}: nearest image, and its points from above.",
    ), images
