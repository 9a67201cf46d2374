"""notebooks/execute.py: the same record twice, a kernel that dies, a disk that is full, an exception in a cell."""

import re
import resource

import nbformat
import pytest

from kdhelpers.experiments import config, runner
from kdhelpers.tests.conftest import ASKED, comparable, execute, times

pytestmark = pytest.mark.slow

DIES = "import os, pathlib\nif not (died := pathlib.Path({!r})).exists():\n    died.touch(), os.kill(os.getpid(), 9)"


@pytest.fixture
def run(tmp_path):
    """Runs a notebook of this one cell; what is printed."""

    def of_code(code, *options):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "x.ipynb")
        done = execute(tmp_path / "x", tmp_path / "out.ipynb", *options)
        assert done.returncode == int(not (tmp_path / "out.ipynb").exists()), done.stderr
        return done.stdout + re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)

    return of_code


def test_a_kernel_that_dies_is_tried_once_more(run, tmp_path):
    assert "x · its kernel died; trying once more\n" in run(DIES.format(str(tmp_path / "died")))
    assert sorted(path.name for path in tmp_path.glob("*.ipynb")) == ["out.ipynb", "x.ipynb"]


def test_a_kernel_that_dies_again_is_an_error(run):
    said = run("import os; os.kill(os.getpid(), 9)")
    assert "error: the notebook's kernel died twice, perhaps out of memory" in said and "Traceback" not in said


def test_a_warning_reaches_the_terminal(run):
    style = "from kdhelpers.reporting import figures\nfigures.use_style()"
    said = run(f"{style}\nimport warnings\nwarnings.warn('look twice', stacklevel=2)\nprint('a result')")
    assert "warning: look twice\n" in said and "a result" not in said  # the cell is not tagged "told"


@pytest.mark.parametrize(
    "code, line, options",
    [
        ("raise ZeroDivisionError('no')", "error: ZeroDivisionError: no", []),
        ("from kdhelpers.errors import InputError\n\nraise InputError('no')", "error: no", ["--debug"]),
    ],
)
def test_an_exception_is_one_line_and_debug_shows_the_traceback(run, tmp_path, code, line, options):
    said = run(code, *options)
    assert line in said.splitlines() and (tmp_path / "out.failed.ipynb").is_file()
    assert ("Traceback (most recent call last)" in said) == (code.splitlines()[-1] in said) == bool(options), said


def test_a_full_disk_is_one_line_and_leaves_no_record(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Bytes that a file may have: a cloner does not fit, what is written before it does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, before[1]))
    try:
        done = execute("06_head_ct", tmp_path / "out.ipynb", PROFILE="smoke", RESULTS_DIR=str(tmp_path / "results"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written (File too large): make room" in line and "safetensors" in line
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name, line",
    [
        ("01_mnist", r"^(?:loss|AUROC).*\d  +(\S+)  +(\S+)  +\S+$"),
        ("04_mvtec", r"^pixel AUROC: (\S+) % above, (\S+) % in the record"),
    ],
    ids=["01_mnist", "04_mvtec"],
)
def test_what_a_notebook_computes_step_by_step_is_what_it_records(tmp_path, name, line):
    given = {"PROFILE": "smoke", "EPOCHS": 2, "IMAGE_SIZE": 32, "SEED": 1, "RESULTS_DIR": str(tmp_path)}
    done = execute(name, tmp_path / "out.ipynb", **given)
    assert done.returncode == 0, done.stderr
    outputs = [out for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for out in cell.get("outputs", [])]
    said = "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)
    found = [tuple(map(float, pair)) for pair in re.findall(line, said, re.MULTILINE)]
    assert len(found) == (3 if name == "01_mnist" else 1)
    assert all(steps == pytest.approx(record, rel=1e-4) for steps, record in found), found


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
