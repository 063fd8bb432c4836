"""The zoo's methods that came after the five this workbook reproduces, and their baselines. Spec: modern_methods.

Plain tables: `models/zoo.py` makes its entries of them. Official files load into the ones their authors publish.
"""

from typing import Any

from vpr_lib.data.images import CAFFE_MEAN, CAFFE_STD

LARGE, TOY = (480, 640), (112, 112)  # LARGE: Pitts30k's own size; the authors do not resize
FLOAT_RESIZE = dict(resize_after_normalising=True)  # the authors resize tensors: no rounding to grey levels


def _dino(system: str, aggregator: str, side: int = 322, fixed: int = 7, **changes: Any) -> dict[str, Any]:
    """A head on DINOv2 ViT-B/14 with the final norm; blocks 0..fixed run without a graph."""
    trunk = dict(freeze_to=fixed, detach_frozen=True, final_norm=True)
    values = dict(backbone="dinov2_vitb14", backbone_args=trunk, aggregator_args={}, image_size=(side, side))
    return dict(system=system, aggregator=aggregator) | values | changes


def _berton(system: str, backbone: str, dim: int) -> dict[str, Any]:
    frozen = dict(layers_to_freeze=4 if backbone == "vgg16" else 2)  # layer3 and layer4 learn; conv5 of a VGG
    return dict(
        system=system, backbone=backbone, backbone_args=frozen, aggregator="CosPlace",
        aggregator_args=dict(out_dim=dim), image_size=LARGE,
    )  # fmt: skip


def _toy(system: str, backbone: str, aggregator: str, **head: Any) -> dict[str, Any]:
    return dict(system=system, backbone=backbone, aggregator=aggregator, aggregator_args=head, image_size=TOY)


SALAD_TOY = dict(num_clusters=16, cluster_dim=14, token_dim=32, hidden=128)
BOQ_TOY = dict(proj_channels=64, num_queries=16, num_layers=2, row_dim=4)
DINO_TOY = dict(freeze_to=1, final_norm=True)

MODERN: dict[str, dict[str, Any]] = {
    "salad_vitb14_8448": _dino("SALAD", "SALAD"),
    "boq_vitb14_12288": _dino(
        "BoQ", "BoQ", backbone_args=dict(freeze_to=9, detach_frozen=True), aggregator_args=dict(proj_channels=384),
        interpolation="bicubic", **FLOAT_RESIZE,
    ),
    "boq_resnet50_16384": dict(
        system="BoQ", backbone="resnet50", backbone_args=dict(layers_to_crop=[4], layers_to_freeze=2), aggregator="BoQ",
        image_size=(384, 384), interpolation="bicubic", **FLOAT_RESIZE,
    ),
    "megaloc_vitb14_8448": _dino(
        "MegaLoc", "MegaLoc", **FLOAT_RESIZE,
        backbone_args=dict(freeze_to=7, detach_frozen=True, final_norm=True, round_sides=True),
    ),
    "cricavpr_vitb14_10752": _dino("CricaVPR", "CricaVPR", 224, backbone="dinov2_vitb14_crica", backbone_args={}),
    "edtformer_vitb14_4096": _dino("EDTformer", "EDTformer", backbone="dinov2_vitb14_side", backbone_args={}),
    "supervlad_vitb14_3072": _dino("SuperVLAD", "SuperVLAD"),
    **{f"eigenplaces_{name}_{dim}": _berton("EigenPlaces", name, dim) for name, dim in (
        ("resnet18", 256), ("resnet18", 512), ("resnet50", 128), ("resnet50", 256), ("resnet50", 512),
        ("resnet50", 2048), ("resnet101", 2048), ("vgg16", 512),
    )},
    **{f"cosplace_{name}_{dim}": _berton("CosPlace", name, dim) for name, dim in (
        ("resnet18", 512), ("resnet101", 2048), ("resnet152", 2048), ("vgg16", 512),
    )},  # cosplace_resnet50_* are in the zoo at the 320 pixels of GSV-Cities; the same files load into them
    "netvlad_vgg16_vladv1_32768": dict(
        system="NetVLAD", backbone="vgg16", backbone_args=dict(layers_to_freeze=4), aggregator="NetVLAD",
        aggregator_args=dict(bias=False), image_size=LARGE,
    ),
    "sfrs_vgg16_4096": dict(  # OpenIBL's release; its inputs are those of MatConvNet's VGG-16 (clusvpr §5)
        system="SFRS", backbone="vgg16", backbone_args=dict(layers_to_freeze=4), aggregator="NetVLAD+PCA",
        aggregator_args=dict(bias=False), image_size=LARGE, mean=CAFFE_MEAN, std=CAFFE_STD,
    ),
    "salad_toy_256": _toy("SALAD", "tinyresnet", "SALAD", **SALAD_TOY),
    "boq_toy_256": _toy("BoQ", "tinyresnet", "BoQ", **BOQ_TOY),
    "salad_dinov2_toy_256": _toy("SALAD", "dinov2_toy", "SALAD", **SALAD_TOY) | dict(backbone_args=DINO_TOY),
    "boq_dinov2_toy_256": _toy("BoQ", "dinov2_toy", "BoQ", **BOQ_TOY) | dict(backbone_args=dict(freeze_to=1)),
}  # fmt: skip
