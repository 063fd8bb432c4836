"""The four steps of CONTRIBUTING.md, walked with a small example of each kind."""

import pytest
import torch
from pictures import write_picture, write_places
from torch import nn

from vpr_lib.config import Compute
from vpr_lib.data import catalogue
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers import folders
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.losses.metric import LOSSES
from vpr_lib.models.aggregators import AGGREGATORS
from vpr_lib.models.backbone import Backbone
from vpr_lib.models.backbones import BACKBONES
from vpr_lib.models.zoo import ZOO, ModelConfig, build_model
from vpr_lib.results.measure import measure
from vpr_lib.results.records import Run
from vpr_lib.training.fit import TrainingRun
from vpr_lib.training.metric_learning import PlaceRecipe, train_places
from vpr_lib.training.optimisation import FitSettings


class OneConvolution(Backbone):
    """A 4 x 4 convolution with stride 4."""

    def __init__(self, pretrained: bool = False):
        super().__init__()
        self.out_channels, self.stride = 6, 4
        self.model = nn.Conv2d(3, 6, 4, 4)

    def forward(self, images):
        return self.model(images)


class Strongest(nn.Module):
    """The largest value of every channel, (B, C, h, w) -> unit-norm (B, C)."""

    def __init__(self, in_channels, grid, scale=1.0):
        super().__init__()
        self.dim, self.scale = in_channels, scale

    def forward(self, features):
        return nn.functional.normalize(self.scale * features.amax(dim=(2, 3)), dim=1)


class PullTogether(nn.Module):
    """One minus the mean cosine of images of one place."""

    def forward(self, descriptors, labels, pairs=None):
        same = labels[:, None] == labels[None]
        return 1 - (descriptors @ descriptors.T)[same].mean()


def read_rows(root, name):
    """A street of two database images and a query that copies the second."""
    sides = []
    for role, seeds in (("db", (1, 2)), ("query", (2,))):
        names = [write_picture(root / role / f"{seed}.png", seed).relative_to(root).as_posix() for seed in seeds]
        columns = {"image_path": names, "utm_east": [100.0 * seed for seed in seeds], "utm_north": [0.0] * len(seeds)}
        sides.append(build_manifest(root, name, "test", role, columns, position_kind="gps"))
    return Benchmark(name, *sides, radius_cards(*sides, name, name, 25.0))


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.setitem(BACKBONES, "one_convolution", OneConvolution)
    monkeypatch.setitem(AGGREGATORS, "strongest", Strongest)
    monkeypatch.setitem(LOSSES, "PullTogether", PullTogether)
    config = ModelConfig(system="Ours", backbone="one_convolution", aggregator="strongest", image_size=(32, 32))
    monkeypatch.setitem(ZOO, "ours_6", config)
    monkeypatch.setattr(folders, "read_rows", read_rows, raising=False)
    table = catalogue.load_table()
    entry = catalogue.Dataset(family="any", reader="folders.read_rows", about="two images and a query")
    monkeypatch.setattr(
        catalogue, "load_table", lambda: table.model_copy(update={"datasets": table.datasets | {"rows": entry}})
    )


def test_a_backbone_an_aggregator_a_loss_and_a_data_set_of_ones_own(ours, tmp_path):
    model = build_model("ours_6", seed=1)
    before = model(torch.zeros(1, 3, 32, 32))
    assert before.shape == (1, 6) == (1, model.dim)
    recipe = PlaceRecipe(places_per_batch=3, images_per_place=2, augmentation="none", loss="PullTogether", miner="none")
    settings = FitSettings(epochs=1, optimizer="adam", learning_rate=1e-2)
    run = TrainingRun(tmp_path / "run", "cpu", quiet=True)
    result = train_places(model, write_places(tmp_path / "places"), recipe, settings, run)
    assert result.best.is_file() and not torch.equal(before, model(torch.zeros(1, 3, 32, 32)))
    (tmp_path / "rows").mkdir()
    benchmark = catalogue.open_dataset("rows", tmp_path / "rows")
    measured = measure(model, benchmark, Run("ours_6", "Ours"), tmp_path / "records", Compute(quiet=True))
    assert measured.rows()[0]["R@1"] == 100 and measured.files[0].is_file()
