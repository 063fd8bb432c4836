"""Run by test_describe_together.py under torchrun: two processes describe one folder, results of each to a file."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import describe as describe_module
from vpr_lib.retrieval.describe import describe


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    manifest = folder_manifest(folder / "images", "db", "images", "test")
    model, counts, real = build_model("pixels"), [], describe_module.describe_batch

    def counted(model, images, *rest):
        counts.append(len(images))
        return real(model, images, *rest)

    describe_module.describe_batch = counted
    options = dict(batch_size=2, on_error="skip", quiet=True, together=True)
    found = {}
    for name, cache in (("memory", None), ("disk", folder / "cache"), ("again", folder / "cache")):
        counts.clear()
        result = describe(model, manifest, cache, **options)
        found[name] = {"array": np.array(result.array), "errors": result.errors, "described": sum(counts)}
    torch.save(found, folder / f"found_{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
