"""What the Snakefile has to run: which notebooks, with which seeds and parameters, and how far that is."""

import difflib
import errno
import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import execute
import overview
import torch
import yaml

from kdhelpers import data, paths
from kdhelpers.data import weights
from kdhelpers.errors import InputError
from kdhelpers.experiments.config import resolve
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, FEWER_SEEDS, main_notebook
from kdhelpers.files import refusal
from kdhelpers.inspection import own_images
from kdhelpers.timing import running_time

NOTEBOOKS = Path(__file__).parent
SETTINGS_HERE = {
    "profile",
    "notebooks",
    "seeds",
    "gpus",
    "jobs_per_gpu",
    "only",
    "run",
    "list",
}  # what is in config.yaml, and what run_all.sh adds
NO_CLASSES: list[str] = []
STAGES = ("seed{}", "ablations_seed{}", "running_time", "tables")
OF_THE_LIST = ("SOURCE", "DATA_DIR", "RESULTS_DIR", "DEVICE")  # the same for all entries of a run list
RUNNING_TIME = "21_running_time"
MEMORY = {"03_cifar10": 64_000, "05_retinal_oct": 64_000, "13_loss_terms": 64_000}  # S's activations may be kept there
START = 8.0  # what starting a notebook takes, in smoke's trainings
OWN_IMAGES = "00_quickstart"
PEERS = "30_beside_anomalib"


@dataclass(frozen=True)
class Job:
    """One run of a notebook."""

    notebook: str
    seed: int | None  # None for what measures time, once, and the tables, which have all seeds in them
    changed: dict  # the parameters that differ from the notebook's defaults
    records: int = 0  # that the notebook has of its own
    recorded: int = 0
    pending: bool = True
    work: float = 1.0  # what it costs, relative to other jobs
    source: str = ""
    downloads: tuple[str, ...] = ()  # data sets that have to be downloaded first
    entry: int | None = None  # the job's place in a run list, counted from 1

    @property
    def name(self) -> str:
        name = self.notebook if self.seed is None else f"{self.notebook}-seed{self.seed}"
        return name if self.entry is None else f"{self.entry:02}-{name}"

    @property
    def stage(self) -> tuple[int, int]:
        """Lower goes first: the main runs by seed, the ablations, which need them, what measures time, the tables."""
        if self.entry is not None:
            return 0, self.entry
        if self.seed is None:
            return 2 if self.notebook in (RUNNING_TIME, PEERS) else 3, 0
        return int(self.notebook in ABLATIONS), self.seed


