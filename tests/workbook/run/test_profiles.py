"""Every profile that is shipped names notebooks, parameters, recipes, models and data sets that exist."""

import ast

import pytest

from vpr_lib.config import PROFILES_FOLDER, load_profile
from vpr_lib.data.catalogue import find
from vpr_lib.models.zoo import ZOO
from vpr_lib.training.recipes import load_recipe
from vpr_lib.workbook.run.parameters import read_parameters
from vpr_lib.workbook.run.plan import load_workbook

PROFILES = sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml"))


def values(value):
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_fits_the_notebooks(name):
    profile, workbook = load_profile(name), load_workbook()
    assert set(profile.notebooks) <= set(workbook.names) and profile.name == name
    for notebook, settings in profile.notebooks.items():
        entry = workbook.find(notebook)
        known = read_parameters(entry.path)
        given = {"profile": name, "run_id": "r", **settings.parameters}
        assert set(given) <= set(known), f"{notebook}: {set(given) - set(known)}"
        source = "".join(entry.path.read_text(encoding="utf-8"))
        assert all(f'\\"{check}\\"' in source or f"{check}=" in source for check in settings.checks), notebook
        filled = {
            key: ast.literal_eval(str(parameter.default)) for key, parameter in known.items()
        } | settings.parameters
        for key, chosen in filled.items():
            for one in values(chosen):
                if key in ("recipe", "teacher_recipe", "student_recipe", "cnn_recipes"):
                    load_recipe(one)
                elif key in ("ablations", "rival"):
                    base = filled["ablation_recipe"] if key == "ablations" else ""
                    load_recipe(f"{base or filled['recipe']}+{one}")
                elif (
                    key
                    in (
                        "model",
                        "rivals",
                        "smaller",
                        "latency_models",
                        "cnns",
                        "pooled",
                        "published",
                        "sized",
                        "shipped",
                        "last_stage",
                        "larger",
                    )
                    and one
                ):
                    assert one in ZOO, f"{notebook}: {key} {one}"
                elif key in ("dataset", "datasets", "traverse", "places", "runs", "train_set") and one:
                    assert find(one), f"{notebook}: {key} {one}"
