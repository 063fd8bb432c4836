"""Pictures bring their words, and the words carry the numbers that are drawn."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from vpr_lib.losses.triplet import mine_hardest
from vpr_lib.models.zoo import build_model
from vpr_lib.plotting import clusvpr, costs, diagrams, mixvpr, published, recalls, relations, results
from vpr_lib.plotting.picture import Picture


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def records(model, share, seed=1, n=40):
    return pd.DataFrame({
        "dataset": "s", "protocol": "25m", "card": "c", "model": model, "system": "MixVPR", "dim": 8, "seed": seed, "profile": "toy",
        "device": "cpu", "precision": "fp32", "rule": "within 25 m", "n_database": 100, "query_id": [f"q{i}" for i in range(n)],
        "first_hit": np.where(np.arange(n) < share * n, 1, 0), "counted": True, "query": range(n),
    })  # fmt: skip


def told(picture: Picture, *words: str) -> None:
    assert picture.alt.strip() and picture.caption.strip() and picture.figure is not None
    assert all(word in picture.alt for word in words), picture.alt


def test_recalls_name_every_model_best_first():
    seeds = [records("mix", 0.5, 1), records("mix", 0.7, 2), records("gem", 0.4, 1)]
    told(recalls.plot_recalls(pd.concat(seeds)), "mix 60 %, gem 40 %")
    assert "up to 2 seeds" in recalls.plot_recalls(pd.concat(seeds)).caption


def test_budgets_histories_and_conditions():
    table = pd.DataFrame(
        {"model": "mix", "system": "MixVPR", "seed": [1, 1], "R@1": [20.0, 60.0], "training places": [100, 400]}
    )
    told(recalls.plot_budgets({"training places": table}), "from 100 to 400 training places", "mix 20 to 60 %")
    history = [{"recall@1": 0.1, "useful": 0.9}, {"recall@1": 0.4, "useful": 0.5}]
    told(
        recalls.plot_histories({("mix", 1): history}, {"mix": "MixVPR"}, ("useful", "useful share")),
        "mix (seed 1) 40.0",
    )
    by_word = pd.DataFrame({"day (3)": [90.0], "night (2)": [10.0]}, index=["mix"])
    told(recalls.plot_conditions(by_word, {"mix": "MixVPR"}), "night (2) for mix (10 %)")


def test_architectures_say_the_sizes_of_the_modules():
    student, teacher = build_model("mixvpr_toy_student"), build_model("mixvpr_toy_256")
    told(diagrams.picture_of_light_models({"small": student}), "1 rows of boxes", "small 0.14, 0.00 and 0.01")
    told(diagrams.picture_of_distillation(student, teacher), "none leads there from the published term")
    told(diagrams.picture_of_dinomix(build_model("dinomix_toy_256")), "2 fixed and 2 learning blocks", "256 numbers")
    told(diagrams.picture_of_clusvpr(build_model("clusvpr_toy_640")), "4 CWTNets", "640 numbers")
    told(
        diagrams.picture_of_distilvpr(build_model("minklocpp_toy_96"), build_model("distilvpr_toy_96")),
        "one frozen descriptor",
    )
    told(mixvpr.picture_of_mixvpr(teacher.aggregator, "m"), "160 by 49", "4 mixers", "256 numbers")


def test_published_curves_and_frames_say_what_is_missing():
    curve = pd.DataFrame({"protocol": "p", "method": "MixVPR", "k": [1, 5], "value": [58.3, 73.9]})
    found = published.plot_published_curves(curve, {"p": "Nordland", "q": "SPED"})
    told(found, "Nordland MixVPR 58.3 %")
    assert "none of these sets was measured" in found.caption
    bars = pd.DataFrame({"table": "1", "k": "1", "method": ["S", "SC"], "value": ["", "94.7"], "confidence": ["", "?"]})
    told(published.plot_published_bars(bars, {"1": "Table 1"}), "1 of the numbers are known")


def test_costs_lens_and_misses():
    table = pd.DataFrame({"model": ["a", "b"], "system": "MixVPR", "parameters (M)": [10.9, 4.1], "ms, batch 1": [6.0, 3.0],
                          "GFLOP": [16.0, 6.0], "R@1": [80.0, 70.0], "bytes per place": [16384, 2048]})  # fmt: skip
    told(costs.plot_parameters_and_latency(table, 1, {"a": 94.3}), "a 10.9 M, 6.0 ms")
    told(costs.picture_of_pareto(table, ["GFLOP"]), "b 70 % at 6 GFLOP")
    told(results.plot_cost_fronts(table, ["bytes per place"], "s"), "a 16384 bytes per place, 80 %")
    lens = pd.DataFrame({1: [10.0], 100: [90.0]}, index=["a"])
    told(results.plot_lens(lens, {"a": "MixVPR"}, "s"), "at 100 m: a 90 %")
    told(
        results.plot_near_misses(np.array([3.0, 40.0, 200.0]), np.array([True, False, False]), 1, "a"),
        "1 of 2 wrong ones",
    )


def test_examples_by_hand():
    spots, place = torch.tensor([0.0, 0.3, 0.7]), torch.tensor([0, 0, 1])
    same = place[:, None] == place[None]
    mined = mine_hardest(spots[:, None], same & ~torch.eye(3, dtype=torch.bool), ~same)
    told(relations.plot_triplets(spots, place, mined), "0 with 1 and 2, 1 with 0 and 2")
    told(clusvpr.plot_tokens_by_hand(np.array([[0.0, 0], [1, 1]]), np.array([0.0, 1.0])), "0.50, 1.50")
    shares = np.array([[1.0, 0.5], [0.0, 0.5]])
    told(
        clusvpr.plot_vlad_by_hand(np.array([[0.0, 0], [1, 1]]), np.array([[0.0, 0], [2, 2]]), shares),
        "2 points joined to 2 centres",
    )
