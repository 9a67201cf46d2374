"""What only a GPU can show: ./run_all.sh gpu-check runs this file, everything else skips it where there is none."""

import json
import os
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from kdhelpers import graphs, localization, networks, paths, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data.images import Images
from kdhelpers.errors import InputError
from kdhelpers.experiments import runner, verification
from kdhelpers.experiments.checkpoints import Checkpoint
from kdhelpers.protocols import PROTOCOLS
from kdhelpers.tests.conftest import run_all
from kdhelpers.tests.experiments.test_checkpoints import MADE_OF, Stopped, Stopping

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
OFFICIAL, GPU = PROTOCOLS["official"], torch.device("cuda")
RECORDS = paths.RESULTS_DIR / "records/vgg16_imagenet-62f2f82f/full/official"  # made on a CPU


@pytest.fixture(autouse=True)
def float32():
    training.use_precision("float32", GPU)
    yield
    training.use_precision("float32", GPU)


@pytest.fixture
def s(source):
    return deepcopy(source).to(GPU)


def many(count, size, **more):
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator), **more).to(GPU)


def trained(s, images, protocol, cache="device", checkpoint=None):
    cloner = networks.make_cloner(protocol, 0).to(GPU)
    known = SourceActivations(s, images, cache=cache)
    return training.fit(known, cloner, protocol, epochs=6, batch_size=8, seed=0, test=known, checkpoint=checkpoint)


@pytest.mark.parametrize("cache", ["device", "none", "host"])
def test_a_graph_computes_what_single_kernels_do(s, protocol, monkeypatch, cache):
    images, made, capture = many(30, 32, normalise=True), [], graphs.GraphedStep._capture
    monkeypatch.delenv(graphs.OFF, raising=False)
    monkeypatch.setattr(graphs.GraphedStep, "_capture", lambda step, batch: made.append(step) or capture(step, batch))
    graphed = trained(s, images, protocol, cache)
    assert [step.graph is not None for step in made] == ([] if cache == "host" else [True])
    monkeypatch.setenv(graphs.OFF, "1")
    eager = trained(s, images, protocol)
    assert len(made) == (cache != "host")
    np.testing.assert_allclose(graphed.loss, eager.loss, rtol=1e-3)
    np.testing.assert_allclose(graphed.scores, eager.scores, rtol=1e-2)


def test_without_room_for_a_graph_single_kernels_go_on(s, monkeypatch):
    images, capture = many(30, 32, normalise=True), graphs.GraphedStep._capture
    total = torch.cuda.get_device_properties(GPU).total_memory

    def cramped(step, batch):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
        try:
            capture(step, batch)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    expected = trained(s, images, OFFICIAL)
    monkeypatch.setattr(graphs.GraphedStep, "_capture", cramped)
    with pytest.warns(UserWarning, match="training without CUDA graphs"):
        found = trained(s, images, OFFICIAL)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)


def test_stopped_it_goes_on_with_the_same_numbers(s, tmp_path):
    """To rounding: after a stop, three steps warm up again instead of replaying the graph."""
    images = many(30, 32, normalise=True)
    with pytest.raises(Stopped):
        trained(s, images, OFFICIAL, checkpoint=Stopping(tmp_path / "c.pt", 3))
    found = trained(s, images, OFFICIAL, checkpoint=Checkpoint(tmp_path / "c.pt", MADE_OF))
    np.testing.assert_allclose(found.loss, trained(s, images, OFFICIAL).loss, rtol=1e-3)


def test_no_step_waits_for_the_gpu(s):
    cloner, known = networks.make_cloner(OFFICIAL, 0).to(GPU), SourceActivations(s, many(8, 32, normalise=True))
    step = partial(training.train_step, known, cloner, OFFICIAL, training.make_optimiser(cloner, OFFICIAL), None)
    order = torch.arange(8, device=GPU)
    training.train_one_epoch(step, cloner, order, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.train_one_epoch(step, cloner, order, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="no bfloat16")
def test_bfloat16_is_near_float32(s):
    images = many(30, 64)
    full = trained(s, images, OFFICIAL)
    training.use_precision("bfloat16", GPU)
    rough = trained(s, images, OFFICIAL)
    np.testing.assert_allclose(rough.loss, full.loss, rtol=0.05)
    assert rough.loss != full.loss


@pytest.mark.parametrize("name", ["01_mnist/mnist-3-seed0", "06_head_ct/head_ct-normal-seed0"])
def test_a_record_of_a_cpu_comes_out_again_within_0_3_points(name, tmp_path):
    record = json.loads((RECORDS / f"{name}.json").read_text())
    where = {"data_dir": os.environ.get("KDHELPERS_DATA_DIR"), "source": os.environ.get("KDHELPERS_SOURCE")}
    try:
        runs = verification.runs_of(record, tmp_path, device="cuda", **where)
    except InputError as missing:
        if any(where.values()):  # they were named, so they must be there
            raise
        pytest.skip(str(missing))
    found = runner.run_experiments(runs)[-1]
    print(f"{name}: CPU {record['detection']['auroc']:.2f}, GPU {found['detection']['auroc']:.2f}", file=sys.stderr)
    assert found["detection"]["auroc"] == pytest.approx(record["detection"]["auroc"], abs=0.3)


def test_smoothgrad_repeats_whatever_the_chunk(s, monkeypatch):
    monkeypatch.setattr(localization, "SMOOTHGRAD_SAMPLES", 3)
    cloner, images, maps = networks.make_cloner(OFFICIAL, 0).to(GPU), many(9, 64), []
    for pixels in (2**21, 2 * 64**2):
        monkeypatch.setattr(localization, "_PIXELS_ON_GPU", pixels)
        maps.append(localization.attribution("smoothgrad", s, cloner, images, OFFICIAL, seed=1))
    assert np.median(np.abs(maps[0] - maps[1]), axis=(1, 2)).max() < 1e-3


def test_maps_that_find_no_memory_come_in_smaller_batches(s):
    cloner, images = networks.make_cloner(OFFICIAL, 0).to(GPU), many(96, 128)
    expected = localization.attribution("gradients", s, cloner, images, OFFICIAL)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        with pytest.warns(UserWarning, match="out of GPU memory: .* images at a time"):
            found = localization.attribution("gradients", s, cloner, images, OFFICIAL)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.median(np.abs(found - expected), axis=(1, 2)).max() < 1e-3


def test_two_jobs_share_a_card(sample_data, tmp_path):
    given = ["SOURCE=untrained", "EPOCHS=2", "IMAGE_SIZE=32", f"DATA_DIR={sample_data}", f"RESULTS_DIR={tmp_path}"]
    done = run_all("full", "06", "--config", *given, "seeds=2", "gpus=1", "jobs_per_gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("records/**/*.json")]
    assert {(r["seed"], r["variant"]) for r in records} == {(k, v) for k in (0, 1) for v in (None, "augmented")}
    assert {record["environment"]["device"] for record in records} == {torch.cuda.get_device_name()}
