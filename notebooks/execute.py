"""Run one notebook: `python notebooks/execute.py NOTEBOOK OUT [NAME=VALUE ...]`, each value as YAML."""

import argparse
import ast
import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from traceback import format_exception

import nbformat
import papermill
import psutil
import yaml
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError

from kdhelpers.errors import DEBUG, InputError, did_you_mean
from kdhelpers.files import NO_ROOM, refusal
from kdhelpers.paths import ROOT

PATHS = ("DATA_DIR", "TEST_DIR", "RESULTS_DIR", "IGNORE", "SOURCE")  # 2024-01-31 is a folder's name, not a date
NOTEBOOKS = Path(__file__).parent
EVERY = 15  # seconds between two lines of progress


class ThisPython(AsyncKernelManager):
    """Start the kernel in the interpreter that runs this file, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=CRITICAL"]))


class Newest(io.TextIOBase):
    """A file whose newest line is printed every 15 seconds, until it is closed: a progress bar's state, or the output
    of a cell."""

    def __init__(self, title: str):
        self.title, self.line, self.out = title, "", sys.stdout
        threading.Thread(target=self.show, daemon=True).start()

    def write(self, text: str) -> int:
        lines = [line.strip() for line in re.split(r"[\r\n]+|\x1b\[[0-9;]*[A-Za-z]", text)]
        self.line = next((line for line in reversed(lines) if line), self.line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: there is no buffer, and whoever still has a closed file may use it."""

    def show(self) -> None:
        shown = ""
        while not self.closed:
            time.sleep(EVERY)
            if self.line != shown and not self.closed:
                print(f"{self.title} · {self.line}", file=self.out, flush=True)
                shown = self.line


def name_of(word: str) -> str:
    """The name of a notebook in notebooks/ from a number, a name or a path; InputError when there is none."""
    if "=" in word:
        raise InputError(f"put --config before {word}: ./run_all.sh full NOTEBOOK --config {word}")
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        if Path(word).name.removesuffix(".ipynb") in (name, name.partition("_")[0]):
            return name
    known = "commands are smoke, full, test, report, publish, release, verify, site and gpu-check"
    raise InputError(f"there is no command or notebook {word}; {known}, notebooks {' '.join(names)}")


def parameters_of(notebook: Path, given: Iterable[str] = ()) -> dict:
    """The parameters of a notebook with their defaults; InputError without it, and when it lacks one of those given."""
    if not notebook.is_file():
        present = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb"))) or "none"
        raise InputError(f"there is no notebook {notebook}; its folder has {present}")
    found = papermill.inspect_notebook(str(notebook))
    for name in given:
        if name not in found:
            has = f"has {', '.join(sorted(found))}" if found else "has no parameters"
            raise InputError(f"unknown parameter {name}{did_you_mean(name, found)}: {notebook.stem} {has}")
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def values_of(words: list[str]) -> dict:
    """Parse words NAME=VALUE, each value as YAML unless it is a path, to {name: value}; InputError for other words."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            is_path = name in PATHS and value not in ("", "null") and value[0] not in "\"'"
            try:
                found[name] = value if is_path else json.loads(value)  # YAML takes 1e-05, a number in JSON, for text
            except ValueError:
                found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise InputError(f"{word!r} is not NAME=VALUE, with a value such as 3, text, [a, b] or {{a: b}}")
    return found


def execute(notebook: Path, out: Path, parameters: dict) -> None:
    """Run a notebook in the repository's root, write the executed notebook to `out`, and print its results.

    `out` is written only after success; a notebook that failed is stored beside it as *.failed.ipynb. Raises InputError
    for an unknown parameter, PapermillExecutionError for an exception in a cell, RuntimeError when the kernel dies.
    """
    parameters_of(notebook, given=parameters)
    out = out.absolute()  # papermill changes the working directory while it runs
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.ipynb")
    failed_path(out).unlink(missing_ok=True)
    try:
        with Newest(title_of(notebook, parameters)) as newest:
            papermill.execute_notebook(
                notebook.absolute(),
                partial,
                parameters,
                cwd=ROOT,
                kernel_name="python3",
                language="python",
                kernel_manager_class=ThisPython,
                start_timeout=600,  # seconds; several kernels may start from a slow disk
                progress_bar=False,
                coalesce_streams=True,  # the notebook stores only the last state of a progress bar
                stdout_file=newest,
                stderr_file=newest,
            )
    except (PapermillExecutionError, RuntimeError):  # a kernel that dies, or does not start
        if partial.exists():
            partial.replace(failed_path(out))
        raise
    print(printed_output(partial), end="", flush=True)
    partial.replace(out)


def printed_output(executed: Path) -> str:
    """The printed output of the cells tagged "told", and warnings: the results for a person at a terminal."""
    lines = []
    for cell in nbformat.read(executed, as_version=4).cells:
        for output in cell.get("outputs", []):
            told = "told" in cell.metadata.get("tags", []) and output.get("name") == "stdout"
            lines += [line for line in output.get("text", "").splitlines() if told or line.startswith("warning: ")]
    return "".join(line + "\n" for line in lines)


def failed_path(out: Path) -> Path:
    return out.with_suffix(".failed.ipynb")


def title_of(notebook: Path, parameters: dict) -> str:
    return notebook.stem + (f" seed {parameters['SEED']}" if "SEED" in parameters else "")


def duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def end_with(process: int) -> None:
    """End this process, and with it its kernel, once the process with id `process` has ended, even if killed."""
    while psutil.pid_exists(process):
        time.sleep(0.5)
    os._exit(130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--while-alive", type=int, metavar="PID", help="end once this process has ended")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    if arguments.debug:
        os.environ[DEBUG] = "1"  # for the kernel too
    if arguments.while_alive:
        threading.Thread(target=end_with, args=(arguments.while_alive,), daemon=True).start()
    logging.disable(logging.ERROR)  # an error is printed below, in one line
    notebook, out, where = arguments.notebook, arguments.out, None
    try:
        parameters = values_of(arguments.parameters)
        try:
            execute(notebook, out, parameters)
        except RuntimeError:  # its records and its checkpoint are not lost
            print(f"{title_of(notebook, parameters)} · its kernel died; trying once more", flush=True)
            execute(notebook, out, parameters)
        return 0
    except (InputError, OSError) as error:
        unwritable = isinstance(error, OSError) and (error.filename or error.errno in NO_ROOM)
        message = str(refusal(error.filename or out, error) if unwritable else error)
        traceback = format_exception(error)
    except PapermillExecutionError as error:
        ours = error.ename == InputError.__name__
        message = " ".join(f"{'' if ours else f'{error.ename}: '}{error.evalue}".split())
        where, traceback = None if ours else failed_path(out), error.traceback
    except RuntimeError:
        message = "the notebook's kernel died twice, perhaps out of memory: a smaller BATCH_SIZE needs less"
        where, traceback = failed_path(out), []
    if os.environ.get(DEBUG):
        print("\n".join(traceback), file=sys.stderr)
    print(f"error: {message}", file=sys.stderr)
    if where:
        print(f"the notebook with the traceback: {where}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
