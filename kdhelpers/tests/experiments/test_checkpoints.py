"""A training that is stopped and resumed ends as an undisturbed one does, to the bit."""

from dataclasses import replace

import pytest
import torch

from kdhelpers import networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.experiments.checkpoints import Checkpoint
from kdhelpers.protocols import PROTOCOLS

MADE_OF = {"class": "3"}


class Stopped(Exception):
    """Stands for a kill, right after a checkpoint is written."""


class Stopping(Checkpoint):
    def __init__(self, path, writes):
        super().__init__(path, MADE_OF, every=0)
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


@pytest.mark.parametrize("name, augment", [("official", True), ("text", False)])
def test_stopped_twice_it_ends_the_same(source, images, name, tmp_path, augment):
    change = training.random_affine(20, (0.9, 1.05)) if augment else None
    protocol, path = PROTOCOLS[name], tmp_path / "c.pt"
    for writes in (1, 4):  # in the first epoch, and among those whose scores count
        with pytest.raises(Stopped):
            train(source, images, protocol, Stopping(path, writes), change)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = train(source, images, protocol, Checkpoint(path, MADE_OF), change)
    assert len(torch.load(path, weights_only=True)["state"]["course"]["curves"]) == 5
    assert_the_same(resumed, train(source, images, protocol, None, change))


def test_stopped_when_already_converged(source, images, tmp_path):
    still = replace(PROTOCOLS["text"], learning_rate=0.0)
    with pytest.raises(Stopped):
        train(source, images, still, Stopping(tmp_path / "c.pt", 24), epochs=100)
    resumed = train(source, images, still, Checkpoint(tmp_path / "c.pt", MADE_OF), epochs=100)
    assert len(resumed[0].loss) == 30
    assert_the_same(resumed, train(source, images, still, epochs=100))


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_restored(source, images, tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(Stopped):
        train(source, images, PROTOCOLS["official"], Stopping(path, 2))
    assert Checkpoint(path, MADE_OF).restore() is not None
    assert Checkpoint(path, {"class": "4"}).restore() is None
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="c.pt cannot be read .*training starts from the beginning"):
        assert Checkpoint(path, MADE_OF).restore() is None


def test_it_is_written_only_when_due_and_training_continues_where_it_cannot_be(source, images, tmp_path):
    expected = train(source, images, PROTOCOLS["official"], Checkpoint(tmp_path / "c.pt", MADE_OF, 3600), epochs=2)
    assert not (tmp_path / "c.pt").exists()
    (tmp_path / "no").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="no checkpoint: .*cannot be written"):
        found = train(source, images, PROTOCOLS["official"], Checkpoint(tmp_path / "no" / "c.pt", MADE_OF, 0), epochs=2)
    assert_the_same(found, expected)
