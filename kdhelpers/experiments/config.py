"""The runs that a notebook's parameters request, with data, folders and device checked once."""

from dataclasses import replace
from pathlib import Path

import torch

from kdhelpers import data, paths
from kdhelpers.data import layouts, samples, weights
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.experiments import records
from kdhelpers.experiments.parameters import BesideAnomalib, Common, OwnImages, Training, from_cell, parse
from kdhelpers.experiments.records import Kind
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, Variant, main_notebook, variants_of
from kdhelpers.protocols import BATCH_SIZE, SETTINGS, SMOKE_BATCH_SIZE, SMOKE_EPOCHS, SMOKE_SIZE, protocol_for


def from_notebook(notebook: str, namespace: dict) -> list[Run]:
    """The `Run`s of a notebook from its globals: the variants of each data set, the main run first.

    Raises InputError for an unknown name, a value that is not allowed, missing data, and records in RESULTS_DIR with
    other parameters or of another folder that these runs would replace.
    """
    runs = _runs(notebook, from_cell(_model(notebook), notebook, namespace))
    if notebook in ABLATIONS:
        refuse_to_replace(runs)
    if runs[0].dataset == "folder":
        _refuse_namesake(runs[0])
    return runs


def beside_anomalib(notebook: str, namespace: dict) -> tuple[Run, list[str], dict]:
    """The `Run` of 04_mvtec for the category to compare on, anomalib's methods, and keywords of `run_method`."""
    asked = from_cell(BesideAnomalib, notebook, namespace)
    if not (asked.is_smoke and asked.CLASSES is None or isinstance(asked.CLASSES, list) and len(asked.CLASSES) == 1):
        raise InputError(f"CLASSES is {asked.CLASSES!r}; it is a list of the one category, such as ['screw']")
    (run,) = resolve("04_mvtec", **{name: getattr(asked, name) for name in Training.model_fields})
    refuse_to_replace([run])
    backbones = "untrained" if asked.is_smoke else asked.BACKBONES
    methods = asked.METHODS or (["stfpm", "patchcore"] if backbones == "imagenet" else ["patchcore"])
    if backbones != "imagenet" and "stfpm" in methods:
        raise InputError("METHODS has 'stfpm', whose teacher anomalib always loads: give BACKBONES='imagenet'")
    if backbones == "source" and run.source == "untrained":
        raise InputError("BACKBONES is 'source', and SOURCE 'untrained': give SOURCE trained weights")
    return run, methods, {"epochs": asked.STFPM_EPOCHS, "coreset": asked.CORESET, "backbones": backbones}


def resolve(notebook: str, **given) -> list[Run]:
    """The `Run`s of a notebook from keyword parameters (defaults are in the notebooks); RESULTS_DIR is not checked."""
    return _runs(notebook, parse(_model(notebook), notebook, given))


def tables_from_notebook(notebook: str, namespace: dict) -> tuple[Kind, Path]:
    """The kind of records for tables, and RESULTS_DIR, from a notebook's globals."""
    asked = from_cell(Common, notebook, namespace)
    if asked.RESULTS_DIR:
        _check_folder("RESULTS_DIR", asked.RESULTS_DIR, "name the one that holds the records")
    named_by_folder = (asked.results_dir / "records" / asked.source).is_dir()
    source = asked.source if named_by_folder else weights.source_name(asked.source)
    return Kind(source, asked.PROFILE, asked.PROTOCOL), asked.results_dir


def varied(main: Run, variant: Variant, notebook: str) -> Run:
    """A variant of a main run; its records belong to `notebook`, except those of the main run itself."""
    if variant.name is None:
        return replace(main, label=variant.label)
    named = {"notebook": notebook, "variant": variant.name, "label": variant.label}
    protocol = replace(main.protocol, **variant.protocol)
    return replace(main, **named, protocol=protocol, shares_cloner=not variant.trains, **variant.run)


def _model(notebook: str) -> type[Training]:
    return OwnImages if DATASETS[notebook] == ("folder",) else Training


def _runs(notebook: str, asked: Training) -> list[Run]:
    """The runs of all data sets; generates smoke's samples. EPOCHS, IMAGE_SIZE and CLASSES may be dicts by data set."""
    datasets = DATASETS[notebook]
    if asked.is_smoke and asked.DATA_DIR is None:
        samples.make()
    for name in ("CLASSES", "EPOCHS", "IMAGE_SIZE"):
        value = getattr(asked, name)
        if isinstance(value, dict) and (unknown := [dataset for dataset in value if dataset not in datasets]):
            raise InputError(f"{name} has {unknown[0]!r}; {notebook} has {', '.join(datasets)}")
    if isinstance(asked.CLASSES, list) and len(datasets) > 1:
        raise InputError(
            f"CLASSES is {asked.CLASSES!r}; {notebook} has several data sets: give None for all of their classes, or a "
            f"dict such as {{'{datasets[0]}': [...]}} of some of {', '.join(datasets)}"
        )
    runs = []
    for dataset in datasets:
        if not isinstance(asked.CLASSES, dict) or dataset in asked.CLASSES:
            main = _main_run(dataset, asked)
            variants = variants_of(notebook, dataset, main.protocol, main.image_size)
            runs += [varied(main, variant, notebook) for variant in variants]
    # An ablation always includes its main run, called None here, because the variants are compared with it.
    named = [(run.variant or (None if notebook in ABLATIONS else run.label), run) for run in runs]
    names = list(dict.fromkeys(name for name, _ in named if name is not None))
    wanted = names if asked.VARIANTS is None else asked.VARIANTS
    for name in wanted:
        if name not in names:
            hint = did_you_mean(name, names)
            raise InputError(f"VARIANTS has {name!r}; it is None for all, or some of {names}{hint}")
    return [run for name, run in named if name is None or name in wanted]


