"""The plan of ./run_all.sh: the notebooks with their seeds, parameters and order, and what is already recorded."""

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml
from execute import NOTEBOOKS, parameters_of

from kdhelpers import data, paths, protocols
from kdhelpers.data import weights
from kdhelpers.data.images import sides
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.experiments.config import resolve
from kdhelpers.experiments.runs import Run, to_do
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, FEWER_SEEDS, main_notebook
from kdhelpers.inspection import own_images
from kdhelpers.protocols import SEEDS
from kdhelpers.timing import running_time

RUNNING_TIME, PEERS, OWN_IMAGES, MAPS = "21_running_time", "30_beside_anomalib", "00_quickstart", "14_interpretability"
SETTINGS = {"seeds": None, "gpus": "auto", "jobs_per_gpu": "auto", "threads": "auto"}  # of a run, in small letters
OF_THE_LIST = ("SOURCE", "DATA_DIR", "RESULTS_DIR", "DEVICE")  # the same for all entries of a run list
IN_SMOKE = {"15_unstated_details": {"CLASSES": {"brain_mri": ["normal"]}}}  # of fifty variants, those of one data set
MEASUREMENT, TABLES, BESIDE_TABLES = (1,), (2,), (3,)  # stages of jobs without a seed
START = 8.0  # the cost of starting a notebook, in trainings of smoke
NOTHING_YET = (
    "There is no data in {folder} yet. Without data, run ./run_all.sh smoke: every notebook but 30 on generated "
    "samples, in minutes. With your own images: ./run_all.sh full 00 --config DATA_DIR=good_parts TEST_DIR=new_parts"
)
NO_WEIGHTS = (
    "source imagenet: VGG-16's weights (528 MB) will be downloaded to {path}; by hand: fetch "
    "download.pytorch.org/models/{path.name}, then --config SOURCE=/path/to/{path.name}"
)


@dataclass(frozen=True)
class Job:
    """One run of a notebook."""

    notebook: str
    seed: int | None  # None: once, for all seeds
    parameters: dict  # those that differ from the notebook's defaults
    entry: int | None = None  # the job's place in a run list, counted from 1
    records: int = 0  # how many of its own the notebook writes
    recorded: int = 0  # how many of these are up to date
    pending: bool = True
    work: float = 1.0  # the cost relative to other jobs
    gpu_mb: int = 0  # approximate memory on a GPU
    source: str | None = None
    datasets: frozenset[str] = frozenset()
    writes: frozenset[Path] = frozenset()  # the records that it would write, those of missing main runs too
    again: frozenset[Path] = frozenset()  # those of them that are recorded, without a cloner that the notebook needs
    downloads: list[str] = field(default_factory=list)  # data sets that have to be downloaded first

    @property
    def name(self) -> str:
        name = self.notebook if self.seed is None else f"{self.notebook}-seed{self.seed}"
        return name if self.entry is None else f"{self.entry:02}-{name}"

    @property
    def stage(self) -> tuple[int, ...]:
        """Lower stages start first: for each seed main runs, then ablations; measurements of time; tables."""
        if self.entry is not None:
            return 0, self.entry
        if self.seed is not None:
            return 0, self.seed, int(self.notebook in ABLATIONS)
        if self.notebook == RUNNING_TIME and self.parameters["PROFILE"] == "smoke":
            return BESIDE_TABLES  # its times mean nothing, and it needs no free machine
        return MEASUREMENT if self.notebook in (RUNNING_TIME, PEERS) else TABLES

    def needs(self, other: "Job") -> bool:
        """True if `other` must end first: an ablation needs its main runs, measurements and tables need everything."""
        mains = map(main_notebook, self.datasets if self.notebook in ABLATIONS else ())
        same = other.seed == self.seed and other.notebook in mains
        return other.stage < self.stage and (same or self.seed is None and self.stage != BESIDE_TABLES)


