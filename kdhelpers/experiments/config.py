"""The runs that a notebook's parameters request, with data, folders and device checked once."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from kdhelpers import data, paths, protocols
from kdhelpers.data import layouts, samples, weights
from kdhelpers.data.listing import find, subfolders
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.experiments import records
from kdhelpers.experiments.parameters import BesideAnomalib, Common, OwnImages, Tables, Training, from_cell, parse
from kdhelpers.experiments.records import Kind
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, Variant, main_notebook, variants_of

_COMPUTES = (8, 0)  # bfloat16: the compute capability of Ampere


def from_notebook(notebook: str, namespace: dict) -> list[Run]:
    """The `Run`s of a notebook from its globals: the variants of each data set, the main run first.

    Raises InputError for an unknown name, a value that is not allowed, missing data, and records in RESULTS_DIR with
    other parameters or of another folder that these runs would replace.
    """
    runs = resolve(notebook, **from_cell(namespace))
    if notebook in ABLATIONS:
        refuse_to_replace(runs)
    if runs[0].dataset == "folder":
        _refuse_namesake(runs[0])
    return runs


def beside_anomalib(notebook: str, namespace: dict) -> tuple[Run, list[str], dict]:
    """The `Run` of 04_mvtec for the category to compare on, anomalib's methods, and keywords of `run_method`."""
    asked = parse(BesideAnomalib, notebook, from_cell(namespace))
    one = isinstance(asked.CLASSES, list) and len(asked.CLASSES) == 1
    if not (one or asked.is_smoke and asked.CLASSES is None):
        raise InputError(f"CLASSES is {asked.CLASSES!r}; it is a list of the one category, such as ['screw']")
    (run,) = resolve("04_mvtec", **asked.model_dump(include=set(Training.model_fields)))
    refuse_to_replace([run])
    backbones = "untrained" if asked.is_smoke else asked.BACKBONES
    methods = asked.METHODS or (["stfpm", "patchcore"] if backbones == "imagenet" else ["patchcore"])
    if backbones != "imagenet" and "stfpm" in methods:
        raise InputError("METHODS has 'stfpm', which needs ImageNet weights: leave it out or give BACKBONES='imagenet'")
    if backbones == "source" and run.source == "untrained":
        raise InputError("BACKBONES is 'source', and SOURCE 'untrained': give SOURCE trained weights")
    return run, methods, {"epochs": asked.STFPM_EPOCHS, "coreset": asked.CORESET, "backbones": backbones}


def resolve(notebook: str, **given) -> list[Run]:
    """The `Run`s of a notebook from keyword parameters (defaults are in the notebooks); RESULTS_DIR is not checked.

    EPOCHS, IMAGE_SIZE and CLASSES may be dicts by data set. Generates smoke's samples.
    """
    datasets = DATASETS[notebook]
    asked = parse(OwnImages if datasets == ("folder",) else Training, notebook, given)
    _check_folders(asked, "DATA_DIR", "TEST_DIR", "IGNORE")
    if asked.is_smoke and asked.DATA_DIR is None:
        samples.make()
    for name in ("CLASSES", "EPOCHS", "IMAGE_SIZE"):
        value = getattr(asked, name)
        unknown = isinstance(value, dict) and not value.keys() <= set(datasets)
        if unknown or name == "CLASSES" and isinstance(value, list) and len(datasets) > 1:
            plain = "None" if name == "CLASSES" else "None, a number"
            raise InputError(f"{name} is {value!r}; give {plain}, or a dict of some of {', '.join(datasets)}")
    runs = []
    for dataset in datasets:
        if not isinstance(asked.CLASSES, dict) or dataset in asked.CLASSES:
            main = _main_run(dataset, asked)
            variants = variants_of(notebook, dataset, main.protocol, main.image_size)
            runs += [varied(main, variant, notebook) for variant in variants]
    # An ablation's main run has no name, since the variants are always compared with it.
    named = [(run.variant or ("" if notebook in ABLATIONS else run.label), run) for run in runs]
    names = list(dict.fromkeys(name for name, _ in named if name))
    for name in asked.VARIANTS or ():
        if name not in names:
            hint = did_you_mean(name, names)
            raise InputError(f"VARIANTS has {name!r}; it is None for all, or some of {names}{hint}")
    if asked.VARIANTS is None:
        return runs
    with_any = {run.dataset for name, run in named if name in asked.VARIANTS}
    return [run for name, run in named if name in ("", *asked.VARIANTS) and run.dataset in with_any]


