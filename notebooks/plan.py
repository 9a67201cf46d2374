"""What the Snakefile has to run: which notebooks, with which seeds and parameters, and how far that is."""

import difflib
import logging
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import execute
import pandas as pd
from snakemake_interface_logger_plugins.common import LogEvent

from kdhelpers import data, networks, parameters, paths
from kdhelpers.errors import InputError
from kdhelpers.parameters import dataset_of

NOTEBOOKS = Path(__file__).parent
SETTINGS_HERE = {"profile", "notebooks", "seeds", "only", "run"}  # what is in config.yaml, and what run_all.sh adds
DOWNLOAD = "comes by itself"


@dataclass(frozen=True)
class Job:
    """One run of a notebook."""

    notebook: str
    seed: int
    changed: dict  # the parameters that differ from the notebook's defaults
    records: int
    pending: int  # records that are missing
    work: float  # what they cost, relative to other jobs
    dataset: str
    source: str
    download: bool  # its data set has to be downloaded first

    @property
    def name(self) -> str:
        return f"{self.notebook}-seed{self.seed}"


def make(config: dict) -> tuple[list[Job], str]:
    """The jobs, those with nothing left to do too, and a table of them for people, with what is left out and why.

    config: as in config.yaml; `only` names the notebooks a person asked for. Raises InputError, also when a notebook
    was asked for whose data set is missing.
    """
    profile = config["profile"]
    for name in config.keys() - SETTINGS_HERE:
        if not name.isupper():
            close = difflib.get_close_matches(name.lower(), SETTINGS_HERE, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise InputError(
                f"unknown setting {name}{hint}; see notebooks/config.yaml; notebooks' parameters are capitals"
            )
    if profile not in config["notebooks"]:
        raise InputError(f"profile {profile!r} is unknown; it is one of {', '.join(config['notebooks'])}")
    given = {name: value for name, value in config.items() if name.isupper()} | {"PROFILE": profile}
    jobs, rows, notes = [], [], []
    for notebook in config.get("only") or config["notebooks"][profile]:
        path = NOTEBOOKS / f"{notebook}.ipynb"
        defaults = execute.parameters_of(path)
        execute.check_names(path, given)
        there, state, help_ = _data(notebook, defaults | given)
        if help_ and not there and "only" in config:
            raise InputError(f"{notebook} has no data: {help_}")
        changed = given | ({"CLASSES": there} if there else {})
        mine = (
            _jobs(notebook, defaults, changed, _seeds(notebook, config), state == DOWNLOAD)
            if there or not help_
            else []
        )
        jobs += mine
        notes += [f"{notebook}, {state}: {help_}"] if help_ else []
        rows.append({"notebook": notebook, "data": state} | _sums(mine))
    if given.get("SOURCE") == "imagenet" and profile == "full" and not networks.imagenet_path().is_file():
        notes.append(f"source imagenet: VGG-16's weights come by themselves (528 MB) to {networks.imagenet_path()}")
    table = pd.DataFrame(rows)
    table["share of the work"] = (100 * table["share of the work"] / max(table["share of the work"].sum(), 1)).round()
    return jobs, "\n".join([table.to_string(index=False, float_format="{:.0f} %".format), *notes])


def _seeds(notebook: str, config: dict) -> Iterable[int]:
    if "SEED" in config:
        return [config["SEED"]]
    count = config["seeds"]
    if isinstance(count, dict):
        count = count.get(notebook, count[config["profile"]])
    if not isinstance(count, int) or count < 1:
        raise InputError(f"seeds is {count!r}; it is how many seeds to run, a whole number of at least 1")
    return range(count)


def _data(notebook: str, values: dict) -> tuple[list[str] | None, str, str]:
    """The classes to run (None: the notebook's own choice), what the table says, and how to get what is missing."""
    dataset = dataset_of(notebook)
    if values["PROFILE"] == "smoke" and values["DATA_DIR"] is None:
        return None, "generated", ""
    if dataset == "folder":
        return None, "as given", ""
    status = data.status(dataset, values["DATA_DIR"] or paths.DATA_DIR)
    if values.get("CLASSES") is not None:  # whether these are there, resolving will see
        return None, DOWNLOAD if "download" in status.values() else "as given", ""
    missing = {cls: line for cls, line in status.items() if line not in ("", "download")}
    there = [cls for cls in status if cls not in missing]
    if missing:
        return there, f"{len(there)} of {len(status)} classes" if there else "missing", _help(missing.values())
    return None, DOWNLOAD if "download" in status.values() else "there", ""


def _help(lines: Iterable[str]) -> str:
    """The lines, once for each advice: fifteen categories of one data set are got in one way."""
    return "; or ".join({line.rpartition("; ")[2]: line for line in reversed(list(lines))}.values())


def _jobs(notebook: str, defaults: dict, changed: dict, seeds: Iterable[int], download: bool) -> list[Job]:
    run = parameters.resolve(notebook, **(defaults | {"SEED": 0} | changed))
    jobs = []
    for seed in seeds:
        run = replace(run, seed=seed)  # resolving lists the images, which takes seconds for tens of thousands of them
        records = len(run.classes) * len(run.arms)
        pending = len(run.pending())
        changed = changed | {"SEED": seed}
        jobs.append(Job(notebook, seed, changed, records, pending, run.work, run.dataset, run.source, download))
    return jobs


def _sums(jobs: list[Job]) -> dict:
    records, pending = sum(job.records for job in jobs), sum(job.pending for job in jobs)
    return {
        "recorded": f"{records - pending} of {records}" if records else "–",
        "runs to do": sum(job.pending > 0 for job in jobs),
        "share of the work": sum(job.work for job in jobs),
    }


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
        self.stopped = False
        self.start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self.names[record.jobid] = Path(record.output[0]).name if record.output else ""
        elif event == LogEvent.JOB_ERROR and self.names.get(record.jobid, "").startswith(("source", "data-")):
            self.stopped = True  # it has said why itself
        elif event == LogEvent.JOB_ERROR and self.names.get(record.jobid) in self.work:
            if Path(record.log[0]).read_text().endswith("stopped\n"):  # Ctrl-C is no failure
                self.stopped = True
            else:
                self.failed.append(self.names[record.jobid])
        elif event == LogEvent.JOB_FINISHED and self.names.get(record.job_id) in self.work:
            self.done.append(self.names[record.job_id])
            print(self.line(), flush=True)
        elif record.levelno >= logging.ERROR and getattr(record, "exception", "") != "RuleException":
            if not self.failed and not self.stopped:  # of Snakemake itself, not of a job
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
