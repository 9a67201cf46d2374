"""Runs one notebook: `python notebooks/execute.py NOTEBOOK OUT [NAME=VALUE ...]`, each value as YAML."""

import argparse
import ast
import difflib
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from traceback import format_exception

import gpus
import nbformat
import papermill
import psutil
import yaml
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kdhelpers.errors import DEBUG, InputError
from kdhelpers.files import NO_ROOM, refusal
from kdhelpers.paths import ROOT

EVERY = 15  # seconds between two lines of progress
TOLD = "told"  # the tag of a cell
TRIES = 2  # of a notebook whose kernel dies: what it had recorded, and its checkpoint, are not lost


class ThisPython(AsyncKernelManager):
    """Starts the kernel in the interpreter that runs this file, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=CRITICAL"]))


class Newest:
    """A file that keeps the newest line written to it: a progress bar's state, or what a cell printed last."""

    line = shown = ""

    def __init__(self):
        self.out = sys.stdout  # where it is shown, also while this file stands in for it

    def write(self, text: str) -> None:
        lines = [line.strip() for line in re.split(r"[\r\n]+|\x1b\[[0-9;]*[A-Za-z]", text)]
        self.line = next((line for line in reversed(lines) if line), self.line)

    def flush(self) -> None:
        """Nothing is held back."""

    def show(self, title: str) -> None:
        if self.line != self.shown:
            print(f"{title} · {self.line}", file=self.out, flush=True)
            self.shown = self.line


def parameters_of(notebook: Path) -> dict:
    """The parameters of a notebook and their defaults, as its parameters cell has them.

    Raises InputError when there is no such notebook, or none that can be read.
    """
    if not notebook.is_file():
        there = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb"))) or "none"
        raise InputError(f"there is no notebook {notebook}; its folder has {there}")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except OSError as error:
        raise InputError(f"{notebook} cannot be read ({error.strerror or error})") from None
    source = "\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assignments = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in assignments}


def check_names(notebook: Path, parameters: dict) -> None:
    """Raises InputError for a parameter that the notebook does not have."""
    known = sorted(parameters_of(notebook))
    for name in parameters:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            has = f"has {', '.join(known)}" if known else "has no parameters"
            raise InputError(f"unknown parameter {name}{hint}: {notebook.stem} {has}")


def prepare(notebook: Path, out: Path, parameters: dict) -> None:
    """Writes a copy of `notebook` with these parameters, not executed. Raises InputError for an unknown parameter."""
    check_names(notebook, parameters)
    out.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(notebook, out, parameters, prepare_only=True, language="python", kernel_name="python3")


def execute(notebook: Path, out: Path, parameters: dict) -> None:
    """Runs `notebook` with these parameters from the repository's root, and leaves it, executed, at `out`.

    While it runs, the newest line of its output is printed every 15 seconds. `out` appears only after success; after
    a failure the notebook is kept beside it as *.failed.ipynb. Raises InputError for an unknown parameter,
    PapermillExecutionError for an exception in a cell and DeadKernelError when the kernel dies.
    """
    check_names(notebook, parameters)
    notebook, out = notebook.absolute(), out.absolute()  # papermill changes the working directory while it runs
    out.parent.mkdir(parents=True, exist_ok=True)
    failed, partial = failed_path(out), out.with_suffix(".partial.ipynb")
    failed.unlink(missing_ok=True)
    newest, failures = Newest(), []

    def run() -> None:
        try:
            papermill.execute_notebook(
                notebook,
                partial,
                parameters,
                cwd=ROOT,
                kernel_name="python3",
                language="python",
                kernel_manager_class=ThisPython,
                progress_bar=False,
                coalesce_streams=True,  # a progress bar leaves its last state in the notebook, not all of them
                stdout_file=newest,
                stderr_file=newest,
            )
        except BaseException as error:  # handed to the thread that waits, whatever it is
            failures.append(error)

    # In a thread, because in the main one nbclient takes Ctrl-C for itself and reports it as a dead kernel.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(EVERY)
            newest.show(title_of(notebook, parameters))
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    if failures:
        if partial.is_file():
            partial.replace(failed)
        raise failures[0]
    partial.replace(out)
    print(printed_output(out), end="", flush=True)


