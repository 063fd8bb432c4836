"""Run by test_crossmodal.py, alone or under torchrun: a teacher and its student in a tiny town; results to a file."""

import sys
from pathlib import Path

import torch

from vpr_lib.data.readers.submaps import read_toy_runs, read_toy_tuples
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.training.crossmodal import CrossmodalExperiment, train_crossmodal

SMALL = dict(planes=(4, 8), layers=(1, 1), cloud_dim=8, image_dim=8, voxel_size=0.2, image_size=(30, 40))
FIXED = dict(layers_to_crop=[3], layers_to_freeze=2, fixed_statistics=True)  # batch norm sees a process's samples alone
STUDENT = dict(backbone_args=FIXED, aggregator_args=dict(out_channels=16), image_size=(30, 40))
COMMON = dict(claim="", expected="", hardware="", teacher="tiny", pretrained=False, batch_size=8, workers=0,
              fit=dict(epochs=2, optimizer="sgd", learning_rate=0.01, weight_decay=0.0, max_steps_per_epoch=2, channels_last=False, seed=3))  # fmt: skip


def main(town: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    ZOO["tiny"] = ZOO["minklocpp_toy_96"].model_copy(update=SMALL)
    tuples, runs = read_toy_tuples(town), read_toy_runs(town)
    teaching = CrossmodalExperiment(crossmodal="teacher", model="tiny", **COMMON)
    learning = CrossmodalExperiment(
        crossmodal="student", model="distilvpr_toy_96", model_changes=STUDENT, distillation={"method": "SC"},
        head_weights={"final": 0.5}, image_augmentation=False, **COMMON,
    )  # fmt: skip
    same_teacher = build_model("tiny", seed=7)
    found = {}
    for name, run, teacher in (("teacher", teaching, None), ("student", learning, same_teacher)):
        model, result = train_crossmodal(run, folder / name, "cpu", True, tuples, runs, teacher, folder / "descriptors")
        found[name] = {"weights": model.state_dict(), "history": result.history}
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else "alone"
    torch.save(found, folder / f"found_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
