"""Clouds seen from above beside the images taken there."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


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
