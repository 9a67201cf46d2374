"""The operations are counted right, the released procedure computes what ours does, and the record is complete."""

import json
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from kdhelpers import localization, losses, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.experiments import records
from kdhelpers.protocols import PROTOCOLS, SETTINGS
from kdhelpers.tests.conftest import refused
from kdhelpers.timing import benchmark, released_code, running_time

GIVEN = {"PROFILE": "smoke", "PROTOCOL": "official", "SEED": 0, "SOURCE": "untrained", "SIZES": [32], "DEVICE": "cpu"}


@pytest.fixture
def given(tmp_path):
    return GIVEN | {"RESULTS_DIR": str(tmp_path)}


@pytest.fixture
def case(given):
    return running_time.resolve("21_running_time", **given)[0][0]


def test_operations_by_hand(case):
    """Two FLOP a multiply-add; training: forward, by the weights, and by the input of all layers but the first."""
    found = benchmark.operations(case)

    def macs(network):  # of each convolution on one image
        size, counts = case.image_size, []
        for layer in network:
            if isinstance(layer, torch.nn.Conv2d):
                counts.append(size**2 * layer.weight.numel())
            size //= 2 if isinstance(layer, torch.nn.MaxPool2d) else 1
        return counts

    s, c = macs(networks.make_source()), macs(networks.make_cloner(case.protocol, seed=0))
    assert found["training"] == 2 * (3 * sum(c) - c[0])
    assert found["detection"] == 2 * (sum(s) + sum(c))
    assert found["map"] == 2 * found["detection"]  # and back to the image, through S and C


@pytest.mark.slow
# In float32 the released code's own loss moves by up to 0.006 when only its memory format changes: Adam's division by
# the size of a gradient amplifies rounding. In float64 nothing but the arithmetic is compared.
@pytest.mark.parametrize("dtype, steps, tolerance", [(torch.float64, 6, 1e-9), (torch.float32, 20, 0.02)])
def test_the_released_code_s_losses_are_ours(case, dtype, steps, tolerance):
    found = benchmark.loss_agreement(case, steps, dtype)
    assert len(found["ours"]) == len(found["released"]) == steps
    np.testing.assert_allclose(found["ours"], found["released"], rtol=tolerance)
    np.testing.assert_allclose(found["ours"][:2], found["released"][:2], rtol=1e-4)  # nothing has grown yet
    assert found["ours"][-1] < 0.9 * found["ours"][0]


def test_the_released_code_s_scores_and_maps_are_ours(source, images):
    """Its AUROC is compared with ours in test_localization."""
    protocol = replace(PROTOCOLS["official"], lam=0.5)
    cloner = networks.make_cloner(protocol, seed=0)
    cloner.train()(images[:])  # its BatchNorm has moved
    theirs = released_code.as_there(source), released_code.as_there(cloner.eval())

    scores = losses.scores(SourceActivations(source, images), cloner, protocol)
    for batch_size in (1, 3):
        np.testing.assert_allclose(released_code.scores(*theirs, images[:], 0.5, batch_size), scores, rtol=1e-4)

    maps = localization.maps("gradients", source, cloner, images, protocol, seed=0)["gaussian"]
    found = released_code.maps(*theirs, images[:], 0.5)
    opened = np.stack([cv2.morphologyEx(one, cv2.MORPH_OPEN, localization.ELEMENT) for one in found])
    np.testing.assert_allclose(opened, maps, atol=1e-3)


def test_times_are_of_one_image_and_of_a_category_in_all(case, monkeypatch):
    """Of 16 images, or 4 anomalous ones of a category; 2 for what is slow. Whatever is timed takes a second."""
    monkeypatch.setattr(benchmark, "_seconds", lambda function, device: 1.0)
    ours, released = (side(replace(case, few=2)) for side in (benchmark.ours, benchmark.released))
    assert ours["training"]() == 1 / (2 * 16)  # two epochs
    assert ours["localization"]("gradients") == 1 / 4 and ours["localization"]("smoothgrad") == 1 / 2
    assert released["training"]() == 1 / 8 and released["localization"]("gradients") == 1 / 2
    assert ours["detection"](3) == released["detection"](3) == 1 / 3
    assert ours["category"]() == 1 and released["category"]() == 4 / 2


def test_the_best_round_counts_and_the_first_warms_up(case, monkeypatch):
    @contextmanager
    def worker(side, _):
        seconds = iter([0, 10, 3, 2, *range(90)] if side is benchmark.ours else [10, 5, 6, *range(90)])
        yield lambda *_: next(seconds)  # of ours, the source comes first

    monkeypatch.setattr(benchmark, "_worker", worker)
    found = benchmark.measure(case, rounds=2)["training"]
    assert found == {"ours": 2, "released": 5, "all": {"ours": [3, 2], "released": [5, 6]}}


