"""The command that makes a number: what stands beside it in the report."""

import json
import shlex
from collections.abc import Sequence

from kdhelpers import paths
from kdhelpers.experiments.variants import DATASETS
from kdhelpers.protocols import BATCH_SIZE, SEEDS, SETTINGS


def command_for(
    notebook: str, classes: Sequence[str] | None, variant: str | None, records: Sequence[dict], like: dict | None = None
) -> str:
    """The `./run_all.sh` line that makes `records` again; or without any that fills the cell, for ten seeds.

    classes: None for all of the notebook's data set. variant: as in a record; None for the main run. records: those
    behind a number, whose source, epochs, size, batch, data folder and seeds the line repeats where they are not the
    defaults. like: a record of the kind that the cell is of, for the source and protocol of the line when it has no
    records.
    """
    settings: dict[str, object] = {}
    dataset = records[0]["dataset"] if records else DATASETS[notebook][0]
    if classes is not None:
        settings["CLASSES"] = list(classes) if len(DATASETS[notebook]) == 1 else {dataset: list(classes)}
    if variant is not None or notebook == "06_head_ct":
        settings["VARIANTS"] = [variant or "plain"]
    if not records:
        return _line("full", notebook, settings | (_of_kind(like) if like and like["profile"] == "full" else {}))
    # Records that were not all made with the same settings need a line each.
    groups: dict[tuple, set[int]] = {}
    for record in records:
        changed = _changed(record) if record["profile"] == "full" else {}
        groups.setdefault(tuple(changed.items()), set()).add(record["seed"])
    lines = []
    for changed, seeds in groups.items():
        for which in _seeds(seeds) if records[0]["profile"] == "full" else [{}]:
            lines.append(_line(records[0]["profile"], notebook, settings | dict(changed) | which))
    return " && ".join(lines)


def _line(profile: str, notebook: str, settings: dict[str, object]) -> str:
    given = ["--config", *(f"{name}={_text(value)}" for name, value in settings.items())] if settings else []
    return shlex.join(["./run_all.sh", profile, notebook, *given])


def _seeds(seeds: set[int]) -> list[dict[str, int]]:
    """The settings that run just these seeds, one for each line that it takes."""
    if seeds == set(range(len(seeds))):
        return [{"seeds": len(seeds)} if len(seeds) != SEEDS else {}]
    return [{"SEED": seed} for seed in sorted(seeds)]


def _changed(record: dict) -> dict[str, object]:
    parameters, setting = record["parameters"], SETTINGS[record["dataset"]]
    compared = {
        "EPOCHS": (parameters["epochs"], setting.epochs),
        "IMAGE_SIZE": (parameters["image_size"], setting.image_size),
        "BATCH_SIZE": (parameters["batch_size"], BATCH_SIZE),
    }
    return {name: value for name, (value, default) in compared.items() if value != default} | _of_kind(record)


def _of_kind(record: dict) -> dict[str, str]:
    environment = record["environment"]
    source = environment["source"] if record["parameters"]["source_name"] != "imagenet" else "imagenet"
    compared = {
        "PROTOCOL": (record["protocol"], "official"),
        "SOURCE": (source, "imagenet"),
        "DATA_DIR": (environment["data_dir"], paths.DATA_DIR.name),
    }
    return {name: value for name, (value, default) in compared.items() if value != default}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