def of_notebooks(profile: str, only: list[str], settings: dict, given: dict) -> tuple[list[Job], str]:
    """The jobs of a profile's notebooks, including those with nothing left to do, and a table of them to print.

    only: the requested notebooks; [] for all, with the data sets that are present. settings: as SETTINGS. given: the
    notebooks' parameters. Raises InputError for wrong parameters, and for a requested notebook without its data set.
    """
    if given.get("PROFILE", profile) != profile:
        raise InputError("give the profile as the first word, smoke or full, instead of PROFILE")
    given = given | {"PROFILE": profile}
    left_out = (PEERS,) if profile == "smoke" else (PEERS, OWN_IMAGES)
    by_default = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.stem not in left_out]
    wanted = {name: parameters_of(NOTEBOOKS / f"{name}.ipynb") for name in only or by_default}
    if settings["seeds"] is not None and not wanted.keys() & DATASETS:
        raise InputError(f"seeds is for notebooks that train, not for {', '.join(wanted)}: give SEED if it has one")
    jobs, rows, notes = [], [], []
    for notebook, defaults in wanted.items():
        path = NOTEBOOKS / f"{notebook}.ipynb"
        if notebook not in DATASETS:  # tables and running time take no parameters of trainings
            others = set().union(*wanted.values()) - defaults.keys()
            mine = {name: value for name, value in given.items() if name not in others}
            if len(wanted) > 1 and mine.get("PRECISION") == "auto":  # own images' choice, not a kind of records
                del mine["PRECISION"]
            parameters_of(path, given=mine)
            measured, asked = False, defaults | mine
            if notebook == RUNNING_TIME and not only:
                cases, record = running_time.resolve(notebook, **asked)
                measured = running_time.is_current(record, cases)
            source = asked["SOURCE"] if profile == "full" and notebook in (RUNNING_TIME, PEERS) else None
            work = 2 * START if profile == "smoke" else 1.0
            jobs.append(Job(notebook, None, mine, pending=not measured, source=source, work=work))
            continue
        parameters_of(path, given=given)
        if "SEED" in given:
            raise InputError(f"give --config seeds=[{given['SEED']}] instead of SEED")
        changed = (IN_SMOKE.get(notebook, {}) if profile == "smoke" else {}) | given
        present, state, missing, downloads = _data(notebook, defaults | changed)
        if only and present is None:
            raise InputError(f"{notebook} has no data: {missing}")
        mine = []
        if present is not None:
            seeds = _seeds(notebook, settings["seeds"], profile, bool(only))
            mine = _jobs(notebook, defaults, changed | present, seeds, downloads)
        jobs += mine
        rows.append((notebook, state, mine))
        if missing and not (notebook in ABLATIONS and set(map(main_notebook, DATASETS[notebook])) <= set(wanted)):
            notes.append(f"{notebook}, {state}: {missing}")
    trainings = [job for job in jobs if job.seed is not None]
    if profile == "full" and not only and not any(job.recorded or not job.downloads for job in trainings):
        notes.append(NOTHING_YET.format(folder=Path(given.get("DATA_DIR") or paths.DATA_DIR).expanduser()))
    if not weights.imagenet_path().is_file() and any(job.source == "imagenet" and job.pending for job in jobs):
        notes.append(NO_WEIGHTS.format(path=weights.imagenet_path()))
    if again := len(frozenset().union(*(job.again for job in jobs))):
        why = "maps and variants need their cloners, which are missing"
        notes.append(f"{again} of the recorded runs will be trained again: {why}")
    text = _table(rows) if rows else "; ".join(job.notebook for job in jobs)
    options = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return jobs, "\n".join([text, *(textwrap.fill(note, 110, **options) for note in notes)])


