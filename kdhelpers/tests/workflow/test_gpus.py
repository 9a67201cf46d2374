"""The queue over several GPUs: every job has its own place, and a place is free again when its job is over."""

import subprocess
import sys

import pytest

from kdhelpers.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
import gpus  # noqa: E402 - a script beside the notebooks, not a package

TAKE_AND_DIE = (
    "import pathlib, sys, gpus\nwith gpus.place(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])): sys.exit(9)"
)


def test_jobs_are_spread_evenly_and_never_share_a_place(tmp_path):
    with gpus.place(tmp_path, 2, 2) as a, gpus.place(tmp_path, 2, 2) as b, gpus.place(tmp_path, 2, 2) as c:
        assert [a, b, c] == [0, 1, 0]
        with gpus.place(tmp_path, 2, 2) as d:
            assert d == 1
            waiting = subprocess.Popen([sys.executable, "-c", TAKE_AND_DIE, str(tmp_path), "2", "2"], cwd=NOTEBOOKS)
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(2)
        assert waiting.wait(10) == 9  # it had the place that became free
        with gpus.place(tmp_path, 2, 2) as again:
            assert again == 1


def test_a_job_that_dies_leaves_its_place(tmp_path):
    died = subprocess.run([sys.executable, "-c", TAKE_AND_DIE, str(tmp_path), "1", "1"], cwd=NOTEBOOKS)
    assert died.returncode == 9
    with gpus.place(tmp_path, 1, 1) as gpu:
        assert gpu == 0
