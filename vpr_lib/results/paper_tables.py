"""The recall tables of the five papers in their own layout: published numbers with their marks, ours under them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd

from vpr_lib.config import Strict, load_yaml
from vpr_lib.data.catalogue import default_root, holds, load_table
from vpr_lib.models.zoo import ZOO
from vpr_lib.registry import lookup
from vpr_lib.results.reported import measured_beside, read_reported

FILE = Path(__file__).parents[1] / "configs" / "paper_tables.yaml"
ROW = ["method", "backbone", "D"]


class Layout(Strict):
    """Which published rows make one table; see the head of the YAML file."""

    title: str
    system: str
    sources: tuple[tuple[str, str], ...]
    ks: tuple[str, ...] = ("1", "5", "10")
    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class Layouts(Strict):
    """The whole file: tables by name, what marks of confidence mean, what papers call the data sets."""

    tables: dict[str, Layout]
    marks: dict[str, str]
    labels: dict[str, str]


@cache
def layouts() -> Layouts:
    return load_yaml(FILE, Layouts)


@dataclass(frozen=True)
class PaperTable:
    """One table: `tidy` has a row per number, `shown` the layout as text: **best in bold**, marks in brackets, '–' for none."""

    title: str
    caption: str
    tidy: pd.DataFrame
    shown: pd.DataFrame

    def latex(self, label: str) -> str:
        """The layout for a paper, with booktabs and grouped heads; needs \\usepackage{booktabs}."""
        text = self.shown.map(_latex_cell)
        text.columns = pd.MultiIndex.from_tuples([(_latex(top), _latex(bottom)) for top, bottom in text.columns])
        styler = text.style.hide(axis="index")
        form = "lll" + "r" * (text.shape[1] - len(ROW))
        return styler.to_latex(hrules=True, caption=_latex(self.caption), label=f"tab:{label}", column_format=form,
                               multicol_align="c", position="t", position_float="centering", environment="table*")  # fmt: skip


def paper_table(name: str, measured: pd.DataFrame | None = None) -> PaperTable:
    """The table of that name with our measurements below the rows they belong to.

    A measurement belongs to a row when method, backbone and descriptor size are the same, and to a column when it was made
    under that column's protocol; nothing else is put beside a published number.

    Args:
        measured: a recall table (`results.tables`).
    Raises:
        ValueError: for an unknown name, or when one source gives a cell twice.
    """
    layout = lookup(layouts().tables, name, "table")
    cells = _cells(layout)
    tidy = cells.merge(measured_beside(cells, measured), left_index=True, right_index=True)
    return PaperTable(layout.title, _caption(layout, tidy), tidy, _shown(tidy))


def _cells(layout: Layout) -> pd.DataFrame:
    """Every published number of the table, a row each, in the order of the paper."""
    table = read_reported(layout.system).rename(columns={"dim": "D"})
    parts = []
    for source, part in layout.sources:
        own = table[(table["source"] == source) & (table["table"] == part)]
        # a recall of the layout's cut-offs, or a cost of the whole row
        parts.append(own[own["k"].astype(str).isin(layout.ks) | ~own["metric"].str.contains("recall")])
    key = [*ROW, "dataset", "protocol", "metric", "k"]
    for own in parts:
        if (twice := own.duplicated(key)).any():
            raise ValueError(f"{layout.title}: two numbers for {own.loc[twice, key].iloc[0].tolist()} in one source.")
    cells = pd.concat(parts).drop_duplicates(key)
    if layout.datasets:
        cells = cells[cells["dataset"].isin(layout.datasets)].sort_values(
            "dataset", key=lambda names: names.map(layout.datasets.index), kind="stable"
        )
    if layout.methods:
        cells = cells[cells["method"].isin(layout.methods)]
    cells = cells.reset_index(drop=True)
    cells["k"] = cells["k"].astype(str)
    cells["published"] = pd.to_numeric(cells["value"], errors="coerce")
    short = ~((cells["published"] - cells["published"].round(1)).abs() > 1e-6)  # printed with one digit, or missing
    cells["digits"] = 2 - short.groupby([cells["source"], cells["metric"]]).transform("all").astype(int)
    return cells


def _columns(tidy: pd.DataFrame) -> pd.Series:
    """Head of each number's column: (data set, recall) or ('', cost)."""
    recall = tidy["metric"].map({"recall": "R@", "average recall": "AR@"})
    heads = [
        (layouts().labels.get(dataset, dataset), f"{kind}{k}")
        if isinstance(kind, str)
        else ("", metric.replace("_", " "))
        for dataset, kind, k, metric in zip(tidy["dataset"], recall, tidy["k"], tidy["metric"])
    ]
    return pd.Series(heads, index=tidy.index)


