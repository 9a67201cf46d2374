"""The notebooks as a user runs them: the same record twice, and wrong input ending in one line and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from kdhelpers.paths import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def execute(notebook, out, **parameters):
    values = [f"{name}={json.dumps(value)}" for name, value in parameters.items()]
    command = [sys.executable, "notebooks/execute.py", f"notebooks/{notebook}.ipynb", str(out), *values]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def records(folder):
    return sorted(folder.rglob("*.json"))


def test_the_same_seed_gives_the_same_record_and_it_is_not_made_again(tmp_path):
    texts = []
    for name in ("a", "b"):
        done = execute("06_head_ct", tmp_path / "out.ipynb", PROFILE="smoke", RESULTS_DIR=str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        found = records(tmp_path / name)
        assert [path.stem for path in found] == ["head_ct-normal-augmented-seed0", "head_ct-normal-seed0"]
        contents = [json.loads(path.read_text()) for path in found]
        for record in contents:
            for may_differ in ("seconds", "peak_memory_mb", "environment"):
                del record[may_differ]
        texts.append(json.dumps(contents))
    assert texts[0] == texts[1]

    written = [path.stat().st_mtime_ns for path in records(tmp_path / "a")]
    execute("06_head_ct", tmp_path / "out.ipynb", PROFILE="smoke", RESULTS_DIR=str(tmp_path / "a"))
    assert [path.stat().st_mtime_ns for path in records(tmp_path / "a")] == written


def test_the_text_protocol_and_every_localization_method(tmp_path):
    done = execute(
        "14_interpretability", tmp_path / "out.ipynb", PROFILE="smoke", PROTOCOL="text", RESULTS_DIR=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in records(tmp_path / "records" / "untrained" / "smoke" / "text")]
    assert [list(record["localization"]) for record in found] == [["gradients"], ["guided_backprop"], ["smoothgrad"]]
    for record in found:
        assert record["training"]["lambda"] > 0 and record["parameters"]["protocol"]["lam"] is None
        (of_method,) = record["localization"].values()
        assert set(of_method) == {"raw", "gaussian"}
        for metrics in of_method.values():
            assert set(metrics) == {"pixel_auroc", "pixel_auroc_all", "aupro"}
            assert all(0 <= value <= 100 for value in metrics.values())


@pytest.fixture
def mvtec(sample_data, tmp_path):
    """A copy of a sample to break, and the parameters of a short real run on it."""
    shutil.copytree(sample_data / "mvtec", tmp_path / "data" / "mvtec")
    run = {"PROFILE": "full", "SOURCE": "untrained", "CLASSES": ["bottle"], "EPOCHS": 1, "IMAGE_SIZE": 32}
    return tmp_path / "data" / "mvtec" / "bottle", run | {"DATA_DIR": str(tmp_path / "data")}


def truncated(category, run):
    image = min((category / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    return run, f"{image.name}: .*truncated"


def without_a_mask(category, run):
    mask = min((category / "ground_truth").rglob("*_mask.png"))
    mask.unlink()
    return run, f"its mask .*{mask.name} is missing"


def an_empty_folder(category, run):
    shutil.rmtree(category / "train" / "good")
    (category / "train" / "good").mkdir()
    return run, "train/good: there are no image files in it"


def wrong_weights(category, run):
    path = category / "w.pt"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    return run | {"SOURCE": str(path)}, "w.pt is not VGG-16: .*give a VGG-16 state dict"


def no_weights(category, run):
    return run | {"SOURCE": "vgg16.pt"}, "SOURCE 'vgg16.pt' is neither imagenet, nor untrained, nor an existing"


def missing_data(category, run):
    return run | {"CLASSES": ["screw"]}, "mvtec screw: .*screw.* download MVTec AD from"


def an_unknown_class(category, run):
    return run | {"CLASSES": ["screws"]}, "unknown class of mvtec 'screws'; allowed are bottle, .*did you mean 'screw'"


def a_mistyped_name(category, run):
    return run | {"EPOCH": 3}, "unknown parameter EPOCH .did you mean EPOCHS"


def a_wrong_value(category, run):
    return run | {"EPOCHS": "many"}, "EPOCHS is 'many'; it is a whole number"


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        without_a_mask,
        an_empty_folder,
        wrong_weights,
        no_weights,
        missing_data,
        an_unknown_class,
        a_mistyped_name,
        a_wrong_value,
    ],
)
def test_wrong_input_ends_in_one_line_and_leaves_nothing(mvtec, tmp_path, spoil):
    run, message = spoil(*mvtec)
    done = execute("04_mvtec", tmp_path / "out.ipynb", RESULTS_DIR=str(tmp_path / "results"), **run)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out.ipynb").exists()
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_papermill_itself_refuses_a_mistyped_name(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/01_mnist.ipynb", str(tmp_path / "out.ipynb")]
    command += ["-p", "PROFILE", "smoke", "-p", "EPOCH", "3", "-p", "RESULTS_DIR", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "InputError: unknown parameter EPOCH (did you mean EPOCHS?)" in done.stderr
    assert not records(tmp_path)
