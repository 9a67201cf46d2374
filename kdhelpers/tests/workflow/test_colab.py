"""The notebooks where no repository lies around them, as on Colab and Kaggle: an empty folder, much of it preloaded."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, version
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement

from kdhelpers import data, hosted
from kdhelpers.data import samples
from kdhelpers.paths import ROOT, SAMPLES_DIR
from kdhelpers.reporting import published

pytestmark = pytest.mark.slow

INSTALL = "%pip install --constraint=preloaded.txt {package}"  # the tag's archive, or a wheel in its place
ARCHIVE = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/archive/refs/tags/v[\w.]+\.tar\.gz")
BARE = re.compile(r"pip3? install(?! --no-deps --no-index)[^\n`\"]*(?<![/\w.-])kdhelpers(?![-/\w.]*(\.whl|/|\.git))")
PRELOADED = ("numpy", "torch", "torchvision")  # Colab's own: another version of one needs a restart, or breaks it

LOOK = """
import json
import kdhelpers.paths as paths, kdhelpers.reporting.tables
known = {name: str(value) for name, value in vars(paths).items() if name.isupper()}
article = kdhelpers.reporting.tables.beside_article(records, table=2)["article"].tolist()
print(json.dumps(known | {"package": kdhelpers.__file__, "article": article}))
"""


def pip(*arguments) -> None:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build leaves anything in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "samples", "results", "__pycache__")
    shutil.copytree(ROOT / "kdhelpers", folder / "sources" / "kdhelpers", ignore=ignored)
    shutil.copytree(ROOT / "data" / "paper", folder / "sources" / "data" / "paper")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "sources")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, folder / "sources")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel):
    """A folder with nothing in it but the installed wheel."""
    pip("install", "--no-deps", "--no-index", "--target", wheel.parent / "site", wheel)
    return wheel.parent / "site"


@pytest.fixture(scope="module")
def needed(installed):
    """What the wheel requires, by name."""
    (described,) = installed.glob("*.dist-info")
    found = map(Requirement, Distribution.at(described).requires)
    return {one.name: one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})}


def test_the_wheel_holds_the_published_numbers_and_no_tests(installed):
    for table in published.TABLES:
        name = f"table_{table}.csv"
        assert (installed / "kdhelpers" / "paper" / name).read_bytes() == (ROOT / "data/paper" / name).read_bytes()
    modules = {path.name for path in (ROOT / "kdhelpers").glob("*") if path.is_file()}
    assert {path.name for path in (installed / "kdhelpers").glob("*") if path.is_file()} == modules
    assert not (installed / "kdhelpers" / "tests").exists()


def test_nothing_that_colab_has_loaded_is_replaced(needed):
    for name in PRELOADED:
        # An upper bound would make pip replace Colab's version on the day that it is newer.
        assert {bound.operator for bound in needed[name].specifier} == {">="}, needed[name]
    for name, requirement in needed.items():
        assert requirement.specifier.contains(version(name), prereleases=True), f"{name} {version(name)}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_the_first_cell_installs_the_tag_where_notebooks_are_hosted_and_nothing_elsewhere(path):
    title, *cells = [cell for cell in json.loads(path.read_text())["cells"]]
    assert "".join(title["source"]).count(f"/notebooks/{path.name})") == 2  # both badges
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = code[0].splitlines()
    assert lines[3] == 'if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:'
    anomalib = ' "anomalib>=2.7,<3"' if path.stem.startswith("30") else ""
    assert f'    {INSTALL}{anomalib} | grep -v "already satisfied"' in lines
    assert ARCHIVE.search(code[0]) and not any("%pip" in cell for cell in code[1:])


def test_nothing_installs_the_package_by_its_bare_name():
    """Whoever registers that name on an index would run code on the reader's machine."""
    for pattern in ("notebooks/*.ipynb", "*.md", "docs/*.md", "data/*.md", "*.yml", "run_all.sh"):
        for path in ROOT.glob(pattern):
            assert not BARE.search(path.read_text()), path
    for bad in ("pip install kdhelpers", "%pip install -q --find-links . kdhelpers", "pip install 'kdhelpers[run]'"):
        assert BARE.search(bad), bad
    assert not BARE.search("pip install dist/kdhelpers-0.1.0-py3-none-any.whl")


def test_notebook_01_runs_from_an_empty_folder(installed, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "01_mnist.ipynb", as_version=4)
    notebook.cells.append(new_code_cell(LOOK))
    first, *_, last = code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert INSTALL in first.source
    first.source = "import google.colab\n" + re.sub("%pip.*", "print('on Colab')", first.source)  # installed already
    for before, after in {'PROFILE = "full"': 'PROFILE = "smoke"', "EPOCHS = None": "EPOCHS = 2"}.items():
        for cell in code:
            cell.source = cell.source.replace(before, after)

    folder, stub = tmp_path / "content", tmp_path / "stub/google/colab/__init__.py"
    folder.mkdir()
    stub.parent.mkdir(parents=True)
    stub.touch()
    search = os.pathsep.join([str(installed), str(tmp_path / "stub")])
    own = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    in_folder = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", timeout=120, resources=in_folder).execute(env=os.environ | own)
    assert first.outputs[0].text.startswith("on Colab\n")
    where = json.loads(last.outputs[0].text)

    assert where["package"] == str(installed / "kdhelpers" / "__init__.py")
    assert where["PAPER_DIR"] == str(installed / "kdhelpers" / "paper")
    assert where["IN_REPOSITORY"] == "False" and where["RESULTS_DIR"] == str(folder / "results")
    (record,) = folder.rglob("*-seed0.json")
    assert record == folder / "results/records/untrained/smoke/official/01_mnist/mnist-0-seed0.json"
    made = json.loads(record.read_text())
    assert 0 <= made["detection"]["auroc"] <= 100
    assert made["environment"]["commit"] is None  # no repository, no commit
    assert {path.name for path in folder.iterdir()} == {"data", "results"}
    assert where["article"] == [99.82]  # digit 0, from the tables inside the wheel