def of_list(path: Path, profile: str, asked: dict) -> tuple[list[Job], str]:
    """The jobs of a run list in its order, and a line for each entry.

    The YAML file at `path` has parameters for all entries, in capitals, and `runs`, each with `notebook`, `seeds` (a
    number, or a list) and its own parameters. `asked` overrides both. Raises InputError with the wrong entry, or with
    two entries that would write the same record with different parameters.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        common, entries = {k: v for k, v in content.items() if k != "runs"}, [dict(one) for one in content["runs"]]
        if not entries:
            raise ValueError("it has none")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a run list, a YAML file with `runs` ({reason}): see README.md") from None
    jobs, lines, written = [], [], {}
    for number, entry in enumerate(entries, start=1):
        notebook, seeds = entry.pop("notebook", None), entry.pop("seeds", 1)
        try:
            if entry.keys() & set(OF_THE_LIST):
                raise InputError(f"{', '.join(OF_THE_LIST)} are for the whole list, above `runs`")
            if {"SEED", "PROFILE"} & (common | entry).keys():
                raise InputError("give `seeds` instead of SEED, and the profile as ./run_all.sh smoke LIST.yaml")
            if notebook not in DATASETS:
                raise InputError(f"unknown notebook; it is one of {', '.join(DATASETS)}")
            given = common | entry | asked | {"PROFILE": profile}
            defaults = parameters_of(NOTEBOOKS / f"{notebook}.ipynb", given=given)
            *_, downloads = _data(notebook, defaults | given)
            mine = _jobs(notebook, defaults, given, _seeds(notebook, seeds, profile, True), downloads)
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


def settings_of(values: dict) -> dict:
    """The settings in small letters, with their defaults; InputError for an unknown name or a wrong value."""
    for name in values.keys() - SETTINGS.keys():
        known = f"it is one of {', '.join(SETTINGS)}, or a parameter in capitals"
        raise InputError(f"unknown setting {name}{did_you_mean(name, SETTINGS)}; {known}")
    settings, present = SETTINGS | values, torch.cuda.device_count()
    for name, least in (("gpus", 0), ("jobs_per_gpu", 1), ("threads", 1)):
        if (count := settings[name]) != "auto" and not (type(count) is int and count >= least):
            raise InputError(f"{name} is {count!r}; give auto or a number of at least {least}")
    if settings["gpus"] != "auto" and settings["gpus"] > present:
        raise InputError(f"gpus is {settings['gpus']}, but torch can use {present} here: give at most {present}")
    return settings


def _seeds(notebook: str, asked: int | list | None, profile: str, named: bool) -> Iterable[int]:
    """The seeds of a notebook; a list for all notebooks (not `named`) is one machine's share of each one's seeds."""
    most = 1 if notebook == OWN_IMAGES else FEWER_SEEDS.get(notebook, SEEDS)
    if asked is None:
        return range(1 if profile == "smoke" else most)
    if isinstance(asked, list) and asked and all(type(seed) is int and seed >= 0 for seed in asked):
        return list(dict.fromkeys(seed for seed in asked if named or seed < most or most == SEEDS))
    if type(asked) is not int or asked < 1:
        raise InputError(f"seeds is {asked!r}; give the number of seeds, at least 1, or a list of seeds")
    return range(asked)


def _data(notebook: str, values: dict) -> tuple[dict | None, str, str, list[str]]:
    """The parameter CLASSES if only some have their data ({}: all have; None: none has), the text for the table, how to
    get missing data, and the data sets to download."""
    datasets = DATASETS[notebook]
    if values["PROFILE"] == "smoke" and values["DATA_DIR"] is None:
        return {}, "generated", "", []
    if datasets == ("folder",):
        return {}, "as given", "", []
    given, present, lacking, missing, downloads = values.get("CLASSES"), {}, {}, [], []
    for dataset in [name for name in datasets if name in given] if isinstance(given, dict) else datasets:
        status = data.status(dataset, str(values["DATA_DIR"] or paths.DATA_DIR))  # `resolve` refuses a number
        missing += [line for line in status.values() if line not in ("", "download")]
        if found := [cls for cls, line in status.items() if line in ("", "download")]:
            present[dataset] = found
        if "download" in status.values():
            downloads.append(dataset)
        elif len(found) < len(status):
            state = f"{len(found)} of {len(status)} classes" if found else "missing"
            lacking.setdefault(state, []).append(dataset)
    if given is not None:  # `resolve` checks whether these are present
        return {}, "download" if downloads else "as given", "", downloads
    # All categories of one data set are fetched the same way: print the advice once.
    advice = "; or ".join({line.rpartition("; ")[2]: line for line in reversed(missing)}.values())
    words = [f"{state}: {', '.join(names)}" if len(datasets) > 1 else state for state, names in lacking.items()]
    state = "; ".join(words) or ("download" if downloads else "present")
    if not missing:
        return {}, state, advice, downloads
    classes = present if len(datasets) > 1 else present.get(datasets[0])
    return {"CLASSES": classes} if classes else None, state, advice, downloads


def _jobs(notebook: str, defaults: dict, changed: dict, seeds: Iterable[int], downloads: list[str]) -> list[Job]:
    runs = resolve(notebook, **(defaults | {"SEED": 0} | changed))
    jobs, datasets = [], frozenset(run.dataset for run in runs)
    for seed in seeds:
        runs = [replace(run, seed=seed) for run in runs]  # `resolve` lists the images, which takes seconds
        own = [run for run in runs if run.notebook == notebook]  # the main runs of an ablation are another notebook's
        todo = to_do(runs) and to_do(runs, cloners=notebook not in ABLATIONS or notebook == MAPS)
        again = frozenset(run.record_path(cls) for cls, run, _ in todo if not run.is_pending(cls))
        costs = [run.cost for cls, run, _ in todo if run.notebook == notebook or run.record_path(cls) in again]
        jobs.append(
            Job(
                notebook,
                seed,
                changed | {"SEED": seed},
                records=sum(len(run.classes) for run in own),
                recorded=sum(not run.is_pending(cls) for run in own for cls in run.classes),
                # When only FALSE_ALARMS, MAP or SCORE changed, your own images are scored again, in seconds.
                pending=bool(todo) or notebook == OWN_IMAGES and not own_images.is_written(runs[0]),
                work=sum(costs) + (START if runs[0].profile == "smoke" else 0) or 1.0,
                again=again,
                gpu_mb=max(map(_gpu_mb, runs)),
                source=runs[0].source,
                datasets=datasets,
                writes=frozenset(run.record_path(cls) for cls, run, _ in todo),
                downloads=[name for name in downloads if name in datasets],
            )
        )
    return jobs


def _gpu_mb(run: Run) -> int:
    """Approximate memory of a run on a GPU: CUDA itself, S's activations, and a training step or a batch of maps."""
    setting, pixels = protocols.SETTINGS[run.dataset], math.prod(sides(run.image_size))
    stored = 58 * (setting.images + setting.tests) * pixels  # 58 bytes per pixel
    working = max(2400 * run.batch_size, 4000 * min(setting.masked, 128)) * pixels  # C with gradients; S
    return 1000 + (stored + working) // 2**20


def _table(rows: list[tuple[str, str, list[Job]]]) -> str:
    total = max(sum(job.work for *_, jobs in rows for job in jobs if job.pending), 1.0)
    wide = max(len(state) for _, state, _ in rows) + 2
    lines = [f"{'notebook':22}{'data':{wide}}{'recorded':>14}{'runs to do':>12}{'share of work':>15}"]
    for notebook, state, jobs in rows:
        pending = [job for job in jobs if job.pending]
        recorded = f"{sum(job.recorded for job in jobs)} of {sum(job.records for job in jobs)}" if jobs else "–"
        share = f"{100 * sum(job.work for job in pending) / total:.0f} %"
        lines.append(f"{notebook:22}{state:{wide}}{recorded:>14}{len(pending):>12}{share:>15}")
    return "\n".join(lines)
