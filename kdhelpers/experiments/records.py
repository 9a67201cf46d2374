"""Records: one JSON file for each (notebook, data set, class, variant, seed), and their groups for tables.

Tables read only records, without torch. A record stores the source, data, protocol, seed and method version behind its
numbers. Metrics are in per cent, as in the article.
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from kdhelpers.errors import InputError
from kdhelpers.experiments.variants import DATASETS
from kdhelpers.protocols import METHOD_VERSION, PRECISIONS, Protocol

SCHEMA = 2
STALE = "†"  # marks a number computed from records of another method version
_FIELDS = frozenset(
    "schema notebook dataset class variant seed profile protocol source parameters deviations data training detection "
    "localization baselines seconds peak_memory_mb environment".split()
)
_DEFAULTS = {one.name: one.default for one in fields(Protocol) if one.default is not MISSING}


def path_of(results_dir: Path, folder: str, record: dict, suffix: str) -> Path:
    """The path of a record or, with a `folder` other than "records", of a file that belongs to it."""
    place = *kind_of(record), record["notebook"]
    names = record["dataset"], record["class"], record["variant"], f"seed{record['seed']}"
    return Path(results_dir, folder, *place, "-".join(filter(None, names)) + suffix)


def read(path: Path) -> dict:
    """Read the record at `path`, later fields of `Protocol` with their defaults; InputError unless of this schema."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA or not record.keys() >= _FIELDS:
            raise ValueError(f"its schema is not {SCHEMA}")
        record["parameters"]["protocol"] = _DEFAULTS | record["parameters"]["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a record ({error}): delete it and run its notebook again") from error
    return record


def is_stale(record: dict) -> bool:
    """True for a record of another version of the method: its numbers may not be reproducible."""
    return record["environment"]["method_version"] != METHOD_VERSION


def is_made_with(record: Path, cloner: Path) -> bool:
    """True when the file of a record and that of a trained cloner are there and of the same run."""
    if not (record.is_file() and cloner.is_file()):
        return False
    try:
        with safe_open(cloner, framework="np") as file:
            return (file.metadata() or {}).get("record") == record.read_text(encoding="utf-8")
    except SafetensorError:
        raise InputError(f"{cloner} is damaged: remove it, and run its notebook or download it again") from None


@dataclass(frozen=True)
class Pictures:
    """A few test images with their localization maps, stored for figures."""

    pixels: np.ndarray  # uint8 (n, h, w, 3)
    masks: np.ndarray | None  # float32 (n, h, w) in [0, 1]
    maps: np.ndarray  # float32 (n, h, w)
    kinds: list[str]  # as `data.Split.kinds`


def load_pictures(path: Path) -> Pictures:
    """Load the pictures in the file `path`, a cloner's or a committed one."""
    with safe_open(path, framework="np") as file:
        there = set(file.keys())
        masks = file.get_tensor("shown.masks").astype(np.float32) / 255 if "shown.masks" in there else None
        maps = file.get_tensor("shown.maps").astype(np.float32)
        return Pictures(file.get_tensor("shown.pixels"), masks, maps, json.loads(file.metadata()["kinds"]))


class Kind(NamedTuple):
    """The fields that all records of a table share."""

    source: str  # the folder's name: imagenet, untrained, or stem-<8 digits of its SHA-256>
    profile: str
    protocol: str

    def __str__(self) -> str:
        return f"source {self.source}, profile {self.profile}, protocol {self.protocol}"


def kind_of(record: dict) -> Kind:
    """The kind of a record; a variant with an untrained source has the kind of its main run."""
    return Kind(record["parameters"]["source_name"], record["profile"], record["protocol"])


def only_one(records: Sequence[dict]) -> Kind | None:
    """The common kind of `records`, None without records; raises InputError for several kinds."""
    found = sorted({kind_of(record) for record in records})
    if len(found) > 1:
        raise InputError(f"records of different kinds cannot share a table: {'; '.join(map(str, found))}")
    return found[0] if found else None


def find(results_dir: Path, profile: str) -> dict[Kind, list[dict]]:
    """The records of a profile under RESULTS_DIR by kind, sorted by notebook, data set, class, variant and seed.

    Raises InputError for a file that is not a record, that is not at its record's path, or whose notebook is not here.
    """
    found = []
    for path in sorted((Path(results_dir) / "records").glob(f"*/{profile}/**/*.json")):
        record = read(path)
        if (place := path_of(results_dir, "records", record, ".json")) != path:
            raise InputError(f"{path} is the record that belongs at {place}: move it there, or delete it")
        if record["dataset"] not in DATASETS.get(record["notebook"], ()):
            fix = "update this clone, or move it away"
            raise InputError(f"{path} is of a notebook or data set that is not here: {fix}")
        found.append(record)
    order = ("notebook", "dataset", "class", "variant")
    found.sort(key=lambda record: (kind_of(record), *(str(record[name]) for name in order), record["seed"]))
    return {kind: list(group) for kind, group in groupby(found, kind_of)}


def source_name(source: str, precision: str) -> str:
    """The source's name in records; a precision other than float32 is appended, so that it is a separate kind."""
    return source if precision == PRECISIONS[0] else f"{source}-{precision}"


def precision_of(source_name: str) -> str:
    """The precision in a source's name, the opposite of `source_name`."""
    return next((name for name in PRECISIONS[1:] if source_name.endswith(f"-{name}")), PRECISIONS[0])


def remark(profile: str, source_name: str = "") -> str:
    """The remark that figures, tables and pages show for smoke runs and precisions other than float32; else empty."""
    words = ["smoke run: the numbers mean nothing"] if profile == "smoke" else []
    words += [f"computed in {name}" for name in PRECISIONS[1:] if name == precision_of(source_name)]
    return "; ".join(words)
