"""The command that makes a number: what stands beside it in the report."""

import json
import shlex
from collections.abc import Sequence

from kdhelpers import paths
from kdhelpers.experiments.records import source_name
from kdhelpers.experiments.variants import DATASETS
from kdhelpers.protocols import BATCH_SIZE, PRECISIONS, SEEDS, SETTINGS


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
    profile = records[0]["profile"]
    if profile != "full":
        return _line(profile, notebook, settings)
    # Records that were not all made with the same settings need a line each.
    groups: dict[str, set[int]] = {}
    for record in records:
        groups.setdefault(json.dumps(_changed(record)), set()).add(record["seed"])
    lines = []
    for changed, seeds in groups.items():
        which: list[dict] = [{"SEED": seed} for seed in sorted(seeds)]
        if seeds == set(range(len(seeds))):
            which = [{"seeds": len(seeds)} if len(seeds) != SEEDS else {}]
        lines += [_line(profile, notebook, settings | json.loads(changed) | one) for one in which]
    return " && ".join(lines)


def _line(profile: str, notebook: str, settings: dict[str, object]) -> str:
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in settings.items()}
    given = ["--config", *(f"{name}={text}" for name, text in texts.items())] if settings else []
    return shlex.join(["./run_all.sh", profile, notebook, *given])


def _changed(record: dict) -> dict[str, object]:
    """The settings of a record that are not the defaults."""
    setting = SETTINGS[record["dataset"]]
    defaults = {"EPOCHS": setting.epochs, "IMAGE_SIZE": setting.image_size, "BATCH_SIZE": BATCH_SIZE}
    defaults |= {"TILE": None, "TEST_LABEL": None}  # of your own images
    made = {name: record["parameters"].get(name.lower()) for name in defaults}
    return {name: value for name, value in made.items() if value != defaults[name]} | _of_kind(record)


def _of_kind(record: dict) -> dict[str, str]:
    environment = record["environment"]
    precision = record["parameters"].get("precision", PRECISIONS[0])
    imagenet = record["parameters"]["source_name"] == source_name("imagenet", precision)
    made = {"PROTOCOL": record["protocol"], "SOURCE": "imagenet" if imagenet else environment["source"]}
    made |= {"PRECISION": precision, "DATA_DIR": environment["data_dir"]}
    made |= {"TEST_DIR": environment.get("test_dir"), "IGNORE": environment.get("ignore")}
    defaults = {"PROTOCOL": "official", "SOURCE": "imagenet", "PRECISION": PRECISIONS[0]}
    defaults |= {"DATA_DIR": paths.DATA_DIR.name, "TEST_DIR": None, "IGNORE": None}
    return {name: value for name, value in made.items() if value != defaults[name]}