def tables_from_notebook(notebook: str, namespace: dict) -> tuple[Kind, Path]:
    """The kind of records for tables, and RESULTS_DIR, from a notebook's globals."""
    asked = parse(Tables, notebook, from_cell(namespace))
    _check_folders(asked, "RESULTS_DIR")
    source = records.source_name(asked.source, asked.PRECISION)
    if not (asked.results_dir / "records" / source).is_dir():  # else it is named by this folder
        source = records.source_name(weights.source_name(asked.source), asked.PRECISION)
    return Kind(source, asked.PROFILE, asked.PROTOCOL), asked.results_dir


def varied(main: Run, variant: Variant, notebook: str) -> Run:
    """A variant of a main run; its records belong to `notebook`, except those of the main run itself."""
    if variant.name is None:
        return replace(main, label=variant.label)
    named = {"notebook": notebook, "variant": variant.name, "label": variant.label}
    protocol = replace(main.protocol, **variant.protocol)
    return replace(main, **named, protocol=protocol, shares_cloner=not variant.trains, **variant.run)


def _main_run(dataset: str, asked: Training) -> Run:
    """The main run of a data set, with the article's or smoke's value for each parameter that is None."""

    def of_dataset(value):
        return value.get(dataset) if isinstance(value, dict) else value

    setting, smoke, data_dir = protocols.SETTINGS[dataset], asked.is_smoke, _data_dir(asked)
    device, precision = device_of(asked.DEVICE), asked.PRECISION
    if precision == "auto":
        precision = protocols.PRECISIONS[0] if smoke else _fast_precision(device)
    if precision == "bfloat16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < _COMPUTES:
        raise InputError(f"{torch.cuda.get_device_name(device)} does not compute in bfloat16: give PRECISION=float32")
    default = min(setting.image_size, protocols.SMOKE_SIZE) if smoke else setting.image_size
    size = of_dataset(asked.IMAGE_SIZE) or default
    return Run(
        notebook=main_notebook(dataset),
        dataset=dataset,
        protocol=protocols.protocol_for(asked.PROTOCOL, dataset),
        source=asked.source,
        source_name=records.source_name(weights.source_name(asked.source), precision),
        classes=_classes(of_dataset(asked.CLASSES), dataset, data_dir, smoke),
        epochs=of_dataset(asked.EPOCHS) or (protocols.SMOKE_EPOCHS if smoke else setting.epochs),
        image_size=tuple(size) if isinstance(size, list) else size,
        batch_size=asked.BATCH_SIZE or (protocols.SMOKE_BATCH_SIZE if smoke else protocols.BATCH_SIZE),
        device=device,
        precision=precision,
        data_dir=data_dir,
        results_dir=asked.results_dir,
        **{name.lower(): getattr(asked, name) for name in ("PROFILE", "SEED", "CACHE")},
        **(_own(asked, data_dir) if isinstance(asked, OwnImages) else {}),
    )


def _check_folders(asked: Common, *names: str) -> None:
    for name in names:
        path = getattr(asked, name, None)
        if path and not (path.is_dir() or name == "IGNORE" and path.is_file()):
            raise InputError(f"{name} {path} is not a folder, or is missing: name the folder to read, or leave it out")
        if path and str(path).encode(errors="ignore") != os.fsencode(path):
            raise InputError(f"{name} {path}: the path is not valid UTF-8 and cannot be recorded: rename it")


def _data_dir(asked: Training) -> Path:
    is_own = isinstance(asked, OwnImages)
    if asked.DATA_DIR:
        return asked.DATA_DIR
    if asked.is_smoke:
        return paths.SAMPLES_DIR / ("own_images" if is_own else "")
    if is_own:
        layout = "with good ones in it, or train/good/* and test/<kind>/*"
        raise InputError(f"DATA_DIR is not given: name the folder of your images, {layout}")
    return paths.DATA_DIR


