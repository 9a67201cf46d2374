"""The notebooks as a user runs them: the same record twice; wrong input is in test_bad_input."""

import pytest

from kdhelpers.experiments import config, runner
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
