"""Keeps a run's outputs in the notebooks, so that they can be read without being run; and says where kept ones differ.

`python notebooks/outputs.py keep RESULTS_DIR [NOTEBOOK ...]` copies the outputs of a finished `./run_all.sh smoke` with
this RESULTS_DIR into notebooks/, without what changes from run to run; `differ` compares them with those kept there.
"""

import base64
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import yaml
from nbformat import NotebookNode
from PIL import Image

from kdhelpers.errors import InputError
from kdhelpers.paths import ROOT

NOTEBOOKS = Path(__file__).parent
VARIES = "varies"  # the tag of a cell whose numbers and pictures are of seconds or of this machine
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
BAR = re.compile(r".*\d%\|.*\n?")  # of progress: on a slower machine there are more of them
# How far a number, and a picture's colours, may be from the kept ones: another processor rounds otherwise, and a
# hundred steps of Adam make more of it. A whole number must be the same.
NEAR = 0.5
NEAR_PER_CENT = 8.0  # for what is printed with one or two decimals, as AUROC is
NEAR_COLOUR = 12.0  # of 255, on average over a picture


def kept() -> list[Path]:
    """The notebooks that are kept with outputs: those of a smoke run, all but what needs optional packages."""
    config = yaml.safe_load((NOTEBOOKS / "config.yaml").read_text())
    return [NOTEBOOKS / f"{name}.ipynb" for name in config["notebooks"]["smoke"]]


def executed(notebook: Path, results: Path) -> NotebookNode:
    """The notebook as the run with this RESULTS_DIR left it, its outputs normalised: cells as in `notebook`.

    Raises InputError when it was not run, or has other cells.
    """
    folders = [results / "executed" / profile for profile in ("full", "smoke")]
    names = (notebook.name, f"{notebook.stem}-seed0.ipynb")
    found = [path for folder in folders for name in names if (path := folder / name).is_file()]
    if not found:
        raise InputError(
            f"{results} has no executed {notebook.stem}: ./run_all.sh smoke --config RESULTS_DIR={results}"
        )
    run, plain = nbformat.read(found[0], as_version=4), nbformat.read(notebook, as_version=4)
    cells = [cell for cell in run.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in plain.cells]:
        raise InputError(f"{found[0]} was run from another {notebook.name}: run it again")
    count = 0
    for cell, ran in zip(plain.cells, cells, strict=True):
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            outputs = [_normalised(output, results, count) for output in ran.outputs]
            cell.outputs = [output for output in outputs if output.get("text") != ""]
    return plain


def _normalised(output: NotebookNode, results: Path, count: int) -> NotebookNode:
    if "execution_count" in output:
        output.execution_count = count
    if "text" in output:
        output.text = _clean(output.text, results)
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = _clean(content, results)
    return output


def _clean(text: str, results: Path) -> str:
    """Without this run's folders and progress bars."""
    return BAR.sub("", text.replace(str(results.absolute()), "results").replace(f"{ROOT}/", ""))


def differences(old: NotebookNode, new: NotebookNode) -> Iterator[str]:
    """In words, where the outputs of two runs of one notebook differ by more than rounding may make them."""
    for index, (before, after) in enumerate(zip(old.cells, new.cells, strict=True)):
        if before.cell_type != "code":
            continue
        where, varies = f"cell {index}", VARIES in before.metadata.get("tags", [])
        kinds = [[_kind(output) for output in cell.outputs] for cell in (before, after)]
        if kinds[0] != kinds[1]:
            yield f"{where}: outputs {kinds[0]} are kept, and now there are {kinds[1]}"
            continue
        for one, two in zip(before.outputs, after.outputs, strict=True):
            for kind, content in _contents(one).items():
                compare = _colours if kind == "image/png" else _texts
                for said in compare(content, _contents(two)[kind], varies):
                    yield f"{where}, {kind}: {said}"


def _kind(output: NotebookNode) -> str:
    return " ".join([output.output_type, *([output.name] if "name" in output else sorted(output.get("data", {})))])


def _contents(output: NotebookNode) -> dict[str, str]:
    return {output.name: output.text} if "text" in output else dict(output.get("data", {}))


def _texts(old: str, new: str, varies: bool) -> Iterator[str]:
    # Tables are padded and underlined for their numbers, and for paths that are shorter by now.
    words = ["".join(re.sub("-{3,}", "---", NUMBER.sub("0", text)).split()) for text in (old, new)]
    if varies:  # how many digits and lines there are differs with the machine
        return
    if words[0] != words[1]:
        at = next((i for i, (a, b) in enumerate(zip(*words, strict=False)) if a != b), min(map(len, words)))
        yield f"…{words[0][max(0, at - 30) : at + 30]}… is kept, and now it is …{words[1][max(0, at - 30) : at + 30]}…"
        return
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        if not _near(a.replace("−", "-"), b.replace("−", "-")):
            yield f"{a} is kept, and now it is {b}"


def _near(old: str, new: str) -> bool:
    if "." not in old + new and "e" not in old + new:
        return old == new
    per_cent = re.fullmatch(r"[-+]?\d+\.\d\d?", old)
    return abs(float(old) - float(new)) <= (NEAR_PER_CENT if per_cent else NEAR * max(abs(float(old)), abs(float(new))))


def _colours(old: str, new: str, varies: bool) -> Iterator[str]:
    if varies:
        return
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in (old, new)]
    if max(abs(a - b) for a, b in zip(pictures[0].size, pictures[1].size, strict=True)) > 4:
        yield f"a picture of {pictures[0].size} pixels is kept, and now it is of {pictures[1].size}"
        return
    small = [np.asarray(one.resize((128, 128), Image.Resampling.BOX), float) for one in pictures]
    if (apart := np.abs(small[0] - small[1]).mean()) > NEAR_COLOUR:
        yield f"the picture differs from the kept one by {apart:.1f} of 255 on average"


def main(arguments: list[str]) -> int:
    try:
        if len(arguments) < 2 or arguments[0] not in ("keep", "differ"):
            raise InputError("outputs.py keep|differ RESULTS_DIR [NOTEBOOK ...]")
        results, apart = Path(arguments[1]), 0
        wanted = [notebook for notebook in kept() if not arguments[2:] or notebook.stem in arguments[2:]]
        news = {notebook: executed(notebook, results) for notebook in wanted}
        for notebook, new in news.items():
            if arguments[0] == "keep":
                nbformat.write(new, notebook)
                print(f"{notebook.relative_to(ROOT)}: {notebook.stat().st_size / 1000:.0f} kB")
                continue
            for said in differences(nbformat.read(notebook, as_version=4), new):
                apart += 1
                print(f"{notebook.stem}, {said}")
        return min(apart, 1)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