def _shown(tidy: pd.DataFrame) -> pd.DataFrame:
    heads = _columns(tidy)
    order = list(dict.fromkeys(heads))
    datasets = list(dict.fromkeys(top for top, _ in order))
    order.sort(key=lambda head: (head[0] == "", datasets.index(head[0])))  # a data set's columns together, costs last
    recall = tidy["metric"].str.contains("recall")
    best = tidy[recall].groupby(heads[recall])["published"].max()
    rows = []
    for labels, group in tidy.groupby(ROW, sort=False):
        published, own = {}, {}
        for head, number in zip(heads[group.index], group.to_dict("records")):
            published[head] = _published(number, best.get(head))
            if number["verdict"] != "not measured":
                own[head] = (
                    f"{number['measured']:.1f} ({number['low']:.1f} to {number['high']:.1f}), {number['difference']:+.1f} {number['verdict']}"
                )
        rows.append([*labels, *(published.get(head, "–") for head in order)])
        if own:
            models = group.loc[group["verdict"] != "not measured", "model"].iloc[0]
            rows.append([f"measured here: {models}", "", "", *(own.get(head, "–") for head in order)])
    return pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples([("", name) for name in ROW] + order))


def _published(number: Mapping, best: float | None) -> str:
    if number["confidence"] == "missing":
        return "n/a"
    text = f"{number['published']:.{number['digits']}f}"
    text = f"**{text}**" if number["published"] == best else text
    return f"{text} [{number['confidence']}]" if number["confidence"] in layouts().marks else text


