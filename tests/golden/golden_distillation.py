"""The distillation step of Lightweight-MixVPR as its repository computes it."""

import torch
import torch.nn.functional as F

from vpr_lib.losses.distillation import DistillationLoss, make_term
from vpr_lib.losses.metric import MetricLoss


def compute(fixture):
    config = fixture.config
    if config.get("mode") != "repo" or "student" not in fixture.inputs:
        return None
    raw = torch.from_numpy(fixture.input("student")).requires_grad_()
    teacher = F.normalize(torch.from_numpy(fixture.input("teacher")), dim=1)
    labels = torch.arange(len(raw)) // config["images_per_place"]
    criterion = MetricLoss("MultiSimilarityLoss", "MultiSimilarityMiner", config["miner_margin"])
    objective = DistillationLoss(criterion, make_term("repo", criterion))
    descriptors = F.normalize(raw, dim=1)
    values = objective(descriptors, descriptors, teacher, labels)
    grad_total = torch.autograd.grad(values["loss"], raw, retain_graph=True)[0]
    grad_student = torch.autograd.grad(criterion(F.normalize(raw, dim=1), labels), raw)[0]
    return {
        "student_loss": values["student"],
        "teacher_loss": values["distillation"],
        "total": values["loss"],
        "grad_total": grad_total,
        "grad_student_only": grad_student,
        "gradients_identical": torch.tensor(int(torch.equal(grad_total, grad_student))),
    }
