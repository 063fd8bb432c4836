"""Cluster centres for NetVLAD-like heads from real features, in the HDF5 layout of the published ones. Spec: clusvpr §6."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vpr_lib.data.images import load_image
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.pickles import read_hdf5, write_hdf5
from vpr_lib.models.clusvpr import ClusVPR
from vpr_lib.models.netvlad import NetVLAD, initialise
from vpr_lib.progress import track
from vpr_lib.retrieval.feature_maps import FeatureMaps
from vpr_lib.seeds import derive_seed

SEED, ITERATIONS = 43, 100  # the authors'


def centres_name(architecture: str, dataset: str, clusters: int) -> str:
    """`vgg16_pitts30k_64_desc_cen.hdf5` and the like."""
    return f"{architecture}_{dataset}_{clusters}_desc_cen.hdf5"


@torch.no_grad()
def sample_descriptors(
    model: nn.Module,
    manifests: Sequence[Manifest],
    images: int = 500,
    per_image: int = 100,
    seed: int = SEED,
    device: str = "cpu",
    quiet: bool = False,
) -> np.ndarray:
    """Local descriptors exactly as the assignment sees them, float32 (images * per_image, d).

    Each is the vector of a random group at a random location, drawn without replacement within an image.

    Raises:
        ValueError: if the model's head has no groups to sample from.
    """
    head = model.aggregator
    if not isinstance(head, ClusVPR):
        raise ValueError(f"A {type(head).__name__} head has no groups to sample from; a ClusVPR head has.")
    rng = np.random.default_rng(derive_seed("centres", seed))
    chosen = _draw(manifests, images, rng)
    training = model.training
    model.eval().to(device)
    columns = []
    for path in track(chosen, "sampling features", quiet=quiet):
        image = model.input_spec.normalise(load_image(path, model.input_spec)[None].to(device))
        y = head.expand(head.transform(model.feature_map(image)))[0]  # (G, d, L)
        count = min(per_image, y.shape[2])
        locations = torch.from_numpy(rng.choice(y.shape[2], count, replace=False))
        groups = torch.from_numpy(rng.integers(0, y.shape[0], count))
        columns.append(y[groups, :, locations].cpu().numpy())
    model.train(training)
    return np.concatenate(columns)


def _draw(manifests: Sequence[Manifest], images: int, rng: np.random.Generator) -> list[str]:
    """Files of `images` different images, or of all when there are fewer."""
    paths = [path for manifest in manifests for path in manifest.image_paths()]
    return [paths[row] for row in rng.choice(len(paths), min(images, len(paths)), replace=False)]


def cluster(descriptors: np.ndarray, clusters: int, seed: int = SEED) -> np.ndarray:
    """k-means centres, float32 (K, d).

    Raises:
        ValueError: with fewer descriptors than clusters.
    """
    from sklearn.cluster import KMeans

    if len(descriptors) < clusters:
        raise ValueError(f"{len(descriptors)} descriptors cannot form {clusters} clusters; sample more images.")
    fitted = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(descriptors)
    return fitted.cluster_centers_.astype(np.float32)


def write_centres(path: Path, centroids: np.ndarray, descriptors: np.ndarray) -> Path:
    """Write the datasets `centroids` (K, d) and `descriptors` (n, d), both float32."""
    return write_hdf5(path, {"centroids": centroids, "descriptors": descriptors})


def read_centres(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`centroids` (K, d) and `descriptors` (n, d) of a centre file, ours or OpenIBL's.

    Raises:
        FileNotFoundError; ValueError: for another or a damaged file, numbers that are not finite, or arrays of different
            widths.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No centres {path}; `vpr centres` makes them.")
    (centroids, descriptors), _ = read_hdf5(path, ("centroids", "descriptors"))
    if centroids.shape[1:] != descriptors.shape[1:] or centroids.ndim != 2:
        raise ValueError(
            f"{path}: centroids {centroids.shape} and descriptors {descriptors.shape} do not fit together."
        )
    return centroids, descriptors


class _AfterFixed(nn.Module):
    """The layers of a backbone that learn: maps of `fixed_map` -> feature map."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.backbone.from_fixed(maps)


def start_head(
    model: nn.Module,
    manifests: Sequence[Manifest],
    path: Path,
    images: int = 500,
    seed: int = SEED,
    device: str | torch.device = "cpu",
    quiet: bool = False,
    maps: FeatureMaps | None = None,
) -> None:
    """Give a head that begins with k-means centres some of the training images; other heads stay as they are.

    ClusVPR's are kept in the file `path`; NetVLAD's follow from the seed in seconds.

    Args:
        maps: what the frozen layers made of the images, view 0 first: NetVLAD then needs no pass over the images.
    """
    if isinstance(model.aggregator, ClusVPR):
        if not Path(path).is_file():
            descriptors = sample_descriptors(model, manifests, images, device=str(device), quiet=quiet)
            write_centres(path, cluster(descriptors, model.aggregator.clusters), descriptors)
        model.aggregator.set_centres(*(torch.from_numpy(part).to(device) for part in read_centres(path)))
    elif isinstance(netvlad := getattr(model.aggregator, "netvlad", model.aggregator), NetVLAD):
        rng = np.random.default_rng(derive_seed("centres", seed))
        if maps is not None:
            rows = rng.choice(maps.images, min(images, maps.images), replace=False)
            batches = (torch.from_numpy(np.float32(maps.array[row])).view(1, *maps.shape).to(device) for row in rows)
            initialise(netvlad, _AfterFixed(model.backbone.to(device)), batches, seed)
            return
        chosen = _draw(manifests, images, rng)
        loaded = (load_image(path, model.input_spec)[None].to(device) for path in chosen)
        initialise(netvlad, model.backbone.to(device), map(model.input_spec.normalise, loaded), seed)
