"""Verification of records: rerun each from its stored parameters, and compare the results."""

import json
import random
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from kdhelpers import paths
from kdhelpers.errors import InputError
from kdhelpers.experiments import config, records, runner
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import main_notebook, variants_of

COUNT = 3  # records to rerun by default
_SHOWN = 4  # differences to report; the others are only counted
_MAY_DIFFER = ("seconds", "peak_memory_mb", "environment")  # between two runs with one seed on a CPU
# The order in which differences are reported: inputs first, then results.
_FIRST = ("parameters", "source", "data", "deviations", "detection", "localization", "baselines", "training")
_NAMED = ("python", "platform", "device", "precision", "threads", "packages")  # of the environment, reported
# Failures of a run that are not bugs: wrong input, a loss that is not finite, no memory, a disk error.
_FAILURES = (InputError, FloatingPointError, ValueError, OSError, torch.OutOfMemoryError)


class Difference(NamedTuple):
    """One value that differs from the record; `name` is its path, as in detection.auroc or training.loss[3]."""

    name: str
    recorded: object
    made: object

    @property
    def relative(self) -> float:
        """|made − recorded| divided by the larger absolute value; 0 unless both are numbers."""
        if not {type(self.recorded), type(self.made)} <= {int, float}:
            return 0.0
        return abs(self.made - self.recorded) / (max(abs(self.recorded), abs(self.made)) or 1)

    def __str__(self) -> str:
        if self.name == "data.sha256":
            return "the data changed since it was recorded"
        recorded, made = map(_short, self[1:])
        return f"{self.name} {recorded} -> {made}" if recorded != made else f"{self.name} {self[1]!r} -> {self[2]!r}"


def name_of(record: dict) -> str:
    """A record's name: its path below RESULTS_DIR/records, without the suffix."""
    return records.path_of(Path(), "", record, "").as_posix()


def choose(results_dir: Path, count: int | None = None, seed: int = 0, profile: str | None = None) -> list[dict]:
    """`count` records under RESULTS_DIR, drawn with `seed`; by default three of profile full, or all of smoke.

    profile: None means full if there are such records, else smoke. Raises InputError when there are none, and for a
    file that is not a record.
    """
    for name in (profile,) if profile else ("full", "smoke"):
        if found := [record for group in records.find(results_dir, name).values() for record in group]:
            count = count or (COUNT if name == "full" else len(found))
            return [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), min(count, len(found))))]
    of = f" of profile {profile}" if profile else ""
    fix = f"run ./run_all.sh {profile or 'full'} first, or give the RESULTS_DIR that has them"
    raise InputError(f"there are no records{of} under {results_dir}: {fix}")


def seconds_of(record: dict, results_dir: Path) -> float:
    """How long a record under RESULTS_DIR took, including the main run that `runs_of` puts before it."""
    main = record | {"notebook": main_notebook(record["dataset"]), "variant": None}
    path = records.path_of(results_dir, "records", main, ".json")
    shared = "train" not in record["seconds"] and path.is_file()
    return sum(sum(one["seconds"].values()) for one in (record, *([records.read(path)] if shared else [])))


def runs_of(record: dict, results_dir: Path, *, data_dir=None, source=None, device: str = "auto") -> list[Run]:
    """The run that reproduces a record in results_dir, preceded by its main run if the two share a cloner.

    data_dir, source: replace paths of another machine in the record. device: auto is the kind of device that the record
    was made on, if available. Raises InputError for a record that no notebook here produces, and for missing data or
    weights.
    """
    notebook, dataset, cls = record["notebook"], record["dataset"], record["class"]
    if device == "auto":
        on_gpu = record["peak_memory_mb"]["device"] is not None
        device = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
    # A main run that shares its cloner with the variant has the same image size.
    names = ["profile", "protocol", "seed", "epochs", "image_size", "batch_size", "precision"]
    names += ["test_label", "tile", "test_dir", "ignore"] if dataset == "folder" else []
    known = record["environment"] | record["parameters"] | {name: record[name] for name in names[:3]}
    given = {name.upper(): known.get(name) for name in names} | {"DEVICE": device, "CACHE": "auto"}
    given |= {"SOURCE": _source(record, source), "DATA_DIR": _data_dir(record, data_dir)}
    given |= {"CLASSES": None if dataset == "folder" else [cls], "RESULTS_DIR": str(results_dir)}
    main = config.resolve(main_notebook(dataset), **given)[0]
    variants = [one for one in variants_of(notebook, dataset, main.protocol) if one.name == record["variant"]]
    if not variants:
        raise InputError(f"{notebook} has no variant {record['variant']!r} of {dataset}")
    if main.classes != (cls,):
        raise InputError(f"the class is {', '.join(main.classes)} here, not {cls}: name the folder {cls} in DATA_DIR")
    run = config.varied(main, variants[0], notebook)
    if run.source == "untrained":  # its record is still under the source of its main run
        run = replace(run, source_name=known["source_name"])
    return [main, run] if run.shares_cloner else [run]


