"""DistilVPR's losses: batch-hard triplets, relations on three geometries, Poincaré helpers."""

import numpy as np
import torch

from vpr_lib.losses.relational import (
    CURVATURE,
    GEOMETRIES,
    RelationalWeights,
    artanh,
    cross_relation,
    mobius_difference,
    relation,
    relational_loss,
    self_angle,
    self_distance,
    self_geodesic,
    to_ball,
)
from vpr_lib.losses.triplet import batch_hard_triplet

SELF = {
    "rkdg_distance": lambda s, t, c: self_distance(s, t),
    "rkdg_angle": lambda s, t, c: self_angle(s, t),
    "rkdg_geodesic": lambda s, t, c: self_geodesic(s, t, c, exact=True),
    "rkdg_geodesic_clean": lambda s, t, c: self_geodesic(s, t, c),
}


def compute(fixture):
    if "curvatures" in fixture.config:
        return hyperbolic(fixture)
    if not any(name.startswith("rkdg_") for name in fixture.outputs):
        return None
    student, teacher = (torch.from_numpy(fixture.input(name)) for name in ("student", "teacher"))
    outputs, c = {}, fixture.config.get("curvature", CURVATURE)
    for name in fixture.outputs:
        loss = named(name.removeprefix("grad_"), c)
        if loss is not None:
            outputs[name] = gradient(loss, student, teacher) if name.startswith("grad_") else loss(student, teacher)
    off = 1 - torch.eye(len(student))
    raw = relation(student, student, "geodesic", c) * off
    outputs |= {"geodesic_ss_offdiagonal": raw, "geodesic_raw_student_offdiagonal": raw}
    outputs |= {"geodesic_st": relation(student, teacher, "geodesic", c), "ball_student": to_ball(student, c)}
    outputs["norms"] = student.norm(dim=1)
    if "positives" in fixture.inputs:
        outputs |= task(fixture, student, teacher)
    return outputs


def named(name, c):
    if name in SELF:
        return lambda s, t: SELF[name](s, t, c)
    if name.startswith("cross_"):
        _, geometry, term, *l1 = name.split("_")
        return lambda s, t: cross_relation(s, t, geometry, term, c, compare="l1" if l1 else "mse")
    return None


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    loss(student, *rest).backward()
    return student.grad


def masks(lists, n):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for row, columns in enumerate(lists):
        mask[row, columns] = True
    return mask


def task(fixture, student, teacher):
    n, config = len(student), fixture.config
    positives = masks(fixture.input("positives"), n)
    negatives = ~masks(fixture.input("non_negatives"), n)
    triplet = lambda rows: batch_hard_triplet(rows, positives, negatives, config["margin"])[0]
    loss, mined, active = batch_hard_triplet(student, positives, negatives, config["margin"])
    four = torch.cat([student[:2], student[:2] + 5])
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)) == 0
    pair = ~apart & ~torch.eye(4, dtype=torch.bool)

    def total(rows, exact):
        weights = RelationalWeights(
            self_agent=config["rkdg_weight"],
            exact_mean=exact,
            curvature=config.get("curvature", CURVATURE),
            cross={g: config[f"cross_{g}"] for g in GEOMETRIES if f"cross_{g}" in config},
        )
        return config["task_weight"] * triplet(rows) + sum(relational_loss(rows, teacher, weights).values())

    third = student.shape[1] // 3
    return {
        "anchors": mined.anchors, "hardest_positive": mined.positives, "hardest_negative": mined.negatives,
        "triplet": loss, "grad_triplet": gradient(triplet, student), "n_active": active,
        "triplet_none_active": batch_hard_triplet(four, pair, apart)[0],
        "teacher_three_heads": 0.5 * triplet(student) + 0.5 * triplet(student[:, :third]),
        "total": total(student, True), "grad_total": gradient(total, student, True),
        "total_clean": total(student, False), "grad_total_clean": gradient(total, student, False),
    }  # fmt: skip


def hyperbolic(fixture):
    x, y, z = (torch.from_numpy(fixture.input(name)) for name in ("x", "y", "z"))
    direction = torch.from_numpy(fixture.input("direction"))
    z.requires_grad_()
    artanh(z).sum().backward()
    outputs = {"artanh": artanh(z), "artanh_grad": z.grad}
    for c in fixture.config["curvatures"]:
        ball = to_ball(x, c)
        found = {
            "ball_x": ball, "ball_big": to_ball(60 * x, c), "mobius": mobius_difference(ball, to_ball(y, c), c),
            "dist_xy": relation(x, y, "geodesic", c), "dist_big": relation(60 * x, -60 * y, "geodesic", c),
            "dist0": 2 / c**0.5 * artanh(c**0.5 * ball.norm(dim=-1)),  # to the centre
            "grad_x": gradient(lambda rows, c=c: (relation(rows, y, "geodesic", c) * direction).sum(), x),
        }  # fmt: skip
        outputs |= {f"{c}.{name}": value for name, value in found.items()}
    return {name: np.asarray(value.detach().cpu()) for name, value in outputs.items()}
