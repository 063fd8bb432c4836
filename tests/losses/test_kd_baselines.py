"""The compared distillation losses, each against a second way to compute it."""

import pytest
import torch
import torch.nn.functional as F

from vpr_lib.losses.kd_baselines import KD_BASELINES, afd, kd, kd_baseline, lsd_net
from vpr_lib.losses.relational import self_angle, self_distance

B, D = 6, 5
PAIRED = torch.block_diag(*[torch.ones(2, 2)] * 3).bool() & ~torch.eye(B, dtype=torch.bool)
APART = ~torch.block_diag(*[torch.ones(2, 2)] * 3).bool()


def rows(seed=0):
    return torch.randn(2, B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(name, s, t):
    """The formulas of spec distilvpr §6.8, one number at a time."""
    hat = lambda x: [row / row.norm() for row in x]
    sh, th = hat(s), hat(t)
    soft = lambda x: [row.exp() / row.exp().sum() for row in x]
    each = [(i, j) for i in range(B) for j in range(B)]
    mean = lambda values: sum(values) / len(values)
    kl = mean([(p * (p / q).log()).sum() for p, q in zip(soft(t), soft(s))])
    if name == "KD":
        return kl
    if name == "RKD":
        return self_distance(s, t) + self_angle(s, t)
    if name == "AFD":
        weights = [torch.stack([row @ other for other in t]).softmax(0) for row in s]
        return mean([sum(weights[i][j] * (sh[i] - th[j]).norm() for j in range(B)) for i in range(B)])
    if name == "CSD":
        return mean([(th[i] @ sh[j] - th[i] @ th[j]) ** 2 for i, j in each])
    if name == "EPC-Net":
        return mean([(a - b) ** 2 for x, y in zip(sh, th) for a, b in zip(x, y)])
    if name == "LSD-Net":
        near, far = ([(i, j) for i, j in each if mask[i, j]] for mask in (PAIRED, APART))
        gap = lambda x, i, j: (x[i] - x[j]).norm()
        parts = [mean([(gap(sh, i, j) - gap(th, i, j)) ** 2 for i, j in pairs]) for pairs in (near, far)]
        inner = lambda x, p, n: (x[p[0]] - x[p[1]]) @ (x[n[0]] - x[n[1]])
        return sum(parts) + mean([(inner(sh, p, n) - inner(th, p, n)) ** 2 for p in near for n in far])
    ps, pt = torch.stack(soft(s)), torch.stack(soft(t))
    channels = sum(
        (sum(pt[b, i] * pt[b, j] - ps[b, i] * ps[b, j] for b in range(B))) ** 2 for i in range(D) for j in range(D)
    )
    return kl + channels / D + sum((pt[i] @ pt[j] - ps[i] @ ps[j]) ** 2 for i, j in each) / B


@pytest.mark.parametrize("name", KD_BASELINES)
def test_formulas(name):
    s, t = rows()
    assert kd_baseline(name, s, t, PAIRED, APART).item() == pytest.approx(by_loops(name, s, t).item(), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in KD_BASELINES if name != "AFD"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(name):
    s, _ = rows(1)
    assert kd_baseline(name, s, s.clone(), PAIRED, APART).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", KD_BASELINES)
def test_gradients_reach_the_student_alone(name):
    s, t = rows(2).clone().requires_grad_().unbind()
    s.retain_grad(), t.retain_grad()
    kd_baseline(name, s, t, PAIRED, APART).backward()
    assert s.grad.abs().max() > 0 and t.grad is None and torch.isfinite(s.grad).all()


def test_temperature():
    s, t = rows(3)
    expected = 4 * F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    assert kd(s, t, PAIRED, APART, temperature=2.0).item() == pytest.approx(expected.item())


def test_the_released_attention_is_transposed_against_its_distances():
    s, t = rows(4)
    released = afd(s, t, PAIRED, APART, as_released=True)
    distance = torch.cdist(F.normalize(s, dim=1), F.normalize(t, dim=1))
    assert released.item() == pytest.approx((((s @ t.T).softmax(1)) * distance.T).sum(1).mean().item())
    assert abs(released.item() - afd(s, t, PAIRED, APART).item()) > 1e-3


def test_pairs_that_a_batch_lacks_contribute_nothing():
    s, t = rows(5)
    nothing = torch.zeros(B, B, dtype=torch.bool)
    s.requires_grad_()
    loss = lsd_net(s, t, nothing, nothing)
    loss.backward()
    assert loss.item() == 0 and not s.grad.any()
    assert 0 < lsd_net(s, t, PAIRED, nothing).item() < lsd_net(s, t, PAIRED, APART).item()


def test_unknown_names_and_other_widths():
    with pytest.raises(ValueError, match="Unknown distillation baseline 'SP'"):
        kd_baseline("SP", *rows(), PAIRED, APART)
    with pytest.raises(ValueError, match=r"equal width, got \(6, 4\) of the student and \(6, 5\)"):
        kd_baseline("KD", torch.zeros(6, 4), torch.zeros(6, 5), PAIRED, APART)