def printed_output(executed: Path) -> str:
    """What the cells tagged "told" have printed, and warnings: results that a person at a terminal waits for."""
    lines = []
    for cell in nbformat.read(executed, as_version=4).cells:
        for output in cell.get("outputs", []):
            told = TOLD in cell.metadata.get("tags", []) and output.get("name") == "stdout"
            for line in output.get("text", "").splitlines():
                lines += [line + "\n"] if told or "UserWarning: " in line else []
    return "".join(lines)


def execute_again(notebook: Path, out: Path, parameters: dict) -> None:
    """`execute`, once more when the kernel dies."""
    for left in reversed(range(TRIES)):
        try:
            return execute(notebook, out, parameters)
        except DeadKernelError:
            if not left:
                raise
            print(f"{title_of(notebook, parameters)} · its kernel died; once more", flush=True)


def title_of(notebook: Path, parameters: dict) -> str:
    return notebook.stem + (f" seed {parameters['SEED']}" if "SEED" in parameters else "")


def end_with(process: int) -> None:
    """Ends this process, and so its kernel, when that one has ended, even if it was killed."""
    while psutil.pid_exists(process):
        time.sleep(0.5)
    os._exit(130)


def _said(error: InputError | OSError, out: Path) -> str:
    if isinstance(error, OSError) and (error.filename or error.errno in NO_ROOM):
        return str(refusal(error.filename or out, error))
    return str(error)


def failed_path(out: Path) -> Path:
    return out.with_suffix(".failed.ipynb")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--prepare-only", action="store_true", help="write the notebook with these parameters, no more")
    parser.add_argument("--places", type=Path, metavar="FOLDER", help="take a place on one of the GPUs, kept in FOLDER")
    parser.add_argument("--gpus", type=int, default=0, help="how many GPUs there are to take a place on")
    parser.add_argument("--jobs-per-gpu", type=int, default=1, help="how many places each of them has")
    parser.add_argument("--while-alive", type=int, metavar="PID", help="end when this process has ended")
    parser.add_argument("--debug", action="store_true", help="show the traceback of what went wrong")
    arguments = parser.parse_args()
    if arguments.debug:
        os.environ[DEBUG] = "1"  # for the kernel too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.while_alive:
        threading.Thread(target=end_with, args=(arguments.while_alive,), daemon=True).start()
    logging.disable(logging.ERROR)  # what goes wrong is said below, in one line
    try:
        parameters = {}
        for pair in arguments.parameters:
            name, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"{pair!r} is not NAME=VALUE")
            parameters[name] = yaml.safe_load(value)
        if arguments.prepare_only:
            prepare(arguments.notebook, arguments.out, parameters)
        elif arguments.gpus:
            with gpus.place(arguments.places, arguments.gpus, arguments.jobs_per_gpu) as gpu:
                print(f"{arguments.out.stem} · on GPU {gpu} of {arguments.gpus}", flush=True)
                os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)  # the kernel inherits it
                execute_again(arguments.notebook, arguments.out, parameters)
        else:
            execute_again(arguments.notebook, arguments.out, parameters)
        return 0
    except (InputError, OSError) as error:
        message, where, traceback = _said(error, arguments.out), None, format_exception(error)
    except PapermillExecutionError as error:
        said = " ".join(error.evalue.split())
        message = said if error.ename == InputError.__name__ else f"{error.ename}: {said}"
        where = None if error.ename == InputError.__name__ else failed_path(arguments.out)
        traceback = error.traceback
    except DeadKernelError:
        message = (
            f"the notebook's kernel died {TRIES} times, perhaps for want of memory: a smaller BATCH_SIZE needs less"
        )
        where, traceback = failed_path(arguments.out), []
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the kernel notices that its parent is gone and ends within a second
    if os.environ.get(DEBUG) and traceback:
        print("\n".join(traceback), file=sys.stderr)
    print(f"error: {message}", file=sys.stderr)
    if where:
        print(f"the notebook with the traceback: {where}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
