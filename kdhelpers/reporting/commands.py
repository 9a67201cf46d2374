"""The command that reproduces a number, shown beside it in the report."""

import json
import shlex
from collections.abc import Sequence

from kdhelpers import paths
from kdhelpers.experiments.records import source_name
from kdhelpers.protocols import BATCH_SIZE, PRECISIONS, SEEDS, SETTINGS

_OF_KIND = ("PROTOCOL", "SOURCE", "PRECISION", "DATA_DIR")  # a command for missing records takes these from a main run


def command_for(
    notebook: str, classes: list[str] | None, variant: str | None, used: Sequence[dict], records: Sequence[dict] = ()
) -> str:
    """The `./run_all.sh` line that reruns the records `used`; without any, the line that fills the cell, for all seeds.

    classes: None for all of the notebook. variant: as in a record; None for the main run. used: the records behind a
    number; the line repeats their seeds and settings where these are not the defaults. records: all of the kind; a line
    without `used` takes its protocol, source, precision and data folder from a main run among them.
    """
    settings: dict[str, object] = {} if classes is None else {"CLASSES": classes}
    if variant is not None or notebook == "06_head_ct":
        settings["VARIANTS"] = [variant or "plain"]
    if not used:
        # Main runs only: a variant may have another source, and your own images are in another folder.
        main = [r for r in records if r["variant"] is None and r["dataset"] != "folder" and r["profile"] == "full"]
        of_kind = {name: value for record in main[:1] for name, value in _changed(record).items() if name in _OF_KIND}
        return _line("full", notebook, settings | of_kind)
    if used[0]["profile"] != "full":
        return _line(used[0]["profile"], notebook, settings)
    groups: dict[str, set[int]] = {}  # the seeds of each line, by settings
    for record in used:
        groups.setdefault(json.dumps(_changed(record)), set()).add(record["seed"])
    lines = []
    for changed, seeds in groups.items():
        which: dict[str, object] = {"seeds": sorted(seeds)}
        if seeds == set(range(len(seeds))):
            which = {"seeds": len(seeds)} if len(seeds) != SEEDS else {}
        lines.append(_line("full", notebook, settings | json.loads(changed) | which))
    return " && ".join(lines)


def _line(profile: str, notebook: str, settings: dict[str, object]) -> str:
    given = [f"{k}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in settings.items()]
    return shlex.join(["./run_all.sh", profile, notebook, *(["--config", *given] if given else [])])


def _changed(record: dict) -> dict[str, object]:
    """The settings of a record that differ from the defaults."""
    setting, parameters, environment = SETTINGS[record["dataset"]], record["parameters"], record["environment"]
    precision = parameters.get("precision", PRECISIONS[0])
    imagenet = parameters["source_name"] == source_name("imagenet", precision)
    settings = {  # (recorded value, default)
        "EPOCHS": (parameters["epochs"], setting.epochs),
        "IMAGE_SIZE": (parameters["image_size"], setting.image_size),
        "BATCH_SIZE": (parameters["batch_size"], BATCH_SIZE),
        "PROTOCOL": (record["protocol"], "official"),
        "SOURCE": ("imagenet" if imagenet else environment["source"], "imagenet"),
        "PRECISION": (precision, PRECISIONS[0]),
        "DATA_DIR": (environment["data_dir"], paths.DATA_DIR.name),
    }
    own = {**environment, **parameters}  # of your own images
    settings |= {name: (own.get(name.lower()), None) for name in ("TILE", "TEST_LABEL", "TEST_DIR", "IGNORE")}
    return {name: value for name, (value, default) in settings.items() if value != default}
