"""From what a notebook asks for to the runs that it stands for, with the data, folders and device checked once."""

from dataclasses import replace
from pathlib import Path

import torch

from kdhelpers import data, paths
from kdhelpers.data import layouts, samples, weights
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.experiments import records
from kdhelpers.experiments.parameters import BesideAnomalib, OwnImages, Training, WithSource, from_cell, parse
from kdhelpers.experiments.records import Kind
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, Variant, main_notebook, variants_of
from kdhelpers.protocols import BATCH_SIZE, SETTINGS, SMOKE_BATCH_SIZE, SMOKE_EPOCHS, protocol_for


def from_notebook(notebook: str, namespace: dict) -> list[Run]:
    """The `Run`s of a notebook from its globals: the variants of each data set, the main run first.

    Raises InputError for an unknown name, a value that is not allowed, missing data, and for records in RESULTS_DIR
    that this run would replace although they were made otherwise.
    """
    runs = _runs(notebook, from_cell(_model(notebook), notebook, namespace))
    if notebook in ABLATIONS:
        refuse_to_replace(runs)
    if runs[0].dataset == "folder":
        _refuse_namesake(runs[0])
    return runs


def beside_anomalib(notebook: str, namespace: dict) -> tuple[Run, list[str], dict]:
    """The `Run` of 04_mvtec of the one category to compare on, anomalib's methods, and the keywords of `run_method`."""
    asked = from_cell(BesideAnomalib, notebook, namespace)
    if not (asked.is_smoke and asked.CLASSES is None or isinstance(asked.CLASSES, list) and len(asked.CLASSES) == 1):
        raise InputError(f"CLASSES is {asked.CLASSES!r}; it is a list of the one category, such as ['screw']")
    (run,) = resolve("04_mvtec", **{name: getattr(asked, name) for name in Training.model_fields})
    refuse_to_replace([run])
    backbones = "untrained" if asked.is_smoke else asked.BACKBONES
    methods = asked.METHODS or (["patchcore"] if backbones == "untrained" else ["stfpm", "patchcore"])
    if backbones == "untrained" and "stfpm" in methods:
        raise InputError("METHODS has 'stfpm', whose teacher anomalib always loads: give BACKBONES='imagenet'")
    return run, methods, {"epochs": asked.STFPM_EPOCHS, "coreset": asked.CORESET, "backbones": backbones}


def resolve(notebook: str, **given) -> list[Run]:
    """The same with all parameters given; their defaults stand in the notebooks."""
    return _runs(notebook, parse(_model(notebook), notebook, given))


def tables_from_notebook(notebook: str, namespace: dict) -> tuple[Kind, Path]:
    """The kind of records that tables are about, and RESULTS_DIR, from a notebook's globals."""
    asked = from_cell(WithSource, notebook, namespace)
    if asked.RESULTS_DIR is not None and not asked.results_dir.is_dir():
        raise InputError(f"RESULTS_DIR {asked.results_dir} is not a folder: name the one that holds the records")
    named_by_folder = (asked.results_dir / "records" / asked.source).is_dir()
    source = asked.source if named_by_folder else weights.source_name(asked.source)
    return Kind(source, asked.PROFILE, asked.PROTOCOL), asked.results_dir


def _model(notebook: str) -> type[Training]:
    return OwnImages if DATASETS[notebook] == ("folder",) else Training


def _runs(notebook: str, asked: Training) -> list[Run]:
    """The runs of all data sets; EPOCHS, IMAGE_SIZE and CLASSES may be given by data set. Generates smoke's samples."""
    datasets = DATASETS[notebook]
    if asked.is_smoke and asked.DATA_DIR is None:
        samples.make()
    for name in ("CLASSES", "EPOCHS", "IMAGE_SIZE"):
        value = getattr(asked, name)
        for dataset in value if isinstance(value, dict) else ():
            if dataset not in datasets:
                raise InputError(f"{name} has {dataset!r}; {notebook} has {', '.join(datasets)}")
        if name == "CLASSES" and isinstance(value, list) and len(datasets) > 1:
            raise InputError(
                f"CLASSES is {value!r}; {notebook} has several data sets: give None for all of everything, or a dict "
                f"such as {{'{datasets[0]}': [...]}} of some of {', '.join(datasets)}"
            )
    chosen = asked.CLASSES if isinstance(asked.CLASSES, dict) else datasets
    runs = [run for dataset in datasets if dataset in chosen for run in _variants(notebook, dataset, asked)]
    # An ablation's main run goes along with every variant: it is what the variant is compared with.
    always = [run for run in runs if run.variant is None and notebook in ABLATIONS]
    names = list(dict.fromkeys(run.variant or run.label for run in runs if run not in always))
    wanted = names if asked.VARIANTS is None else asked.VARIANTS
    for name in wanted:
        if name not in names:
            raise InputError(
                f"VARIANTS has {name!r}; it is None for all, or some of {names}{did_you_mean(name, names)}"
            )
    return [run for run in runs if run in always or (run.variant or run.label) in wanted]


