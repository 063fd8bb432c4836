"""Judges of exports: what one loses on images it was not calibrated on."""

import numpy as np
import pytest
import torch

from vpr_lib.data.readers.folders import folder_manifest, read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.results.parity import calibration_images, calibration_rows, nearest_lost, recall_lost


@pytest.fixture(scope="module")
def model():
    return build_model("gem_toy_160", seed=4, image_size=(48, 64)).eval()


class Blind(torch.nn.Module):
    """Sees nothing: the same descriptor for every image."""

    def __init__(self, model):
        super().__init__()
        self.input_spec, self.dim = model.input_spec, model.dim

    def forward(self, images):
        return torch.nn.functional.normalize(torch.ones(len(images), self.dim), dim=1)


class Turned(Blind):
    """Finds what the model finds: its descriptors, all turned by the same angle of cosine 0.98."""

    def __init__(self, model):
        super().__init__(model)
        self.model = model

    def forward(self, images):
        odd, even = self.model(images).unflatten(1, (-1, 2)).unbind(2)
        side = (1 - 0.98**2) ** 0.5
        return torch.stack([0.98 * odd - side * even, side * odd + 0.98 * even], dim=2).flatten(1)


def test_calibration_leaves_half_to_measure_on(model, two_folders):
    manifest = folder_manifest(two_folders[0], "db", "pictures", "test")
    assert calibration_rows(manifest).tolist() == [0, 2, 4, 7, 9, 11] and calibration_rows(manifest, 2).tolist() == [
        0,
        11,
    ]
    assert calibration_images(model, manifest, 3).shape == (3, 3, 48, 64)


def test_nearest_images_lost(model, two_folders):
    manifest = folder_manifest(two_folders[0], "db", "pictures", "test")
    lost = nearest_lost(model, manifest, np.array([0, 1]))
    assert lost(model) == 0.0 and 0.5 < lost(Blind(model)) <= 1


def test_recall_lost_leaves_calibrated_images_out(model, two_folders, tmp_path):
    places = [f"{index:02d}.png,{100 * index},0" for index in range(12)] + [
        f"q{index}.png,{200 * index},0" for index in range(6)
    ]
    (tmp_path / "where.csv").write_text("\n".join(["image,easting,northing", *places]))
    benchmark = read_folders(*two_folders, positions=tmp_path / "where.csv")
    lost = recall_lost(model, benchmark, np.array([1, 3]))
    assert lost(model) == 0.0
    assert lost(Blind(model)) == pytest.approx((5 + 2 * 5**0.5) / 6), "five of six queries, and twice the error of five"
    far = Turned(model)
    assert lost(far) == pytest.approx(1 - 0.98, abs=1e-4), "finds the same, with descriptors that moved"
    everything = recall_lost(model, benchmark, np.array([], int))
    assert lost(Blind(model)) == everything(Blind(model)), "odd images are no query's"
