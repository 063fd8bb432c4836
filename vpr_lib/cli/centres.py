"""`vpr centres`: cluster centres of real features, the initialisation of ClusVPR's head."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import Device, JsonFile, choose_device, plain, show, write_json


def register(app: typer.Typer) -> None:
    app.command()(centres)


def centres(
    model: Annotated[str, typer.Argument(help="A model with a ClusVPR head; `vpr models` lists them.")],
    dataset: Annotated[str, typer.Option(help="Whose images: a data set by name, such as pitts30k_train.")],
    root: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file; default data/cache/centres/<arch>_<set>_<K>_desc_cen.hdf5.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint; default: the pre-trained backbone and a new head.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images drawn from database and queries.")] = 500,
    per_image: Annotated[int, typer.Option(help="Locations per image.")] = 100,
    seed: int = 43,
    untrained: Annotated[
        bool, typer.Option(help="Random backbone too, where no pre-trained one can be fetched.")
    ] = False,
    json: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Sample local descriptors as the head's assignment sees them, run k-means, write `centroids` and `descriptors` to HDF5."""
    from vpr_lib.data.catalogue import open_dataset
    from vpr_lib.data.ground_truth import Benchmark
    from vpr_lib.models.checkpoints import load_weights
    from vpr_lib.models.zoo import build_model
    from vpr_lib.paths import cache_root
    from vpr_lib.training.centres import centres_name, cluster, sample_descriptors, write_centres

    network = build_model(model, pretrained=not untrained and weights is None, seed=seed)
    if weights is not None:
        load_weights(network, weights)
    content = open_dataset(dataset, root)
    sides = [content.queries, content.database] if isinstance(content, Benchmark) else [content]
    descriptors = sample_descriptors(network, sides, images, per_image, seed, choose_device(device))
    clusters = network.aggregator.clusters
    path = out or cache_root() / "centres" / centres_name(network.config.backbone, dataset, clusters)
    centroids = cluster(descriptors, clusters, seed)
    write_centres(path, centroids, descriptors)
    alpha = network.cpu().aggregator.set_centres(*map(_tensor, (centroids, descriptors)))
    show(f"{plain(path)}: centroids {centroids.shape}, descriptors {descriptors.shape}, alpha {alpha:.4g}")
    write_json(json, {"path": str(path), "centroids": centroids.shape, "descriptors": descriptors.shape, "alpha": alpha,
                      "model": model, "dataset": dataset, "seed": seed})  # fmt: skip


def _tensor(array):
    import torch

    return torch.from_numpy(array)
