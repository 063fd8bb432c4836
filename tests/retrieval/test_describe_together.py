"""Description under torchrun with two CPU processes: the descriptors of one process, each image described once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_picture

from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe

IMAGES = 9  # an odd number, so that one process has a batch more


@pytest.mark.slow  # starts three Python processes
def test_two_processes_describe_each_image_once(tmp_path):
    for number in range(IMAGES):
        write_picture(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "images" / "4.png").write_bytes(b"")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = str(Path(__file__).with_name("describe_together.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*launch, script, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    both = [torch.load(tmp_path / f"found_{rank}.pt", weights_only=False) for rank in (0, 1)]
    manifest = folder_manifest(tmp_path / "images", "db", "images", "test")
    alone = describe(build_model("pixels"), manifest, on_error="skip", quiet=True)
    for found in both:
        for name in ("memory", "disk", "again"):
            np.testing.assert_array_equal(found[name]["array"], alone.array)
            assert list(found[name]["errors"]) == [4]
    assert [sum(found[name]["described"] for found in both) for name in ("memory", "disk", "again")] == [8, 8, 0]
    assert all(found["memory"]["described"] > 0 for found in both)


def test_together_needs_a_process_group(tmp_path):
    write_picture(tmp_path / "0.png", 0)
    with pytest.raises(ValueError, match=r"needs torch\.distributed"):
        describe(build_model("pixels"), folder_manifest(tmp_path, "db", "x", "test"), quiet=True, together=True)