def make(config: dict) -> tuple[list[Job], str]:
    """The jobs, those with nothing left to do too, and what a person should read first: a table of them,
    with what is left out and why, or, without data and records, what you can run.

    config: as in config.yaml; `only` names the notebooks a person asked for. Raises InputError, also when a notebook
    was asked for whose data set is missing.
    """
    profile = config["profile"]
    if "list" in config:
        return _listed(Path(config["list"]), config)
    for name in config.keys() - SETTINGS_HERE:
        if not name.isupper():
            close = difflib.get_close_matches(name.lower(), SETTINGS_HERE, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise InputError(
                f"unknown setting {name}{hint}; see notebooks/config.yaml; notebooks' parameters are capitals"
            )
    if profile not in config["notebooks"]:
        raise InputError(f"profile {profile!r} is unknown; it is one of {', '.join(config['notebooks'])}")
    given = {name: _typed(name, value) for name, value in config.items() if name.isupper()} | {"PROFILE": profile}
    wanted = config.get("only") or config["notebooks"][profile]
    jobs, rows = [], []
    for notebook in wanted:
        path = NOTEBOOKS / f"{notebook}.ipynb"
        defaults = execute.parameters_of(path)
        if notebook not in DATASETS:  # the tables, the running time: what is meant for the trainings is not for them
            mine = {name: value for name, value in given.items() if name in defaults or len(wanted) == 1}
            if notebook == RUNNING_TIME and mine.get("SOURCE") == "imagenet" and not weights.imagenet_path().is_file():
                del mine["SOURCE"]  # untrained weights are as fast, and need no download
            execute.check_names(path, mine)
            done = "only" not in config and notebook == RUNNING_TIME and _is_measured(defaults | mine)
            jobs.append(Job(notebook, None, mine, pending=not done))
            continue
        execute.check_names(path, given)
        classes, state, help_, downloads = _data(notebook, defaults | given)
        if help_ and classes == NO_CLASSES and "only" in config:
            raise InputError(f"{notebook} has no data: {help_}")
        changed = given | ({"CLASSES": classes} if classes else {})
        mine = [] if classes == NO_CLASSES else _jobs(notebook, defaults, changed, _seeds(notebook, config), downloads)
        jobs += mine
        # What an ablation lacks, the notebooks of its data sets have said.
        said = notebook in ABLATIONS and set(map(main_notebook, DATASETS[notebook])) <= set(wanted)
        rows.append(
            overview.Row(
                notebook,
                state,
                "" if said else help_,
                records=sum(job.records for job in mine),
                recorded=sum(job.recorded for job in mine),
                runs=sum(job.pending for job in mine),
                work=sum(job.work for job in mine),
            )
        )
    if not rows:
        return jobs, overview.without_data(job.notebook for job in jobs)
    imagenet = weights.imagenet_path() if given.get("SOURCE") == "imagenet" and profile == "full" else None
    missing = imagenet if imagenet and not imagenet.is_file() else None
    trainings = [job for job in jobs if job.seed is not None]
    if profile == "full" and "only" not in config and not any(job.recorded or not job.downloads for job in trainings):
        downloads = dict.fromkeys(dataset for job in trainings for dataset in job.downloads)
        by_hand = [dataset for dataset in overview.BY_HAND if any(dataset in DATASETS[row.notebook] for row in rows)]
        folder = Path(given.get("DATA_DIR") or paths.DATA_DIR).expanduser()
        return jobs, overview.nothing_yet(folder, downloads, by_hand, missing, len(trainings))
    return jobs, overview.table(rows, missing)


def read_list(path: Path) -> tuple[dict, list[dict]]:
    """The common parameters and the entries of a run list; InputError when it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        common, entries = {k: v for k, v in content.items() if k != "runs"}, [dict(one) for one in content["runs"]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a run list, a YAML file with `runs` ({reason}): see README.md") from None
    if unwanted := {"SEED", "PROFILE"} & {name for one in (common, *entries) for name in one}:
        raise InputError(f"{path} has {min(unwanted)}: give `seeds`, and the profile as ./run_all.sh smoke LIST.yaml")
    return common, entries


def _listed(path: Path, config: dict) -> tuple[list[Job], str]:
    """The jobs of a run list in its order, and a line for each entry.

    A YAML file: the notebooks' parameters for all entries, in capitals, and `runs`, each with `notebook`, `seeds` (how
    many, or a list) and parameters of its own. Parameters of the command line go before both. Raises InputError naming
    the entry that is wrong, or the two that would write one record with different parameters.
    """
    common, entries = read_list(path)
    if config.get("only"):
        raise InputError(f"{path} names its notebooks: leave out {', '.join(config['only'])}")
    asked = {name: _typed(name, value) for name, value in config.items() if name.isupper() and name in config["given"]}
    jobs, lines, written = [], [], {}
    for number, entry in enumerate(entries, start=1):
        notebook, seeds = entry.pop("notebook", None), entry.pop("seeds", 1)
        try:
            if entry.keys() & set(OF_THE_LIST):
                raise InputError(f"{', '.join(OF_THE_LIST)} are for the whole list, above `runs`")
            if notebook not in DATASETS:
                raise InputError(f"unknown notebook; it is one of {', '.join(DATASETS)}")
            file = NOTEBOOKS / f"{notebook}.ipynb"
            given = common | entry | asked | {"PROFILE": config["profile"]}
            execute.check_names(file, given)
            defaults = execute.parameters_of(file)
            *_, downloads = _data(notebook, defaults | given)
            mine = _jobs(notebook, defaults, given, _seeds(notebook, {"seeds": seeds}), downloads)
            for run in resolve(notebook, **(defaults | {"SEED": 0} | given)):
                for cls in run.classes:
                    first, values = written.setdefault(run.record_path(cls), (number, run.parameters(cls)))
                    if values != run.parameters(cls):
                        raise InputError(f"it would replace records of run {first}, made with other parameters")
        except InputError as error:
            raise InputError(f"{path}, run {number} ({notebook}): {error}") from None
        jobs += [replace(job, entry=number) for job in mine]
        recorded, records = sum(job.recorded for job in mine), sum(job.records for job in mine)
        said = " ".join(f"{name}={value}" for name, value in entry.items())
        lines.append(f"{number:>3}  {notebook}  seeds {seeds}  {said}: {recorded} of {records} recorded")
    return jobs, "\n".join([f"{path}: {len(jobs)} jobs in this order", *lines])


def gpus(config: dict) -> int:
    """How many GPUs the jobs are spread over; 0 when they run on the CPU, or on the one that DEVICE names."""
    count, device = config["gpus"], config.get("DEVICE", "auto")
    if count == "auto":
        return torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if not isinstance(count, int) or count < 0:
        raise InputError(f"gpus is {count!r}; it is auto, or how many GPUs to use")
    if count > torch.cuda.device_count():
        raise InputError(f"gpus is {count}, and this machine has {torch.cuda.device_count()} that torch can use")
    return count


def lock(results: Path) -> IO:
    """Takes the results folder for this process, until it ends in whatever way; returns the open file that holds it.

    Raises InputError when another one has it, and when nothing can be written there.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = open(results / ".lock", "a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except BlockingIOError:
        owner = (results / ".lock").read_text() or "unknown"
        raise InputError(
            f"{results} is in use by another ./run_all.sh (process {owner}): wait for it, stop it, or give another "
            "RESULTS_DIR"
        ) from None
    except OSError as error:
        raise refusal(results, error) from None
    return file


def check_folder(results: Path) -> None:
    """Raises InputError when something else than a folder lies there."""
    if results.exists() and not results.is_dir():
        raise refusal(results, NotADirectoryError(errno.ENOTDIR, "not a folder"))


def threads(stage: tuple[int, int], profile: str, cores: int, places: int) -> int:
    """The cores of a job of this stage."""
    if profile == "smoke":
        return 1
    return cores if stage == (2, 0) else max(1, cores // max(1, places))


def gpu(stage: tuple[int, int], config: dict) -> int:
    """How many GPUs a job of this stage asks a cluster's scheduler for: one, but none for the tables."""
    return int(stage != (3, 0) and config["gpus"] != 0 and not str(config.get("DEVICE", "auto")).startswith("cpu"))


def memory(notebook: str, profile: str) -> int:
    """The main memory in MB that a notebook's job asks a cluster's scheduler for."""
    return 2_000 if profile == "smoke" else MEMORY.get(notebook, 8_000)


def _is_measured(values: dict) -> bool:
    cases, path = running_time.resolve(**values)
    return running_time.is_current(path, cases)


def _typed(name: str, value):
    """Numbers within a dict or a list, which Snakemake's command line leaves as text; classes are names."""

    def number(one):
        return int(one) if isinstance(one, str) and one.isdecimal() else one

    if isinstance(value, dict):
        return {key: number(one) for key, one in value.items()}
    return [number(one) for one in value] if isinstance(value, list) and name != "CLASSES" else value


def _seeds(notebook: str, config: dict) -> Iterable[int]:
    if "SEED" in config:
        return [config["SEED"]]
    count = config["seeds"]
    if isinstance(count, dict):
        most = count[config["profile"]]
        count = min(most, count.get(notebook, FEWER_SEEDS.get(notebook, most)))
    if isinstance(count, list) and count and all(str(seed).isdecimal() for seed in count):  # one machine's share
        return [int(seed) for seed in count if int(seed) < FEWER_SEEDS.get(notebook, int(seed) + 1)]
    if not isinstance(count, int) or count < 1:
        raise InputError(
            f"seeds is {count!r}; it is how many seeds to run, a whole number of at least 1, or a list of them"
        )
    return range(count)


def _data(notebook: str, values: dict) -> tuple[list[str] | dict | None, str, str, tuple[str, ...]]:
    """The classes to run (None: as the notebook has them, NO_CLASSES: none is there), what the table says, how to get
    what is missing, and which data sets will be downloaded."""
    datasets = DATASETS[notebook]
    if values["PROFILE"] == "smoke" and values["DATA_DIR"] is None:
        return None, "generated", "", ()
    if datasets == ("folder",):
        return None, "as given", "", ()
    given = values.get("CLASSES")
    there: dict[str, list[str]] = {}
    states, missing, downloads = {}, [], []
    for dataset in given if isinstance(given, dict) else datasets:
        status = data.status(dataset, values["DATA_DIR"] or paths.DATA_DIR) if dataset in datasets else {}
        downloads += [dataset] if "download" in status.values() else []
        lacks = {cls: line for cls, line in status.items() if line not in ("", "download")}
        if given is not None:  # whether these are there, resolving will see
            states[dataset] = overview.DOWNLOAD if dataset in downloads else "as given"
            continue
        there |= {dataset: found} if (found := [cls for cls in status if cls not in lacks]) else {}
        missing += lacks.values()
        state = f"{len(found)} of {len(status)} classes" if found and lacks else "missing" if lacks else "present"
        states[dataset] = overview.DOWNLOAD if dataset in downloads else state
    state = overview.state_of(states)
    if not missing:
        return None, state, "", tuple(downloads)
    classes = there if len(datasets) > 1 else there.get(datasets[0], NO_CLASSES)
    return classes or NO_CLASSES, state, _help(missing), tuple(downloads)


def _help(lines: Iterable[str]) -> str:
    """The lines, once for each advice: fifteen categories of one data set are got in one way."""
    return "; or ".join({line.rpartition("; ")[2]: line for line in reversed(list(lines))}.values())


def _jobs(notebook: str, defaults: dict, changed: dict, seeds: Iterable[int], downloads: tuple[str, ...]) -> list[Job]:
    runs = resolve(notebook, **(defaults | {"SEED": 0} | changed))
    jobs = []
    for seed in seeds:
        runs = [replace(run, seed=seed) for run in runs]  # resolving lists the images, which takes seconds
        own = [run for run in runs if run.notebook == notebook]  # the main runs of an ablation are another notebook's
        pending = [run.is_pending(cls) for run in runs for cls in run.classes]
        jobs.append(
            Job(
                notebook,
                seed,
                changed | {"SEED": seed},
                records=sum(len(run.classes) for run in own),
                recorded=sum(not run.is_pending(cls) for run in own for cls in run.classes),
                # Your own images are judged anew, in seconds, where all that has changed is how many may be bad.
                pending=any(pending) or notebook == OWN_IMAGES and not own_images.is_written(runs[0]),
                work=sum(run.work for run in own) + (START if runs[0].profile == "smoke" else 0) or 1.0,
                source=runs[0].source,
                downloads=downloads,
            )
        )
    return jobs
