"""Where a training step's time goes."""

import time

import pytest
import torch

from vpr_lib.losses.metric import MetricLoss
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.models.zoo import build_model
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.throughput import PHASES, measure_training, step_row

SETTINGS = FitSettings(epochs=1, learning_rate=0.01)


def batches(count, pause=0.0):
    for _ in range(count):
        time.sleep(pause)
        yield torch.randint(0, 256, (8, 3, 112, 112), dtype=torch.uint8), torch.arange(4).repeat_interleave(2)


@pytest.mark.parametrize("miner", ["MultiSimilarityMiner", "none"])
def test_phases_add_up_and_the_model_is_left_alone(miner):
    model = build_model("gem_toy_160")
    before = weights_hash(model)
    speed = measure_training(model, batches(4, 0.05), MetricLoss(miner=miner), SETTINGS, steps=3, warmup=1)
    assert weights_hash(model) == before and tuple(speed.milliseconds) == PHASES
    assert all(speed.milliseconds[phase] > 0 for phase in PHASES)
    assert 50 <= speed.milliseconds["loading"] < 1000
    assert speed.peak_gb > 0.05
    assert speed.images_per_s == pytest.approx(8000 / sum(speed.milliseconds.values()))


def test_too_few_batches():
    with pytest.raises(ValueError, match=r"1 \+ 3 batches are needed to measure, there are 2"):
        measure_training(build_model("gem_toy_160"), batches(2), MetricLoss(), SETTINGS, steps=3, warmup=1)


def test_a_row_of_full_size_steps():
    row = step_row("toy", "toycity", steps=2, warmup=0)
    assert row["model"] == "mixvpr_toy_256" and row["images per step"] > 1 and row["precision"] == "fp32"
    assert row["img/s, no loading"] > row["img/s"] > 0 and row["GB"] > 0
