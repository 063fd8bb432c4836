"""ClusVPR by its acceptance checks (spec clusvpr §13); the numbers of the published code are in tests/golden."""

import math

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vpr_lib.models.checkpoints import load_weights
from vpr_lib.models.clusvpr import PYRAMIDS, ClusVPR, normalise_vlad
from vpr_lib.models.cost import clusvpr_parts
from vpr_lib.models.cwt import neighbour_sums, token_weights
from vpr_lib.models.whitening import Whitened, Whitening, fit_whitening
from vpr_lib.models.zoo import build_model, with_head

SMALL = dict(in_channels=32, grid=(6, 8), clusters=5, groups=4, cwtnets=2)


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return ClusVPR(**SMALL | changes)


def features(batch=3, size=(6, 8), seed=1):
    return torch.randn(batch, 32, *size, generator=torch.Generator().manual_seed(seed))


def test_token_weight_is_the_five_step_form():
    tokens = torch.randn(2, 30, 16)
    sums = neighbour_sums(tokens)
    n = (sums - sums.amin(1, keepdim=True)) / (sums.amax(1, keepdim=True) - sums.amin(1, keepdim=True))
    density = torch.exp(-n / 10)
    u = (1 - density) / (1 - density).sum(1, keepdim=True)
    w = (u - u.amin(1, keepdim=True)) / (u.amax(1, keepdim=True) - u.amin(1, keepdim=True))
    weights = token_weights(tokens)
    assert torch.allclose(weights, w, atol=2e-5)
    assert weights.min() == 0 and weights.max() == pytest.approx(1)
    order = torch.randperm(30)
    assert torch.allclose(token_weights(tokens[:, order]), weights[:, order], atol=1e-6)


def test_neighbour_sum_by_hand():
    tokens = torch.tensor([[[0.0], [1.0], [3.0], [7.0]]])
    assert neighbour_sums(tokens, 1).tolist() == [[1.0, 1.0, 4.0, 16.0]]
    assert neighbour_sums(tokens, 99).tolist() == [[59.0, 41.0, 29.0, 101.0]]  # all of them when there are few


def test_no_gradient_through_the_weights_and_equal_tokens_weigh_nothing():
    tokens = torch.randn(1, 12, 8, requires_grad=True)
    assert not token_weights(tokens).requires_grad
    assert token_weights(torch.ones(1, 12, 8)).tolist() == [[0.0] * 12]


def test_class_token_can_stay_out():
    attention = small(weigh_class_token=False).vit_layer[0].global_cwt.block.attn
    tokens = torch.randn(2, 13, 16)
    weights = attention.weights(tokens)
    assert weights[:, 0].tolist() == [0.5, 0.5]
    assert torch.equal(weights[:, 1:], token_weights(tokens[:, 1:]))
    assert (small(weigh_tokens=False).vit_layer[0].global_cwt.block.attn.weights(tokens) == 0.5).all()


def test_optlad_is_the_broadcast_form():
    head = small().eval()
    x = features()
    y = head.expand(x)
    a, s = head.attend(y, (6, 8)), head.assign(y)
    residuals = y[:, :, None] - head.centroids[None, None, :, :, None]  # (B, G, K, d, L)
    literal = (a[:, :, None, None] * s[:, :, :, None] * residuals).sum(dim=(1, 4))
    assert torch.allclose(head.cells(x)[:, 0], literal, atol=1e-5)


@pytest.mark.parametrize(("name", "count"), [("21", 21), ("9", 9), ("1", 1)])
def test_cells_add_up_and_region_zero_is_the_descriptor(name, count):
    head, pyramid = small().eval(), PYRAMIDS[name]
    x = features(size=(6, 8))
    cells = head.cells(x, pyramid.rows, pyramid.columns)
    assert torch.allclose(cells.sum(1), head.cells(x)[:, 0], atol=1e-5)
    regions = head.pyramid(x, pyramid)
    assert regions.shape == (3, count, head.dim)
    assert torch.allclose(regions[:, 0], head(x), atol=1e-6)


def test_the_21_regions_come_in_the_stated_order():
    left, right, first_block, last_block = (set(PYRAMIDS["21"].regions[i]) for i in (1, 2, 3, 8))
    assert left == {0, 1, 4, 5, 8, 9} and right == {2, 3, 6, 7, 10, 11}
    assert first_block == {0, 1, 4, 5} and last_block == {6, 7, 10, 11}
    assert PYRAMIDS["21"].regions[9:] == tuple((cell,) for cell in range(12))
    head, x = small(cwtnets=0).eval(), features(1, (6, 8))
    x[:, :, :, 4:] = 0.0  # the right half is black: a region there is the VLAD of zero vectors
    regions = head.pyramid(x, PYRAMIDS["21"])[0]
    empty = normalise_vlad(head.cells(torch.zeros(1, 32, 6, 4))[:, 0])[0]
    assert torch.allclose(regions[2], empty, atol=1e-6) and not torch.allclose(regions[1], empty, atol=1e-4)


