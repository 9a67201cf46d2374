"""What the Snakefile has to run: which notebooks, with which seeds and parameters, and how far that is."""

import logging
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import execute
import pandas as pd
from snakemake_interface_logger_plugins.common import LogEvent

from kdhelpers import data, parameters, paths
from kdhelpers.errors import InputError
from kdhelpers.protocols import SETTINGS

NOTEBOOKS = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """One run of a notebook."""

    notebook: str
    seed: int
    changed: dict  # the parameters that differ from the notebook's defaults
    records: int
    pending: int
    work: float  # its cost, relative to other jobs

    @property
    def name(self) -> str:
        return f"{self.notebook}-seed{self.seed}"


def make(config: dict) -> tuple[list[Job], list[str]]:
    """The jobs, those with nothing left to do too, and a line about each data set that is left out, wholly or in part.

    config: as in config.yaml; `only` names the notebooks a person asked for. Raises InputError, also when a notebook
    was asked for whose data set is missing.
    """
    profile = config["profile"]
    if profile not in config["notebooks"]:
        raise InputError(f"profile {profile!r} is unknown; it is one of {', '.join(config['notebooks'])}")
    given = {name: value for name, value in config.items() if name.isupper()} | {"PROFILE": profile}
    seeds = config["seeds"][profile] if isinstance(config["seeds"], dict) else config["seeds"]
    seeds = [given["SEED"]] if "SEED" in given else range(seeds)
    jobs, notes = [], []
    for notebook in config.get("only") or config["notebooks"][profile]:
        path = NOTEBOOKS / f"{notebook}.ipynb"
        defaults = execute.parameters_of(path)
        execute.check_names(path, given)
        there, note = _classes(notebook, defaults | given)
        notes += [note] if note else []
        if there == [] and "only" in config:
            raise InputError(note)
        if there == []:
            continue
        for seed in seeds:
            changed = given | {"SEED": seed} | ({"CLASSES": there} if there else {})
            run = parameters.resolve(notebook, **(defaults | changed))
            pending = len(run.pending())
            jobs.append(Job(notebook, seed, changed, len(run.classes) * len(run.arms), pending, run.work))
    return jobs, notes


def _classes(notebook: str, parameters: dict) -> tuple[list[str] | None, str]:
    """The classes whose data are there and a line about the others; None when there is nothing to choose."""
    dataset = notebook.split("_", 1)[1]
    if parameters["PROFILE"] == "smoke" or dataset not in SETTINGS or parameters.get("CLASSES") is not None:
        return None, ""
    status = data.status(dataset, parameters["DATA_DIR"] or paths.DATA_DIR)
    missing = {cls: line for cls, line in status.items() if line not in ("", "download")}
    if not missing:
        return None, ""
    there = [cls for cls in status if cls not in missing]
    what = f"{len(missing)} of its {len(status)} classes" if there else "no data"
    return there, f"{notebook}: left out ({what}): {next(iter(missing.values()))}"


def table(jobs: list[Job], notes: list[str]) -> str:
    """What is to be done, a row for each notebook, and what is left out."""
    if not jobs:
        return "\n".join(notes)
    frame = pd.DataFrame([vars(job) for job in jobs])
    frame["runs"] = frame.pending > 0
    rows = frame.groupby("notebook").agg(
        records=("records", "sum"), missing=("pending", "sum"), runs=("runs", "sum"), work=("work", "sum")
    )
    share = 100 * rows.pop("work") / max(frame.work.sum(), 1e-9)
    rows["share of the time"] = share.map("{:.0f} %".format)
    return "\n".join([rows.reset_index().to_string(index=False), *notes])


class Progress(logging.Handler):
    """Hears from Snakemake how each job ended, and says in a line how many are done and how long the others will take.

    The estimate weighs the jobs by their work; `failed` holds the names of those that failed.
    """

    def __init__(self, jobs: list[Job]):
        super().__init__()
        self.work = {job.name: job.work for job in jobs if job.pending}
        self.names: dict[int, str] = {}  # by Snakemake's number of a job
        self.done: list[str] = []
        self.failed: list[str] = []
        self.start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self.names[record.jobid] = Path(record.output[0]).name if record.output else ""
        elif event == LogEvent.JOB_ERROR and self.names.get(record.jobid) in self.work:
            self.failed.append(self.names[record.jobid])
        elif event == LogEvent.JOB_FINISHED and self.names.get(record.job_id) in self.work:
            self.done.append(self.names[record.job_id])
            print(self.line(), flush=True)
        elif record.levelno >= logging.ERROR and not self.failed:  # not of a job: of Snakemake itself
            print(f"error: {record.getMessage()}", file=sys.stderr, flush=True)

    def line(self) -> str:
        elapsed = time.monotonic() - self.start
        done = sum(self.work[name] for name in self.done)
        left = sum(self.work.values()) - done - sum(self.work[name] for name in self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return (
            f"{self.done[-1]} done: {len(self.done)} of {len(self.work)}{failed} in {_duration(elapsed)}, "
            f"about {_duration(elapsed * left / done)} left"
        )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
