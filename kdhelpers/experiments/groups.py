"""Kinds of records, by source, profile and protocol: what is of different kinds never shares a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdhelpers.errors import InputError
from kdhelpers.experiments import records as results


class Kind(NamedTuple):
    """What all records of a table have in common."""

    source: str  # the folder's name: imagenet, untrained, or stem-<8 digits of its SHA-256>
    profile: str
    protocol: str

    def __str__(self) -> str:
        return f"source {self.source}, profile {self.profile}, protocol {self.protocol}"


def kind_of(record: dict) -> Kind:
    """The kind of a record; a variant with an untrained source is of the kind of the run that it is a variant of."""
    return Kind(record["parameters"]["source_name"], record["profile"], record["protocol"])


def only_one(records: Sequence[dict]) -> Kind | None:
    """The kind of all `records`, None when there are none; InputError when they are of several."""
    found = sorted({kind_of(record) for record in records})
    if len(found) > 1:
        raise InputError(f"records of different kinds cannot share a table: {'; '.join(map(str, found))}")
    return found[0] if found else None


def find(results_dir: Path, profile: str) -> dict[Kind, list[dict]]:
    """The records of a profile under RESULTS_DIR by kind, sorted by notebook, data set, class, variant and seed.

    Raises InputError for a file that is no record, or that lies where another one belongs.
    """
    found: dict[Kind, list[dict]] = {}
    for path in sorted((Path(results_dir) / "records").glob(f"*/{profile}/**/*.json")):
        record = results.read(path)
        kind = kind_of(record)
        place = results.path_of(results_dir, "records", record | {"source_name": kind.source}, ".json")
        if place != path:
            raise InputError(f"{path} is the record that belongs at {place}: move it there, or delete it")
        found.setdefault(kind, []).append(record)
    order = ("notebook", "dataset", "class", "variant", "seed")
    return {kind: sorted(found[kind], key=lambda r: [str(r[name]) for name in order]) for kind in sorted(found)}