def verify(record: dict, **where) -> tuple[str, str]:
    """Rerun a record in a temporary folder and compare; return the verdict and a one-line report.

    where: keywords of `runs_of`. The verdict is "same", "differs", or "cannot be run here". The report names the
    differences or the error and, in brackets, differences in method version and environment.
    """
    notes = ["another version"] if records.is_stale(record) else []
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="kdhelpers-") as folder:
            runs = runs_of(record, Path(folder), **where)
            torch.set_num_threads(record["environment"]["threads"])  # it determines the order of sums
            made = runner.run_experiments(runs)[-1]
    except _FAILURES as error:
        verdict, words = "cannot be run here", " ".join(str(error).split())
    else:
        found = differences(record, made)
        verdict, words = "differs" if found else "same", _in_words(found)
        others = differences(record["environment"], made["environment"], _NAMED)
        notes += [str(one).removeprefix("packages.") for one in others]
    finally:
        torch.set_num_threads(threads)
    line = ": ".join(filter(None, [name_of(record), verdict, words]))
    return verdict, line + (f" ({'; '.join(notes)})" if notes else "")


def _in_words(found: list[Difference]) -> str:
    words = list(map(str, found[:_SHOWN]))
    words += [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    largest = max(found, key=lambda one: one.relative, default=None)
    if largest and largest.relative:
        words.append(f"the largest relative difference {largest.relative:.2g} in {largest.name}")
    return ", ".join(words)


def differences(recorded: dict, made: dict, names: tuple[str, ...] = ()) -> list[Difference]:
    """All differences of two records in the parts `names`, to the last digit; by default in all but _MAY_DIFFER."""
    names, found = names or [n for n in dict.fromkeys([*_FIRST, *recorded, *made]) if n not in _MAY_DIFFER], []
    for name in names:
        one, other = _values(name, recorded.get(name)), _values(name, made.get(name))
        found += [Difference(path, one.get(path, "nothing"), other.get(path, "nothing")) for path in one | other]
    # As JSON text: to the last digit, and 1 is not true.
    return [one for one in found if json.dumps(one.recorded) != json.dumps(one.made)]


def _values(name: str, part: object) -> dict[str, object]:
    """The numbers, texts and nulls in a part of a record by their paths, as in training.loss[3]."""
    if isinstance(part, dict):
        items = [(f"{name}.{key}", one) for key, one in part.items()]
    elif isinstance(part, list):
        items = [(f"{name}[{i}]", one) for i, one in enumerate(part)]
    else:
        return {name: part}
    return {path: value for key, one in items for path, value in _values(key, one).items()}


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else textwrap.shorten(str(value), 70, placeholder=" …")


def _source(record: dict, given: str | None) -> str:
    """SOURCE for a record: "untrained", "imagenet" for torchvision's own file, or a path, `given` or recorded."""
    name, path = record["parameters"]["source"], paths.ROOT / Path(record["environment"]["source"]).expanduser()
    if name == "untrained" or name == "imagenet" and not (given or path.is_file()):
        return name
    return given or str(path)


def _data_dir(record: dict, given: str | None) -> str | None:
    """DATA_DIR for a record: `given`, the recorded one, or None for the default and for smoke's samples."""
    recorded, is_own = Path(record["environment"]["data_dir"]), record["dataset"] == "folder"
    if recorded == Path(paths.DATA_DIR.name):
        return given
    folder = recorded.parent if is_own else recorded
    if record["profile"] == "smoke" and folder.parts[-2:] == paths.SAMPLES_DIR.parts[-2:]:
        return None  # samples are identical in every clone
    if is_own and recorded.is_dir():
        return str(recorded)  # `given` is the data sets' folder; your own images are elsewhere
    return given or str(recorded)
