"""The training loop: schedules, exact resuming after kill -9, divergence.

Covers training.step_log.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from vpr_lib.models.checkpoints import load_weights, weights_hash
from vpr_lib.seeds import seed_everything
from vpr_lib.training.fit import TrainingDiverged, TrainingRun, fit, make_fabric
from vpr_lib.training.optimisation import FitSettings, learning_rate, make_optimizer

SCRIPT = """
import sys, time, torch
from torch import nn
from pathlib import Path
from vpr_lib.training.fit import TrainingRun, fit, make_fabric
from vpr_lib.training.optimisation import FitSettings
torch.set_num_threads(1)

class Source:
    def __len__(self): return 6
    def epoch(self, epoch, start=0):
        for batch in range(start, 6):
            generator = torch.Generator().manual_seed(100 * epoch + batch)
            yield torch.randn(8, 5, generator=generator)

def step(model, batch):
    time.sleep(PAUSE)
    noisy = batch + 0.1 * torch.randn_like(batch)  # draws from the global generator, as augmentation and dropout do
    return {"loss": (model(noisy) - batch.sum(1, keepdim=True)).square().mean(), "images": 8.0}

PAUSE = float(sys.argv[2])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
settings = FitSettings(epochs=3, optimizer="adamw", learning_rate=1e-2, warmup_steps=4, milestones=(1, 2), channels_last=False,
                       accumulate=2, checkpoint_every_s=0.0)
fit(model, Source(), step, settings, TrainingRun(Path(sys.argv[1]), "cpu", quiet=True,
    validate=lambda m: {"recall@1": float(-m[0].weight.norm())}))
