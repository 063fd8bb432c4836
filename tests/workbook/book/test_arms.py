"""Arms of a comparison: one thing changes, everything else stays."""

from vpr_lib.training.recipes import load_experiment
from vpr_lib.workbook.book.trained import arm, budget


def test_an_arm_changes_what_is_named_and_nothing_else():
    base = load_experiment("toy")
    shallow = arm(base, mix_depth=0, seed=7, rate=0.1)
    assert shallow.model_changes["aggregator_args"] == {"out_channels": 64, "out_rows": 4, "mix_depth": 0}
    assert shallow.model_changes["backbone_args"] == base.model_changes["backbone_args"]
    assert (shallow.fit.seed, shallow.fit.learning_rate, shallow.fit.epochs) == (7, 0.1, base.fit.epochs)
    assert arm(base) == base and arm(base, "gem_toy_160").model == "gem_toy_160"
    frozen = arm(load_experiment("toy_dinomix"), backbone={"freeze_to": 3})
    assert frozen.model_changes["backbone_args"]["freeze_to"] == 3


def test_a_budget_keeps_the_steps_whatever_the_places():
    base = load_experiment("toy")  # 24 places a batch
    runs = {places: budget(base, places, 40) for places in (24, 96, 240)}
    assert {places: run.fit.epochs for places, run in runs.items()} == {24: 40, 96: 10, 240: 4}
    assert [run.places.use_places for run in runs.values()] == [24, 96, 240]
    steps = base.fit.epochs * 10  # of all 240 places
    assert budget(base, 240, steps, every=240) == base, "nothing is trained twice"
