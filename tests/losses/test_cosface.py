import math

import torch

from vpr_lib.losses.cosface import CosFace


def test_the_margin_is_taken_from_the_true_class_by_hand():
    loss = CosFace(2, 2, s=10.0, m=0.4)
    loss.weight.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # lengths play no part
    descriptors = torch.tensor([[3.0, 0.0]])
    assert torch.allclose(loss.logits(descriptors, torch.tensor([0])), torch.tensor([[6.0, 0.0]]))
    assert math.isclose(loss(descriptors, torch.tensor([0])).item(), math.log(1 + math.exp(-6)), rel_tol=1e-4)
