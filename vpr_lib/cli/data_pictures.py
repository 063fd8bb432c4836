"""The pictures of `vpr data show`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import ImageError
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.prepare import Content, manifests_of
from vpr_lib.paths import atomic_path


def draw_dataset(name: str, content: Content, folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Draw `<name>_sheet.png` and, where there are positions in metres, `<name>_map.png`; yields the files.

    Raises:
        ImageError: when none of the chosen images can be read.
    """
    import matplotlib

    matplotlib.use("Agg")
    from vpr_lib.plotting.maps import contact_sheet, plot_map
    from vpr_lib.plotting.style import use_style

    use_style()
    folder = Path(folder)
    samples = choose(content, count, np.random.default_rng(seed))
    pictures, captions = read_pictures(samples)
    columns = 4 if isinstance(content, Manifest) else 6  # a place per row
    yield _save(contact_sheet(pictures, captions, columns), folder / f"{name}_sheet.png")
    manifests = manifests_of(content).values()
    if all(manifest.has_positions for manifest in manifests):
        if isinstance(content, Benchmark):
            sides = content.database.positions(), content.queries.positions()
            ax = plot_map(*sides, content.positives.counts > 0 if content.protocols else None)
        else:
            ax = plot_map(np.concatenate([manifest.positions() for manifest in manifests]))
        yield _save(ax.figure, folder / f"{name}_map.png")


def choose(content: Content, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Up to `count` images with their captions: queries beside one of their positives, or places shown several times."""
    if isinstance(content, Benchmark) and content.protocols:
        answerable = np.flatnonzero(content.protocol.counted & (content.positives.counts > 0))
        chosen = np.sort(rng.permutation(answerable)[: count // 2])
        pairs = [(query, int(rng.choice(content.positives[query]))) for query in chosen]
        return [
            item
            for query, match in pairs
            for item in (_item(content.queries, query, "query"), _item(content.database, match, "positive"))
        ]
    manifest = next(iter(manifests_of(content).values()))
    if "place_id" in manifest.table:
        places = manifest.table.groupby("place_id", sort=False).indices
        some = [list(places)[i] for i in rng.permutation(len(places))[: max(1, count // 4)]]
        return [_item(manifest, int(row), place) for place in some for row in places[place][:4]]
    if "image_path" not in manifest.table:
        raise ValueError("This data set holds clouds without images; there is nothing to put on a sheet.")
    return [
        _item(manifest, int(row), manifest.table["run"][row] if "run" in manifest.table else "")
        for row in np.sort(rng.permutation(len(manifest))[:count])
    ]


def _item(manifest: Manifest, row: int, label: str) -> tuple[str, str]:
    words = manifest.table["conditions"][row] if "conditions" in manifest.table else []
    return f"{manifest.root}/{manifest.table['image_path'][row]}", " ".join([label, *words])[:40]


def read_pictures(samples: list[tuple[str, str]]) -> tuple[list, list[str]]:
    """The images that can be read, as PIL pictures, with their captions (ImageError when there is none)."""
    from PIL import Image

    from vpr_lib.data.images import read_image

    pictures, captions, fault = [], [], None
    for path, caption in samples:
        try:
            pictures.append(Image.fromarray(read_image(path).permute(1, 2, 0).numpy()))
            captions.append(caption)
        except ImageError as error:
            fault = error
    if not pictures:
        raise fault or ImageError("no image to draw")
    return pictures, captions


def _save(figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160, bbox_inches="tight")
    return path
