"""Profiles on miniatures: notebooks executed in this process, with small models in the place of the full-size ones."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import loadmat

from vpr_lib.config import Check, load_profile
from vpr_lib.data.boreas import build_boreas
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.readers.pointnetvlad import write_evaluation_pickles, write_training_pickle
from vpr_lib.data.readers.submaps import build_run_pairs, build_training_tuples
from vpr_lib.models.checkpoints import save_weights, trained_path
from vpr_lib.models.minkloc import MinkLocConfig
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.workbook.book.session import Stopped
from vpr_lib.workbook.run.parameters import read_cells
from vpr_lib.workbook.run.plan import load_workbook

sys.path.append(str(Path(__file__).resolve().parents[2] / "data"))
from miniatures import (
    DRIVES,
    RUNS,
    lidar2image,
    oxford_locations,
    pittsburgh,
    stamp,
    tokyo247,
    vpr_bench,
    write_drive,
)

HEADS = {"MixVPR": dict(out_channels=8, out_rows=4, mix_depth=4), "ConvAP": dict(out_channels=16), "CosPlace": dict(out_dim=32),
         "NetVLAD": dict(clusters=4), "NetVLAD+PCA": dict(clusters=4, bias=False, dim=32), "ClusVPR": dict(clusters=16, neighbours=4), "ProjectedGeM": dict(out_channels=32)}  # fmt: skip
NARROW = dict(backbone="tinyresnet", backbone_args=dict(widths=[8, 12, 16, 24]))


def small(name):
    """The zoo's model of that name with a small trunk and head; its system and its transforms stay."""
    config = ZOO[name]
    if "toy" in name or name == "pixels" or not hasattr(config, "aggregator"):
        return config
    if isinstance(config, MinkLocConfig):  # 32 numbers, as its students have; 25 times coarser
        clouds = dict(planes=(8, 8, 8), conv0_kernel=3, cloud_dim=16 if config.image_dim else 32)
        images = dict(image_dim=16, image_size=(64, 64)) | NARROW if config.image_dim else {}
        return config.model_copy(update=clouds | images | dict(voxel_size=25 * config.voxel_size))
    if config.backbone.startswith("dinov2"):
        trunk = dict(backbone="dinov2_toy", backbone_args=dict(freeze_to=1), image_size=(112, 112))
    else:
        side = 128 if config.aggregator == "ClusVPR" else 64
        trunk = NARROW | dict(image_size=(side, side))
    return config.model_copy(update=trunk | dict(aggregator_args=HEADS.get(config.aggregator, {})))


def small_recipe(load):
    """`load_recipe` for such models: what a recipe changes of trunk and size is left out, what of the head is added to ours."""

    def load_small(name):
        recipe = load(name)
        ours = () if "toy" in recipe.model else ("backbone_args", "image_size")  # toy models are small as they are
        changes = {key: value for key, value in recipe.model_changes.items() if key not in ours}
        if "aggregator_args" in changes:
            changes["aggregator_args"] = ZOO[recipe.model].aggregator_args | changes["aggregator_args"]
        first = {"start": None} if hasattr(recipe, "start") else {}  # no other training before this one
        return recipe.model_copy(update={"model_changes": changes} | first)

    return load_small


TINY = dict(image_size=(64, 64), street_m=60.0, streets_per_city=1, places_per_street=3, views_per_place=4, start_streets=1,
            val_streets=1, test_streets=1, poses_per_street=2, traverse_frames=12, run_street_m=60.0, run_conditions=("day", "night"),
            runs_train_streets=1, runs_test_streets=1, run_image_size=(60, 80))  # fmt: skip  # of a generated city


# ---- data sets in the layouts of their archives, with pictures that can be told apart


