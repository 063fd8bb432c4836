"""`vpr train`: run a recipe, resuming where it stopped; and what trainings start from: `toy-start`, `bundle`, `centres`."""

import os
from pathlib import Path
from shutil import rmtree
from typing import Annotated

import typer
import yaml

from vpr_lib.cli.common import DataRoot, Device, JsonFile, choose_device, plain, show, write_json


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe by name (mixvpr_paper, or a variant: mixvpr_paper+paper_text), or a YAML file."),
    ],
    folder: Annotated[Path | None, typer.Option(help="Run folder; default data/cache/training/<recipe>.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set fit.epochs=3, repeatable.")
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Remove what the folder holds, and train from the start.")
    ] = False,
    json: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Train to a recipe. A second call with the same folder goes on where the first one stopped.

    A folder that holds another training (loss, data, model, start, teacher, code ...) is refused.
    """
    from vpr_lib.files import locked
    from vpr_lib.models.checkpoints import save_weights, trained_path
    from vpr_lib.paths import cache_root
    from vpr_lib.training.recipes import load_recipe, runner_of

    experiment = load_recipe(recipe)
    values = experiment.model_dump()
    for change in set_ or []:
        _apply(values, change)
    experiment = type(experiment).model_validate(values)
    folder = folder or cache_root() / "training" / Path(recipe).stem
    if anew and (folder / "state.pt").is_file():
        with locked(folder, "training in it"):
            rmtree(folder)
    model, result = runner_of(experiment)(experiment, folder, choose_device(device))
    select = getattr(experiment, "select", "recall@1")
    best = max(result.history, key=lambda row: row.get(select, row["epoch"]))
    about = {"recipe": recipe, "folder": str(folder), "best": best, "experiment": experiment.model_dump()}
    if int(os.environ.get("RANK", "0")) > 0:  # under torchrun the first process reports
        return
    path = save_weights(model, trained_path(experiment.model), about)
    typer.echo(f"best epoch {best['epoch']:.0f}: " + ", ".join(f"{k} {v:.4g}" for k, v in best.items() if k != "epoch"))
    typer.echo(f"weights: {path}")
    write_json(json, about | {"weights": str(path), "history": result.history})


def _apply(values: dict, change: str) -> None:
    from vpr_lib.training.recipes import set_field

    name, separator, text = change.partition("=")
    if not separator:
        raise ValueError(f"--set takes field=value, got '{change}'.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"--set {name} takes a plain value, a list or a mapping in YAML, got '{text}' ({told})."
        ) from error
    set_field(values, name, value)


def bundle(
    recipe: Annotated[str, typer.Argument(help="A recipe for a model whose backbone stays frozen.")] = "places",
    device: Device = "auto",
) -> None:
    """Train a model whose head becomes part of the package, and measure below which similarity a query is foreign."""
    from vpr_lib.data.catalogue import open_benchmark
    from vpr_lib.models.checkpoints import bundled_path, save_head
    from vpr_lib.paths import cache_root, git_state
    from vpr_lib.retrieval.foreign import calibrate
    from vpr_lib.training.recipes import load_experiment
    from vpr_lib.training.recipes import train as run

    experiment = load_experiment(recipe)
    model, result = run(experiment, cache_root() / "training" / recipe, choose_device(device))
    options = dict(cache=cache_root() / "descriptors", device=choose_device(device), precision=experiment.fit.precision)
    measured = calibrate(model, open_benchmark(f"{experiment.train_set}_val"), **options)
    about = {"what": f"head of {experiment.model}, fp16", "command": f"vpr bundle {recipe}", "git": git_state(),
             "foreign": vars(measured), "last_epoch": result.history[-1], "recipe": experiment.model_dump()}  # fmt: skip
    path = save_head(model, bundled_path(experiment.model), about)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB; {measured}")


def toy_start(
    backbone: Annotated[str, typer.Argument(help="A toy backbone; its recipe is toy_start_<backbone>.")] = "tinyresnet",
    device: Device = "auto",
) -> None:
    """Make the committed starting point of a toy backbone, on generated streets that no other set uses."""
    from vpr_lib.models.checkpoints import save_weights, toy_start_path
    from vpr_lib.paths import cache_root, git_state
    from vpr_lib.training.recipes import load_experiment
    from vpr_lib.training.recipes import train as run

    experiment = load_experiment(f"toy_start_{backbone}")
    model, result = run(experiment, cache_root() / "training" / f"toy_start_{backbone}", choose_device(device))
    best = max(result.history, key=lambda row: row["recall@1"])
    about = {"what": f"starting point of {backbone} for the toy city, fp16", "recipe": experiment.model_dump(), "git": git_state(),
             "trained_with": experiment.model, "best_epoch": best}  # fmt: skip
    path = save_weights(model.backbone, toy_start_path(backbone), about, half=True)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB, validation R@1 {100 * best['recall@1']:.1f} %")


def centres(
    model: Annotated[str, typer.Argument(help="A model with a ClusVPR head; `vpr models` lists them.")],
    dataset: Annotated[str, typer.Option(help="Whose images: a data set by name, such as pitts30k_train.")],
    root: DataRoot = None,
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
    import torch

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
    alpha = network.cpu().aggregator.set_centres(*map(torch.from_numpy, (centroids, descriptors)))
    show(f"{plain(path)}: centroids {centroids.shape}, descriptors {descriptors.shape}, alpha {alpha:.4g}")
    write_json(json, {"path": str(path), "centroids": centroids.shape, "descriptors": descriptors.shape, "alpha": alpha,
                      "model": model, "dataset": dataset, "seed": seed})  # fmt: skip
