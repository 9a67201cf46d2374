"""The command that reproduces a number, shown beside it in the report."""

import json
import shlex
from collections.abc import Sequence

from kdhelpers import paths
from kdhelpers.experiments.records import source_name
from kdhelpers.experiments.variants import ABLATIONS, DATASETS
from kdhelpers.protocols import BATCH_SIZE, PRECISIONS, SEEDS, SETTINGS, SMOKE_BATCH_SIZE, SMOKE_EPOCHS, SMOKE_SIZE

_OF_KIND = ("PROTOCOL", "SOURCE", "PRECISION", "DATA_DIR")  # a command for missing records takes these from a main run


def command_for(
    notebook: str, classes: list[str] | None, variant: str | None, used: Sequence[dict], records: Sequence[dict] = ()
) -> str:
    """The `./run_all.sh` line that reruns the records `used`; without any, the line that fills the cell, for all seeds.

    classes: None for all of the notebook. variant: as in a record; None for the main run. used: the records behind a
    number; the line, or one for each of several settings, repeats their seeds and settings where these are not the
    defaults. records: all of the kind; a line without `used` takes its protocol, source, precision and data folder from
    a main run among them, and an ablation also the sizes of its main runs: it would be refused without.
    """
    settings: dict[str, object] = {} if classes is None else {"CLASSES": classes}
    if variant is not None or notebook == "06_head_ct":
        settings["VARIANTS"] = [variant or "plain"]
    if not used:
        # Main runs only: a variant may have another source, and your own images are in another folder.
        main = [r for r in records if r["variant"] is None and r["dataset"] != "folder" and r["profile"] == "full"]
        settings |= {name: value for r in main[:1] for name, value in _changed(r).items() if name in _OF_KIND}
        mains = {r["dataset"]: _changed(r) for r in reversed(main) if notebook in ABLATIONS}  # the first of each
        for name in ("EPOCHS", "IMAGE_SIZE", "BATCH_SIZE"):
            of = {d: mains[d][name] for d in DATASETS[notebook] if name in mains.get(d, ())}
            settings |= {name: min(of.values()) if name == "BATCH_SIZE" else of} if of else {}
        return command_line("full", notebook, settings)
    profile = used[0]["profile"]
    made: dict[tuple[str, str], set[int]] = {}  # the seeds, by settings and class
    for record in used:
        made.setdefault((json.dumps(_changed(record)), record["class"]), set()).add(record["seed"])
    groups: dict[tuple[str, tuple], list[str]] = {}  # the classes of each line, by settings and seeds
    for (changed, cls), seeds in made.items():
        groups.setdefault((changed, tuple(sorted(seeds))), []).append(cls)
    lines = []
    for (changed, seeds), of in groups.items():
        first = seeds == tuple(range(len(seeds)))
        default = first and len(seeds) == (SEEDS if profile == "full" else 1)
        if len(groups) > 1 or profile == "smoke" and len(of) > 1:  # by default smoke has one class
            settings = settings | {"CLASSES": of}
        which = {} if default else {"seeds": len(seeds) if first else seeds}
        lines.append(command_line(profile, notebook, settings | json.loads(changed) | which))
    return " && ".join(lines)


def command_line(profile: str, notebook: str, settings: dict[str, object]) -> str:
    """The `./run_all.sh` line with these settings. notebook: "" for all."""
    given = [f"{k}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in settings.items()]
    words = ["./run_all.sh", profile, notebook, *(["--config", *given] if given else [])]
    return shlex.join(filter(None, words))


def _changed(record: dict) -> dict[str, object]:
    """The settings of a record that differ from the defaults."""
    setting, parameters, environment = SETTINGS[record["dataset"]], record["parameters"], record["environment"]
    precision = parameters.get("precision", PRECISIONS[0])
    imagenet = parameters["source_name"] == source_name("imagenet", precision)
    is_smoke, size = record["profile"] == "smoke", setting.image_size
    settings = {  # (recorded value, default)
        "EPOCHS": (parameters["epochs"], SMOKE_EPOCHS if is_smoke else setting.epochs),
        "IMAGE_SIZE": (parameters["image_size"], size if not is_smoke else min(size, SMOKE_SIZE)),
        "BATCH_SIZE": (parameters["batch_size"], SMOKE_BATCH_SIZE if is_smoke else BATCH_SIZE),
        "PROTOCOL": (record["protocol"], "official"),
        "SOURCE": ("imagenet" if imagenet else environment["source"], "untrained" if is_smoke else "imagenet"),
        "PRECISION": (precision, PRECISIONS[0]),
        "DATA_DIR": (environment["data_dir"], environment["data_dir"] if is_smoke else paths.DATA_DIR.name),
    }
    own = {**environment, **parameters}  # of your own images
    settings |= {name: (own.get(name.lower()), None) for name in ("TILE", "TEST_LABEL", "TEST_DIR", "IGNORE")}
    return {name: value for name, (value, default) in settings.items() if value != default}
