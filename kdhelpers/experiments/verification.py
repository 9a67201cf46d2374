"""Does a recorded number come out again? A run is made anew from its record alone, and the two are compared."""

import json
import random
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from kdhelpers import paths
from kdhelpers.errors import InputError
from kdhelpers.experiments import config as parameters
from kdhelpers.experiments import records as kinds
from kdhelpers.experiments import records as results
from kdhelpers.experiments import runner as experiment
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import DATASETS, variants_of
from kdhelpers.protocols import protocol_for

COUNT = 3  # records that are run again unless told otherwise
SHOWN = 4  # differences that are named in a line; the others are counted
_MAY_DIFFER = ("seconds", "peak_memory_mb", "environment")  # between two runs with one seed on a CPU
_NAMED = ("python", "platform", "device", "precision", "threads", "packages")  # of the environment
# What is named first where several things differ: what was asked for, then what came out.
_FIRST = ("parameters", "source", "data", "deviations", "detection", "localization", "baselines", "training")
_ABSENT = "nothing"
# What may go wrong in a run that is no fault of this code: its input, a loss that is not finite, memory, the disk.
_FAILURES = (InputError, FloatingPointError, ValueError, OSError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Difference:
    """One value that is not as recorded."""

    name: str  # as in detection.auroc or training.loss[3]
    recorded: object
    made: object

    @property
    def relative(self) -> float:
        """|made − recorded| over the larger of the two; 0 for what is no number."""
        both = (self.recorded, self.made)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in both):
            return 0.0
        largest = max(map(abs, both))
        return abs(self.made - self.recorded) / largest if largest else 0.0

    def __str__(self) -> str:
        recorded, made = _short(self.recorded), _short(self.made)
        if recorded == made:
            recorded, made = repr(self.recorded), repr(self.made)
        return f"{self.name} {recorded} -> {made}"


