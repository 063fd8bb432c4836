"""Opposite numbers are planted under the notebooks' own cells, and the opposite prose is read: verdicts, takeaways, headlines."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from vpr_lib.models.zoo import ZOO
from vpr_lib.plotting.distillation import picture_of_gains
from vpr_lib.results.findings import difference
from vpr_lib.results.seeds import seed_table
from vpr_lib.workbook.book import show
from vpr_lib.workbook.book.session import open_notebook

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SEEDS = [1, 2, 3]


def planted(shares: dict[str, float], queries: int = 200, **extra) -> pd.DataFrame:
    """Records in which every model finds that share of the queries, under every seed."""
    return pd.concat([
        pd.DataFrame({
            "dataset": "d", "protocol": "p", "card": "c", "rule": "r", "model": model, "system": "S", "dim": 4, "seed": seed,
            "profile": "toy", "device": "cpu", "precision": "fp32", "n_database": 50, "counted": True,
            "query_id": [f"q{i}" for i in range(queries)], "query": range(queries), "first_hit": np.arange(queries) < share * queries,
        } | extra).astype({"first_hit": int})
        for model, share in shares.items() for seed in SEEDS
    ])  # fmt: skip


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Executes cells of a notebook, by id, with what is given; returns all that they display and the headline."""
    matplotlib.use("Agg")
    monkeypatch.setattr("vpr_lib.paths.runs_root", lambda: tmp_path / "runs")
    monkeypatch.setattr("vpr_lib.paths.figures_root", lambda: tmp_path / "figures")
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    shown: list[str] = []
    monkeypatch.setattr(show, "_display", lambda data, metadata=None: shown.append(data.get("text/plain", "")))

    def execute(name: str, ids: list[str], given: dict) -> tuple[str, str]:
        shown.clear()
        book, said = open_notebook(name, "toy", "planted"), []
        monkeypatch.setattr(book, "finish", lambda headline: said.append(headline))
        cells = {
            cell["id"]: "".join(cell["source"])
            for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        }
        scope = (
            dict(
                book=book, difference=difference, pd=pd, np=np, ZOO=ZOO, picture_of_gains=picture_of_gains, seeds=SEEDS
            )
            | given
        )
        for key in ids:
            exec(compile(cells[key], f"{name} {key}", "exec"), scope)
        return "\n".join(shown), "".join(said)

    return execute


def both_ways(told, name, ids, given, models, keys):
    """The prose with the first model far above all others, and far below; every key must turn from one verdict to the other."""
    first, *others = models
    prose = {}
    for way, share in (("Reproduced here:", 0.8), ("Contradicted here, it does not hold that", 0.2)):
        text, headline = told(name, ids, given(planted({first: share} | dict.fromkeys(others, 0.5))))
        book = open_notebook(name, "toy", "statements")
        for key in keys:
            statement = book.settings.findings[key].statement
            assert text.count(f"{way} {statement}") == 2, f"{key}: once beside the table, once in the takeaways\n{text}"
        prose[way] = headline
    return prose.values()


def test_mixing_against_its_rivals(told):
    model, rivals = "mixvpr_lite0_512", ["convap_lite0_512", "gem_lite0_112"]

    def given(records):
        recall = 100 * records.groupby("model")["first_hit"].mean()
        recall = pd.concat([recall, pd.Series({"pixels": 1.0, "untrained": 1.0})])
        return dict(shown=records, model=model, rivals=rivals, recall=recall, datasets=["town"])

    keys = ["mixing_beats_convap", "mixing_beats_gem"]
    above, below = both_ways(
        told, "02_mixvpr_training", ["8c2b0009", "a0c10011", "6c32ac58"], given, [model, *rivals], keys
    )
    assert above.endswith("MixVPR leads") and below.endswith("convap_lite0_512 leads with 50.0 %")


def test_what_a_lesson_gains(told):
    def given(records):
        records = pd.concat([records, planted({"control": 0.5})])
        both = records[records["model"] == "control"].assign(model="repo")
        gains = seed_table(records, "control")
        return dict(records=pd.concat([records, both]), gains=gains, modes=["relational"], once=[], same=True)

    ids = ["40000008", "40000009", "4c849dc6"]
    above, below = both_ways(told, "04_knowledge_distillation", ids, given, ["relational"], ["relational_gains"])
    assert above.startswith("relational: +30.0 points") and below.startswith("relational: -30.0 points")


def test_tokens_mixed_averaged_and_fixed(told):
    def given(records):
        return dict(
            shown=records, pooled="pooled", averaged=True, larger="", model="m", plan={"averaging", "all blocks fixed"}
        )

    keys = ["places_improve_tokens", "mixing_beats_averaging", "unfreezing_helps"]
    models = ["mixing", "pooled", "averaging", "all blocks fixed"]
    both_ways(told, "05_dino_mix", ["50000008", "5000000d"], given, models, keys)


def test_parts_of_clusvpr(told):
    ablations = ["no_token_weight", "cwt0", "netvlad_head"]

    def given(records):
        return dict(parts=records, ablations=ablations, ablation_seeds=SEEDS, base="b", dataset="d")

    keys = ["token_weight_helps", "cwt_helps", "optlad_beats_vlad"]
    both_ways(told, "06_clusvpr_attention", ["a6000008", "a6000011"], given, ["whole network", *ablations], keys)


def test_students_of_distilvpr(told):
    methods = ["none", "S", "SC"]

    def given(records):
        gains = seed_table(records, "none")
        recall = records.groupby("model")["first_hit"].mean()
        recall["teacher"] = 0.9
        gained = gains.set_index("model")["R@1 gain"].dropna()
        return dict(records=records, methods=methods, gained=gained, recall=recall)

    ids = ["70000007", "70000008", "d0310326"]
    above, below = both_ways(told, "07_distilvpr", ids, given, ["SC", "none", "S"], ["sc_gains", "sc_beats_s"])
    assert "best student SC 80.0 %, no distillation 50.0 %" in above
    assert "best student S 50.0 %, no distillation 50.0 %" in below
