"""The notebooks as a user runs them: the same record twice; wrong input is in test_bad_input."""

import json
import subprocess
import sys

import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, execute

pytestmark = pytest.mark.slow


def records(folder):
    return sorted(folder.rglob("*.json"))


def test_the_same_seed_gives_the_same_record_and_it_is_not_made_again(tmp_path):
    texts = []
    for name in ("a", "b"):
        done = execute(
            "06_head_ct", tmp_path / "out.ipynb", PROFILE="smoke", EPOCHS=2, RESULTS_DIR=str(tmp_path / name)
        )
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
    execute("06_head_ct", tmp_path / "out.ipynb", PROFILE="smoke", EPOCHS=2, RESULTS_DIR=str(tmp_path / "a"))
    assert [path.stat().st_mtime_ns for path in records(tmp_path / "a")] == written


def test_the_text_protocol_and_every_localization_method(tmp_path):
    done = execute(
        "14_interpretability",
        tmp_path / "out.ipynb",
        PROFILE="smoke",
        PROTOCOL="text",
        EPOCHS=2,
        RESULTS_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in records(tmp_path / "records" / "untrained" / "smoke" / "text")]
    methods = [method for record in found for method in record["localization"]]
    assert methods == ["gradients", "disagreement", "guided_backprop", "smoothgrad"]
    for record in found:
        assert record["training"]["lambda"] > 0 and record["parameters"]["protocol"]["lam"] is None
        (of_method,) = record["localization"].values()
        assert set(of_method) == {"raw", "gaussian"}
        for metrics in of_method.values():
            assert {"pixel_auroc", "pixel_auroc_all", "aupro"} <= set(metrics)
            assert all(0 <= value <= 100 for value in metrics.values())


def test_papermill_itself_refuses_a_mistyped_name(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/01_mnist.ipynb", str(tmp_path / "out.ipynb")]
    command += ["-p", "PROFILE", "smoke", "-p", "EPOCH", "3", "-p", "RESULTS_DIR", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "InputError: unknown parameter EPOCH (did you mean EPOCHS?)" in done.stderr
    assert not records(tmp_path)
