"""The head of `places`: two descriptors whose similarities are mixed, and the file that comes with the package."""

import pytest
import torch

from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.checkpoints import bundled_path, load_bundled
from vpr_lib.models.zoo import build_model


@torch.no_grad()
def test_a_similarity_is_the_mixture_of_the_parts():
    head = build_aggregator("NetVLAD+cells", 8, (4, 4), clusters=3, cells=2, share=0.7)
    one, two = torch.randn(2, 5, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    quarters = [(slice(a, a + 2), slice(b, b + 2)) for a in (0, 2) for b in (0, 2)]
    means = [[maps[:, :, rows, columns].mean(dim=(2, 3)) for rows, columns in quarters] for maps in (one, two)]
    cells = torch.stack([torch.cosine_similarity(a, b) for a, b in zip(*means)]).mean(dim=0)  # cells of equal weight
    netvlad = (head.netvlad(one) * head.netvlad(two)).sum(dim=1)
    torch.testing.assert_close((head(one) * head(two)).sum(dim=1), 0.7 * netvlad + 0.3 * cells)
    assert head(one).shape == (5, head.dim) and head.dim == (3 + 4) * 8
    torch.testing.assert_close(head(one).norm(dim=1), torch.ones(5))


def test_a_share_outside_its_range():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        build_aggregator("NetVLAD+cells", 8, (4, 4), share=1.5)


def test_the_committed_head_is_small_and_says_how_it_was_made():
    model = build_model("places", pretrained=True)
    before = model.aggregator.netvlad.centroids.clone()
    about = load_bundled(model, "places")
    assert model.dim <= 2048 and bundled_path("places").stat().st_size < 6e6
    assert not torch.equal(before, model.aggregator.netvlad.centroids)
    assert about["command"] == "vpr bundle places" and about["recipe"]["model"] == "places"
    assert 0 < about["foreign"]["threshold"] < 1 and about["foreign"]["auroc"] > 0.5
