"""The anchors of spec dinomix §10: the authors' modules under torch-generated weights, ViT-S and ViT-B.

They complement dinomix_vits14.json, which has ViT-S only: unit-scale tokens, ViT-B, 238 and 322 pixels.
"""

import math
from zlib import crc32

import pytest
import torch

from vpr_lib.models.attention import grad_cam
from vpr_lib.models.zoo import build_model

ANCHORS = {  # std, L2, checksum, first values
    "dinomix_vits14_4096": {
        "positions": (0.251081, 78.8757, 1.1850, -0.015674, 0.019017, 0.026437, -0.004277),
        "features": (1.674886, 910.1508, 363.5427, 0.304815, 4.184869, 0.511539, 0.616757),
        "mixed": (1.945859, 1058.1920, 237.4020, 0.225189, 5.380284, -0.385628, 0.373285),
        "depth": (1.935972, 1717.0856, 1958.2201, 1.648744, 1.115283, 1.757501, 2.125552),
        "rows": (1.648145, 182.7073, -179.9276, 0.041147, 2.424539, -2.540795, -0.872744),
        "descriptor": (0.015624, 1.7321, -1.6947, 0.000392, 0.023112, -0.024220, -0.008320),
        "196x196": (1.677114, 460.4293, 77.1464, 2.162910, 0.564279, -2.840174, 0.247831),
        "238x238": (1.679670, 560.1365, -131.0215, -0.246034, -1.351786, 0.989863, -1.543162),
        "322x322": (1.680113, 757.9395, 706.0051, 1.104998, -3.610152, -1.010199, -0.687540),
        "224x280": (1.681104, 589.8268, 165.7648, 0.651080, -0.031285, -1.307176, 1.073565),
        "cam 690": (0.161387, 60.1279, -1.0782),
        "cam argmax": (0.149496, 46.3841, -1.2629),
        "cosines": (0.137802, 0.126934, 0.168539),
    },
    "dinomix_vitb14_4096": {
        "positions": (0.251177, 111.5903, -6.4445, -0.015674, 0.019017, 0.026437, -0.004277),
        "features": (1.697219, 1304.0115, 1177.4054, -0.385645, 2.908279, 1.094014, 1.031488),
        "mixed": (1.963842, 1509.8109, 1190.3423, -0.137937, 3.461725, 1.128588, 1.245421),
        "depth": (1.975327, 1752.2830, -35.9800, 1.758954, 0.959098, -3.792426, -0.557904),
        "rows": (1.630380, 180.7321, 69.7213, -0.036898, 3.207310, 3.013832, -1.881763),
        "descriptor": (0.015625, 1.7321, 0.6830, -0.000351, 0.030543, 0.028701, -0.017920),
        "196x196": (1.728871, 671.1812, -619.5285, 4.348377, 1.869468, -1.566289, -0.572734),
        "238x238": (1.707904, 804.9707, -498.6014, 1.770130, -0.970815, 2.330335, -0.043061),
        "322x322": (1.690903, 1078.3826, 628.3071, -0.788334, -0.285104, 1.781126, -2.090692),
        "224x280": (1.708071, 847.1766, 444.0027, 2.242710, 0.671905, 0.325358, -0.955593),
        "cam 690": (0.160446, 53.3474, 0.6525),
        "cam argmax": (0.096610, 22.9013, 0.2585),
        "cosines": (0.193187, 0.152118, 0.184943),
    },
}


def weights(model):
    """The weight recipe of §10."""
    tensors = {}
    for key, entry in model.state_dict().items():
        generator = torch.Generator().manual_seed((crc32(key.encode()) + 20240927) % 2**31)
        noise = torch.randn(entry.shape, generator=generator)
        kind = key.rsplit(".", 1)[-1]
        if kind == "pos_embed":
            tensors[key] = 0.5 * smooth_table(entry.shape[-1]) + 0.02 * noise
        elif kind in ("cls_token", "mask_token"):
            tensors[key] = 0.5 * noise
        elif kind == "gamma":
            tensors[key] = 0.5 + 0.1 * noise
        elif noise.ndim == 1:
            tensors[key] = 1 + 0.1 * noise if kind == "weight" else 0.02 * noise
        else:
            tensors[key] = noise / math.sqrt(noise.numel() / noise.shape[0])
    return tensors


def smooth_table(dim):
    cell, channel = torch.arange(37, dtype=torch.float64) + 0.5, torch.arange(dim)
    down = torch.cos((1 + channel % 7) * math.pi / 37 * cell[:, None])  # (37, D)
    right = torch.cos((1 + channel % 5) * math.pi / 37 * cell[:, None] + 0.1 * channel)
    grid = (down[:, None] * right[None]).reshape(1, 37 * 37, dim)
    return torch.cat([torch.zeros(1, 1, dim), grid], dim=1).float()


def picture(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(name, tensor, expected, absolute):
    flat = tensor.detach().double().flatten()
    assert flat.std().item() == pytest.approx(expected[0], abs=2e-6, rel=2e-6), name
    assert flat.norm().item() == pytest.approx(expected[1], abs=1e-4, rel=1e-6), name
    checksum = (flat * torch.cos(0.37 * torch.arange(len(flat), dtype=torch.float64))).sum().item()
    assert checksum == pytest.approx(expected[2], abs=1e-2), name
    for value, wanted in zip(flat.tolist(), expected[3:]):
        assert value == pytest.approx(wanted, abs=absolute), name


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors(name):
    anchors, model = ANCHORS[name], build_model(name).eval()
    model.load_state_dict(weights(model), strict=True)
    backbone, head, images = model.backbone, model.aggregator, picture(777, 3, 3, 224, 224)
    with torch.no_grad():
        check("positions", backbone.positions((16, 16)), anchors["positions"], 2e-6)
        check("features", features := backbone(images), anchors["features"], 1.5e-5)
        check("mixed", maps := head.mix(features.flatten(2)), anchors["mixed"], 2e-5)
        check("depth", maps := head.channel_proj(maps.transpose(1, 2)).transpose(1, 2), anchors["depth"], 2e-5)
        check("rows", head.row_proj(maps), anchors["rows"], 2e-5)
        check("descriptor", descriptors := head(features), anchors["descriptor"], 1.5e-6)
        cosines = (descriptors @ descriptors.T)[[0, 0, 1], [1, 2, 2]].tolist()
        assert cosines == pytest.approx(anchors["cosines"], abs=2e-6)
        for size in ((196, 196), (238, 238), (322, 322), (224, 280)):
            tokens = backbone(picture(778, 1, 3, *size)).flatten(2).transpose(1, 2)
            check(size, tokens, anchors["{}x{}".format(*size)], 1.5e-5)
    check("cam 690", grad_cam(model, images[:1], 690, layer=10).maps, anchors["cam 690"], 0)
    check("cam argmax", grad_cam(model, images[:1], layer=10).maps, anchors["cam argmax"], 0)


def test_a_final_norm_would_be_noticed():
    """Keeping the last norm hardly shows in a picture of the results; the descriptor tells."""
    model = build_model("dinomix_vits14_4096").eval()
    model.load_state_dict(weights(model), strict=True)
    with torch.no_grad():
        features = model.backbone(picture(777, 1, 3, 224, 224))
        normed = torch.nn.functional.layer_norm(features.movedim(1, 3), (384,)).movedim(3, 1)
        cosine = (model.aggregator(features) * model.aggregator(normed)).sum().item()
    assert 0.9 < cosine < 0.98  # spec §1.3: 0.95 to 0.96
