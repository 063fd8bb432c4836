"""Profile `released`: a notebook measures the official weights of its models on every data set at hand, and ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from vpr_lib.data.catalogue import is_here, open_dataset
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.results.run_pairs import run_pair_table
from vpr_lib.results.tables import recall_table
from vpr_lib.workbook.book.measure import measure, own_records
from vpr_lib.workbook.book.session import Book
from vpr_lib.workbook.book.trained import at_hand, can_start, trained_model

SHOWN = ["dataset", "protocol", "system", "model", "dim", "queries", "R@1", "R@1 low", "R@1 high", "R@5", "R@10"]


def show_registered(
    book: Book, models: Sequence[str], datasets: Sequence[str], variants: Sequence[Mapping[str, Any]] = (),
    only: Mapping[str, str] = {}, pretrained: Sequence[str] = (),
) -> None:  # fmt: skip
    """Measure what is registered of `models` on what is here of `datasets`, show the recalls, and end the notebook.

    A missing model or data set leaves a hole with the command that fills it. Raw pixels are measured on the first data set.

    Args:
        variants: further evaluations of the first model: fields of results.measure.Variant.
        only: models that are made for one of the data sets, and measured on no other.
        pretrained: further models that are nothing but the pre-training of their trunk.
    Raises:
        Stopped: always; the notebook is green. FileNotFoundError: when no model, or no data set, is there.
    """
    here = [name for name in datasets if is_here(name)]
    for name in datasets:
        if name not in here:
            book.hole(name, f"Not on this disk: vpr data get {name}")
    if not here:
        raise FileNotFoundError(
            f"None of {', '.join(datasets)} is on this disk; `vpr data get NAME` says how to come by them."
        )
    (names,) = at_hand(book, "registered", models)
    if not (names := [name for name in names if only.get(name, here[0]) in here]):
        raise FileNotFoundError(f"The drives or images that these models are made for are not here: {dict(only)}")
    opened = {name: open_dataset(name) for name in here}
    measure(book, build_model("pixels"), opened[here[0]], "pixels", "Raw pixels", "training-free")
    for name in can_start(book, pretrained):
        model = build_model(name, pretrained=True).to(book.device).eval()
        for benchmark in opened.values():
            measure(book, model, benchmark, name, ZOO[name].system, f"the pre-training of {ZOO[name].backbone}")
    for number, name in enumerate(names):
        model, _, source = trained_model(book, name, "", "registered")
        for benchmark in (opened[key] for key in here if only.get(name, key) == key):
            for variant in ({}, *(variants if number == 0 else ())):
                measure(book, model, benchmark, name, ZOO[name].system, source, **variant)
    paired = isinstance(opened[here[0]], RunPairs)
    table = (run_pair_table if paired else recall_table)(own_records(book))
    book.table(table[SHOWN], f"{book.name[:2]}_registered", digits=1,
               caption="Registered weights: recall in per cent with the 95 % interval of R@1.")  # fmt: skip
    best = table[table["model"].isin(names)].sort_values("R@1").iloc[-1]
    book.stop(
        f"{len(names)} of {len(models)} released models on {len(here)} of {len(datasets)} data sets; {best['model']} R@1 "
        f"{best['R@1']:.1f} % on {best['dataset']}",
        "Registered weights are measured; what looks into trainings runs under `vpr run --profile paper`.",
    )
