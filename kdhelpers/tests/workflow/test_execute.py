"""notebooks/execute.py: a kernel that dies, a disk that is full, a GPU that is not there, an exception in a cell."""

import re
import resource
import subprocess
import sys

import nbformat
import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, execute

pytestmark = pytest.mark.slow

DIES_ONCE = """
import os, pathlib
if not pathlib.Path({marker!r}).exists():
    pathlib.Path({marker!r}).touch()
    os.kill(os.getpid(), 9)
"""


def run(code, tmp_path, *options):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "notebooks/execute.py", tmp_path / "x.ipynb", tmp_path / "out.ipynb", *options]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def test_a_kernel_that_dies_is_tried_once_more(tmp_path):
    done = run(DIES_ONCE.format(marker=str(tmp_path / "died")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x · its kernel died; trying once more" in done.stdout
    assert (tmp_path / "out.ipynb").is_file()


def test_a_kernel_that_dies_again_is_an_error(tmp_path):
    done = run("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the notebook's kernel died twice, perhaps out of memory" in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    "error, line, options",
    [
        ("ZeroDivisionError", "ZeroDivisionError: no", []),
        ("InputError", "no", []),
        ("InputError", "no", ["--debug"]),
    ],
)
def test_an_exception_is_one_line_and_debug_shows_the_traceback(tmp_path, error, line, options):
    code = f"from builtins import *\nfrom kdhelpers.errors import InputError\n\nraise {error}('no')"
    done = run(code, tmp_path, *options)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)
    assert done.returncode == 1 and f"error: {line}" in said.splitlines()
    assert (tmp_path / "out.failed.ipynb").is_file() and not (tmp_path / "out.ipynb").exists()
    shown = "Traceback (most recent call last)" in said, f"raise {error}" in said
    assert shown == (bool(options), bool(options)), said


def test_a_full_disk_is_one_line_and_leaves_no_record(tmp_path):
    limit = 1_200_000  # bytes that a file may have: a cloner does not fit, what is written before it does
    program = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "sys.argv = sys.argv[1:]; sys.path.insert(0, 'notebooks'); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "notebooks/execute.py", "notebooks/06_head_ct.ipynb"]
    command += [str(tmp_path / "out.ipynb"), "PROFILE=smoke", f"RESULTS_DIR={tmp_path / 'results'}"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written (File too large): make room" in line and "safetensors" in line
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []


def test_a_device_that_is_missing_is_named(tmp_path):
    done = execute(
        "01_mnist", tmp_path / "out.ipynb", PROFILE="smoke", RESULTS_DIR=str(tmp_path / "r"), DEVICE="cuda:7"
    )
    assert done.returncode == 1 and "DEVICE 'cuda:7' cannot be used" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "r").exists()