def _caption(layout: Layout, tidy: pd.DataFrame) -> str:
    """Sources, protocol card of every column, and what the marks in this table mean."""
    known = load_table().datasets
    cards = []
    for dataset, protocol in dict.fromkeys(zip(tidy["dataset"], tidy["protocol"])):
        if protocol:
            rule = known[dataset].protocols.get(protocol, "") if dataset in known else ""
            cards.append(f"{layouts().labels.get(dataset, dataset)}: {protocol}{f' ({rule})' if rule else ''}")
    marks = [
        f"[{mark}] {words}"
        for mark, words in layouts().marks.items()
        if mark in set(tidy["confidence"]) and mark != "missing"
    ]
    missing = ["n/a: not to be had from the public record"] if "missing" in set(tidy["confidence"]) else []
    own = tidy["verdict"].ne("not measured").sum()
    parts = [
        f"{layout.title}, as reported (per cent). Sources: {'; '.join(f'{source} ({table})' for source, table in layout.sources)}.",
        f"Bold: best of the column. Protocols: {'; '.join(cards)}.",
        f"{'; '.join(marks + missing)}." if marks or missing else "",
        f"{own} of the {len(tidy)} numbers were measured here under the same protocol."
        + (" Below them: ours, its 95 % interval, the difference, and whether the published number lies inside the interval." if own else ""),
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _latex_cell(text: str) -> str:
    bold = text.startswith("**")
    plain = _latex(text.replace("**", ""))
    value, _, mark = plain.partition(" [")
    value = rf"\textbf{{{value}}}" if bold else value
    return f"{value}\\,[{mark}" if mark else value


def _latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("–", "--")


def own_table(table: pd.DataFrame, most: int = 14) -> PaperTable:
    """Our recalls in the papers' layout: a row per model, the recalls of a protocol together, means over seeds, best in bold.

    Args:
        table: a recall table; protocols under which one model alone was measured are left to it.
        most: models of each protocol, those with the highest R@1.
    """
    ks = [column for column in table.columns if column.startswith("R@") and " " not in column]
    shared = table.groupby("protocol")["model"].transform("nunique") > 1
    table = table[shared] if shared.any() else table
    protocols = list(table.groupby("protocol")["model"].nunique().sort_values(ascending=False, kind="stable").index)
    mean = table.groupby(["system", "model", "dim", "protocol"], sort=False)[ks].mean()
    mean["seeds"] = table.groupby(["system", "model", "dim", "protocol"], sort=False)["seed"].nunique()
    mean = mean.reset_index().sort_values("R@1", ascending=False)
    leaders = {
        protocol: list(group.head(most)[["system", "model", "dim"]].itertuples(index=False, name=None))
        for protocol, group in mean.groupby("protocol", sort=False)
    }
    best = mean.groupby("protocol")[ks].max()
    chosen = dict.fromkeys(pair for protocol in protocols for pair in leaders[protocol])
    cells = mean.set_index(["system", "model", "dim", "protocol"])
    rows = []
    for system, model, dim in chosen:
        own = cells.loc[(system, model, dim)]
        row = [system, model, str(dim), str(own["seeds"].max())]
        for protocol, k in product(protocols, ks):
            value = own[k].get(protocol, float("nan"))
            text = "–" if value != value else f"{value:.1f}"
            row.append(f"**{text}**" if value == best.loc[protocol, k] else text)
        rows.append(row)
    columns = [("", name) for name in ("method", "model", "D", "seeds")] + [
        (protocol, k) for protocol in protocols for k in ks
    ]
    rules = table.drop_duplicates("protocol").set_index("protocol")
    cards = "; ".join(
        f"{protocol}: {rules.loc[protocol, 'rule']}, card {rules.loc[protocol, 'card']}" for protocol in protocols
    )
    caption = f"Measured here, per cent, mean over seeds. Bold: best of the column. Protocols: {cards}."
    return PaperTable("Measured here", caption, mean, pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(columns)))


def missing_and_why(tables: Mapping[str, PaperTable]) -> pd.DataFrame:
    """How many published recalls have no measurement beside them, by table and reason, with the data sets concerned."""
    systems, rows = {config.system for config in ZOO.values()}, []
    for name, paper in tables.items():
        lone = paper.tidy[paper.tidy["metric"].str.contains("recall") & paper.tidy["verdict"].eq("not measured")]
        rows += [
            {"table": name, "why": _why(number, systems), "data sets": number["dataset"]}
            for number in lone.to_dict("records")
        ]
    if not rows:
        return pd.DataFrame(columns=["table", "why", "data sets", "numbers"])
    groups = pd.DataFrame(rows).groupby(["table", "why"], sort=False)["data sets"]
    return (
        groups.agg([lambda names: ", ".join(dict.fromkeys(names)), "size"])
        .set_axis(["data sets", "numbers"], axis=1)
        .reset_index()
    )


def _why(number: Mapping, systems: set[str]) -> str:
    dataset, known = number["dataset"], load_table().datasets
    if number["confidence"] == "missing":
        return "not to be had from the public record: nothing to compare with"
    if not any(number["method"].startswith(system) for system in systems):
        return "a rival that this workbook does not build"
    if not number["D"]:
        return "its descriptor size is not stated: nothing is put beside it"
    if number["protocol"].endswith("@server"):
        return "scored by the data set's server only"
    if dataset not in known:
        return "the data set was never published"
    if not known[dataset].generated and not ((place := default_root(dataset)) and holds(place, known[dataset])):
        return "the data set is not on this disk: vpr data get says how to come by it"
    return "no such model was evaluated in this profile: vpr weights add or vpr train, then a profile that evaluates it"
