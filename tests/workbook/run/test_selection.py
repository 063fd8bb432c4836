"""By kind, over every profile and recipe: what chooses an epoch is not what a claim is about, and nothing is fetched unasked."""

import ast
import socket
from pathlib import Path

import pytest
import torch

import vpr_lib
from vpr_lib.config import PROFILES_FOLDER, RECIPES_FOLDER, load_profile
from vpr_lib.models import pretraining
from vpr_lib.models.backbones import BACKBONES, build_backbone
from vpr_lib.models.zoo import ZOO
from vpr_lib.training.recipes import load_recipe
from vpr_lib.workbook.run.parameters import read_parameters
from vpr_lib.workbook.run.plan import load_workbook
from vpr_lib.workbook.run.preflight import trainings

PROFILES = sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml"))
SHARED = {
    ("light", "msls_val")
}  # measured beside the claim's set, and told to be the one that chose; `light` has no third
LEAKS = "released_choice"  # variants that do as the authors did


def chooses(recipe):
    """The data sets whose recall decides which epoch is best."""
    run = load_recipe(recipe)
    names = (run.validation,) if isinstance(run.validation, str) else run.validation or ()
    named = getattr(run, "select", "recall@1").split("/")
    return {named[0]} if len(named) > 1 else set(names[:1])


def notebooks(profile):
    """Parameters of every notebook of a profile that trains."""
    for name, settings in load_profile(profile).notebooks.items():
        known = read_parameters(load_workbook().find(name).path)
        values = {key: ast.literal_eval(str(one.default)) for key, one in known.items()} | settings.parameters
        if values.get("weights") != "registered" and trainings(values):
            yield name, values


@pytest.mark.parametrize("profile", PROFILES)
def test_what_chooses_an_epoch_is_measured_nowhere(profile):
    seen = 0
    for name, values in notebooks(profile):
        measured = {*values.get("datasets", ()), values.get("runs"), values.get("dataset")}
        measured |= {drives for _, drives, *_ in values.get("further", {}).values()}
        for recipe, _ in trainings(values):
            assert LEAKS not in recipe
            seen += 1
            leaked = {(profile, other) for other in chooses(recipe) & measured}
            assert leaked <= SHARED, f"{name}: {recipe} chooses its epoch on {leaked}"
            first = (values.get("datasets") or [values.get("runs")])[0]
            assert first not in chooses(recipe), (
                f"{name}: the claim is about {first}, which chose the epoch of {recipe}"
            )
    assert seen or profile in ("released",)


def test_a_recipe_that_chooses_on_a_test_set_says_so_in_its_name():
    for path in RECIPES_FOLDER.glob("*.yaml"):
        for name in [path.stem, *(f"{path.stem}+{variant}" for variant in load_recipe(path.stem).variants)]:
            tested = {one for one in chooses(name) if "_val" not in one and not one.endswith(("toycity", "_runs"))}
            assert not tested or LEAKS in name, f"{name} chooses its epoch on {tested}"


# ---- nothing is fetched without being asked for

FETCHERS = {
    "data/download.py",
    "data/get.py",
    "models/pretraining.py",
}  # called by `vpr data get`, `vpr weights get`, or with leave
NETWORK = {
    "urllib",
    "requests",
    "httpx",
    "gdown",
    "pooch",
    "huggingface_hub",
    "socket",
    "ftplib",
    "kaggle",
    "torch.hub",
}


def test_only_three_files_reach_for_the_network():
    """Imports of what fetches, and networks that libraries would fill by themselves without our asking first."""
    found, unasked = {}, []
    root = Path(vpr_lib.__file__).parent
    for path in root.rglob("*.py"):
        name, tree = path.relative_to(root).as_posix(), ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(one.split(".")[0] in NETWORK or one in NETWORK for one in names):
                found.setdefault(name, []).append(ast.unparse(node))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            fills = [call for call in calls if ast.unparse(call.func).startswith(("timm.create_model", "torchvision.models."))
                     and any(key.arg in ("pretrained", "weights") for key in call.keywords)]  # fmt: skip
            asks = any(ast.unparse(call.func) == "ask_before_fetching" for call in calls)
            unasked += [f"{name}: {function.name}"] * bool(fills and not asks and name not in FETCHERS)
    # the other one asks for the name of the machine
    assert set(found) == FETCHERS | {"toycity/export.py"}, found
    assert not unasked


@pytest.mark.parametrize("trunk", sorted({c.backbone for c in ZOO.values() if pretraining.is_fetched(c.backbone)}))
def test_a_trunk_that_is_not_here_is_asked_for(trunk, tmp_path, monkeypatch):
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "VPR_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(pretraining, "is_here", lambda name: False)
    monkeypatch.delenv(pretraining.LEAVE, raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was tried"))
    with torch.device("meta"), pytest.raises(FileNotFoundError, match=f"vpr weights get {trunk}"):
        build_backbone(trunk, pretrained=True)
    assert trunk in BACKBONES
