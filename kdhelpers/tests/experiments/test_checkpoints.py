"""A training that is stopped and resumed ends as an undisturbed one does, to the bit."""

import os
import time
from dataclasses import replace

import pytest
import torch

from kdhelpers import files, networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.experiments import config, runner, verification
from kdhelpers.experiments.checkpoints import Checkpoint
from kdhelpers.protocols import PROTOCOLS

MADE_OF = {"class": "3"}


class Stopped(Exception):
    """Stands for a kill, right after a checkpoint is written."""


class Stopping(Checkpoint):
    every = 0

    def __init__(self, path, writes, made_of=MADE_OF):
        super().__init__(path, made_of)
        self.left = writes

    def save(self, state):
        super().save(state)
        self.left -= 1
        if not self.left:
            raise Stopped


def train(source, images, protocol, checkpoint=None, augment=None, epochs=12):
    cloner, known = networks.make_cloner(protocol, seed=3), SourceActivations(source, images)
    options = {"test": known, "augment": augment, "checkpoint": checkpoint}
    return training.fit(known, cloner, protocol, epochs=epochs, batch_size=4, seed=3, **options), cloner


def assert_the_same(found, expected):
    (fit, cloner), (other, other_cloner) = found, expected
    assert (fit.loss, fit.loss_val, fit.loss_dir) == (other.loss, other.loss_val, other.loss_dir)
    assert fit.protocol == other.protocol and (fit.scores == other.scores).all()
    assert fit.scores.dtype == other.scores.dtype and fit.scores.shape == other.scores.shape
    for name, value in cloner.state_dict().items():
        assert torch.equal(value, other_cloner.state_dict()[name]), name


@pytest.mark.parametrize(
    "protocol, augment, epochs, stops",  # in the first epoch, and among those whose scores count; or when converged
    [
        (PROTOCOLS["official"], training.random_affine(20, (0.9, 1.05)), 12, (1, 4)),
        (PROTOCOLS["text"], None, 12, (1, 4)),
        (replace(PROTOCOLS["text"], learning_rate=0.0), None, 100, (24,)),
    ],
)
def test_stopped_it_ends_the_same(source, images, tmp_path, protocol, augment, epochs, stops):
    path = tmp_path / "c.pt"
    for writes in stops:
        with pytest.raises(Stopped):
            train(source, images, protocol, Stopping(path, writes), augment, epochs)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = train(source, images, protocol, Checkpoint(path, MADE_OF), augment, epochs)
    assert len(torch.load(path, weights_only=True)["state"]["course"]["curves"]) == sum(stops)
    assert_the_same(resumed, train(source, images, protocol, None, augment, epochs))


def test_a_run_that_was_stopped_is_resumed_and_leaves_no_checkpoint(of_a_run, tmp_path, monkeypatch):
    run = config.resolve("06_head_ct", **of_a_run | {"EPOCHS": 5, "BATCH_SIZE": 4})[0]
    (expected,) = runner.run_experiments([replace(run, results_dir=tmp_path / "undisturbed")])
    made, epochs, one_epoch = [], [], training.train_one_epoch
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(runner, "Checkpoint", lambda path, of: made.append(of) or Stopping(path, 2, of))
        runner.run_experiments([run])
    monkeypatch.setattr(training, "train_one_epoch", lambda *a: epochs.append(a) or one_epoch(*a))
    (found,) = runner.run_experiments([run])
    assert len(epochs) == 3 and not verification.differences(found, expected)
    assert not run.checkpoint_path("normal").exists() and made[0]["data"] == found["data"]["sha256"]


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_restored(source, images, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    with pytest.raises(Stopped):
        train(source, images, PROTOCOLS["official"], Stopping(path, 2))
    assert Checkpoint(path, MADE_OF).restore() is not None
    with pytest.warns(UserWarning, match="c.pt is of a training with other class, lam: training starts from the begin"):
        assert Checkpoint(path, {"class": "4", "lam": 1}).restore() is None
    for name, other in (("__version__", "2.0"), ("get_num_threads", lambda: 99)):
        with monkeypatch.context() as patch:
            patch.setattr(torch, name, other)
            elsewhere = Checkpoint(path, MADE_OF)
            on_gpu = Checkpoint(path, MADE_OF | {"device": "NVIDIA"})
        with pytest.warns(UserWarning, match="is of a training with other (torch|threads): training starts"):
            assert elsewhere.restore() is None
    assert on_gpu.key == Checkpoint(path, MADE_OF | {"device": "NVIDIA"}).key
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="c.pt cannot be read .*training starts from the beginning"):
        assert Checkpoint(path, MADE_OF).restore() is None


def test_it_is_written_only_when_due_and_training_continues_where_it_cannot_be(source, images, tmp_path):
    expected = train(source, images, PROTOCOLS["official"], Checkpoint(tmp_path / "c.pt", MADE_OF), epochs=2)
    assert not (tmp_path / "c.pt").exists()
    (tmp_path / "no").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="no checkpoint: .*cannot be written"):
        found = train(source, images, PROTOCOLS["official"], Stopping(tmp_path / "no" / "c.pt", 3), epochs=2)
    assert_the_same(found, expected)


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path):
    left = {seconds: tmp_path / f".x.json.{seconds}" for seconds in (3700, 3500)}
    for seconds, path in left.items():
        path.touch()
        os.utime(path, (time.time() - seconds,) * 2)
    files.write_json(tmp_path / "x.json", {})
    assert set(tmp_path.iterdir()) == {tmp_path / "x.json", left[3500]}