"""


def run(folder, pause):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(pause)], stdout=subprocess.DEVNULL)


def weights(folder, name="last"):
    return (
        torch.load(folder / "state.pt", weights_only=True)["model"]
        if name == "state"
        else (folder / f"{name}.safetensors").read_bytes()
    )


@pytest.mark.slow
def test_kill_minus_nine_changes_nothing(tmp_path):
    assert run(tmp_path / "whole", 0).wait() == 0
    kills = 0
    for logged in (3, 9, 14):  # three places: first, second and third epoch
        process = run(tmp_path / "killed", 0.05)
        log = tmp_path / "killed" / "log.csv"
        while process.poll() is None and (not log.is_file() or len(log.read_text().splitlines()) <= logged):
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3
    assert run(tmp_path / "killed", 0).wait() == 0
    for name in ("last", "best"):
        assert weights(tmp_path / "whole", name) == weights(tmp_path / "killed", name)
    strip = lambda path: [line.split(",")[:3] for line in (path / "log.csv").read_text().splitlines()]
    assert strip(tmp_path / "whole") == strip(tmp_path / "killed")  # epoch, batch, loss of every step, once each


def tiny(**changes):
    return FitSettings(**{"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1, "channels_last": False, **changes})


class Source:
    def __init__(self, batches=4):
        self.batches = batches

    def __len__(self):
        return self.batches

    def epoch(self, epoch, start=0):
        for batch in range(start, self.batches):
            yield torch.full((2, 3), float(epoch + batch))


def square(model, batch):
    return {"loss": model(batch).square().mean(), "useful": 0.5, "images": 2.0}


def test_best_and_last_epoch_and_history(tmp_path):
    model, scores = nn.Linear(3, 1), iter([0.3, 0.9, 0.5])
    result = fit(
        model,
        Source(),
        square,
        tiny(epochs=3, learning_rate=1e-3),
        TrainingRun(tmp_path, validate=lambda m: {"recall@1": next(scores)}, quiet=True),
    )
    assert [row["recall@1"] for row in result.history] == [0.3, 0.9, 0.5]
    assert load_weights(nn.Linear(3, 1), result.best)["epoch"] == 2
    assert load_weights(nn.Linear(3, 1), result.last)["epoch"] == 3
    assert {"loss", "useful", "learning_rate", "seconds"} <= set(result.history[0])


def test_a_finished_run_is_not_repeated_and_can_be_prolonged(tmp_path):
    model = nn.Linear(3, 1)
    fit(model, Source(), square, tiny(), TrainingRun(tmp_path, quiet=True))
    once = weights_hash(model)
    other = nn.Linear(3, 1)
    assert len(fit(other, Source(), square, tiny(), TrainingRun(tmp_path, quiet=True)).history) == 2
    assert weights_hash(other) == once
    assert len(fit(other, Source(), square, tiny(epochs=3), TrainingRun(tmp_path, quiet=True)).history) == 3


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def no_space(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match=r"state.*\.pt could not be written: [\d,]+ bytes are free on its disk"):
        fit(nn.Linear(3, 1), Source(), square, tiny(), TrainingRun(tmp_path, quiet=True))


def test_a_longer_run_is_none_of_fewer_epochs(tmp_path):
    fit(nn.Linear(3, 1), Source(), square, tiny(epochs=3), TrainingRun(tmp_path, quiet=True))
    with pytest.raises(ValueError, match=r"holds a run of more than 2 epochs \(3 are done\)"):
        fit(nn.Linear(3, 1), Source(), square, tiny(epochs=2), TrainingRun(tmp_path, quiet=True))


@pytest.mark.parametrize("fault", ["a flipped bit", "cut short"])
def test_a_damaged_state_is_not_gone_on_with(tmp_path, fault):
    model, state = nn.Linear(3, 1), tmp_path / "state.pt"
    fit(model, Source(), square, tiny(), TrainingRun(tmp_path, quiet=True))
    whole = state.read_bytes()
    at = whole.index(model.weight.detach().numpy().tobytes())
    state.write_bytes(whole[:at] + (b"" if fault == "cut short" else bytes([whole[at] ^ 1]) + whole[at + 1 :]))
    with pytest.raises(ValueError, match=r"state\.pt is damaged, or cut short: remove"):
        fit(nn.Linear(3, 1), Source(), square, tiny(epochs=3), TrainingRun(tmp_path, quiet=True))


def test_other_settings_are_refused(tmp_path):
    fit(nn.Linear(3, 1), Source(), square, tiny(), TrainingRun(tmp_path, quiet=True))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fit(nn.Linear(3, 1), Source(), square, tiny(learning_rate=0.2), TrainingRun(tmp_path, quiet=True))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fit(nn.Linear(3, 1), Source(5), square, tiny(), TrainingRun(tmp_path, quiet=True))


def test_divergence_keeps_the_last_good_weights(tmp_path):
    def step(model, batch):
        loss = model(batch).square().mean()
        return {"loss": loss * float("nan") if batch[0, 0] == 4 else loss}  # second epoch, last batch

    with pytest.raises(TrainingDiverged, match=r"in epoch 2, batch 4.*last good checkpoint"):
        fit(nn.Linear(3, 1), Source(), step, tiny(learning_rate=1e-3), TrainingRun(tmp_path, quiet=True))
    assert load_weights(nn.Linear(3, 1), tmp_path / "last.safetensors")["epoch"] == 1


def test_accumulation_equals_one_large_batch(tmp_path):
    torch.manual_seed(1)
    data = torch.randn(4, 3)

    class Parts:
        def __init__(self, size):
            self.size = size

        def __len__(self):
            return 4 // self.size

        def epoch(self, epoch, start=0):
            yield from data.split(self.size)[start:]

    models = []
    for size, accumulate in ((4, 1), (1, 4)):
        torch.manual_seed(2)
        models.append(nn.Linear(3, 1))
        fit(
            models[-1],
            Parts(size),
            square,
            tiny(accumulate=accumulate, epochs=3),
            TrainingRun(tmp_path / str(size), quiet=True),
        )
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_learning_rate_of_the_recipe():
    settings = FitSettings(epochs=80, learning_rate=0.05, warmup_steps=650, milestones=(5, 10, 15, 25, 45), gamma=0.3)
    rate = lambda epoch, batch=0: learning_rate(settings, 521 * epoch + batch, 521)
    assert rate(0) == pytest.approx(0.05 / 650) and rate(1, 128) == pytest.approx(0.05)
    expected = {2: 0.05, 5: 0.015, 10: 0.0045, 15: 0.00135, 25: 0.000405, 45: 0.0001215}  # spec mixvpr §3.4
    assert {epoch: pytest.approx(rate(epoch)) for epoch in expected} == expected


def test_a_milestone_inside_the_warm_up_is_lost():
    settings = FitSettings(epochs=9, learning_rate=1.0, warmup_steps=15, milestones=(1, 3), gamma=0.1)
    assert learning_rate(settings, 20, 10) == 1.0 and learning_rate(settings, 30, 10) == pytest.approx(0.1)


def test_cosine_and_constant():
    settings = FitSettings(epochs=2, learning_rate=1.0, schedule="cosine")
    assert [round(learning_rate(settings, s, 5), 3) for s in (0, 5, 10)] == [1.0, 0.5, 0.0]
    assert learning_rate(settings.model_copy(update={"schedule": "constant"}), 9, 5) == 1.0


def test_optimisers_by_name():
    model = nn.Linear(2, 1)
    names = {name: type(make_optimizer(model, tiny(optimizer=name))).__name__ for name in ("sgd", "adamw", "adam")}
    assert names == {"sgd": "SGD", "adamw": "AdamW", "adam": "Adam"}


class Recorder:
    lines = []

    def __init__(self, description, total, quiet):
        self.description, self.total = description, total

    def update(self, count, values):
        self.lines.append((self.description, count, self.total, values))

    def close(self):
        pass


def test_the_progress_line_says_what_one_wants_to_know(tmp_path, monkeypatch):
    monkeypatch.setattr("vpr_lib.training.fit.ProgressLine", Recorder)
    monkeypatch.setattr(Recorder, "lines", [])

    def slow(model, batch):
        time.sleep(0.05)
        return square(model, batch)

    fit(nn.Linear(3, 1), Source(), slow, tiny(epochs=2, learning_rate=1e-3), TrainingRun(tmp_path))
    assert [line[:3] for line in Recorder.lines] == [(f"epoch {e}/2", b, 4) for e in (1, 2) for b in (1, 2, 3, 4)]
    values = Recorder.lines[1][3]
    assert {"loss", "useful", "img/s", "training left"} < set(values) and values["useful"] == "50 %"
    assert 5 < int(values["img/s"]) <= 40  # two images in at least 50 ms
    assert any(name.endswith("GB") and 0.05 < float(value) < 500 for name, value in values.items())
    assert Recorder.lines[-1][3]["training left"] == "0:00:00"


def test_time_spent_waiting_for_images_is_logged(tmp_path):
    class Slow(Source):
        def epoch(self, epoch, start=0):
            for batch in super().epoch(epoch, start):
                time.sleep(0.03)
                yield batch

    result = fit(nn.Linear(3, 1), Slow(), square, tiny(epochs=1, learning_rate=1e-3), TrainingRun(tmp_path, quiet=True))
    assert 0.03 <= result.history[0]["load_s"] < 1
    assert "load_s" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_an_unknown_value_cannot_select(tmp_path):
    with pytest.raises(ValueError, match="'recall@5' is to select the best epoch, but validation gives recall@1"):
        fit(
            nn.Linear(3, 1),
            Source(),
            square,
            tiny(),
            TrainingRun(tmp_path, validate=lambda m: {"recall@1": 0.5}, select="recall@5", quiet=True),
        )


def test_devices_by_name(monkeypatch):
    assert make_fabric(tiny(), "cpu").device.type == "cpu"
    with pytest.raises(ValueError, match="Unknown device 'tpu'"):
        make_fabric(tiny(), "tpu:1")
    asked = {}
    monkeypatch.setattr("vpr_lib.training.fit.Fabric", lambda **options: asked.update(options) or Launched())
    make_fabric(tiny(), "cuda:1")
    assert asked["devices"] == [1] and asked["accelerator"] == "gpu" and asked["strategy"] == "auto"


class Launched:
    def launch(self):
        pass


def test_a_seed_gives_torch_s_own_numbers():
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_everything(7)
    assert torch.equal(torch.rand(3), expected)