def _main_run(dataset: str, asked: Training) -> Run:
    """The main run of a data set, with the article's or smoke's value for each parameter that is None."""

    def of_dataset(value):
        return value.get(dataset) if isinstance(value, dict) else value

    setting, smoke = SETTINGS[dataset], asked.is_smoke
    data_dir = _data_dir(asked, dataset == "folder")
    size = of_dataset(asked.IMAGE_SIZE) or (min(setting.image_size, SMOKE_SIZE) if smoke else setting.image_size)
    return Run(
        notebook=main_notebook(dataset),
        dataset=dataset,
        variant=None,
        label="",
        profile=asked.PROFILE,
        protocol=protocol_for(asked.PROTOCOL, dataset),
        seed=asked.SEED,
        source=asked.source,
        source_name=records.source_name(weights.source_name(asked.source), asked.PRECISION),
        classes=_classes(of_dataset(asked.CLASSES), dataset, data_dir, smoke),
        epochs=of_dataset(asked.EPOCHS) or (SMOKE_EPOCHS if smoke else setting.epochs),
        image_size=tuple(size) if isinstance(size, list) else size,
        batch_size=asked.BATCH_SIZE or (SMOKE_BATCH_SIZE if smoke else BATCH_SIZE),
        device=device_of(asked.DEVICE),
        cache=asked.CACHE,
        precision=asked.PRECISION,
        data_dir=data_dir,
        results_dir=asked.results_dir,
        **(_own(asked, data_dir) if isinstance(asked, OwnImages) else {}),
    )


def _data_dir(asked: Training, own: bool) -> Path:
    if asked.DATA_DIR is None and asked.is_smoke:
        return paths.SAMPLES_DIR / ("own_images" if own else "")
    if asked.DATA_DIR is None and own:
        raise InputError(
            "DATA_DIR is not given: name the folder of your images, with good ones in it, or train/good/* and "
            "test/<kind>/*"
        )
    folder = asked.DATA_DIR or paths.DATA_DIR
    _check_folder("DATA_DIR", folder, f"name the folder {'of your images' if own else 'that holds the data sets'}")
    return folder


def _check_folder(name: str, path: Path, fix: str) -> None:
    if not path.is_dir():
        raise InputError(f"{name} {path} is not a folder: {fix}")


def _own(asked: OwnImages, data_dir: Path) -> dict:
    """The settings for your own images; lists the images, so that errors in the folders are reported here."""
    if asked.TEST_DIR:
        _check_folder("TEST_DIR", asked.TEST_DIR, "name the folder of pictures to score, or leave it out")
    if isinstance(asked.TEST_LABEL, str) and not asked.TEST_DIR:
        raise InputError(
            f"TEST_LABEL is {asked.TEST_LABEL!r} and there is no TEST_DIR, whose pictures it labels: give TEST_DIR too"
        )
    if asked.IGNORE and not asked.IGNORE.exists():
        raise InputError(f"IGNORE {asked.IGNORE} is missing: name a mask, or a folder of masks, or leave it out")
    own = layouts.Own(asked.TEST_DIR, asked.TEST_LABEL, asked.IGNORE, asked.TILE)
    layouts.list_files("folder", "", data_dir, 0, own=own)
    return {"own": own, "false_alarms": asked.FALSE_ALARMS, "map": asked.MAP, "score_by": asked.SCORE}


def _classes(given: list | None, dataset: str, data_dir: Path, smoke: bool) -> tuple[str, ...]:
    classes = data.classes(dataset, data_dir)
    if dataset == "folder":  # `_own` lists these, since their folders may need TEST_LABEL
        return classes
    if given is None:
        classes = classes[: 1 if smoke else None]
    else:
        classes = tuple(dict.fromkeys(data.resolve_class(dataset, str(name), data_dir) for name in given))
    status = data.status(dataset, data_dir)
    for cls in classes:
        if smoke and status[cls] and data_dir == paths.SAMPLES_DIR:
            sample = ", ".join(cls for cls, missing in status.items() if not missing)
            raise InputError(f"{dataset} {cls}: not in the generated sample, which has {sample}")
        if status[cls] not in ("", "download"):
            others = " (or name others in CLASSES)" if len(status) > 1 else ""
            raise InputError(f"{dataset} {cls}: {status[cls]}{others}")
    return classes


def device_of(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one. Raises InputError when it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"DEVICE {name!r} cannot be used ({reason}); auto takes a GPU where there is one") from error
    return device


def _refuse_namesake(run: Run) -> None:
    """Raise InputError when RESULTS_DIR holds records of another folder with the same name."""
    (cls,) = run.classes
    pattern = f"records/*/{run.profile}/*/{run.notebook}/{run.dataset}-{cls}-seed*.json"
    for path in sorted(run.results_dir.glob(pattern)):
        other = records.read(path)["environment"]["data_dir"]
        if Path(other) != run.data_dir:
            raise InputError(
                f"{run.results_dir} has the results of {other}, another folder called {cls}: rename one of the "
                f"folders, give another RESULTS_DIR, or remove {path}"
            )


def refuse_to_replace(runs: list[Run]) -> None:
    """Raise InputError when `runs` would replace the record of a main run with other parameters."""
    for run, cls in [(main, cls) for main in runs if main.variant is None for cls in main.classes]:
        path, asked = run.record_path(cls), run.parameters(cls)
        recorded = records.read(path)["parameters"] if path.is_file() else asked
        for name in asked:
            if recorded.get(name) != asked[name]:
                raise InputError(
                    f"{path} has {name} {recorded.get(name)}, this run {asked[name]}; they are not comparable: give "
                    f"the same parameters as to {run.notebook}, or another RESULTS_DIR"
                )
