"""Run by test_tuples.py under torchrun: two generations of tuple training, then the weights of every rank to disk."""

import sys
from pathlib import Path

import torch
from test_tuple_training import RECIPE, SETTINGS, make_town, network

from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.tuples import train_tuples

torch.set_num_threads(1)
folder = Path(sys.argv[1])
settings = SETTINGS.model_copy(update={"epochs": 2})
fabric = make_fabric(settings, "cpu")
model = network(seed=3)
before = {name: value.clone() for name, value in model.state_dict().items()}
result = train_tuples(
    model, make_town(folder), RECIPE, settings, TrainingRun(folder / "run", fabric=fabric, quiet=True)
)
torch.save({"before": before, "after": dict(model.named_parameters()), "history": result.history},
           folder / f"rank_{fabric.global_rank}.pt")  # fmt: skip
