"""Pictures of the mixer: what they draw comes from the modules."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vpr_lib.models.aggregators import MixVPR
from vpr_lib.plotting.mixvpr import (
    mixing_maps,
    mixing_matrix,
    picture_of_mixing_weights,
    picture_of_mixvpr,
    reach_over_distance,
)


@pytest.fixture
def aggregator():
    torch.manual_seed(0)
    found = MixVPR(8, (3, 4), out_channels=5, mix_depth=2, mlp_ratio=0.5, out_rows=2)
    torch.nn.init.normal_(found.mix[0].mix[0].weight)  # a norm scale that is not one
    yield found
    plt.close("all")


def test_matrix_is_what_the_mixer_does_when_every_unit_is_open(aggregator):
    mixer = aggregator.mix[0]
    for layer in (mixer.mix[1], mixer.mix[3]):
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.constant_(mixer.mix[1].bias, 100.0)  # no unit is ever closed
    norm = torch.nn.functional.layer_norm
    one, two = torch.randn(2, 12), torch.randn(2, 12)
    with torch.no_grad():
        change = (mixer(one) - one) - (mixer(two) - two)  # the constants cancel
        difference = norm(one, (12,)) - norm(two, (12,))
    expected = difference.numpy() @ mixing_matrix(mixer).T
    np.testing.assert_allclose(change.numpy(), expected, atol=1e-4)


def test_largest_units_come_first(aggregator):
    maps = mixing_maps(aggregator.mix[0], (3, 4), units=4)
    weights = (aggregator.mix[0].mix[1].weight * aggregator.mix[0].mix[0].weight).detach().numpy()
    order = sorted(weights, key=lambda row: -float(np.square(row).sum()))
    np.testing.assert_allclose(maps.reshape(4, 12), order[:4], rtol=1e-6)


def test_reach_by_a_loop(aggregator):
    distances, means = reach_over_distance(aggregator.mix[1], (3, 4))
    matrix, sums = np.abs(mixing_matrix(aggregator.mix[1])), {}
    for i in range(12):
        for j in range(12):
            apart = round(float(np.hypot(i // 4 - j // 4, i % 4 - j % 4)))
            sums.setdefault(apart, []).append(matrix[i, j])
    expected = {apart: np.mean(values) for apart, values in sums.items() if len(values) >= 12}
    assert distances.tolist() == sorted(expected)
    np.testing.assert_allclose(means, [expected[d] for d in distances], rtol=1e-6)


def words(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_pictures_name_the_sizes_of_the_modules(aggregator):
    chain, inset = picture_of_mixvpr(aggregator, "m").figure.axes
    text = words(chain)
    for part in ("8 channels × 12 cells", "(3 × 4)", "2 ×\nFeature-Mixer", "5 × 8", "2 × 12", "10 numbers"):
        assert part in text
    (bare,) = picture_of_mixvpr(MixVPR(8, (3, 4), mix_depth=0), "m").figure.axes
    assert "Feature-Mixer" not in words(bare)
    text = words(inset)
    assert "over 12 cells" in text and "6 × 12" in text and "12 × 6" in text
    figure = picture_of_mixing_weights(aggregator, "m").figure
    assert len(figure.axes) == 2 * (6 + 1)  # a mixer of 12 cells at ratio 0.5 has six units
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, mixing_maps(aggregator.mix[0], (3, 4), 6)[0])
    with pytest.raises(ValueError, match="no mixers"):
        picture_of_mixing_weights(MixVPR(8, (3, 4), mix_depth=0), "m")
