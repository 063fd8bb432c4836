"""The checkpoints that the authors published, by file name: which model of the zoo each belongs to, and its origin."""

from typing import NamedTuple


class Published(NamedTuple):
    """One published file. Only DINO-Mix's repository states a licence (the heads of the specs)."""

    model: str
    source: str
    licence: str = "not stated: the repository has no licence file"


MIXVPR, GSV, LIGHT = "amaralibey/MixVPR, README", "amaralibey/gsv-cities, README", "Lightweight-MixVPR, README"
DINOMIX = "GaoShuang98/DINO-Mix, release v1.0.0"
NET_DISK = "the net-disk that the README of GaoShuang98/DINO-Mix links"
SAME_NAME = "; Lightweight-MixVPR links another training under the same name, tell them apart by the sha256"
PUBLISHED: dict[str, Published] = {
    "resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt": Published("mixvpr_resnet50_4096", MIXVPR + SAME_NAME),
    "resnet50_MixVPR_512_channels(256)_rows(2).ckpt": Published("mixvpr_resnet50_512", MIXVPR),
    "resnet50_MixVPR_128_channels(64)_rows(2).ckpt": Published("mixvpr_resnet50_128", MIXVPR),
    "resnet50_ConvAP_2048_2x2.ckpt": Published("convap_resnet50_8192", GSV),
    "resnet50_ConvAP_1024_2x2.ckpt": Published("convap_resnet50_4096", GSV),
    "resnet50_ConvAP_512_2x2.ckpt": Published("convap_resnet50_2048", GSV),
    "resnet50_ConvAP_128_2x2.ckpt": Published("convap_resnet50_512", GSV),
    "resnet18_epoch(56)_step(13965)_R1[0.8993]_R5[0.9646].ckpt": Published("lightmixvpr_resnet18_512", LIGHT),
    "kd_epoch79.ckpt": Published("lightmixvpr_kd_resnet18_512", LIGHT),
    "efficientnet_b0_epoch(73)_step(96422)_R1[0.8148]_R5[0.9295].ckpt": Published(
        "lightmixvpr_efficientnet_b0_128", LIGHT
    ),
    "mobilenet_v2_epoch(77)_step(152412)_R1[0.8850]_R5[0.9627].ckpt": Published("lightmixvpr_mobilenet_v2_1024", LIGHT),
    "dinov2_vitb14_mix.ckpt": Published("dinomix_vitb14_4096", DINOMIX, "MIT"),
}


class Trunk(NamedTuple):
    """Published weights of a backbone alone, which no library delivers."""

    backbone: str
    file: str
    source: str
    licence: str = "see the page of its authors"


TRUNKS: dict[
    str, Trunk
] = {  # `vpr weights add FILE` keeps them under this name; the same trunk of OpenIBL fits too (--as)
    "vgg16_matconvnet": Trunk("vgg16", "imagenet-vgg-verydeep-16.mat", "the pretrained models of MatConvNet"),
}


def published_at(model: str) -> str:
    """A sentence on where a model's authors publish its weights; '' when that is not known."""
    if model in {"dinomix_vits14_4096", "dinomix_vitl14_4096", "dinomix_vitg14_4096"}:
        return f" Its authors publish the file on {NET_DISK}."
    for file, published in PUBLISHED.items():
        if published.model == model:
            return f" Its authors publish {file} ({published.source})."
    return ""