def make_wheel(folder: Path, name: str, number: str, code: str = "") -> Path:
    """A wheel with a module of this code in it, and nothing else."""
    module = name.replace("-", "_")
    described, path = f"{module}-{number}.dist-info", folder / f"{module}-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        wheel.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{described}/RECORD", "".join(f"{file},,\n" for file in wheel.namelist()))
    return path


def python_3_12() -> str:
    """Of Colab and Kaggle."""
    if sys.version_info[:2] == (3, 12):
        return sys.executable
    for command in (["python3.12"], ["uv", "run", "--no-project", "--offline", "--python", "3.12", "python"]):
        try:
            show = [*command, "-c", "import sys; print(sys.executable)"]
            chosen = os.environ | {"PYENV_VERSION": "3.12"}  # or pyenv's python3.12 does not start
            return subprocess.run(show, env=chosen, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            continue
    pytest.skip("there is no Python 3.12, which Colab and Kaggle have: install it, or uv with it")


# What IPython does with the cell's magics.
SHELL = """
import subprocess, sys
{loaded}
class Shell:
    def run_line_magic(self, name, line):
        subprocess.run(f"{{sys.executable}} -m {{name}} {{line.format(**globals())}}", shell=True)
get_ipython = Shell
"""


@pytest.mark.parametrize(
    "host, preloaded",
    [
        ("colab", {"torch": "2.8.0+cu126", "numpy": "2.0.2"}),
        ("kaggle", {"torch": "2.6.0+cu124", "numpy": "2.2.6"}),
        ("kaggle", {"torch": "2.6.0+cu124", "numpy": "1.26.4"}),  # too old: refused, not replaced
    ],
)
def test_the_setup_cell_in_python_3_12_replaces_nothing_that_is_loaded(host, preloaded, wheel, needed, tmp_path):
    python, work, kaggle = tmp_path / "env/bin/python", tmp_path / "work", tmp_path / "kaggle/input"
    subprocess.run([python_3_12(), "-m", "venv", tmp_path / "env"], check=True)
    uploaded = kaggle / "mine" if host == "kaggle" else work
    for folder in (work, uploaded):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(wheel, uploaded)  # the cell installs it in place of the tag's archive
    no_gpu = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    loaded = [make_wheel(tmp_path, name, number, no_gpu) for name, number in preloaded.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-index", *loaded], check=True)
    (tmp_path / "index").mkdir()
    for name in needed:
        make_wheel(tmp_path / "index", name, "99")  # newer than anything that is loaded

    cell = "".join(json.loads((ROOT / "notebooks/06_head_ct.ipynb").read_text())["cells"][1]["source"])
    cell = cell.partition("\n\nimport pandas")[0]
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    if host == "kaggle":
        mount(kaggle)
        cell = cell.replace("/kaggle/input", str(kaggle)).replace("prepare()", f"prepare({str(kaggle)!r})")
        own["KAGGLE_KERNEL_RUN_TYPE"] = "Interactive"
    others = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    shell = SHELL.format(loaded="sys.modules['google.colab'] = sys" if host == "colab" else "")
    code = shell + TransformerManager().transform_cell(cell)
    done = subprocess.run([python, "-c", code], cwd=work, env=others | own, capture_output=True, text=True)
    (site,) = (tmp_path / "env").glob("lib/*/site-packages")
    described = {one.name: one.version for one in Distribution.discover(path=[str(site)])}
    assert {name: described[name] for name in preloaded} == preloaded
    if preloaded["numpy"] < "2":
        assert done.returncode and "The user requested (constraint) numpy==1.26.4" in done.stdout + done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert described["kdhelpers"] in wheel.name and described["seaborn"] == "99"
    *_, gpu = lines = done.stdout.splitlines()
    assert gpu.startswith("no GPU is attached") and ("Accelerator" in gpu) == (host == "kaggle")
    assert sum(f": from {kaggle}" in line for line in lines) == (2 if host == "kaggle" else 0)


def mount(folder: Path, inner: str = "head_ct/head_ct", datasets: str = "") -> None:
    """HeadCT and BrainMRI as Kaggle mounts them, from the samples' own files."""
    samples.make()
    head_ct = folder / datasets / "head-ct-hemorrhage"
    shutil.copytree(SAMPLES_DIR / "head_ct/head_ct", head_ct / inner)
    shutil.copy(SAMPLES_DIR / "head_ct/labels.csv", head_ct)
    for part in ("", "brain_tumor_dataset"):
        place = folder / datasets / "brain-mri-images-for-brain-tumor-detection" / part
        shutil.copytree(SAMPLES_DIR / "brain_mri", place, dirs_exist_ok=True)


@pytest.mark.parametrize("layout", [{}, {"inner": "head_ct"}, {"datasets": "datasets/somebody"}])
def test_what_kaggle_mounts_is_what_the_notebooks_read(layout, tmp_path, capsys):
    mount(tmp_path / "input", **layout)
    for _ in range(2):  # the cell may run again
        hosted.prepare(tmp_path / "input", tmp_path / "data")
        assert "head_ct: from " in capsys.readouterr().out
    for dataset in ("head_ct", "brain_mri"):
        assert data.status(dataset, tmp_path / "data") == {"normal": ""}
        folders = SAMPLES_DIR, tmp_path / "data"
        here, there = (data.load(dataset, "normal", folder, image_size=32, seed=0) for folder in folders)
        assert here.sha256 == there.sha256  # the same files under the same names
