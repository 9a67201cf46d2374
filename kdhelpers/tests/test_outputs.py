"""The outputs kept in the notebooks are those that the code has now, and a change of either is seen."""

import base64
import io
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from kdhelpers.paths import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import outputs

ENVIRONMENT = os.environ | {"VIRTUAL_ENV": sys.prefix, "CI": "true"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The RESULTS_DIR of a whole smoke run."""
    results = tmp_path_factory.mktemp("smoke")
    command = ["./run_all.sh", "smoke", "--config", f"RESULTS_DIR={results}"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return results


@pytest.mark.parametrize("notebook", outputs.kept(), ids=lambda path: path.stem)
def test_the_kept_outputs_are_what_comes_out(notebook, smoke):
    now = outputs.executed(notebook, smoke)
    assert not list(outputs.differences(nbformat.read(notebook, as_version=4), now)), "./run_all.sh refresh"


@pytest.mark.parametrize("notebook", outputs.kept(), ids=lambda path: path.stem)
def test_nothing_of_one_machine_is_kept(notebook):
    text = notebook.read_text()
    for left in ("/tmp/", str(ROOT), "/root/", "/home/", " object at 0x", "injected-parameters", "epoch/s", "image/s"):
        assert left not in text, left
    assert notebook.stat().st_size < 1_000_000  # what GitHub still shows


def test_they_become_pages_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--config", "jupyter_nbconvert_config.py", "--to", "html"]
    command += ["--output-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, *map(str, outputs.kept())], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pictures = re.findall("<img [^>]*", (tmp_path / "04_mvtec.html").read_text())
    assert len(pictures) >= 5 and all("alt=" in picture for picture in pictures)


def png(colour, size=(300, 200)):
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, "png")
    return base64.b64encode(held.getvalue()).decode()


def notebook(*outputs, tags=()):
    return new_notebook(cells=[new_code_cell("show()", outputs=list(outputs), metadata={"tags": list(tags)})])


def said(old, new, **changed):
    return list(outputs.differences(notebook(*old, **changed), notebook(*new, **changed)))


def line(text):
    return new_output("stream", name="stdout", text=text)


def picture(*arguments):
    return new_output("display_data", data={"image/png": png(*arguments), "text/plain": "<Figure>"})


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ([line("AUROC: 98.25 %")], [line("AUROC: 71.25 %")], "98.25 is kept, and now it is 71.25"),
        ([line("AUROC: 98.25 %")], [line("auroc: 98.25 %")], "AUROC"),
        ([line("loss 0.3012")], [line("loss 0.7012")], "0.3012 is kept"),
        ([line("threshold 1.5e-05")], [line("threshold 1.5e-04")], "1.5e-05"),
        ([line("12 images")], [line("13 images")], "12 is kept"),
        ([line("a")], [], "stream stdout"),
        ([line("a")], [line("a"), picture("red")], "display_data image/png"),
        ([picture("red")], [picture("blue")], "differs from the kept one by"),
        ([picture("red")], [picture("red", (300, 260))], "a picture of (300, 200) pixels"),
    ],
)
def test_a_difference_is_named_with_its_cell(old, new, word):
    (found,) = said(old, new)
    assert "cell 0" in found and word in found


def test_rounding_is_no_difference():
    assert not said([line("loss 0.30120 of  12")], [line("loss 0.30911 of 12")])
    assert not said([line("AUROC 98.25")], [line("AUROC 97.00")])
    assert not said([picture((200, 10, 10))], [picture((203, 12, 10))])
    assert not said([line("path\n-----\na")], [line("path\n-------\na")])


def test_of_seconds_only_the_kinds_are_compared():
    assert not said([line("12.3 s on A"), picture("red")], [line("4.1 s on B"), picture("blue")], tags=["varies"])
    assert said([line("12.3 s")], [picture("red")], tags=["varies"])


def test_neither_progress_bars_nor_folders_of_the_run_are_kept(tmp_path):
    text = f"mnist: 100%|██| 3/3 [00:00<00:00, 13.92epoch/s]\n{tmp_path}/records/a.json, {ROOT}/data: 20 % | b\n"
    assert outputs._clean(text, tmp_path) == "results/records/a.json, data: 20 % | b\n"
    assert outputs._clean("maps:  38%|▋ | 3/8 [00:02<00:00,  3.01image/s]", tmp_path) == ""


def test_a_notebook_that_was_not_run_or_was_another_is_refused(tmp_path):
    (first, *_) = outputs.kept()
    with pytest.raises(outputs.InputError, match="has no executed 00_quickstart: ./run_all.sh smoke"):
        outputs.executed(first, tmp_path)
    folder = tmp_path / "executed" / "smoke"
    folder.mkdir(parents=True)
    nbformat.write(notebook(line("a")), folder / "00_quickstart-seed0.ipynb")
    with pytest.raises(outputs.InputError, match="was run from another 00_quickstart.ipynb: run it again"):
        outputs.executed(first, tmp_path)
