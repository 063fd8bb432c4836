"""One process with P = 2p places equals two with P = p: loss, mined pairs, gradients, weights after training (gloo)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")
pytestmark = pytest.mark.slow  # starts four Python processes
MODELS = ("without batch norm", "fixed statistics")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of one process with four places, and of each of two with two places."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for command in ([sys.executable, SCRIPT, folder, "4"], [*launch, SCRIPT, folder, "2"]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"found_{name}.pt") for name in ("1_0", "2_0", "2_1")]


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_equal_one_with_their_places(runs, name):
    assert [run["world"] for run in runs] == [1, 2, 2]
    alone, *both = (run[name] for run in runs)
    for one in both:
        for what in ("loss", "gradient", "weights"):
            torch.testing.assert_close(one[what], alone[what], rtol=1e-4, atol=2e-6)
        assert one["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert one["useful"] == alone["useful"] > 0
    assert both[0]["weights"].keys() == both[1]["weights"].keys()
    assert all(torch.equal(both[0]["weights"][key], both[1]["weights"][key]) for key in alone["weights"])


@pytest.mark.parametrize("name", MODELS)
def test_pairs_are_mined_across_processes(runs, name):
    """A process that mined among its own places only would see another loss."""
    alone, *both = (run[name] for run in runs)
    mean_of_local = sum(one["local"] for one in both) / 2
    assert abs(mean_of_local - alone["loss"]) > 1e-3
    torch.testing.assert_close(alone["local"], alone["loss"])


@pytest.mark.parametrize("name", MODELS)
def test_only_the_first_process_validates_and_all_know_the_score(runs, name):
    assert [run[name]["validations"] for run in runs] == [2, 2, 0]
    assert all(run[name]["scores"] == [0.25, 0.5] for run in runs)
