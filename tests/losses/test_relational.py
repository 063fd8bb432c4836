"""Triplets and relations by hand and by property; their numbers are in tests/golden."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpr_lib.losses.relational import (
    GEOMETRIES,
    RelationalWeights,
    cross_relation,
    relation,
    relational_loss,
    self_angle,
    self_cosine,
    self_distance,
    self_geodesic,
    to_ball,
)
from vpr_lib.losses.triplet import batch_hard_triplet, mine_hardest

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=25, deadline=None)
SELF = [self_distance, self_angle, self_cosine, self_geodesic]


def rows(seed, n=8, dim=5):
    return torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- triplets


def by_loop(x, positives, negatives, margin):
    losses = []
    for a in range(len(x)):
        d = lambda i, j: float((x[i] - x[j]).norm())
        p, n = torch.nonzero(positives[a]).flatten().tolist(), torch.nonzero(negatives[a]).flatten().tolist()
        if p and n:
            far, near = max(p, key=lambda j: d(a, j)), min(n, key=lambda j: d(a, j))
            losses.append(max(0.0, d(a, far) - min(d(a, near), d(far, near)) + margin))
    return [loss for loss in losses if loss > 0]


@quick
@given(seeds)
def test_triplets_are_the_loop_over_anchors(seed):
    x, _ = rows(seed)
    generator = torch.Generator().manual_seed(seed)
    positives = torch.rand(8, 8, generator=generator) < 0.2
    negatives = (torch.rand(8, 8, generator=generator) < 0.4) & ~positives
    expected = by_loop(x, positives, negatives, 0.2)
    loss, _, active = batch_hard_triplet(x, positives, negatives)
    assert active == len(expected) and loss.item() == pytest.approx(sum(expected) / max(len(expected), 1))


def test_swap_takes_the_nearer_of_the_two_distances():
    x = torch.tensor([[0.0], [1.0], [1.5]])
    positives, negatives = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    positives[0, 1] = negatives[0, 2] = True
    loss, mined, _ = batch_hard_triplet(x, positives, negatives)
    assert mined.anchors.tolist() == [0]  # rows without a positive or a negative are no anchors
    assert loss.item() == pytest.approx(1.0 - 0.5 + 0.2)  # from the positive, 0.5, not from the anchor, 1.5


def test_equal_positives_are_mined_among_positives():
    x = torch.tensor([[0.0], [0.0], [5.0], [5.0]])
    positives = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    negatives = ~(positives | torch.eye(4, dtype=torch.bool))
    assert mine_hardest(x, positives, negatives).positives.tolist() == [1, 0, 3, 2]
    assert batch_hard_triplet(x, positives, negatives)[0].item() == 0  # masking with zeros gives 2.6


def test_no_triplet_is_a_zero_that_can_be_differentiated():
    x = torch.randn(4, 3, requires_grad=True)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    loss, _, active = batch_hard_triplet(x, nothing, nothing)
    loss.backward()
    assert active == 0 and loss.item() == 0 and not x.grad.any()


# ---- relations


@quick
@given(seeds)
def test_self_terms_vanish_for_equal_relations_and_do_not_depend_on_the_order(seed):
    s, t = rows(seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    turn = torch.linalg.qr(rows(seed + 1, 5)[0])[0]
    for term in SELF:
        assert term(s, s).item() == pytest.approx(0, abs=1e-12)
        assert term(s @ turn, s).item() == pytest.approx(0, abs=1e-6)  # a turned space has the same relations
        assert term(s[order], t[order]).item() == pytest.approx(term(s, t).item(), rel=1e-6)
    for geometry in GEOMETRIES:
        for part in ("st2ss", "tt2st"):
            assert cross_relation(s[order], t[order], geometry, part).item() == pytest.approx(
                cross_relation(s, t, geometry, part).item(), rel=1e-6
            )


def test_cross_terms_are_blind_to_a_turned_student_only_when_it_is_the_teacher():
    s, _ = rows(3)
    turn = torch.linalg.qr(rows(4, 5)[0])[0]
    for geometry in GEOMETRIES:
        assert cross_relation(s, s, geometry).item() == pytest.approx(0, abs=1e-6)
        assert cross_relation(s @ turn, s, geometry).item() > 1e-3


@quick
@given(seeds)
def test_on_unit_descriptors_all_three_geometries_follow_the_cosine(seed):
    s, t = (torch.nn.functional.normalize(x, dim=1) for x in rows(seed))
    cosine = relation(s, t, "cosine").flatten()
    order = cosine.argsort()
    assert torch.allclose(relation(s, t, "euclidean").flatten(), (2 - 2 * cosine).sqrt(), atol=1e-9)
    assert (relation(s, t, "geodesic").flatten()[order].diff() < 1e-9).all()


def test_the_ball_has_a_rim():
    far = to_ball(torch.tensor([[30.0, 40.0]]))
    assert far.norm().item() == pytest.approx((1 - 1e-3) / math.sqrt(0.1), rel=1e-5)
    assert relation(far * 20, -far * 20, "geodesic").item() == pytest.approx(38.59, abs=0.02)
    assert to_ball(torch.tensor([[0.6, 0.8]])).norm().item() == pytest.approx(0.9679, abs=1e-4)


def test_the_target_of_st2ss_is_fixed_unless_told():
    s, t = rows(1)
    s.requires_grad_()
    fixed, moving = (torch.autograd.grad(cross_relation(s, t, "euclidean", detach=d), s)[0] for d in (True, False))
    assert not torch.allclose(fixed, moving)
    assert cross_relation(s, t, "euclidean").item() == cross_relation(s, t, "euclidean", detach=False).item()


def test_the_sum_holds_the_terms_with_a_weight():
    s, t = rows(2)
    t.requires_grad_()
    both = relational_loss(s, t, RelationalWeights())
    assert set(both) == {f"{agent}_{geometry}" for agent in ("self", "cross") for geometry in GEOMETRIES}
    assert both["self_euclidean"].item() == pytest.approx(10 * self_distance(s, t).item())
    assert both["cross_geodesic"].item() == pytest.approx(0.1 * cross_relation(s, t, "geodesic").item())
    assert not any(term.requires_grad for term in both.values())  # nothing reaches the teacher
    only = relational_loss(s, t, RelationalWeights(geometries=("cosine",), spherical="cosine", cross={}))
    assert set(only) == {"self_cosine"} and only["self_cosine"].item() == pytest.approx(10 * self_cosine(s, t).item())
    assert not relational_loss(s, t, RelationalWeights(self_agent=0, cross={"cosine": 0.0}))


def test_widths_must_agree():
    with pytest.raises(ValueError, match=r"Student descriptors are \(4, 3\), the teacher's \(4, 5\)"):
        relational_loss(torch.zeros(4, 3), torch.zeros(4, 5), RelationalWeights())


def test_weights_on_some_manifolds():
    full, (s, t) = RelationalWeights(self_agent=2.0), rows(1)
    terms = relational_loss(s, t, full)
    flat_and_hyperbolic = relational_loss(s, t, full.restricted_to("E+H"))
    assert set(flat_and_hyperbolic) == {"self_euclidean", "self_geodesic", "cross_euclidean", "cross_geodesic"}
    assert all(torch.equal(value, terms[name]) for name, value in flat_and_hyperbolic.items())
    angle, cosine = (relational_loss(s, t, full.restricted_to(name)) for name in ("angle", "cosine"))
    assert set(angle) == set(cosine) == {"self_cosine", "cross_cosine"} and torch.equal(
        angle["self_cosine"], terms["self_cosine"]
    )
    assert (
        torch.equal(cosine["self_cosine"], 2 * self_cosine(s, t))
        and full.restricted_to("H+E+cosine").geometries == GEOMETRIES
    )
    with pytest.raises(ValueError, match="'angle\\+cosine' names a manifold twice"):
        full.restricted_to("angle+cosine")
    with pytest.raises(ValueError, match="Unknown manifold 'F'"):
        full.restricted_to("F")
