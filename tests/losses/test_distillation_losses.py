"""What a student learns from a teacher: by hand, by a second way, and the no-op of the published script."""

import pytest
import torch
import torch.nn.functional as F

from vpr_lib.losses.distillation import DISTANCES, DistillationLoss, MapAdapter, Relational, make_term
from vpr_lib.losses.metric import MetricLoss

LABELS = torch.arange(12) // 3


def rows(seed, n=12, dim=16):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def gradient(loss_of, seed=1):
    raw = rows(seed).requires_grad_()
    return torch.autograd.grad(loss_of(F.normalize(raw, dim=1)), raw)[0]


def test_the_published_script_does_not_distil():
    criterion = MetricLoss()
    objective = DistillationLoss(criterion, make_term("repo", criterion))
    for teacher in (rows(2, dim=64), rows(3, dim=16)):
        with_teacher = gradient(lambda d, t=teacher: objective(d, d, t, LABELS)["loss"])
        assert torch.equal(with_teacher, gradient(lambda d: criterion(d, LABELS)))  # bit for bit
    teacher = rows(2, dim=16).requires_grad_()  # not even a teacher that could learn hears of it
    values = objective(rows(1), rows(1), teacher, LABELS)
    assert values["distillation"] > 0 and not values["distillation"].requires_grad


@pytest.mark.parametrize(("mode", "distance"), [(m, d) for m, ds in DISTANCES.items() for d in ds])
def test_every_other_mode_moves_the_student_towards_the_teacher(mode, distance):
    criterion, teacher = MetricLoss(), rows(2)
    term = make_term(mode, criterion, distance)
    assert term(teacher, teacher, LABELS).item() == pytest.approx(0, abs=1e-6)
    objective = DistillationLoss(criterion, term, weight=2.0)
    values = objective(rows(1), rows(1), teacher, LABELS)
    assert values["loss"].item() == pytest.approx(values["student"].item() + 2 * values["distillation"].item())
    assert not torch.equal(gradient(lambda d: objective(d, d, teacher, LABELS)["loss"]),
                           gradient(lambda d: criterion(d, LABELS)))  # fmt: skip
    raw = rows(1).requires_grad_()
    before = term(raw, teacher, LABELS)
    slope = torch.autograd.grad(before, raw)[0]
    assert term((raw - 0.1 * slope / slope.norm()).detach(), teacher, LABELS) < before


def test_direct_by_hand():
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    assert make_term("direct", None)(student, teacher).item() == pytest.approx((1 - 0.5**0.5) / 2)
    mse = make_term("direct", None, "mse")(student, teacher).item()
    assert mse == pytest.approx((1 - 0.5**0.5) / 2 * 2 / 2)  # 2 / D of the cosine distance, D = 2


def test_relational_against_loops():
    student, teacher, temperature = rows(1, 5, 6), rows(2, 5, 40), 0.2
    squares, divergence = [], 0.0
    for i in range(5):
        s, t = ([float(r[i] @ r[j]) for j in range(5) if j != i] for r in (student, teacher))
        squares += [(a - b) ** 2 for a, b in zip(s, t)]
        p, q = (F.softmax(torch.tensor(v) / temperature, 0) for v in (t, s))
        divergence += float((p * (p / q).log()).sum())
    assert Relational("mse")(student, teacher).item() == pytest.approx(sum(squares) / 20, rel=1e-5)
    assert Relational("kl", temperature)(student, teacher).item() == pytest.approx(divergence / 5, rel=1e-4)


def test_relational_sees_relations_only():
    teacher = rows(2, dim=16)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    for distance in ("kl", "mse"):
        assert Relational(distance)(teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-5)
    assert make_term("direct", None)(teacher @ rotation, teacher).item() > 0.5


def test_maps_are_compared_cell_by_cell():
    term = make_term("feature", None)
    teacher = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        student = MapAdapter(3, 6, (4, 5))(torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(2)))
    cells = [float(F.cosine_similarity(student[b, :, y, x], teacher[b, :, y, x], dim=0))
             for b in range(2) for y in range(4) for x in range(5)]  # fmt: skip
    assert term(student, teacher).item() == pytest.approx(1 - sum(cells) / 40, rel=1e-5)
    scale = torch.rand(2, 1, 4, 5) + 0.5  # the length of a cell's vector does not matter, its direction does
    assert term(scale * student, teacher).item() == pytest.approx(term(student, teacher).item(), rel=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"Unknown distillation mode 'soft'\. Known: repo, direct"):
        make_term("soft", None)
    with pytest.raises(ValueError, match="'direct' knows the distances cosine, mse, got 'kl'"):
        make_term("direct", None, "kl")
    with pytest.raises(ValueError, match="Use a teacher of the student's dimension"):
        make_term("direct", None)(rows(1), rows(2, dim=32))
    with pytest.raises(ValueError, match="at least two images"):
        Relational()(rows(1, 1), rows(2, 1))
