"""Sparse convolutions against dense ones, alone against in a batch, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vpr_lib.models.sparse import (
    ECA,
    SparseConv,
    SparseConvTranspose,
    SparseGeM,
    SparseTensor,
)
from vpr_lib.models.voxel_grid import VoxelGrid, kernel_offsets

SIDE = 8  # of the dense grids; a multiple of every stride, so that no cell reaches over the border
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def scene(seed, channels=3, clouds=2, dtype=torch.float64):
    """Voxels in random row order around the origin, features, and the same as a dense (B, C, x, y, z) grid."""
    rng = np.random.default_rng(seed)
    taken = rng.random((clouds, SIDE, SIDE, SIDE)) < rng.uniform(0.02, 0.6)
    taken[np.arange(clouds), 0, 0, rng.integers(0, SIDE, clouds)] = True  # no cloud is empty
    rows = rng.permutation(np.argwhere(taken))
    corner = -8 * rng.integers(0, 3, 3)  # shifts by the total stride keep the cells
    coordinates = torch.from_numpy(rows + np.array([0, *corner]))
    features = torch.from_numpy(rng.normal(size=(len(rows), channels))).to(dtype)
    dense = torch.zeros(clouds, channels, SIDE, SIDE, SIDE, dtype=dtype)
    dense[rows[:, 0], :, rows[:, 1], rows[:, 2], rows[:, 3]] = features
    return SparseTensor(features.requires_grad_(), VoxelGrid(coordinates, clouds)), dense, torch.from_numpy(rows)


def dense_weight(layer):
    """(K^3, Cin, Cout) with x fastest -> (Cout, Cin, x, y, z)."""
    size = layer.kernel_size
    return layer.kernel.detach().reshape(size, size, size, *layer.kernel.shape[1:]).permute(4, 3, 2, 1, 0)


@quick
@given(seeds, st.sampled_from([3, 5]), st.integers(1, 4))
def test_stride_one_is_a_dense_convolution_read_at_the_voxels(seed, size, channels):
    voxels, dense, rows = scene(seed, channels)
    layer = SparseConv(channels, 2, size).double()
    expected = F.conv3d(dense, dense_weight(layer), padding=size // 2)
    found = layer(voxels).features
    assert torch.allclose(found, expected[rows[:, 0], :, rows[:, 1], rows[:, 2], rows[:, 3]], atol=1e-12)


@quick
@given(seeds)
def test_down_and_up_are_dense_convolutions(seed):
    voxels, dense, rows = scene(seed)
    down, up = SparseConv(3, 4, 2, stride=2).double(), SparseConvTranspose(4, 2).double()
    coarse = down(voxels)
    expected = F.conv3d(dense, dense_weight(down), stride=2)
    shift = voxels.coordinates[0, 1:] - rows[0, 1:]
    cell = coarse.coordinates.clone()
    cell[:, 1:] = (cell[:, 1:] - shift) // 2
    assert torch.allclose(coarse.features, expected[cell[:, 0], :, cell[:, 1], cell[:, 2], cell[:, 3]], atol=1e-12)
    occupied = torch.unique(torch.cat([rows[:, :1], rows[:, 1:] // 2], 1), dim=0)
    assert len(coarse.coordinates) == len(occupied) and coarse.stride == 2
    fine, weight = up(coarse), dense_weight(up).transpose(0, 1)
    expected = F.conv_transpose3d(expected, weight, stride=2)  # empty cells are zero in both
    assert torch.allclose(fine.features, expected[rows[:, 0], :, rows[:, 1], rows[:, 2], rows[:, 3]], atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])  # one channel takes another path
def test_gradients(channels):
    voxels, _, _ = scene(5, channels)
    down, up = SparseConv(channels, 2, 2, stride=2).double(), SparseConvTranspose(2, 2).double()
    layer = SparseConv(2, 2, 3).double()

    def run(features, *kernels):
        parts = zip((down, up, layer), kernels)
        out = voxels.with_features(features)
        for module, kernel in parts:
            out = torch.func.functional_call(module, {"kernel": kernel}, (out,))
        return out.features[::9]

    kernels = [module.kernel.detach().clone().requires_grad_() for module in (down, up, layer)]
    assert torch.autograd.gradcheck(run, (voxels.features, *kernels), fast_mode=True)


def test_pooling_and_attention_keep_clouds_apart_in_batch_order():
    voxels, _, _ = scene(3, channels=32, clouds=5, dtype=torch.float32)
    cloud = voxels.grid.cloud_of(1)
    eca, gem = ECA(32), SparseGeM()
    for i in range(5):
        own = voxels.features[cloud == i]
        assert torch.allclose(voxels.mean()[i], own.mean(0), atol=1e-6)
        assert torch.allclose(gem(voxels)[i], own.clamp_min(1e-6).pow(3).mean(0).pow(1 / 3), atol=1e-5)
        gate = torch.sigmoid(F.conv1d(own.mean(0)[None, None], eca.conv.weight, padding=1))[0, 0]
        assert torch.allclose(eca(voxels).features[cloud == i], own * gate, atol=1e-6)


def test_attention_sizes():
    assert [ECA(channels).conv.weight.shape[-1] for channels in (32, 64, 128)] == [3, 3, 5]


def test_offsets_run_x_first():
    odd, even = kernel_offsets(3), kernel_offsets(2, stride=4)
    assert odd[0] == (-1, -1, -1) and odd[1] == (0, -1, -1) and odd[13] == (0, 0, 0) and odd[26] == (1, 1, 1)
    assert even[1] == (4, 0, 0) and even[2] == (0, 4, 0) and even[4] == (0, 0, 4)
    assert kernel_offsets(5)[62] == (0, 0, 0)


def test_half_precision_regions_leave_sparse_sums_in_single():
    voxels, _, _ = scene(1, dtype=torch.float32)
    layer = SparseConv(3, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(voxels).features, SparseConv.forward(layer, voxels).features)
        assert layer(voxels).features.dtype == torch.float32


def test_initialisation_follows_the_published_deviations():
    torch.manual_seed(0)
    assert SparseConv(1, 32, 5).kernel.std().item() == pytest.approx(0.0224, rel=0.05)
    assert SparseConv(32, 64, 1).kernel.std().item() == pytest.approx(0.25, rel=0.05)
    assert SparseConvTranspose(128, 128).kernel.abs().max().item() == pytest.approx(0.03125, rel=0.01)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 0, 0]], r"integer rows \(cloud, x, y, z\)"),
        ([[0.0, 0, 0, 0]], "integer rows"),
        ([[0, 1, 2, 3], [0, 1, 2, 3]], "listed twice"),
        ([[0, 40_000, 0, 0]], "reach 40,000.*Is the voxel size right"),
        ([[0, 0, 0, 0], [2, 0, 0, 0]], "Cloud 1 of 3 has no voxels"),
    ],
)
def test_what_a_grid_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        VoxelGrid(torch.tensor(rows))


def test_unknown_stride_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"tensor stride 2; there are \[1\]"):
        VoxelGrid(torch.zeros(1, 4, dtype=torch.long)).level(2)
