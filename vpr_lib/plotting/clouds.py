"""Clouds seen from above beside the images taken there."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vpr_lib.data.clouds import read_cloud
from vpr_lib.data.images import InputSpec, load_images
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.plotting.picture import Picture


def plot_submaps(images: Sequence[np.ndarray], clouds: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """One column per submap: its image above, its cloud from above below, brighter where points are higher.

    Args:
        images: uint8 (H, W, 3) each.
        clouds: (points, 3) each, x to the right and y up.
    """
    figure, axes = plt.subplots(2, len(images), figsize=(2.3 * len(images), 3.4), squeeze=False, layout="constrained")
    height = np.concatenate([cloud[:, 2] for cloud in clouds])
    low, high = np.percentile(height, [1, 99])
    for column, (image, cloud, title) in enumerate(zip(images, clouds, titles)):
        above, below = axes[:, column]
        above.imshow(image)
        above.set_title(title, fontsize=10, loc="center")
        below.scatter(
            *cloud[np.argsort(cloud[:, 2]), :2].T, c=np.sort(cloud[:, 2]), s=0.8, cmap="cividis", vmin=low, vmax=high
        )
        below.set(aspect="equal", anchor="N")
        for ax in (above, below):
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
    return figure


def picture_of_submaps(
    drives: RunPairs, places: np.ndarray, columns: Sequence[int], spec: InputSpec, place: int = 4
) -> tuple[Picture, Tensor]:
    """`plot_submaps` of one place in several drives, and its images, uint8 (drives, 3, H, W).

    Args:
        places: rows of one place in every drive, as of `RunPairs.same_places`. columns: the drives shown.
    """
    place = min(place, len(places) - 1)
    tables = [drives.databases[run].take(places[:, run]) for run in columns]
    images = load_images([table.image_paths()[place] for table in tables], spec)
    kinds = [table.table["cloud_format"][place] for table in tables]
    clouds = [read_cloud(t.root / t.table["cloud_path"][place], kind) for t, kind in zip(tables, kinds)]
    figure = plot_submaps(list(images.permute(0, 2, 3, 1).numpy()), clouds, [f"drive {run + 1}" for run in columns])
    return Picture(
        figure,
        f"One place in {len(tables)} drives. The images above differ in light and weather; the clouds below, seen from above, show the "
        "same walls.",
        f"The place of query {places[place, 0]} in {len(tables)} drives of {drives.name}: nearest image, and its points from above.",
    ), images
