"""Outputs of executed runs, copied into notebooks without this machine's folders and progress bars."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from kdhelpers.errors import InputError
from kdhelpers.paths import ROOT


@pytest.fixture
def publish(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import publish

    return publish


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def test_outputs_come_over_without_folders_and_bars(publish, tmp_path):
    plain = write(tmp_path / "01_mnist.ipynb", new_code_cell("x = 1"), new_code_cell("show()"))
    text = f"{tmp_path / 'results'}/records/a.json\n 38%|▋ | 3/8 [00:02<00:00,  3.01image/s]\n{ROOT}/data\n"
    run = write(
        tmp_path / "results/executed/full/07-01_mnist-seed2.ipynb",
        new_code_cell("x = 1"),
        new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("show()", outputs=[new_output("stream", name="stdout", text=text)]),
    )
    assert publish.executed(plain, tmp_path / "results") == run
    found = publish.with_outputs(plain, run, tmp_path / "results")
    assert found.cells[1].outputs[0].text == "results/records/a.json\ndata\n"
    assert [cell.execution_count for cell in found.cells] == [1, 2]


def test_pictures_without_a_licence_stay_out(publish, tmp_path):
    tags = {"tags": ["unlicensed"]}
    picture = new_output("display_data", {"image/png": "aGVhZA=="})
    plain = write(tmp_path / "06_head_ct.ipynb", new_code_cell("show()", metadata=tags), new_code_cell("curve()"))
    run = write(
        tmp_path / "results/executed/full/06_head_ct-seed0.ipynb",
        new_code_cell("show()", metadata=tags, outputs=[picture]),
        new_code_cell("curve()", outputs=[picture]),
    )
    shown, curve = publish.with_outputs(plain, run, tmp_path / "results").cells
    assert "image/png" not in json.dumps(shown) and "licence" in shown.outputs[0].text
    assert curve.outputs == [picture]


@pytest.mark.parametrize("name", ["06_head_ct", "07_brain_mri"])
def test_every_cell_that_draws_pictures_without_a_licence_is_tagged(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    drawing = [cell for cell in cells if re.search(r"show_split|show_methods|imshow", cell.source)]
    assert len(drawing) >= 2 and all("unlicensed" in cell.metadata.get("tags", []) for cell in drawing)


def test_a_run_of_other_cells_is_refused(publish, tmp_path):
    plain = write(tmp_path / "01_mnist.ipynb", new_code_cell("x = 1"))
    run = write(tmp_path / "results/executed/full/01_mnist-seed0.ipynb", new_code_cell("x = 3"))
    with pytest.raises(InputError, match="executed from another version of 01_mnist.ipynb"):
        publish.with_outputs(plain, run, tmp_path / "results")


def test_a_notebook_that_was_asked_for_and_not_run_is_named(publish, tmp_path):
    with pytest.raises(InputError, match="no run of 01_mnist: ./run_all.sh full 01_mnist"):
        publish.publish(tmp_path, "01_mnist")


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_holds_anything_of_one_machine(notebook):
    text = notebook.read_text()
    for left in ("/tmp/", str(ROOT), "/root/", "/home/", " object at 0x", "injected-parameters", "epoch/s", "image/s"):
        assert left not in text, left
    assert notebook.stat().st_size < 1_000_000  # what GitHub still shows


@pytest.mark.slow
def test_notebooks_become_pages_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--config", "jupyter_nbconvert_config.py", "--to", "html"]
    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path), *map(str, sorted(ROOT.glob("notebooks/*.ipynb")))],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page in tmp_path.glob("*.html"):
        assert all("alt=" in picture for picture in page.read_text().split("<img ")[1:]), page.name
