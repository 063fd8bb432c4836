import pytest
import torch
import torch.nn.functional as F

from vpr_lib.models.token_heads import CricaVPR, EDTformer, SuperVLAD


def test_supervlad_sums_features_without_centroids_and_drops_the_ghosts():
    torch.manual_seed(0)
    head, features = SuperVLAD(6, clusters=2, ghost_clusters=1), torch.randn(2, 6, 3, 4)
    unit = F.normalize(features, dim=1)[0].flatten(1)  # (C, N)
    shares = (head.conv.weight[:, :, 0, 0] @ unit).softmax(dim=0)
    rows = [F.normalize((unit * share).sum(1), dim=0) for share in shares[:2]]
    assert torch.allclose(head(features)[0], torch.cat(rows) / 2**0.5, atol=1e-6)


def test_a_cross_image_encoder_makes_a_descriptor_depend_on_its_batch():
    torch.manual_seed(0)
    head, features = SuperVLAD(32, cross_image_encoder=True).eval(), torch.randn(3, 32, 4, 4)
    alone, together = head(features[:1]), head(features)[:1]
    assert not torch.allclose(alone, together, atol=1e-3)
    assert torch.allclose(head(features.flip(0)).flip(0), head(features), atol=1e-5)  # but not on its order


def test_cricavpr_cuts_quarters_and_ninths():
    head, features = CricaVPR(32).eval(), torch.randn(2, 32, 16, 16)
    token = torch.randn(2, 32)
    regions = head.regions(features, token)
    unit = F.normalize(features, dim=1).clamp(min=1e-6)
    assert regions.shape == (2, 14, 32) and torch.equal(regions[:, 0], token)
    assert torch.allclose(regions[:, 2], unit[:, :, :8, 8:].pow(3).mean(dim=(2, 3)).pow(1 / 3), atol=1e-6)
    assert torch.allclose(regions[:, 9], unit[:, :, 5:11, 5:11].pow(3).mean(dim=(2, 3)).pow(1 / 3), atol=1e-6)
    with pytest.raises(ValueError, match="maps of 16 x 16"):
        head(features[:, :, :8])


def test_edtformer_reads_the_class_token_where_there_is_one():
    torch.manual_seed(0)
    head, features = EDTformer(32, num_queries=5, out_channels=4, out_rows=3).eval(), torch.randn(2, 32, 4, 3)
    assert head(features).shape == (2, 12)
    with_token = head(features, torch.randn(2, 32))
    assert with_token.shape == (2, 12) and not torch.allclose(with_token, head(features))
