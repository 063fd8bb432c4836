from vpr_lib.models.zoo import ZOO
from vpr_lib.results.reported import present_state


def test_a_method_appears_once_with_its_best_source_and_its_bytes():
    table = present_state("msls_val@740")
    assert not table.duplicated(["system", "backbone", "dim"]).any() and table["R@1"].is_monotonic_decreasing
    salad = table[table["system"] == "SALAD"].iloc[0]  # the README's 92.2, not a user's 91.2
    assert (salad["R@1"], salad["mark"], salad["bytes per place"], salad["model"]) == (
        92.2,
        "R",
        33_792,
        "salad_vitb14_8448",
    )
    boq = table[(table["system"] == "BoQ") & (table["dim"] == 16384)].iloc[0]
    assert boq["model"] == "boq_resnet50_16384" and boq["R@1"] == 91.2
    assert set(table["model"]) - {""} <= set(ZOO)
    assert (table["system"] == "MixVPR").any()