def photo(path, place, view=0):
    """A small JPEG: the place decides the picture, the view adds noise."""
    coarse = np.random.default_rng(place).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)).astype(int)
    pixels = pixels + np.random.default_rng(1000 * place + view).integers(-25, 26, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def objects(rows):
    array = np.empty(len(rows), object)
    array[:] = [np.asarray(row, np.int64) for row in rows]
    return array


def pitts30k_val_archive(root, n=30):
    """pitts30k-val.zip of OpenVPRLab: names and matches as arrays, no positions."""
    database = [f"000/{i:06d}_pitch1_yaw1.jpg" for i in range(n)]
    queries = [f"queries_real/000/{i:06d}_pitch1_yaw1.jpg" for i in range(n)]
    for i, (one, other) in enumerate(zip(database, queries)):
        photo(root / one, i)
        photo(root / other, i, view=1)
    return _arrays(root, "pitts30k_val", database, queries, [[i] for i in range(n)])


def msls_val_archive(root, n=24):
    """msls-val.zip of OpenVPRLab: paths begin at the city."""
    database = [f"{('cph', 'sf')[i % 2]}/database/images/k{i:02d}.jpg" for i in range(n)]
    queries = [f"{('cph', 'sf')[i % 2]}/query/images/q{i:02d}.jpg" for i in range(n)]
    for i, (one, other) in enumerate(zip(database, queries)):
        photo(root / one, 200 + i)
        photo(root / other, 200 + i, view=1)
    return _arrays(root, "msls_val", database, queries, [[i] for i in range(n)])


def _arrays(root, name, database, queries, matches):
    for part, value in (("dbImages", np.array(database)), ("qImages", np.array(queries)), ("gt_25m", objects(matches))):
        np.save(root / f"{name}_{part}.npy", value, allow_pickle=True)
    return root


def gsv_cities(root, places=8, images=5):
    """Dataframes and images as in gsv-cities-light.zip."""
    rows = [{"place_id": p, "year": 2010 + m, "month": 1 + m, "northdeg": 90, "city_id": "London", "lat": 51.5 + 0.01 * p,
             "lon": -0.12, "panoid": f"pano{p:02d}_{m}"} for p in range(places) for m in range(images)]  # fmt: skip
    (root / "Dataframes").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(root / "Dataframes" / "London.csv", index=False)
    for row, path in enumerate(read_gsv_cities(root).image_paths()):
        photo(Path(path), 400 + row // images, view=row % images)
    return root


def pitts30k(root, *names):
    """The .mat of NetVLAD, one per split, with their folders of crops."""
    for name in names:
        pittsburgh(root, name, whichSet=name.rsplit("_", 1)[1])
    for pano in range(3):
        for crop, (pitch, yaw) in enumerate((pitch, yaw) for pitch in (1, 2) for yaw in range(1, 13)):
            photo(root / f"00{pano}/00082{pano}_pitch{pitch}_yaw{yaw}.jpg", 600 + 100 * pano + crop)
            photo(root / f"queries_real/000/000821_pitch{pitch}_yaw{yaw}.jpg", 600 + crop, view=1)
    return root


def sped(root, n=20):
    """ref/, query/ and their table."""
    vpr_bench(root, [(i, [i]) for i in range(n)], n, n, files=False)
    for i in range(n):
        photo(root / "ref" / f"{i:07d}.jpg", 800 + i)
        photo(root / "query" / f"{i:07d}.jpg", 800 + i, view=1)
    return root


def tokyo(root):
    """tokyo247.mat with its crops as .png and three photographs of a telephone."""
    tokyo247(root)
    struct = loadmat(root / "tokyo247.mat", simplify_cells=True)["dbStruct"]
    for row, name in enumerate(struct["dbImageFns"]):
        photo(root / "database_gsv_vga" / name.replace(".jpg", ".png"), 900 + row)
    for row, name in enumerate(struct["qImageFns"]):
        photo(root / "247query_subset_v2" / name, 900 + row, view=1)
    return root


def oxford(root):
    """Tables, clouds, images in time, and the training pickle; the evaluation pickles are built from the tables."""
    oxford_locations(root, n=12)
    nearest = pickle.loads(lidar2image(root / "images/lidar2image_ndx.pickle", n=12).read_bytes())
    for number, run in enumerate(RUNS):
        for cloud in (root / "oxford" / run).glob("*/*.bin"):
            rng = np.random.default_rng(int(cloud.stem) // 10**6 % 1000)
            cloud.write_bytes(rng.uniform(-1, 1, (4096, 3)).round(1).tobytes())
        for place in range(12):
            photo(root / f"images/{run}/{nearest[stamp(number, place)][0]}.png", 1100 + place, view=number)
    pairs = build_run_pairs(root, RUNS)
    write_evaluation_pickles(root, pairs)
    write_training_pickle(root, build_training_tuples(root, RUNS))
    return root


def boreas(root):
    """The cut of three raw drives."""
    for number in range(3):
        write_drive(root.parent / "raw", number)
    build_boreas(root.parent / "raw", root, DRIVES[:2], DRIVES[2:], every=2, quiet=True)
    return root


# ---- running


class Result:
    """What a fake training returns."""

    def __init__(self, best):
        self.best = best
        keys = ("loss", "student", "distillation", "hard", "useful", "seconds", "recall@1", "recall@5", "recall@10")
        self.history = [{"epoch": epoch} | dict.fromkeys(keys, 0.5) for epoch in range(2)]


def untrained(book, experiment, quiet=True, **_):
    """In the place of `Book.train`: the model as it is built, kept where a training would keep it."""
    seed = experiment.fit.seed + len(str(experiment.model_changes))
    model = build_model(experiment.model, seed=seed, **experiment.model_changes).eval()
    best = experiment.folder_in(book.cache) / "best.safetensors"
    save_weights(model, best, {})
    return model, Result(best)


def register(*names):
    for number, name in enumerate(names):
        save_weights(build_model(name, seed=number), trained_path(name), {"source": "a miniature", "file": "m.ckpt"})


def lenient(profile):
    """The profile with checks that every finite number passes: miniatures say nothing about recall."""
    notebooks = {
        name: settings.model_copy(update={
            "checks": {key: Check(statement=check.statement, at_least=-1e12) for key, check in settings.checks.items()},
        })
        for name, settings in profile.notebooks.items()
    }  # fmt: skip
    return profile.model_copy(update={"notebooks": notebooks, "device": "cpu", "precision": "fp32"})


def run_notebook(name, profile, **parameters):
    """Execute the code cells of a notebook with the profile's parameters and these; returns its sentinel as a dictionary."""
    from vpr_lib.paths import runs_root
    from vpr_lib.workbook.book.sentinel import sentinel_path

    path = load_workbook().find(name).path
    given = dict(profile=profile.name, run_id="small") | profile.notebooks[name].parameters | parameters
    scope: dict = {"__name__": name}
    for number, cell in enumerate(cell for cell in read_cells(path) if cell["cell_type"] == "code"):
        try:
            exec(compile(cell["source"], f"{name}, cell {number}", "exec"), scope)
        except Stopped:
            break
        if "parameters" in cell["metadata"].get("tags", ()):
            scope.update(given)
    return json.loads(sentinel_path(runs_root() / "small", name).read_text())


def profile_for_miniatures(name):
    return lenient(load_profile(name))
