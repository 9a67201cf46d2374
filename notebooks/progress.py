"""How far the jobs are: what is said while Snakemake runs them, and when it is stopped."""

import logging
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import IO

from plan import Job
from snakemake_interface_logger_plugins.common import LogEvent


class Progress(logging.Handler):
    """Hears from Snakemake how each job ended, and says in a line how many are done and how long the others will take.

    The estimate weighs the jobs by their work; `failed` has those that failed.
    """

    def __init__(self, jobs: list[Job]):
        super().__init__()
        self.work = {job.name: job.work for job in jobs if job.pending}
        self.names: dict[int, str] = {}  # by Snakemake's number of a job
        self.done: list[str] = []
        self.failed: dict[str, str] = {}  # what a cluster's scheduler says of it, and where: nothing on one machine
        self.errors: list[str] = []  # what Snakemake itself says
        self.explained = False  # a job that comes before these has failed, and said why
        self.stopped = False  # by Ctrl-C
        self.held: IO | None = None  # the lock of the results folder
        self.start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            output = record.output[0].partition(" (")[0] if record.output else ""  # without "(send to storage)"
            self.names[record.jobid] = Path(output).name
        elif event == LogEvent.JOB_ERROR and self.names.get(record.jobid, "").startswith(("source", "data-")):
            self.explained = True  # by itself
        elif event == LogEvent.JOB_ERROR and self.names.get(record.jobid) in self.work:
            log = Path(record.log[0])  # not there when a cluster ended the job before it began
            if log.is_file() and log.read_text().endswith("stopped\n"):  # Ctrl-C is no failure
                self.stopped = True
            else:
                said = (record.rule_msg or "").partition("For further error")[0].partition("\n")[0].strip()
                self.failed[self.names[record.jobid]] = "; ".join([said, *record.log[1:]]) if said else ""
        elif event == LogEvent.JOB_FINISHED and self.names.get(record.job_id) in self.work:
            self.done.append(self.names[record.job_id])
            print(self.line(), flush=True)
        elif record.levelno >= logging.ERROR:  # of Snakemake itself, if no job has failed
            self.errors.append(f"error: {record.getMessage()}")

    def say_errors(self) -> None:
        """Prints what Snakemake itself said, unless it said so because a job had failed or was stopped."""
        if not (self.failed or self.stopped or self.explained):
            print(*self.errors, sep="\n", end="\n" * bool(self.errors), file=sys.stderr, flush=True)

    def line(self) -> str:
        elapsed = time.monotonic() - self.start
        done = sum(self.work[name] for name in self.done)
        left = sum(self.work.values()) - done - sum(self.work[name] for name in self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return (
            f"{self.done[-1]} done: {len(self.done)} of {len(self.work)}{failed} in {_duration(elapsed)}, "
            f"about {_duration(elapsed * left / done)} left"
        )


def kept(results: Path, progress: Progress) -> str:
    """What a person should know after Ctrl-C."""
    checkpoints = len(list(results.glob("checkpoints/**/*.pt")))
    trainings = f", {checkpoints} training{'s' * (checkpoints != 1)} half-way in checkpoints" if checkpoints else ""
    return (
        f"stopped: {len(progress.done)} of {len(progress.work)} runs done, every finished class is recorded in "
        f"{results / 'records'}{trainings}; rerun the same command to resume"
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