def _variants(notebook: str, dataset: str, asked: Training) -> list[Run]:
    """The main run of a data set as asked for, and each variant of it."""

    def of_dataset(value, smoke, article):
        value = value.get(dataset) if isinstance(value, dict) else value
        return (smoke if asked.is_smoke and smoke else article) if value is None else value

    setting = SETTINGS[dataset]
    data_dir = _data_dir(asked, dataset)
    main = Run(
        notebook=main_notebook(dataset) if notebook in ABLATIONS else notebook,
        dataset=dataset,
        variant=None,
        label="",
        profile=asked.PROFILE,
        protocol=protocol_for(asked.PROTOCOL, dataset),
        seed=asked.SEED,
        source=asked.source,
        source_name=weights.source_name(asked.source),
        classes=_classes(asked, dataset, data_dir),
        epochs=of_dataset(asked.EPOCHS, SMOKE_EPOCHS, setting.epochs),
        image_size=of_dataset(asked.IMAGE_SIZE, setting.smoke_size, setting.image_size),
        batch_size=of_dataset(asked.BATCH_SIZE, SMOKE_BATCH_SIZE, BATCH_SIZE),
        device=device_of(asked.DEVICE),
        cache=asked.CACHE,
        data_dir=data_dir,
        results_dir=asked.results_dir,
        **(_own(asked, data_dir) if isinstance(asked, OwnImages) else {}),
    )
    return [_changed(main, one, notebook) for one in variants_of(notebook, dataset, main.protocol, main.image_size)]


def _changed(main: Run, variant: Variant, notebook: str) -> Run:
    if variant.name is None:
        return replace(main, label=variant.label)
    protocol = replace(main.protocol, **variant.protocol)
    return replace(main, notebook=notebook, variant=variant.name, label=variant.label, protocol=protocol, **variant.run)


def _data_dir(asked: Training, dataset: str) -> Path:
    own = dataset == "folder"
    if asked.DATA_DIR is None and asked.is_smoke:
        return paths.SAMPLES_DIR / ("own_images" if own else "")
    if asked.DATA_DIR is None and own:
        raise InputError(
            "DATA_DIR is not given: name the folder of your images, with good ones in it, or train/good/* and "
            "test/<kind>/*"
        )
    folder = Path(asked.DATA_DIR or paths.DATA_DIR).expanduser().absolute()
    if not folder.is_dir():
        what = "of your images" if own else "that holds the data sets"
        raise InputError(f"DATA_DIR {folder} is not a folder: name the folder {what}")
    return folder


def _own(asked: OwnImages, data_dir: Path) -> dict:
    """What is asked for of your own images; lists them, so that what is wrong with the folders is reported first."""
    folder = Path(asked.TEST_DIR).expanduser().absolute() if asked.TEST_DIR else None
    if folder and not folder.is_dir():
        raise InputError(f"TEST_DIR {folder} is not a folder: name the folder of pictures to score, or leave it out")
    if isinstance(asked.TEST_LABEL, str) and not folder:
        raise InputError(
            f"TEST_LABEL is {asked.TEST_LABEL!r} and there is no TEST_DIR: it says what the pictures in there are"
        )
    layouts.list_files("folder", "", data_dir, 0, test_dir=folder, test_label=asked.TEST_LABEL)
    own = {"test_dir": folder, "test_label": asked.TEST_LABEL, "false_alarms": float(asked.FALSE_ALARMS)}
    return own | {"map": asked.MAP, "score_by": asked.SCORE}


def _classes(asked: Training, dataset: str, data_dir: Path) -> tuple[str, ...]:
    given = asked.CLASSES[dataset] if isinstance(asked.CLASSES, dict) else asked.CLASSES
    if dataset == "folder":  # already listed, by names of folders that TEST_LABEL may explain
        return data.classes(dataset, data_dir)
    status = data.status(dataset, data_dir)
    if given is None:
        classes = data.classes(dataset, data_dir)[: 1 if asked.is_smoke else None]
    else:
        classes = tuple(dict.fromkeys(data.resolve_class(dataset, str(name), data_dir) for name in given))
    for cls in classes:
        if asked.is_smoke and status[cls] and data_dir == paths.SAMPLES_DIR:
            sample = ", ".join(cls for cls, missing in status.items() if not missing)
            raise InputError(f"{dataset} {cls}: not in the generated sample, which has {sample}")
        if status[cls] not in ("", "download"):
            others = " (or name others in CLASSES)" if len(status) > 1 else ""
            raise InputError(f"{dataset} {cls}: {status[cls]}{others}")
    return classes


def device_of(name: str) -> torch.device:
    """The device of that name, "auto" for a GPU where there is one; InputError when it cannot be used."""
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
    """Raise InputError when RESULTS_DIR holds the scores and the detector of another folder of the same name."""
    (cls,) = run.classes
    pattern = f"records/*/{run.profile}/*/{run.notebook}/{run.record_path(cls).name.rpartition('-seed')[0]}-seed*.json"
    for path in sorted(run.results_dir.glob(pattern)):
        other = records.read(path)["environment"]["data_dir"]
        if Path(other) != run.data_dir:
            raise InputError(
                f"{run.results_dir} has the results of {other}, another folder called {cls}: rename one of the "
                f"folders, give another RESULTS_DIR, or remove {path}"
            )


def refuse_to_replace(runs: list[Run]) -> None:
    """Raise InputError when an ablation would replace a main run that was made with other parameters."""
    for run in runs:
        for cls in run.classes if run.variant is None else ():
            path = run.record_path(cls)
            recorded = records.read(path)["parameters"] if path.is_file() else run.parameters(cls)
            for name, value in run.parameters(cls).items():
                if recorded.get(name) != value:
                    raise InputError(
                        f"{path} has {name} {recorded.get(name)}, this run {value}, and they would not compare: give "
                        f"the same parameters as to {run.notebook}, or another RESULTS_DIR"
                    )