def test_uneven_maps_are_cut_too():
    head = small(grid=(10, 14)).eval()
    x = features(size=(10, 14))
    assert torch.allclose(head.cells(x, 3, 4).sum(1), head.cells(x)[:, 0], atol=1e-5)


def test_any_size_in_evaluation_and_only_the_grid_in_training():
    head = small()
    assert head.eval()(features(2, (9, 5))).shape == (2, head.dim)
    with pytest.raises(ValueError, match="built for maps of 32x6x8"):
        head.train()(features(2, (9, 5)))
    with pytest.raises(ValueError, match="got 16x6x8"):
        head.eval()(torch.randn(1, 16, 6, 8))


def test_location_exponents_agree_with_the_scalar_at_three():
    one, many = small(exponent="scalar"), small(exponent="per_location")
    many.load_state_dict({k: v for k, v in one.state_dict().items() if "GeM" not in k}, strict=False)
    x = features(2, (9, 7))
    assert torch.allclose(one.eval()(x), many.eval()(x), atol=1e-6)


def test_batch_of_one_constant_image_and_unit_norm():
    model = build_model("clusvpr_toy_640").eval()
    images = torch.randn(3, 3, 128, 128)
    images[2] = 0.3
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert torch.isfinite(together).all() and torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))


def test_shared_norm_moves_twice_and_gradients_reach_everything():
    head = small().train()
    head(features()).square().mul(torch.rand(3, head.dim)).sum().backward()
    for layer in head.vit_layer:
        assert layer.local_bn.num_batches_tracked == 2 and layer.global_bn.num_batches_tracked == 0
    without = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()}
    # softmax ignores what a key bias adds to all logits: its gradient is zero up to rounding, or exactly
    assert {name for name in without if "key.bias" not in name} == {
        f"vit_layer.{i}.global_bn.{part}" for i in range(2) for part in ("weight", "bias")
    }
    separate = small(separate_bn=True).train()
    separate(features()).square().mul(torch.rand(3, separate.dim)).sum().backward()
    assert (
        separate.vit_layer[0].global_bn.num_batches_tracked == 1 and separate.vit_layer[0].global_bn.weight.grad.any()
    )


def test_published_keys_and_counts(tmp_path):
    model = build_model("clusvpr_vgg16_8192")
    assert len(model.state_dict()) == 150
    assert sum(p.numel() for p in model.parameters()) == 17_923_056
    with torch.device("meta"):
        scalar = build_model("clusvpr_vgg16_8192", aggregator_args={"exponent": "scalar"})
    assert sum(p.numel() for p in scalar.parameters()) == 17_921_857
    learns = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[2] for name in learns} == {"24", "26", "28"}
    official = {
        "module."
        + key.replace("backbone.model.features.", "base_model.base.").replace("aggregator.", "net_vlad."): value + 1
        for key, value in model.state_dict().items()
    }
    torch.save({"state_dict": official, "epoch": 5, "best_recall5": 0.9}, tmp_path / "model_best.pth.tar")
    load_weights(model, tmp_path / "model_best.pth.tar")
    assert torch.equal(model.aggregator.centroids, official["module.net_vlad.centroids"])


def test_ablation_arms_give_unit_descriptors():
    x = features()
    for changes in ({"head": "netvlad"}, {"group_attention": "linear"}, {"group_attention": "none"}, {"cwtnets": 0}):
        head = small(**changes).eval()
        assert head(x).shape == (3, head.dim) and torch.allclose(head(x).norm(dim=1), torch.ones(3))
    assert small(head="netvlad").dim == 5 * 32


def test_netvlad_arm_is_netvlad():
    head = small(head="netvlad", cwtnets=0).eval()
    x = F.normalize(features(), dim=1)
    s = F.conv2d(x, head.conv.weight).softmax(1).flatten(2)
    vlad = torch.stack(
        [(s[:, k, None] * (x.flatten(2) - head.centroids[k][None, :, None])).sum(2) for k in range(5)], 1
    )
    assert torch.allclose(head(x), F.normalize(F.normalize(vlad, dim=2).flatten(1), dim=1), atol=1e-6)


