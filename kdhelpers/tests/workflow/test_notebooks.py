"""The notebooks as a user runs them: the same record twice; wrong input is in test_bad_input."""

import papermill
import pytest

from kdhelpers.experiments import config, runner
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ASKED, comparable, execute, times

pytestmark = pytest.mark.slow


def test_a_notebook_records_what_the_package_does_and_makes_it_once(tmp_path):
    asked = ASKED | {"PROFILE": "smoke", "EPOCHS": 2, "DATA_DIR": None}
    done = execute("06_head_ct", tmp_path / "out.ipynb", **asked, RESULTS_DIR=str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    runner.run_experiments(config.resolve("06_head_ct", **asked, RESULTS_DIR=str(tmp_path / "b")))
    assert comparable(tmp_path / "a") == comparable(tmp_path / "b")
    written = times(tmp_path / "a")
    assert sorted(path.stem for path in written) == ["head_ct-normal-augmented-seed0", "head_ct-normal-seed0"]
    runner.run_experiments(config.resolve("06_head_ct", **asked, RESULTS_DIR=str(tmp_path / "a")))
    assert times(tmp_path / "a") == written


def test_the_text_protocol_and_every_localization_method(tmp_path):
    asked = {"PROFILE": "smoke", "PROTOCOL": "text", "EPOCHS": 2, "DATA_DIR": None, "RESULTS_DIR": str(tmp_path)}
    found = runner.run_experiments(config.resolve("14_interpretability", **ASKED | asked))
    methods = [list(record["localization"].items()) for record in found]
    assert [name for ((name, _),) in methods] == ["gradients", "smoothgrad", "guided_backprop", "disagreement"]
    for record, ((_, maps),) in zip(found, methods, strict=True):
        assert record["training"]["lambda"] > 0 and record["parameters"]["protocol"]["lam"] is None
        assert set(maps) == {"raw", "gaussian"}
        for metrics in maps.values():
            assert {"pixel_auroc", "pixel_auroc_all", "aupro"} <= set(metrics)
            assert all(0 <= value <= 100 for value in metrics.values())


def test_papermill_itself_refuses_a_mistyped_name(tmp_path):
    given = {"PROFILE": "smoke", "EPOCH": 3, "RESULTS_DIR": str(tmp_path / "results")}
    notebook = ROOT / "notebooks" / "01_mnist.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match=r"unknown parameter EPOCH \(did you mean EPOCHS\?\)"):
        papermill.execute_notebook(notebook, tmp_path / "out.ipynb", given, progress_bar=False)
    assert not list(tmp_path.rglob("*.json"))
