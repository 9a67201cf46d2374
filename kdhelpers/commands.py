"""The command that makes a number: what stands beside it in the report."""

import json
import shlex
from collections.abc import Sequence

from kdhelpers import paths
from kdhelpers.ablations import DATASETS
from kdhelpers.protocols import BATCH_SIZE, SEEDS, SETTINGS


def command_for(
    notebook: str, classes: Sequence[str] | None, arm: str | None, records: Sequence[dict], like: dict | None = None
) -> str:
    """The `./run_all.sh` line that makes `records` again; or without any that fills the cell, for ten seeds.

    classes: None for all of the notebook's data set. arm: as in a record; None for the main run. records: those behind
    a number, whose source, epochs, size, batch, data folder and seeds the line repeats where they are not the defaults.
    like: a record of the kind that the cell is of, for the source and protocol of the line when it has no records.
    """
    first = records[0] if records else None
    words = ["./run_all.sh", first["profile"] if first else "full", notebook]
    settings: dict[str, object] = {}
    dataset = first["dataset"] if first else DATASETS[notebook][0]
    if classes is not None:
        settings["CLASSES"] = list(classes) if len(DATASETS[notebook]) == 1 else {dataset: list(classes)}
    if arm is not None or notebook == "06_head_ct":
        settings["ARMS"] = [arm or "plain"]
    if first and first["profile"] == "full":
        settings |= _changed(records, dataset)
    elif like and not first and like["profile"] == "full":
        settings |= _of_kind(like)
    if not settings:
        return " ".join(words)
    return shlex.join([*words, "--config", *(f"{name}={_text(value)}" for name, value in settings.items())])


def _changed(records: Sequence[dict], dataset: str) -> dict[str, object]:
    first, setting = records[0], SETTINGS[dataset]
    parameters, environment = first["parameters"], first["environment"]
    compared = {
        "EPOCHS": (parameters["epochs"], setting.epochs),
        "IMAGE_SIZE": (parameters["image_size"], setting.image_size),
        "BATCH_SIZE": (parameters["batch_size"], BATCH_SIZE),
        "DATA_DIR": (environment["data_dir"], paths.DATA_DIR.name),
        "seeds": (1 + max(record["seed"] for record in records), SEEDS),
    }
    changed = {name: value for name, (value, default) in compared.items() if value != default}
    return changed | _of_kind(first)


def _of_kind(record: dict) -> dict[str, str]:
    source = record["environment"]["source"] if record["parameters"]["kept_under"] != "imagenet" else "imagenet"
    compared = {"PROTOCOL": (record["protocol"], "official"), "SOURCE": (source, "imagenet")}
    return {name: value for name, (value, default) in compared.items() if value != default}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
