"""./run_all.sh publish: copy the outputs of executed full runs into notebooks/, to be read there without running.

This machine's folders and progress bars are left out. So are the outputs of cells tagged "unlicensed": pictures of data
sets without a stated licence.
"""

import re
from pathlib import Path

import nbformat
from execute import NOTEBOOKS, name_of
from nbformat import NotebookNode
from nbformat.v4 import new_output

from kdhelpers.errors import InputError
from kdhelpers.paths import RESULTS_DIR, ROOT

BAR = re.compile(r".*\d%\|.*\n?")  # a progress bar's last state
UNLICENSED = "not shown here: nobody states a licence for these pictures; run the notebook to see them\n"


def executed(notebook: Path, folder: Path) -> Path | None:
    """The executed run with the lowest seed (of several, the newest); None without any."""
    found = []
    for path in folder.glob("*.ipynb"):
        if match := re.fullmatch(rf"(?:\d+-)?{notebook.stem}(?:-seed(\d+))?", path.stem):
            found.append((int(match[1] or 0), -path.stat().st_mtime, path))
    return min(found)[-1] if found else None


def with_outputs(notebook: Path, run: Path) -> NotebookNode:
    """The notebook with the outputs of `run`; InputError when `run` was executed from other cells."""
    plain, ran = (nbformat.read(path, as_version=4) for path in (notebook, run))
    cells = [cell for cell in ran.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in plain.cells]:
        raise InputError(f"{run} was executed from another version of {notebook.name}: run it again")

    def clean(text: str) -> str:
        return BAR.sub("", text.replace(str(RESULTS_DIR.absolute()), "results").replace(f"{ROOT}/", ""))

    code = [pair for pair in zip(plain.cells, cells, strict=True) if pair[0].cell_type == "code"]
    for count, (cell, source) in enumerate(code, start=1):
        cell.execution_count = count
        for output in source.outputs:
            if "execution_count" in output:
                output.execution_count = count
            for texts in (output, output.get("data", {})):
                texts |= {kind: clean(value) for kind, value in texts.items() if kind.startswith("text")}
        cell.outputs = [output for output in source.outputs if output.get("text") != ""]
        if "unlicensed" in cell.metadata.get("tags", []):
            cell.outputs = [new_output("stream", name="stdout", text=UNLICENSED)]
    return plain


def main(words: list[str]) -> None:
    """Write the outputs of all notebooks, or those in `words`, into notebooks/; InputError without an executed run."""
    names, folder = [name_of(word) for word in words], RESULTS_DIR / "executed" / "full"
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        run = executed(notebook, folder) if not names or notebook.stem in names else None
        if run:
            nbformat.write(with_outputs(notebook, run), notebook)
            print(f"{notebook.relative_to(ROOT)}: from {run.name}, {notebook.stat().st_size / 1000:.0f} kB")
        elif notebook.stem in names:
            raise InputError(f"{folder} has no run of {notebook.stem}: ./run_all.sh full {notebook.stem}")
