"""`vpr submit msls`: the file that the MSLS challenge scores, from a model's ranking of the test set."""

from pathlib import Path
from typing import Annotated

import typer

from vpr_lib.cli.common import Device, ModelName, Precision, Untrained, Weights, choose_device, load_model, plain, show


def submit_msls(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("msls_submission.txt"),
    root: Annotated[Path | None, typer.Option(help="Where MSLS is.")] = None,
    dataset: Annotated[str, typer.Option(help="msls_test, or msls_val to try the way.")] = "msls_test",
    top_k: Annotated[int, typer.Option(help="Database images per query.")] = 20,
    weights: Weights = None,
    untrained: Untrained = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: int = 32,
) -> None:
    """Describe the test cities, search, write the challenge's file, and read it back."""
    import numpy as np

    from vpr_lib.data.catalogue import open_benchmark
    from vpr_lib.data.readers.msls import read_msls_submission, write_msls_submission
    from vpr_lib.paths import cache_root
    from vpr_lib.retrieval.describe import describe
    from vpr_lib.retrieval.search import search

    device = choose_device(device)
    network, source = load_model(model, weights, untrained)
    benchmark = open_benchmark(dataset, root)
    options = dict(cache=cache_root() / "descriptors", device=device, precision=precision, batch_size=batch_size)
    database, queries = (describe(network, side, **options).array for side in (benchmark.database, benchmark.queries))
    ranking = np.asarray(search(database, queries, top_k, device=device).indices)
    file = write_msls_submission(out, benchmark, ranking, top_k)
    if not np.array_equal(read_msls_submission(file, benchmark), ranking[:, :top_k]):
        raise ValueError(f"{file} does not read back as it was written: two images of the test cities share a key.")
    show(
        f"{plain(file)}: {len(ranking)} queries, {top_k} of {len(benchmark.database):,} database images each, by {model} ({plain(source)}); read back and equal"
    )
