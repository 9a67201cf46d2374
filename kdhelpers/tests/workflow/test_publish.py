"""./run_all.sh publish and release in a copy of the repository's own files, and what published notebooks may hold."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from safetensors.numpy import save

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, one_line

ADDRESS, PLACEHOLDER = "https://github.com/somebody/some.where", "-unpublished-"
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return tmp_path


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)


def test_outputs_come_over_without_folders_bars_and_unlicensed_pictures(command, copy):
    text = f"{copy}/results/records/a.json\n 38%|▋ | 3/8 [00:02<00:00,  3.01image/s]\n{copy}/data\n"
    said = [new_output("stream", name="stdout", text=text)]
    picture, tags = [new_output("display_data", {"image/png": "aGVhZA=="})], {"tags": ["unlicensed"]}
    plain, run = copy / "notebooks/01_mnist.ipynb", copy / "results/executed/full/07-01_mnist-seed2.ipynb"
    write(plain, new_code_cell("x = 1"), new_code_cell("show()"), new_code_cell("head()", metadata=tags))
    injected = new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})
    show = new_code_cell("show()", outputs=said + picture)
    head = new_code_cell("head()", outputs=picture, metadata=tags)
    write(run, new_code_cell("x = 1"), injected, show, head)
    for name, seconds in (("01_mnist-seed10", 60), ("01_mnist-seed2", -60)):  # a higher seed, and an older run
        write(run.with_name(f"{name}.ipynb"), new_code_cell("x = 0"))
        os.utime(run.with_name(f"{name}.ipynb"), (time.time() + seconds,) * 2)
    done = command("publish", root=copy)
    assert done.returncode == 0 and done.stdout.startswith("notebooks/01_mnist.ipynb: from 07-01_mnist-seed2.ipynb, ")
    first, shown, licensed = nbformat.read(plain, as_version=4).cells
    assert (first.source, [cell.execution_count for cell in (first, shown, licensed)]) == ("x = 1", [1, 2, 3])
    assert shown.outputs == [new_output("stream", name="stdout", text="results/records/a.json\ndata\n"), *picture]
    assert "image/png" not in json.dumps(licensed) and "licence" in licensed.outputs[0].text

    write(run, new_code_cell("x = 3"))
    assert "executed from another version of 01_mnist.ipynb" in command("publish", "01", root=copy).stderr
    assert "has no run of 06_head_ct: ./run_all.sh full 06_head_ct" in command("publish", "06", root=copy).stderr


@pytest.mark.parametrize("name", ["06_head_ct", "07_brain_mri"])
def test_every_cell_that_draws_pictures_without_a_licence_is_tagged(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    drawing = [cell for cell in cells if re.search(r"show_split|show_methods|imshow", cell.source)]
    assert len(drawing) >= 2 and all("unlicensed" in cell.metadata.get("tags", []) for cell in drawing)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_holds_anything_of_one_machine(notebook):
    text = notebook.read_text()
    for left in ("/tmp/", str(ROOT), "/root/", "/home/", " object at 0x", "injected-parameters", "epoch/s", "image/s"):
        assert left not in text, left
    assert notebook.stat().st_size < 1_000_000  # what GitHub still shows


@pytest.mark.slow
def test_notebooks_become_pages_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "nbconvert", "--config", "jupyter_nbconvert_config.py", "--to", "html"]
    words += ["--output-dir", tmp_path, *NOTEBOOKS]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page in tmp_path.glob("*.html"):
        assert all("alt=" in picture for picture in page.read_text().split("<img ")[1:]), page.name


@pytest.fixture
def git(copy, monkeypatch):
    """Runs git in the copy."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "codemeta.json", ".gitignore"):
        shutil.copy(ROOT / name, copy)

    def run(*arguments):
        words = ["git", "-C", copy, *arguments]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet")
    return run


def test_a_release_names_address_and_tag_everywhere_and_is_made_once(command, git, copy):
    def commit(address):
        text = re.sub('(?<=^Repository = ").*(?="$)', address, project.read_text(), flags=re.MULTILINE)
        project.write_text(re.sub('(?<=^version = ").*(?="$)', "9.2.0", text, flags=re.MULTILINE))
        git("add", ".")
        git("commit", "--quiet", "--allow-empty", "--message", "changed")

    def refused(*words):
        one_line(command("release", root=copy).stderr.strip(), ("error: ", *words))

    project, unpublished = copy / "pyproject.toml", f"https://github.com/{PLACEHOLDER}/kdhelpers"
    shutil.copy(copy / "notebooks/01_mnist.ipynb", copy / "notebooks/99_mine.ipynb")
    for path in ("records/x.json", "cloners/x.predictions.csv.gz", "cloners/x.safetensors"):
        path = copy / "results" / path.replace("x", "untrained/full/official/01_mnist/mnist-0-seed0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save({}, {"record": "a record"}) if path.suffix == ".safetensors" else b"a record")
    commit(unpublished)
    refused(unpublished, "[project.urls] in pyproject.toml")
    commit(ADDRESS)
    (copy / "new").touch()
    refused("uncommitted changes")
    (copy / "new").unlink()

    assert command("release", root=copy).stdout.endswith("gh release create v9.2.0 dist/cloners/*.zip\n")
    assert [path.name for path in copy.glob("dist/cloners/*")] == ["untrained-01_mnist.zip"]
    assert git("status", "--porcelain") == "" and git("tag", "--points-at", "HEAD") == "v9.2.0"
    for path in [copy / "README.md", *copy.glob("notebooks/*.ipynb")]:
        text = path.read_text()
        name = "01_mnist.ipynb" if path.name == "README.md" else path.name
        assert f"https://colab.research.google.com/github/somebody/some.where/blob/v9.2.0/notebooks/{name}" in text
        assert f"welcome?src={ADDRESS}/blob/v9.2.0/notebooks/{name}" in text
        assert path.suffix == ".md" or f"{ADDRESS}/archive/refs/tags/v9.2.0.tar.gz" in text
        assert PLACEHOLDER not in text and not re.search(r"/(blob|tags)/v(?!9)", text)
    described = json.loads((copy / "codemeta.json").read_text())
    assert (described["codeRepository"], described["version"]) == (ADDRESS, "9.2.0")
    assert {f"repository-code: {ADDRESS}", "version: 9.2.0"} <= set((copy / "CITATION.cff").read_text().splitlines())

    head = git("rev-parse", "HEAD")
    assert command("release", root=copy).stdout.startswith("nothing is new: v9.2.0 is tagged")
    assert git("rev-parse", "HEAD") == head and git("status", "--porcelain") == ""
    commit(ADDRESS)
    refused("v9.2.0 is already tagged on another commit", "raise version")
    commit(ADDRESS + "-else")
    refused("v9.2.0 is already tagged, and", "CITATION.cff", "raise version")
