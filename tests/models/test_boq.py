import pytest
import torch
from torch import nn

from vpr_lib.models.boq import BoQ
from vpr_lib.models.transformer import EncoderLayer, MultiHeadAttention


def head():
    torch.manual_seed(0)
    return BoQ(in_channels=10, proj_channels=128, num_queries=5, num_layers=2, row_dim=3).eval()


def test_attention_agrees_with_torch():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    queries, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    expected, weights = theirs(queries, memory, memory)
    assert torch.allclose(ours(queries, memory), expected, atol=1e-6)
    assert torch.allclose(ours.weights(queries, memory), weights, atol=1e-6)
    shared = torch.cat([ours(queries[:1], image[None]) for image in memory])
    assert torch.allclose(ours(queries[:1], memory), shared, atol=1e-6)
    with pytest.raises(ValueError, match="do not split into 3 heads"):
        MultiHeadAttention(16, 3)


def test_encoder_layer_agrees_with_torch():
    torch.manual_seed(0)
    ours, theirs = EncoderLayer(16, 4, 32), nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 9, 16)
    assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-5)


def test_any_map_size_goes_and_images_are_independent():
    model, features = head(), torch.randn(3, 10, 6, 4)
    descriptors = model(features)
    assert descriptors.shape == (3, model.dim) == (3, 384)
    assert torch.allclose(descriptors[1:2], model(features[1:2]), atol=1e-5)
    assert model(features[:, :, :3]).shape == (3, 384)


def test_every_query_looks_with_a_weight_of_one():
    maps = head().attention(torch.randn(2, 10, 6, 4))
    assert maps.shape == (2, 2, 5, 6, 4) and torch.allclose(maps.sum(dim=(3, 4)), torch.ones(2, 2, 5), atol=1e-5)


def test_the_width_must_be_a_multiple_of_a_head():
    with pytest.raises(ValueError, match="must be a multiple, got 96"):
        BoQ(10, proj_channels=96)