def test_half_precision_keeps_the_pool_alive():
    head = small().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(features())[:, 0].float().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_centres_set_the_assignment():
    head = small()
    centres, samples = torch.rand(5, 16), torch.rand(40, 16)
    alpha = head.set_centres(centres, samples)
    best = (F.normalize(centres, dim=1) @ samples.T).sort(0, descending=True).values
    assert alpha == pytest.approx(-math.log(0.01) / (best[0] - best[1]).mean().item(), rel=1e-5)
    assert torch.equal(head.centroids, centres)
    with pytest.raises(ValueError, match=r"centres are \(5, 64\), the head needs \(5, 16\)"):
        head.set_centres(torch.rand(5, 64), samples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (7, 8)}, "must be even, got 7x8"),
        ({"heads": 3}, "two halves of 3 heads"),
        ({"groups": 7}, "do not split into 7 groups"),
        ({"exponent": "both"}, "exponent.*'per_location' or 'scalar'"),
        ({"head": "gem"}, "head.*'optlad' or 'netvlad'"),
        ({"group_attention": "x"}, "group_attention.*'gem', 'linear' or 'none'"),
    ],
)
def test_wrong_options_say_what_fits(changes, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        small(**changes)


# ---- whitening


def test_primal_and_dual_agree_and_whiten():
    x = torch.randn(40, 12, dtype=torch.float64).float()
    both = [fit_whitening(x, 5, form).apply(x) for form in ("primal", "dual")]
    assert torch.allclose(both[0] @ both[0].T, both[1] @ both[1].T, atol=1e-4)
    assert torch.allclose(both[0].norm(dim=1), torch.ones(40))
    fitted = fit_whitening(x, 5)
    raw = (x - fitted.mean) @ fitted.matrix()
    assert torch.allclose(raw.T @ raw / 39, torch.eye(5), atol=1e-4)  # unit covariance, that is what whitening means
    with pytest.raises(ValueError, match="span 11 directions, 12 were asked for"):
        fit_whitening(torch.randn(12, 30), 12)


def test_whitening_files(tmp_path):
    fitted = fit_whitening(torch.randn(30, 8), 4, key="abc")
    path = fitted.save(tmp_path / "pca_params_x.h5")
    with h5py.File(path) as file:
        assert {name: file[name].shape for name in file} == {"U": (8, 4), "lams": (4,), "mu": (8, 1), "Utmu": (4, 1)}
        assert np.allclose(file["Utmu"][:], file["U"][:].T @ file["mu"][:], atol=1e-6)
    again = Whitening.load(path)
    assert again.key == "abc" and torch.equal(again.components, fitted.components)
    whole = path.read_bytes()
    at = whole.index(fitted.components.numpy().tobytes()[:16])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="is damaged"):
        Whitening.load(path)
    path.write_bytes(whole)
    Whitening(fitted.components, fitted.eigenvalues * torch.nan, fitted.mean).save(tmp_path / "nan.h5")
    with pytest.raises(ValueError, match="not finite"):
        Whitening.load(tmp_path / "nan.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["U"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"lacks the datasets \['lams', 'mu'\]"):
        Whitening.load(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        Whitening.load(tmp_path / "text.h5")
    with pytest.raises(FileNotFoundError, match="fit one"):
        Whitening.load(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="fitted for another model"):
        Whitened(build_model("gem_toy_160"), fitted)
    with h5py.File(path, "r+") as file:
        del file["lams"]
        file["lams"] = np.ones(3)
    with pytest.raises(ValueError, match="but mu has 8 and lams 3"):
        Whitening.load(path)


# ---- cost, trunks


def test_cost_is_the_spec_table():
    with torch.device("meta"):
        rows = {row["part"]: row for row in clusvpr_parts(build_model("clusvpr_vgg16_8192"))}
    expected = {"backbone": (14_714_688, 93.959), "4 CWTNets": (2_666_496, 1.244), "neighbour search": (0, 0.093),
                "linear layer W1": (524_288, 0.629), "assignment": (8_192, 0.079), "residuals": (8_192, 0.079),
                "group attention": (1_200, 0.0), "sum": (17_923_056, 96.08), "PCA": (33_558_528, 0.034),
                "sum with PCA": (51_481_584, 96.12)}  # fmt: skip
    assert list(rows) == list(expected)
    for part, (parameters, gmac) in expected.items():
        assert rows[part]["parameters"] == parameters and rows[part]["GMAC"] == pytest.approx(gmac, abs=5e-3)


def test_other_trunks():
    for name, dim in (
        ("clusvpr_mobilenetv3_1792", 1792),
        ("clusvpr_vgg19bn_8192", 8192),
        ("clusvpr_resnet50_16384", 16384),
    ):
        with torch.device("meta"):
            model = build_model(name)
        assert model.eval()(torch.empty(1, 3, 480, 640, device="meta")).shape == (1, dim)
    assert not any(
        p.requires_grad for p in build_model("clusvpr_mobilenetv3_1792").backbone.model.features[:7].parameters()
    )
    with pytest.raises(ValueError, match="cannot freeze 6"):
        build_model("clusvpr_vgg16_8192", backbone_args={"layers_to_freeze": 6})


def test_parts_can_be_switched_off():
    model = build_model("clusvpr_toy_640").eval()
    off = with_head(model, weigh_tokens=False, group_attention="none").eval()
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert 0 < 1 - (model(images) * off(images)).sum() < 0.1
    with pytest.raises(ValueError, match="needs weights that the model does not have"):
        with_head(model, group_attention="linear")
