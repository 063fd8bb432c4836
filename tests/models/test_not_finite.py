"""Numbers that are not finite are refused where they come in, and half precision does not make them."""

import numpy as np
import pytest
import torch

from vpr_lib.models.aggregators import AGGREGATORS, build_aggregator
from vpr_lib.models.checkpoints import CheckpointError, load_weights, save_weights
from vpr_lib.models.unit import unit
from vpr_lib.models.whitening import fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.indexes import rank

CHANNELS, GRID = 32, (5, 7)
MORE = {"MixVPR": {"out_channels": 8}, "ConvAP": {"out_channels": 8}, "CosPlace": {"out_dim": 16},
        "NetVLAD": {"clusters": 4}}  # fmt: skip
UNIT = ("MixVPR", "ConvAP", "CosPlace", "GeM", "NetVLAD", "average", "flatten")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, suffix):
    model = build_model("gem_toy_160")
    name = next(key for key in model.state_dict() if key.endswith("conv1.weight"))
    model.state_dict()[name].view(-1)[0] = value
    path = tmp_path / f"w{suffix}"
    torch.save(model.state_dict(), path) if suffix == ".pth" else save_weights(model, path, {})
    with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors hold numbers that are not finite .*{name}"):
        load_weights(build_model("gem_toy_160"), path)


def test_weights_that_fp32_cannot_hold_are_refused(tmp_path):
    tensors = {
        name: value.double() if value.is_floating_point() else value
        for name, value in build_model("gem_toy_160").state_dict().items()
    }
    tensors["aggregator.p"] = torch.full_like(tensors["aggregator.p"], 1e300)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not finite .*aggregator\.p"):
        load_weights(build_model("gem_toy_160"), tmp_path / "w.pth")


@pytest.mark.parametrize("scale", [1e-5, 1.0, 500.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", UNIT)
def test_half_precision_keeps_descriptors_at_length_one(name, dtype, scale):
    torch.manual_seed(0)
    head = build_aggregator(name, CHANNELS, GRID, **MORE.get(name, {})).eval()
    features = torch.rand(2, CHANNELS, *GRID) * scale
    with torch.inference_mode():
        exact = head(features)
        with torch.autocast("cpu", dtype):
            half = head(features.to(dtype)).float()
    torch.testing.assert_close(half.norm(dim=1), torch.ones(2), atol=2e-3, rtol=0)
    assert torch.cosine_similarity(half, exact).min() > (0.9 if name == "NetVLAD" else 0.99)


HEADS = {  # with the layers whose output is divided by its length
    "SALAD": (dict(num_clusters=4, cluster_dim=8, token_dim=8, hidden=16), ("cluster_features", "token_features")),
    "MegaLoc": (dict(num_clusters=4, cluster_dim=8, token_dim=8, hidden=16, out_dim=24), ("linear",)),
    "BoQ": (dict(proj_channels=64, num_queries=4, row_dim=4), ("fc",)),
    "EDTformer": (dict(num_queries=4, heads=4, out_channels=8, out_rows=4), ("row_proj",)),
    "NetVLAD+PCA": (dict(clusters=4, dim=8), ("whitening",)),
    "SuperVLAD": (dict(clusters=4), ()), "CricaVPR": ({}, ()), "NetVLAD+cells": (dict(clusters=4), ()),
}  # fmt: skip


@pytest.mark.parametrize("scale", [1e-5, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", HEADS)
def test_half_precision_keeps_heads_of_tokens_at_length_one(name, dtype, scale):
    torch.manual_seed(0)
    arguments, last = HEADS[name]
    grid = (16, 16) if name == "CricaVPR" else GRID
    head = build_aggregator(name, CHANNELS, grid, **arguments).eval()
    for part in (getattr(head, part) for part in last):
        layer = part if isinstance(part, torch.nn.Linear | torch.nn.Conv2d) else part[-1]
        layer.weight.data.mul_(scale)
        layer.bias.data.mul_(scale)
    features = torch.rand(2, CHANNELS, *grid) * (1.0 if last else scale)
    with torch.inference_mode():
        exact = head(features)
        with torch.autocast("cpu", dtype):
            half = head(features.to(dtype)).float()
    torch.testing.assert_close(half.norm(dim=1), torch.ones(2), atol=2e-3, rtol=0)
    assert torch.cosine_similarity(half, exact).min() > 0.98


def test_every_aggregator_that_normalises_is_covered():
    measured_elsewhere = {"ClusVPR", "ProjectedGeM"}  # test_clusvpr.py; raw descriptors
    assert set(UNIT) | set(HEADS) | measured_elsewhere == set(AGGREGATORS)


@pytest.mark.parametrize("value", [1e-6, 3e-5, 300.0, 6e4])
def test_unit_computes_in_fp32(value):
    rows = torch.full((2, 64), value, dtype=torch.float16)
    torch.testing.assert_close(unit(rows).norm(dim=1), torch.ones(2), atol=1e-3, rtol=0)
    assert unit(rows).dtype == torch.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_descriptors_that_are_not_finite_are_neither_whitened_nor_indexed(value):
    good = np.eye(8, dtype=np.float32)
    odd = good.copy()
    odd[3, 2] = value
    with pytest.raises(ValueError, match="1 of 8 descriptors are not finite"):
        fit_whitening(odd, 4)
    for sides, what in (((odd, good), "database"), ((good, odd), "query")):
        with pytest.raises(ValueError, match=f"1 of 8 {what} descriptors are not finite: 'flat' cannot rank them"):
            rank("flat", *sides, 3)
    assert rank("flat", good, good, 1)[0].indices[:, 0].tolist() == list(range(8))


def test_a_whitening_of_equal_images_is_told(caplog):
    rows = np.repeat(np.eye(4, dtype=np.float32), 4, 0)
    fit_whitening(rows, 3)
    assert not caplog.text
    fit_whitening(rows, 4)
    assert "1 of 4 directions hold nothing but rounding" in caplog.text and "keep at most 3" in caplog.text
