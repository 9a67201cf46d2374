"""Run planned jobs: fetch their weights and data, hand them to Snakemake, and print the progress."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import torch
from execute import duration
from plan import MEASUREMENT, TABLES, Job
from platformdirs import user_cache_dir

from kdhelpers import paths
from kdhelpers.data import downloads, weights
from kdhelpers.errors import InputError
from kdhelpers.files import refusal
from kdhelpers.reporting.published import NAMES

MOST = 4  # jobs per GPU, however small: they take turns on it, and each needs a process of its own
NO_NETWORK = ("Name or service not known", "name resolution", "nodename nor servname", "Network is unreachable")


def fetch(jobs: list[Job]) -> tuple[list[Job], int]:
    """Download the source and the data sets of the jobs on the machine of this command: a cluster's nodes may have no
    network. Prints an error for each data set that fails. Returns the jobs that can run, and 1 if any data set failed.
    Raises InputError when the source fails."""
    failed = set()
    for name in {job.source for job in jobs if job.source}:
        with _short("VGG-16's ImageNet weights"):
            weights.load_source(name)
    wanted = dict.fromkeys((name, job.parameters.get("DATA_DIR")) for job in jobs for name in job.downloads)
    for dataset, data_dir in wanted:
        try:
            with _short(NAMES[dataset]):
                downloads.fetch(dataset, Path(data_dir or paths.DATA_DIR).expanduser())
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.add(dataset)
    return [job for job in jobs if failed.isdisjoint(job.downloads)], int(bool(failed))


@contextmanager
def _short(what: str) -> Iterator[None]:
    """Shorten the error of a missing network: several downloads fail together, and data/README.md lists them all."""
    try:
        yield
    except InputError as error:
        if any(words in str(error) for words in NO_NETWORK):
            raise InputError(f"no network, {what} cannot be downloaded; by hand: see data/README.md") from None
        raise


def for_snakemake(jobs: list[Job], results: Path, profile: str, settings: dict, cores: int, cluster: bool) -> dict:
    """The jobs for the Snakefile, as JSON stores them.

    Threads: one in smoke, all cores for notebooks that measure time, else `threads`; "auto" is all cores on a cluster,
    here an equal share of them for each job that the GPUs have room for. On this machine, jobs are distributed over its
    GPUs and share its free memory; on a cluster, the scheduler gives each job a GPU. A GPU has `jobs_per_gpu` places;
    with "auto", one place per megabyte of free memory, for up to MOST jobs.
    """
    gpus = torch.cuda.device_count() if settings["gpus"] == "auto" else settings["gpus"]
    visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).replace(" ", "").split(",")
    memory = psutil.virtual_memory().available >> 20
    auto = settings["jobs_per_gpu"] == "auto" and not cluster
    jobs_per_gpu = MOST if settings["jobs_per_gpu"] == "auto" else settings["jobs_per_gpu"]
    room = [torch.cuda.mem_get_info(gpu)[0] // 2**20 if auto else jobs_per_gpu for gpu in range(gpus)]
    share = settings["threads"]
    if share == "auto":
        share = 0 if cluster else -(-cores // max(1, gpus * jobs_per_gpu))
    found, loads = {}, [0.0] * gpus
    order = sorted(jobs, key=lambda job: (job.stage, -job.work))  # of one stage the longest first
    for job in jobs:
        on_gpu = job.stage != TABLES and job.parameters.get("DEVICE", "auto") in ("auto", "cuda")
        resources, environment = {}, "CUDA_VISIBLE_DEVICES=" if settings["gpus"] == 0 else ""
        if cluster:
            resources["gpu"] = int(on_gpu and settings["gpus"] != 0)
        elif on_gpu and gpus:
            gpu = loads.index(min(loads))
            loads[gpu] += job.work
            resources[f"gpu{gpu}"] = min(room[gpu], max(job.gpu_mb, -(-room[gpu] // MOST))) if auto else 1
            environment = f"CUDA_VISIBLE_DEVICES={visible[gpu]}"
        # What fits on a GPU fits in main memory too, where S's activations are cached otherwise.
        mem_mb = 2_000 if profile == "smoke" else max(8_000 if cluster else 4_000, 2_000 + job.gpu_mb)
        resources["mem_mb"] = mem_mb if cluster else min(mem_mb, memory)  # one job always fits
        found[job.name] = {
            "rule": "run_" + job.name.replace("-", "_"),
            "path": str(paths.ROOT / "notebooks" / f"{job.notebook}.ipynb"),
            "values": [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in job.parameters.items()],
            "output": str(results / "executed" / profile / f"{job.name}.ipynb"),
            "log": str(results / "logs" / profile / f"{job.name}.log"),
            "needs": [other.name for other in _before(job, jobs)],
            "priority": len(jobs) - order.index(job),
            "work": job.work,
            "threads": 1 if profile == "smoke" else 0 if job.stage == MEASUREMENT else share,  # 0: all
            "resources": resources,
            "environment": environment,
        }
    limits = {} if cluster else {f"gpu{gpu}": room[gpu] for gpu in range(gpus)} | {"mem_mb": memory}
    return {"jobs": found, "cluster": cluster, "pid": os.getpid(), "limits": limits}


def _before(job: Job, jobs: list[Job]) -> list[Job]:
    """The jobs that must end before `job`: those that it needs, and earlier ones that would write one of its records,
    unless a job that it needs writes this record first."""
    needed = [other for other in jobs if job.needs(other)]
    own = job.writes.difference(*(other.writes for other in needed))
    earlier = [other for other in jobs[: jobs.index(job)] if other.writes & own]
    return needed + [other for other in earlier if other not in needed and not other.needs(job)]


def run(planned: dict, results: Path, profile: str, options: list[str], lock: IO) -> int:
    """Run the planned jobs by Snakemake; print each finished job, then the failed ones; return the exit code."""
    jobs, folder = planned["jobs"], results / "logs" / profile
    before = {path: changed_at(path) for job in jobs.values() for path in (job["output"], job["log"])}
    folder.mkdir(parents=True, exist_ok=True)
    plan_file, said = folder / ".plan.json", folder / "snakemake.log"
    plan_file.write_text(json.dumps(planned))
    # --forceall: all planned jobs are pending, even if earlier runs left their notebooks. --nolock: Snakemake's lock
    # outlives a killed process, `lock` does not. New session: Ctrl-C reaches only this process, which ends the others.
    # Snakemake writes to its working directory: ROOT if possible, because the sources of a pod have to lie below it.
    directory = paths.ROOT if os.access(paths.ROOT, os.W_OK) else results
    environment, cache = dict(os.environ), Path(user_cache_dir("snakemake")).absolute()
    if not os.access(next(filter(os.path.exists, [cache, *cache.parents])), os.W_OK):  # for a user without a home
        environment |= {"XDG_CACHE_HOME": str(results / ".cache"), "TORCH_HOME": str(Path(torch.hub.get_dir()).parent)}
    command = [sys.executable, "-m", "snakemake", f"--snakefile={paths.ROOT / 'notebooks' / 'Snakefile'}"]
    command += [f"--directory={directory}", "--forceall", "--keep-going", "--nolock", "--rerun-incomplete"]
    command += ["--scheduler=greedy", *options]  # it follows the priorities
    if limits := [f"{name}={most}" for name, most in planned["limits"].items()]:
        command += ["--resources", *limits]
    command += ["--config", f"plan={plan_file}"]
    with open(said, "w") as file:
        started = {"stderr": file, "env": environment, "start_new_session": True, "pass_fds": [lock.fileno()]}
        snakemake = subprocess.Popen(command, **started)
    start, done = time.monotonic(), []
    try:
        code = None
        while code is None:
            time.sleep(0.3)
            code = snakemake.poll()
            for name, job in jobs.items():
                if name not in done and changed_at(job["output"]) not in (None, before[job["output"]]):
                    done.append(name)
                    seconds, work = time.monotonic() - start, sum(jobs[one]["work"] for one in done)
                    left = seconds * (sum(job["work"] for job in jobs.values()) / work - 1)
                    count = f"{len(done)} of {len(jobs)} in {duration(seconds)}"
                    print(f"{name} done: {count}, about {duration(left)} left", flush=True)
    except KeyboardInterrupt:
        if planned["cluster"]:
            snakemake.send_signal(signal.SIGINT)  # it cancels its jobs
            snakemake.wait()
        else:
            os.killpg(snakemake.pid, signal.SIGKILL)
        checkpoints = len(list(results.glob("checkpoints/**/*.pt")))
        trainings = f", {checkpoints} training{'s' * (checkpoints != 1)} half-way in checkpoints" * bool(checkpoints)
        kept = f"every finished class is recorded in {results / 'records'}{trainings}; rerun the same command to resume"
        print(f"stopped: {len(done)} of {len(jobs)} runs done, {kept}", file=sys.stderr)
        return 130
    finally:
        plan_file.unlink(missing_ok=True)
        if snakemake.poll() is None:  # such as when standard output was closed
            os.killpg(snakemake.pid, signal.SIGINT if planned["cluster"] else signal.SIGKILL)
    if len(done) == len(jobs):
        print(f"executed notebooks: {results / 'executed' / profile}; records: {results / 'records'}")
        return 0
    failed, text = [], said.read_text()
    for name, job in jobs.items():
        if name not in done and changed_at(job["log"]) != before[job["log"]]:
            failed.append(name)
            # What a cluster's scheduler says of a job that it refused or ended.
            why = re.search(rf"Error in rule {job['rule']}:\n +message: (?!None|For further)(.+)", text)
            print(f"failed: {name}, see {job['log']}" + (f"; {why[1]}" if why else ""), file=sys.stderr)
    for name in jobs:
        if failed and name not in done + failed:
            print(f"not run: {name}, because a run that it needs failed", file=sys.stderr)
    if not failed:  # Snakemake itself, or a cluster's scheduler, failed
        first = re.search("^.*(rror|xception|nvalid|denied).*$", text, re.MULTILINE)
        print(f"error: {first[0].strip() if first else 'Snakemake failed'}; see {said}", file=sys.stderr)
    return 1


def changed_at(path: str) -> int | None:
    return os.stat(path).st_mtime_ns if os.path.isfile(path) else None


@contextmanager
def locked(results: Path) -> Iterator[IO]:
    """Lock the results folder until this process and Snakemake end, even if they are killed.

    Raises InputError when another command holds the lock, and when the folder cannot be written to.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = open(results / ".lock", "a+")
    except OSError as error:
        raise refusal(results, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = (results / ".lock").read_text() or "unknown"
            way = "wait for it, stop it, or give another RESULTS_DIR"
            raise InputError(f"{results} is in use by another ./run_all.sh (process {owner}): {way}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # of some network file systems
                raise refusal(results, error) from None
            print(f"warning: {results} cannot be locked: start no second ./run_all.sh with it", file=sys.stderr)
        file.truncate(0)
        print(os.getpid(), end="", file=file, flush=True)
        yield file