@dataclass(frozen=True)
class Outcome:
    """What became of one record: the differences, or why it could not be run; str() is the line for it."""

    record: dict
    differences: list[Difference] = field(default_factory=list)
    failure: str = ""
    notes: list[str] = field(default_factory=list)  # another method version, other versions, another device

    @property
    def verdict(self) -> str:
        return "cannot be run here" if self.failure else "differs" if self.differences else "same"

    def __str__(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{name_of(self.record)}: {self.verdict}{self._what()}{notes}"

    def _what(self) -> str:
        if self.failure:
            return f": {self.failure}"
        if not self.differences:
            return ""
        changed = [one for one in self.differences if one.name == "data.sha256"]
        words = ["the data changed since it was recorded"] if changed else []
        others = [one for one in self.differences if one not in changed]
        words += [str(one) for one in others[:SHOWN]]
        words += [f"and {len(others) - SHOWN} more"] if len(others) > SHOWN else []
        largest = max(self.differences, key=lambda one: one.relative)
        if largest.relative:
            words.append(f"the largest relative difference {largest.relative:.2g} in {largest.name}")
        return f": {', '.join(words)}"


def name_of(record: dict) -> str:
    """How a record is called: its path below RESULTS_DIR/records, without the suffix."""
    named = record | {"source_name": record["parameters"]["source_name"]}
    return results.path_of(Path(), "", named, "").as_posix()


def choose(results_dir: Path, count: int | None = None, seed: int = 0, profile: str | None = None) -> list[dict]:
    """`count` records under RESULTS_DIR, drawn with `seed`; without a count three of `full`, and all of `smoke`.

    profile: None is full where there are such records, else smoke. Raises InputError when there are none, and for a
    file that is no record.
    """
    for name in (profile,) if profile else ("full", "smoke"):
        found = [record for records in kinds.find(results_dir, name).values() for record in records]
        if found:
            count = count or (COUNT if name == "full" else len(found))
            chosen = sorted(random.Random(seed).sample(range(len(found)), min(count, len(found))))
            return [found[i] for i in chosen]
    of = f" of profile {profile}" if profile else ""
    raise InputError(
        f"there are no records{of} under {results_dir}: run ./run_all.sh {profile or ''}".rstrip()
        + " first, or give the RESULTS_DIR that has them"
    )


def runs_of(record: dict, results_dir: Path, *, data_dir=None, source=None, device: str = "auto") -> list[Run]:
    """The run that a record tells of, last, after its main run where the two share a cloner; to be kept in results_dir.

    data_dir, source: where a record of another machine names a place that this one has not. device: auto is the kind
    that the record was made on, where there is one. Raises InputError for a record that no notebook here would make,
    and for data or weights that are not there.
    """
    notebook, dataset, cls = record["notebook"], record["dataset"], record["class"]
    if dataset not in DATASETS.get(notebook, ()):
        raise InputError(f"there is no notebook {notebook} of {dataset} here")
    try:
        asked = record["parameters"]
        given = {
            "PROFILE": record["profile"],
            "PROTOCOL": record["protocol"],
            "SEED": record["seed"],
            "SOURCE": _source(record, source),
            "CLASSES": {dataset: [cls]} if len(DATASETS[notebook]) > 1 else None if dataset == "folder" else [cls],
            "EPOCHS": asked["epochs"],
            "IMAGE_SIZE": _main_size(record),
            "BATCH_SIZE": asked["batch_size"],
            "DEVICE": _device(record) if device == "auto" else device,
            "CACHE": "auto",
            "DATA_DIR": _data_dir(record, data_dir),
            "RESULTS_DIR": str(results_dir),
        }
        if dataset == "folder":
            given |= {"TEST_DIR": record["environment"].get("test_dir"), "TEST_LABEL": asked.get("test_label")}
    except KeyError as error:
        raise InputError(f"the record does not say its {error.args[0]}") from error
    # The ablations' main run is the first one; a notebook with one record a class has no other.
    main, *variants = [run for run in parameters.resolve(notebook, **given) if run.dataset == dataset]
    run = next((one for one in (main, *variants) if (one.notebook, one.variant) == (notebook, record["variant"])), None)
    if run is None:
        raise InputError(f"{notebook} has no variant {record['variant']!r} of {dataset}")
    if run.classes != (cls,):
        raise InputError(f"the class is {', '.join(run.classes)} here, not {cls}: name the folder {cls} in DATA_DIR")
    if record["variant"] is not None and asked["source"] != asked["source_name"]:
        run = replace(
            run, source_name=asked["source_name"]
        )  # a variant with a source of its own lies among its main run's
    return [main, run] if run.shares_cloner_with(main) else [run]


def again(record: dict, runs: Sequence[Run]) -> dict:
    """The record that `runs`, as `runs_of` gives them, make; with as many threads as it was made with."""
    before = torch.get_num_threads()
    torch.set_num_threads(record["environment"]["threads"])  # sums come out otherwise with other numbers of them
    try:
        return experiment.run_experiments(runs)[-1]
    finally:
        torch.set_num_threads(before)


def verify(record: dict, **where) -> Outcome:
    """Runs a record again in a folder of its own, which is deleted, and compares; where: as `runs_of` takes it."""
    another_version = ["another version"] if results.is_stale(record) else []
    try:
        with tempfile.TemporaryDirectory(prefix="kdhelpers-") as folder:
            made = again(record, runs_of(record, Path(folder), **where))
    except _FAILURES as error:
        return Outcome(record, failure=" ".join(str(error).split()), notes=another_version)
    here = [_differences(name, record["environment"].get(name), made["environment"][name]) for name in _NAMED]
    notes = another_version + [str(one).removeprefix("packages.") for found in here for one in found]
    return Outcome(record, differences(record, made), notes=notes)


def differences(recorded: dict, made: dict) -> list[Difference]:
    """Where two records are not the same to the last digit; times, memory and environment are not compared."""
    names = dict.fromkeys([*_FIRST, *sorted(recorded.keys() | made.keys())])
    compared = [name for name in names if name not in _MAY_DIFFER]
    return [one for name in compared for one in _differences(name, recorded.get(name), made.get(name))]


def cost(record: dict) -> float:
    """What a record costs to make, relative to others; the same for all in smoke, where starting is all that counts."""
    if record["profile"] == "smoke":
        return 1.0
    return float(record["data"]["train"] * record["training"]["stopped_at"] * record["parameters"]["image_size"] ** 2)


def _differences(name: str, recorded: object, made: object) -> Iterator[Difference]:
    if isinstance(recorded, dict) and isinstance(made, dict):
        for key in sorted(recorded.keys() | made.keys()):
            yield from _differences(f"{name}.{key}", recorded.get(key, _ABSENT), made.get(key, _ABSENT))
    elif isinstance(recorded, list) and isinstance(made, list) and len(recorded) == len(made):
        for i, pair in enumerate(zip(recorded, made, strict=True)):
            yield from _differences(f"{name}[{i}]", *pair)
    elif json.dumps(recorded) != json.dumps(made):  # as it is written: to the last digit, and 1 is not true
        yield Difference(name, recorded, made)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else textwrap.shorten(str(value), 70, placeholder=" …")


def _main_size(record: dict) -> int:
    """The image size of a record's main run: its own, or of a variant that changes it, the other size there is."""
    size, protocol = record["parameters"]["image_size"], protocol_for(record["protocol"], record["dataset"])
    if record["variant"] != f"size_{size}":
        return size
    variants = variants_of(record["notebook"], record["dataset"], protocol)
    return next(s for one in variants if (s := one.run.get("image_size", size)) != size)


def _source(record: dict, given: str | None) -> str:
    """SOURCE of a record: weights are looked for where they were, or where they are said to be now."""
    name, recorded = record["parameters"]["source"], record["environment"]["source"]
    if name == "untrained":
        return name
    path = paths.ROOT / Path(recorded).expanduser()  # notebooks run in ROOT
    if name == "imagenet" and not (given or path.is_file()):
        return name  # torchvision's own file, wherever it lay
    return given or str(path)


def _data_dir(record: dict, given: str | None) -> str | None:
    """DATA_DIR of a record; None for the default one, and in smoke for the generated samples."""
    recorded = record["environment"]["data_dir"]
    if recorded == paths.DATA_DIR.name:
        return given
    own = record["dataset"] == "folder"
    samples = Path(recorded).parent if own and record["profile"] == "smoke" else Path(recorded)
    if record["profile"] == "smoke" and samples.parts[-2:] == paths.SAMPLES_DIR.parts[-2:]:
        return None  # of this clone or another one: they are made the same everywhere
    if own and Path(recorded).is_dir():
        return recorded  # DATA_DIR is where the data sets are, and one's own images are elsewhere
    return given or recorded


def _device(record: dict) -> str:
    on_gpu = record["peak_memory_mb"]["device"] is not None
    return "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
