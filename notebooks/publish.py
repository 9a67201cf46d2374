"""Copies the outputs of executed full runs into notebooks/, to be read there without being run.

`python notebooks/publish.py RESULTS_DIR [NOTEBOOK ...]`: without names, every notebook that has an executed full run;
of several, the one with the lowest seed. This machine's folders and progress bars are left out.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdhelpers.errors import InputError, in_one_line
from kdhelpers.paths import ROOT

BAR = re.compile(r".*\d%\|.*\n?")  # a progress bar's last state


def executed(notebook: Path, results: Path) -> Path | None:
    """The executed full run with the lowest seed, of several in a run list the last; None without any."""
    found = {}
    for path in (results / "executed" / "full").glob("*.ipynb"):
        match = re.fullmatch(rf"(?:\d+-)?{notebook.stem}(?:-seed(\d+))?", path.stem)
        if match:
            found.setdefault(int(match[1] or 0), []).append(path)
    return max(found[min(found)]) if found else None


def with_outputs(notebook: Path, run: Path, results: Path) -> NotebookNode:
    """The notebook with the outputs of `run`; InputError when that was executed from other cells."""
    plain, ran = (nbformat.read(path, as_version=4) for path in (notebook, run))
    cells = [cell for cell in ran.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in plain.cells]:
        raise InputError(f"{run} was executed from another version of {notebook.name}: run it again")
    count = 0
    for cell, source in zip(plain.cells, cells, strict=True):
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            outputs = [_cleaned(output, results, count) for output in source.outputs]
            cell.outputs = [output for output in outputs if output.get("text") != ""]
    return plain


def _cleaned(output: NotebookNode, results: Path, count: int) -> NotebookNode:
    def clean(text: str) -> str:
        return BAR.sub("", text.replace(str(results.absolute()), "results").replace(f"{ROOT}/", ""))

    if "execution_count" in output:
        output.execution_count = count
    if "text" in output:
        output.text = clean(output.text)
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = clean(content)
    return output


def publish(results: str, *names: str) -> None:
    """Write the outputs into notebooks/; a notebook that was asked for and has no executed run is an InputError."""
    folder = Path(results)
    for notebook in sorted(Path(__file__).parent.glob("*.ipynb")):
        run = executed(notebook, folder) if not names or notebook.stem in names else None
        if run:
            nbformat.write(with_outputs(notebook, run, folder), notebook)
            print(f"{notebook.relative_to(ROOT)}: from {run.name}, {notebook.stat().st_size / 1000:.0f} kB")
        elif notebook.stem in names:
            raise InputError(
                f"{folder / 'executed' / 'full'} has no run of {notebook.stem}: ./run_all.sh full {notebook.stem}"
            )


if __name__ == "__main__":
    in_one_line(publish, *sys.argv[1:])
