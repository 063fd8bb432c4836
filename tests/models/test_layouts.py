import pytest
import torch

from vpr_lib.models.checkpoints import CheckpointError, load_weights
from vpr_lib.models.layouts import layout_of, translate
from vpr_lib.models.zoo import ModelConfig, build_model

DINO = dict(backbone="dinov2_toy", image_size=(112, 112))
RESNET = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}


def small(system, aggregator, trunk=None, head=None, **changes):
    return build_model(
        ModelConfig(
            system=system,
            aggregator=aggregator,
            backbone_args=trunk or {},
            aggregator_args=head or {},
            **(DINO | changes),
        ),
        seed=3,
    )


def sequence(key, prefix):
    """torchvision's names -> places in nn.Sequential."""
    for number, part in RESNET.items():
        key = key.replace(f"backbone.model.{part}.", f"{prefix}{number}.")
    return key


SALAD = dict(num_clusters=8, cluster_dim=4, token_dim=6, hidden=16)
BOQ = dict(proj_channels=64, num_queries=3, row_dim=2)
CASES = {
    "salad": (lambda: small("SALAD", "SALAD", dict(final_norm=True), SALAD), lambda k: k.replace(".dino_model.", ".model."), {}),
    "boq_dinov2": (
        lambda: small("BoQ", "BoQ", {}, BOQ),
        lambda k: k.replace(".dino_model.", ".dino."),
        {"backbone.dino.norm.weight": 96, "backbone.dino.norm.bias": 96},
    ),
    "boq_r18": (
        lambda: small("BoQ", "BoQ", dict(layers_to_crop=[4]), BOQ, backbone="resnet18"),
        lambda k: sequence(k, "backbone.net."),
        {},
    ),
    "megaloc": (
        lambda: small("MegaLoc", "MegaLoc", dict(final_norm=True, round_sides=True), SALAD | dict(out_dim=10)),
        lambda k: k.replace(".dino_model.", "."),
        {},
    ),
    "eigenplaces_r18": (
        lambda: small("EigenPlaces", "CosPlace", {}, dict(out_dim=8), backbone="resnet18"),
        lambda k: sequence(k, "backbone.").replace("aggregator.gem.", "aggregation.1.").replace("aggregator.fc.", "aggregation.3."),
        {},
    ),
    "cosplace_vgg16": (
        lambda: small("CosPlace", "CosPlace", {}, dict(out_dim=8), backbone="vgg16"),
        lambda k: k.replace("backbone.model.features.", "backbone.").replace("aggregator.gem.", "aggregation.1.").replace(
            "aggregator.fc.", "aggregation.3."
        ),
        {},
    ),
    "netvlad": (
        lambda: small("NetVLAD", "NetVLAD", {}, dict(clusters=4, bias=False), backbone="vgg16"),
        lambda k: k.replace("backbone.model.features.", "encoder.module.").replace("aggregator.assign.", "pool.module.conv.").replace(
            "aggregator.centroids", "pool.module.centroids"
        ),
        {},
    ),
    "sfrs": (
        lambda: small("SFRS", "NetVLAD+PCA", {}, dict(clusters=4, bias=False, dim=8), backbone="vgg16"),
        lambda k: k.replace("backbone.model.features.", "base_model.base.").replace("aggregator.assign.", "net_vlad.conv.").replace(
            "aggregator.whitening.", "pca_layer."
        ).replace("aggregator.", "net_vlad."),
        {},
    ),
    "supervlad": (
        lambda: small("SuperVLAD", "SuperVLAD", dict(final_norm=True), dict(cross_image_encoder=True)),
        lambda k: k.replace(".dino_model.", ".").replace("aggregator.encoder.", "encoder.").replace("aggregator.", "aggregation."),
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_in_the_official_layout_loads_strictly(name, tmp_path):
    build, official, unused = CASES[name]
    model = build()
    state = {official(key): value for key, value in model.state_dict().items()}
    state |= {key: torch.zeros(size) for key, size in unused.items()}
    assert layout_of(state) is not None and layout_of(model.state_dict()) is None
    path = tmp_path / f"{name}.pth"
    torch.save({"model_state_dict": state} if name == "supervlad" else state, path)
    other = build()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    load_weights(other, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key

    torch.save(state | {"aggregation.extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not in the model"):
        load_weights(other, path)
    state.pop(official(list(model.state_dict())[-1]))
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(other, path)


def test_a_file_of_megaloc_before_2026_has_a_mask_token_and_another_prefix(tmp_path):
    model = CASES["megaloc"][0]()
    state = {key.replace(".dino_model.", ".model."): value for key, value in model.state_dict().items()}
    assert "backbone.model.mask_token" in state
    torch.save(state, tmp_path / "megaloc.torch")
    load_weights(CASES["megaloc"][0](), tmp_path / "megaloc.torch")


def test_unknown_names_stay_as_they_are():
    assert translate({"some.key": 1}) == {"some.key": 1}
