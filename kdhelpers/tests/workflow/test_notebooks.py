"""The notebooks as a user runs them: the same record twice; wrong input is in test_bad_input."""

import json
import subprocess
import sys

import pytest

from kdhelpers.experiments import config, runner
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ASKED, ENVIRONMENT, execute

pytestmark = pytest.mark.slow


def test_a_notebook_records_what_the_package_does_and_makes_it_once(tmp_path):
    texts, asked = [], ASKED | {"PROFILE": "smoke", "EPOCHS": 2, "DATA_DIR": None}
    done = execute("06_head_ct", tmp_path / "out.ipynb", **asked, RESULTS_DIR=str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    runner.run_experiments(config.resolve("06_head_ct", **asked, RESULTS_DIR=str(tmp_path / "b")))
    for name in ("a", "b"):
        found = sorted((tmp_path / name).rglob("*.json"))
        assert [path.stem for path in found] == ["head_ct-normal-augmented-seed0", "head_ct-normal-seed0"]
        contents = [json.loads(path.read_text()) for path in found]
        for record in contents:
            for may_differ in ("seconds", "peak_memory_mb", "environment"):
                del record[may_differ]
        texts.append(json.dumps(contents))
    assert texts[0] == texts[1]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.json")}
    runner.run_experiments(config.resolve("06_head_ct", **asked, RESULTS_DIR=str(tmp_path / "a")))
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_the_text_protocol_and_every_localization_method(tmp_path):
    asked = {"PROFILE": "smoke", "PROTOCOL": "text", "EPOCHS": 2, "DATA_DIR": None, "RESULTS_DIR": str(tmp_path)}
    found = runner.run_experiments(config.resolve("14_interpretability", **ASKED | asked))
    assert [list(record["localization"]) for record in found] == [
        ["gradients"],
        ["smoothgrad"],
        ["guided_backprop"],
        ["disagreement"],
    ]
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
    assert not list(tmp_path.rglob("*.json"))