@contextmanager
def in_process(side, case):
    work = side(case)
    yield lambda name, *arguments: work[name](*arguments)


@pytest.mark.slow
def test_the_record_is_written_whole_and_found_again(given, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "_worker", in_process)
    cases, path = running_time.resolve("21_running_time", **given)
    measured = {case.image_size: benchmark.measure(case, rounds=1) for case in cases}
    machine = benchmark.machine(cases[0].device, small=True)
    agreement = {"float32": benchmark.loss_agreement(cases[0], steps=2)}
    assert not running_time.is_current(path, cases)
    running_time.write(path, cases, machine, measured, agreement)

    assert [found.name for found in path.parent.iterdir()] == [path.name]  # nothing else is left
    running_time.write_figures(path, measured, machine, "official", "smoke")
    assert {found.suffix for found in path.parent.iterdir()} == {".json", ".md", ".png"}
    record = json.loads(path.read_text())
    assert {"commit", "packages", "threads"} <= record["environment"].keys()
    assert record["measured"]["32"]["training"]["released"] > 0
    assert running_time.is_current(path, cases)
    assert running_time.is_current(path, [replace(cases[0], source="imagenet")])  # no time depends on it
    assert not running_time.is_current(path, [replace(cases[0], images=17)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 97)
        assert not running_time.is_current(path, cases)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "METHOD_VERSION", 0)
        assert not running_time.is_current(path, cases)

    fast = running_time.speeds(measured, machine | {"peak": 1e15}).set_index("what").loc["training"]
    assert fast["floor (ms)"] == pytest.approx(1000 * benchmark.operations(cases[0])["training"] / 1e15)
    slow = running_time.speeds(measured, machine | {"peak": 1.0})  # measured too low
    assert slow["% of the floor's speed"].max() == pytest.approx(100)
    of = measured[32]["training"]
    assert fast["ours (ms)"] == 1000 * of["ours"] and fast["times faster"] == of["released"] / of["ours"]
    bars = running_time.picture(measured, machine | {"peak": 1e15}).axes[0].containers
    heights = [1000 / fast[f"{side} (ms)"] for side in ("released code", "ours", "floor")]
    assert [one[0].get_height() for one in bars] == pytest.approx(heights)
    article = running_time.whole_article(measured, machine, "official")
    main = article[article["notebook"] == "01_mnist"].iloc[0]
    assert main["from"] == "measured" and main["records"] == 100
    source, step = measured[32]["source"]["seconds"], measured[32]["training"]["ours"]
    by_hand = 100 * (source * 16000 + step * (6000 * 51 + 14 * 10000 / 3))
    assert main["ours (h)"] == pytest.approx(by_hand / 3600)
    step, detection = measured[32]["training"]["released"], measured[32]["detection 8"]["released"]
    by_hand = 100 * (6000 * 51 * step + 6 * 10000 * detection)
    assert main["released code (h)"] == pytest.approx(by_hand / 3600)
    mvtec, setting = article[article["notebook"] == "04_mvtec"].iloc[0], SETTINGS["mvtec"]
    of_class = setting.images * 601 * step + 61 * setting.tests * detection + measured[32]["category"]["released"]
    assert mvtec["from"] == "extrapolated: 128 px from 32 px"
    assert mvtec["released code (h)"] == pytest.approx(16 * 150 * of_class / 3600)  # sixteen times the pixels
    # Without room for the activations, S runs in each of 51 epochs, and at each of 14 scorings of the test images.
    full = running_time.whole_article(measured, machine | {"free": 0}, "official").iloc[0]
    more = 100 * source * (50 * 6000 + 13 * 10000) / 3600
    assert full["ours (h)"] == pytest.approx(main["ours (h)"] + more)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("SIZES", [16], "SIZES is [16]: input should be greater than or equal to 32"),
        ("SIZES", 128, "SIZES is 128: input should be a valid list"),
        ("SIZES", [], "SIZES is []"),
        ("CLASSES", ["3"], "unknown parameter CLASSES; 21_running_time has PROFILE, RESULTS_DIR, PROTOCOL"),
    ],
)
def test_a_wrong_value_is_refused(given, name, value, message):
    with refused(message):
        running_time.from_notebook("21_running_time", given | {name: value})


def test_none_stands_for_the_sizes_of_the_article_s_data(given):
    cases, path = running_time.from_notebook("21_running_time", given | {"PROFILE": "full", "SIZES": None})
    assert [case.image_size for case in cases] == [32, 128, 224]
    assert path.parent.name == "running_time" and path.name.endswith("-full.json") and " " not in path.name
    assert running_time.from_notebook("21_running_time", given | {"PROTOCOL": "text", "PROFILE": "full"})[1] != path