def _own(asked: OwnImages, data_dir: Path) -> dict:
    """The settings for your own images; lists the images, so that errors in the folders are reported here."""
    if isinstance(asked.TEST_LABEL, str) and not asked.TEST_DIR:
        fix = "whose pictures it labels: give TEST_DIR too"
        raise InputError(f"TEST_LABEL is {asked.TEST_LABEL!r} and there is no TEST_DIR, {fix}")
    own = layouts.Own(asked.TEST_DIR, asked.TEST_LABEL, asked.IGNORE, asked.TILE)
    layouts.list_files("folder", "", data_dir, 0, own=own)
    places = (data_dir, find(data_dir, "train"), find(data_dir, "test"), *filter(None, [asked.TEST_DIR]))
    names = [folder.name for place in places for folder in subfolders(place)] + [place.name for place in places[3:]]
    for name in asked.TEST_LABEL if isinstance(asked.TEST_LABEL, dict) else ():
        if name.lower() not in map(str.lower, names):
            raise InputError(f"TEST_LABEL has {name!r}, but no folder has this name{did_you_mean(name, names)}")
    return {"own": own, "false_alarms": asked.FALSE_ALARMS, "map": asked.MAP, "score_by": asked.SCORE}


def _classes(given: list | None, dataset: str, data_dir: Path, smoke: bool) -> tuple[str, ...]:
    """The classes asked for, or all (in smoke the first); InputError when the files of one are missing."""
    classes = data.classes(dataset, data_dir)
    if dataset == "folder":  # `_own` lists these, since their folders may need TEST_LABEL
        return classes
    if given:
        classes = tuple(dict.fromkeys(data.resolve_class(dataset, str(name), data_dir) for name in given))
    elif smoke:
        classes = classes[:1]
    status = data.status(dataset, data_dir)
    present = [cls for cls in status if status[cls] in ("", "download")]
    for cls in classes:
        if cls not in present:
            others = f" (or give CLASSES some of {', '.join(present)})" if present else ""
            raise InputError(f"{dataset} {cls}: {status[cls]}{others}")
    return classes


def device_of(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one. Raises InputError when it cannot be used."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.ones(1, device=device).sum().item()  # computes, since this torch may lack an old GPU's kernels
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # graphs and timings refer to the current GPU
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason = str(error).splitlines()[0]
        fix = "give DEVICE=cpu" if name == "auto" else "auto takes a GPU where there is one"
        raise InputError(f"DEVICE {name!r} cannot be used ({reason}); {fix}") from error
    return device


def _fast_precision(device: torch.device) -> str:
    """ "bfloat16" on a device that computes in it (Ampere and later; AVX-512 BF16 or AMX), otherwise "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= _COMPUTES else "float32"
    can = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if device.type == "cpu" and (can.get("avx512_bf16") or can.get("amx_bf16")) else "float32"


def _refuse_namesake(run: Run) -> None:
    """Raise InputError when RESULTS_DIR holds records of another folder with the same name."""
    (cls,) = run.classes
    name = f"{run.notebook}/{run.dataset}-{cls}-seed*.json"
    for path in sorted(run.results_dir.glob(f"records/*/{run.profile}/*/{name}")):
        other = records.read(path)["environment"]["data_dir"]
        if Path(other) != run.data_dir:
            fix = f"rename one of the folders, give another RESULTS_DIR, or remove {path}"
            raise InputError(f"{run.results_dir} has the results of {other}, another folder called {cls}: {fix}")


def refuse_to_replace(runs: list[Run]) -> None:
    """Raise InputError when `runs` would replace the record of a main run with other parameters."""
    for run, cls in [(main, cls) for main in runs if main.variant is None for cls in main.classes]:
        path, asked = run.record_path(cls), run.parameters(cls)
        recorded = records.read(path)["parameters"] if path.is_file() else asked
        for name in (name for name in asked if recorded.get(name) != asked[name]):
            fix = f"give the same parameters as to {run.notebook}, or another RESULTS_DIR"
            differs = f"{path} has {name} {recorded.get(name)}, this run {asked[name]}"
            raise InputError(f"{differs}; they are not comparable: {fix}")
