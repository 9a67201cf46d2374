"""The notebooks where no repository lies around them, as on Colab: a wheel, an empty folder, `google.colab` there."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kdhelpers.paths import ROOT
from kdhelpers.reporting import published

pytestmark = pytest.mark.slow

INSTALL = "%pip install --quiet {wheels[-1]}"  # needs the network for what Colab lacks; here the wheel is installed
BARE = re.compile(r"pip3? install(?! --no-deps --no-index)[^\n`\"]*(?<![/\w.-])kdhelpers(?![-/\w.]*(\.whl|/|\.git))")
PRELOADED = ("numpy", "torch", "torchvision")  # Colab's own: another version of one needs a restart, or breaks it

RUN = """
import json, sys
import google.colab
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for source in json.load(open("cells.json")):
    done = shell.run_cell(source)
    done.raise_error()
import kdhelpers.paths as paths, kdhelpers.reporting.tables
known = {name: str(value) for name, value in vars(paths).items() if name.isupper()}
article = kdhelpers.reporting.tables.beside_article(shell.user_ns["records"], table=2)["article"].tolist()
print(json.dumps(known | {"package": kdhelpers.__file__, "article": article}))
"""


def pip(*arguments) -> None:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing in it but the installed wheel."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is missing: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy, so that no build leaves anything in the repository
    ignored = shutil.ignore_patterns(".*", "samples", "results", "__pycache__")
    shutil.copytree(ROOT / "kdhelpers", sources / "kdhelpers", ignore=ignored)
    shutil.copytree(ROOT / "data" / "paper", sources / "data" / "paper")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, sources)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def requirements(installed: Path) -> list[Requirement]:
    (described,) = installed.glob("*.dist-info")
    return [
        needed
        for needed in map(Requirement, Distribution.at(described).requires)
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
    ]


def test_the_wheel_holds_the_published_numbers_and_no_tests(installed):
    for table in published.TABLES:
        name = f"table_{table}.csv"
        assert (installed / "kdhelpers" / "paper" / name).read_bytes() == (ROOT / "data/paper" / name).read_bytes()
    modules = {path.name for path in (ROOT / "kdhelpers").glob("*") if path.is_file()}
    assert {path.name for path in (installed / "kdhelpers").glob("*") if path.is_file()} == modules
    assert not (installed / "kdhelpers" / "tests").exists()


def test_nothing_that_colab_has_loaded_is_replaced(installed):
    needed = {requirement.name: requirement for requirement in requirements(installed)}
    for name in PRELOADED:
        assert needed[name].specifier.contains(version(name), prereleases=True), f"{name} {version(name)}"
        # An upper bound would make pip replace Colab's version on the day that it is newer.
        assert {bound.operator for bound in needed[name].specifier} == {">="}, needed[name]
    for name, requirement in needed.items():
        assert requirement.specifier.contains(version(name), prereleases=True), f"{name} {version(name)}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_the_first_cell_installs_the_uploaded_wheel_on_colab_and_nothing_elsewhere(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = "".join(cells[0]["source"]).splitlines()
    assert lines[:3] == ["import sys", "", 'if "google.colab" in sys.modules:']
    with_anomalib = INSTALL.replace("{wheels[-1]}", '"{wheels[-1]}[anomalib]"')
    assert (with_anomalib if path.stem.startswith("30") else INSTALL) in map(str.strip, lines)
    assert not any("%pip" in "".join(cell["source"]) for cell in cells[1:])


def test_nothing_installs_the_package_by_its_bare_name():
    """Whoever registers that name on an index would run code on the reader's machine."""
    for pattern in ("notebooks/*.ipynb", "*.md", "docs/*.md", "data/*.md", "*.yml", "run_all.sh"):
        for path in ROOT.glob(pattern):
            assert not BARE.search(path.read_text()), path
    for bad in (
        "pip install kdhelpers",
        "%pip install --quiet --find-links . kdhelpers",
        "pip install 'kdhelpers[run]'",
    ):
        assert BARE.search(bad), bad
    assert not BARE.search("pip install dist/kdhelpers-0.1.0-py3-none-any.whl")


def test_without_the_wheel_the_first_cell_names_it(tmp_path, monkeypatch):
    source = "".join(json.loads((ROOT / "notebooks/01_mnist.ipynb").read_text())["cells"][1]["source"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    with pytest.raises(SystemExit, match="upload kdhelpers-.*whl"):
        exec(source.replace(INSTALL, "pass"), {})


def test_notebook_01_runs_from_an_empty_folder(installed, tmp_path):
    notebook = json.loads((ROOT / "notebooks" / "01_mnist.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert INSTALL in cells[0]
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "kdhelpers-0-py3-none-any.whl").touch()
    cells[0] = cells[0].replace(INSTALL, "print('on Colab')")
    cells = [cell.replace('PROFILE = "full"', 'PROFILE = "smoke"') for cell in cells]

    folder = tmp_path / "content"
    (tmp_path / "stub" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "stub" / "google" / "colab" / "__init__.py").touch()
    (folder / "cells.json").write_text(json.dumps(cells))
    search = os.pathsep.join([str(installed), str(tmp_path / "stub")])
    own = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "on Colab"
    where = json.loads(lines[-1])

    assert where["package"] == str(installed / "kdhelpers" / "__init__.py")
    assert where["PAPER_DIR"] == str(installed / "kdhelpers" / "paper")
    assert where["IN_REPOSITORY"] == "False" and where["RESULTS_DIR"] == str(folder / "results")
    (record,) = folder.rglob("*-seed0.json")
    assert record == folder / "results/records/untrained/smoke/official/01_mnist/mnist-0-seed0.json"
    made = json.loads(record.read_text())
    assert 0 <= made["detection"]["auroc"] <= 100
    assert made["environment"]["commit"] is None  # no repository, no commit
    assert [path.name for path in sorted(folder.iterdir())] == [
        "cells.json",
        "data",
        "kdhelpers-0-py3-none-any.whl",
        "results",
    ]
    assert where["article"] == [99.82]  # digit 0, from the tables inside the wheel
