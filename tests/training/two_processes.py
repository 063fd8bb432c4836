"""Run by test_two_processes.py, alone or under torchrun: the same training, P places per process; results to a file."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pictures import write_places

from vpr_lib.data.places import PlaceBatches, PlaceSampler
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.models.zoo import ModelConfig, build_model
from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.metric_learning import PlaceRecipe, metric_step, train_places
from vpr_lib.training.optimisation import FitSettings

MIXER = {"out_channels": 8, "mix_depth": 2}
MODELS = {
    "without batch norm": ModelConfig(
        system="test", backbone="pixels", backbone_args={"side": 8, "patch": 4}, aggregator="MixVPR",
        aggregator_args=MIXER, image_size=(32, 32),
    ),
    "fixed statistics": ModelConfig(
        system="test", backbone="tinyresnet",
        backbone_args={"layers_to_crop": [3], "layers_to_freeze": 2, "fixed_statistics": True}, aggregator="MixVPR",
        aggregator_args=MIXER, image_size=(32, 32),
    ),
}  # fmt: skip
SETTINGS = FitSettings(epochs=2, learning_rate=0.3, momentum=0.9, max_steps_per_epoch=2, channels_last=False)


class Validator:
    calls = 0

    def __call__(self, network):
        self.calls += 1
        return {"recall@1": 0.25 * self.calls}


def main(folder: Path, places_per_process: int) -> None:
    torch.set_num_threads(1)
    places, fabric = write_places_once(folder), make_fabric(SETTINGS, "cpu")
    found = {"world": fabric.world_size}
    for name, config in MODELS.items():
        model = build_model(config, seed=4)
        sampler = PlaceSampler(places, places_per_process, 4, SETTINGS.seed, "shuffled", rank=fabric.global_rank,
                               world_size=fabric.world_size)  # fmt: skip
        batch = next(PlaceBatches(sampler, model.input_spec).epoch(0))
        criterion, wrapped = MetricLoss(miner_margin=1.0), fabric.setup(model)
        values = metric_step(criterion, model.input_spec.normalise)(wrapped, batch)
        fabric.backward(values["loss"])
        found[name] = {"loss": values["loss"].detach(), "useful": values["useful"],
                       "gradient": {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
                       "local": MetricLoss(miner_margin=1.0)(model(model.input_spec.normalise(batch[0])), batch[1]).detach()}  # fmt: skip
        model.zero_grad()
        recipe = PlaceRecipe(
            places_per_batch=places_per_process, order="shuffled", augmentation="light", miner_margin=1.0
        )
        validate = Validator()
        run = TrainingRun(folder / f"{name} {fabric.world_size}", validate=validate, fabric=fabric, quiet=True)
        result = train_places(model, places, recipe, SETTINGS, run)
        found[name] |= {"weights": model.state_dict(), "losses": [row["loss"] for row in result.history],
                        "scores": [row["recall@1"] for row in result.history], "validations": validate.calls}  # fmt: skip
    torch.save(found, folder / f"found_{fabric.world_size}_{fabric.global_rank}.pt")


def write_places_once(folder: Path):
    """Every process writes the same pictures into a folder of its own."""
    return write_places(folder / f"places_{os.environ.get('RANK', 'alone')}", places=9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
