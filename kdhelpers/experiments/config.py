"""The parameters of a notebook: checked once, resolved once, an unknown name or value refused."""

import ast
import difflib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kdhelpers import cache, data, files, paths
from kdhelpers.data import layouts, samples, weights
from kdhelpers.errors import InputError
from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import Kind
from kdhelpers.experiments.runs import Run
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, Variant, main_notebook, variants_of
from kdhelpers.protocols import (
    BATCH_SIZE,
    FALSE_ALARMS,
    PROTOCOLS,
    SETTINGS,
    SMOKE_BATCH_SIZE,
    SMOKE_EPOCHS,
    protocol_for,
)

COMMON = (
    "PROFILE",
    "PROTOCOL",
    "SEED",
    "SOURCE",
    "CLASSES",
    "EPOCHS",
    "IMAGE_SIZE",
    "BATCH_SIZE",
    "DEVICE",
    "CACHE",
    "DATA_DIR",
    "RESULTS_DIR",
)
OWN = ("TEST_DIR", "TEST_LABEL", "FALSE_ALARMS")
"""Names that only the notebook of one's own images has."""
OPTIONAL = ("CLASSES", "VARIANTS", *OWN)
"""Names that only some notebooks have: CLASSES not for one's own folder, VARIANTS where there are several."""
PROFILES = ("smoke", "full")


def check(notebook: str, namespace: dict) -> Run:
    """The `Run` of a notebook that has a single one, from its globals, right after its parameters cell.

    Raises InputError for a name that papermill has injected or a user has typed and that is no parameter, and for a
    value that is not allowed.
    """
    (run,) = check_variants(notebook, namespace)
    return run


def check_variants(notebook: str, namespace: dict) -> list[Run]:
    """All `Run`s of a notebook from its globals: the variants of each data set, the main run first. Raises as
    `check`."""
    theirs = () if DATASETS[notebook] == ("folder",) else OWN
    allowed = [name for name in dict.fromkeys((*COMMON, *OPTIONAL)) if name not in theirs]
    runs = resolve(notebook, **given_values(notebook, namespace, allowed))
    cache.keep_freed_memory()
    if notebook in ABLATIONS:
        refuse_to_replace(runs)
    if runs[0].dataset == "folder":
        _refuse_namesake(runs[0])
    if any(run.is_pending(cls) for run in runs for cls in run.classes):
        files.check_writable(runs[0].results_dir)  # now, and not after hours of training
    return runs


def check_tables(notebook: str, namespace: dict) -> tuple[Kind, Path]:
    """The kind of records that the tables are about, and RESULTS_DIR, from a notebook's globals. Raises as `check`."""
    given = given_values(notebook, namespace, ("PROFILE", "PROTOCOL", "SOURCE", "RESULTS_DIR"))
    profile, results_dir = one_of("PROFILE", given["PROFILE"], PROFILES), results_dir_of(given)
    if given["RESULTS_DIR"] is not None and not results_dir.is_dir():
        raise InputError(f"RESULTS_DIR {results_dir} is not a folder: name the one that holds the records")
    source = source_of(given["SOURCE"], profile)
    if not (results_dir / "records" / source).is_dir():  # as its records' folder is called, or as for the trainings
        source = weights.source_name(source)
    return Kind(source, profile, one_of("PROTOCOL", given["PROTOCOL"], tuple(PROTOCOLS))), results_dir


def given_values(notebook: str, namespace: dict, allowed: Sequence[str]) -> dict:
    named = {name for name in namespace if name.isupper() and not name.startswith("_")} | _injected(namespace)
    known = [name for name in allowed if name in named]
    for name in sorted(named - set(known)):
        raise InputError(f"unknown parameter {name}{_suggest(name, known)}; {notebook} has {', '.join(known)}")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # for readers, without a line of code
    return {name: namespace[name] for name in known}


def _refuse_namesake(run: Run) -> None:
    """Raises InputError when another folder of the same name has its scores and its detector there."""
    (cls,) = run.classes
    pattern = f"records/*/{run.profile}/*/{run.notebook}/{run.record_path(cls).name.rpartition('-seed')[0]}-seed*.json"
    for path in sorted(run.results_dir.glob(pattern)):
        other = results.read(path)["environment"]["data_dir"]
        if Path(other) != run.data_dir:
            raise InputError(
                f"{run.results_dir} has the results of {other}, another folder called {cls}: rename one of the "
                f"folders, give another RESULTS_DIR, or remove {path}"
            )


def refuse_to_replace(runs: list[Run]) -> None:
    """Who is not of its notebook may make a main run that is missing, and must not undo one that was made otherwise."""
    for run in runs:
        for cls in run.classes if run.variant is None else ():
            path = run.record_path(cls)
            there = results.read(path)["parameters"] if path.is_file() else run.parameters(cls)
            for name, value in run.parameters(cls).items():
                if there.get(name) != value:
                    raise InputError(
                        f"{path} has {name} {there.get(name)}, this run {value}, and they would not compare: give the "
                        f"same parameters as to {run.notebook}, or another RESULTS_DIR"
                    )


def _injected(namespace: dict) -> set[str]:
    """The names that papermill's own cell assigned, whatever their case."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    statements = [s for cell in cells for s in ast.parse(cell).body if isinstance(s, ast.Assign)]
    return {target.id for s in statements for target in s.targets if isinstance(target, ast.Name)}


def resolve(notebook: str, **given) -> list[Run]:
    """The `Run`s of a notebook with all of its parameters given (their defaults stand in the notebook).

    CLASSES, EPOCHS and IMAGE_SIZE may be a dict by data set in a notebook with several; a data set that is not in
    CLASSES is left out then. Raises InputError for a parameter that is missing or not allowed.
    """
    for name in COMMON:
        if name not in given and name not in OPTIONAL:
            raise InputError(f"parameter {name} is missing; {notebook} needs {', '.join(COMMON)}")
    datasets = DATASETS[notebook]
    by_dataset = {
        name: _by_dataset(name, given.get(name), datasets, notebook) for name in ("CLASSES", "EPOCHS", "IMAGE_SIZE")
    }
    chosen = given.get("CLASSES") if isinstance(given.get("CLASSES"), dict) else datasets
    runs = []
    for dataset in datasets:
        if dataset in chosen:
            runs += _variants(notebook, dataset, given | {name: values[dataset] for name, values in by_dataset.items()})
    # The main run of an ablation needs no asking for.
    names = [run.variant or run.label for run in runs if run.variant or notebook not in ABLATIONS]
    wanted = some_of("VARIANTS", given.get("VARIANTS"), tuple(dict.fromkeys(names)))
    # The main run of an ablation goes with every variant: it is what the variant is compared with.
    return [
        run for run in runs if (run.variant or run.label) in wanted or (run.variant is None and notebook in ABLATIONS)
    ]


def _by_dataset(name: str, value, datasets: tuple[str, ...], notebook: str) -> dict:
    if not isinstance(value, dict):
        if name == "CLASSES" and value is not None and len(datasets) > 1:
            raise InputError(
                f"CLASSES is {value!r}; {notebook} has several data sets, so that it is None for all of everything, "
                f"or a dict such as {{'{datasets[0]}': [...]}} of some of {', '.join(datasets)}"
            )
        return dict.fromkeys(datasets, value)
    for dataset in value:
        if dataset not in datasets:
            raise InputError(f"{name} has {dataset!r}; {notebook} has {', '.join(datasets)}")
    if not value:
        raise InputError(f"{name} is empty; it is None, or names some of {', '.join(datasets)}")
    return {dataset: value.get(dataset) for dataset in datasets}


def _variants(notebook: str, dataset: str, given: dict) -> list[Run]:
    """The main run of a data set as the parameters have it, and each variant made of it."""
    setting = SETTINGS[dataset]
    profile = one_of("PROFILE", given["PROFILE"], PROFILES)
    smoke = profile == "smoke"
    source = source_of(given["SOURCE"], profile)
    data_dir = _data_dir(given["DATA_DIR"], dataset, smoke)
    own = _own(given, data_dir) if dataset == "folder" else {}
    main = Run(
        notebook=main_notebook(dataset) if notebook in ABLATIONS else notebook,
        dataset=dataset,
        variant=None,
        label="",
        profile=profile,
        protocol=protocol_for(one_of("PROTOCOL", given["PROTOCOL"], tuple(PROTOCOLS)), dataset),
        seed=whole("SEED", given["SEED"], least=0),
        source=source,
        source_name=weights.source_name(source),
        classes=_classes(given.get("CLASSES"), dataset, data_dir, smoke),
        epochs=whole("EPOCHS", given["EPOCHS"], least=1, default=SMOKE_EPOCHS if smoke else setting.epochs),
        image_size=whole(
            "IMAGE_SIZE",
            given["IMAGE_SIZE"],
            least=32,
            default=setting.smoke_size if smoke and setting.smoke_size else setting.image_size,
        ),
        batch_size=whole("BATCH_SIZE", given["BATCH_SIZE"], least=1, default=SMOKE_BATCH_SIZE if smoke else BATCH_SIZE),
        device=device_of(given["DEVICE"]),
        cache=one_of("CACHE", given["CACHE"], cache.CACHES),
        data_dir=data_dir,
        results_dir=results_dir_of(given),
        **own,
    )
    return [
        _changed(main, variant, notebook) for variant in variants_of(notebook, dataset, main.protocol, main.image_size)
    ]


def _changed(main: Run, variant: Variant, notebook: str) -> Run:
    if variant.name is None:
        return replace(main, label=variant.label)
    protocol = replace(main.protocol, **variant.protocol)
    return replace(main, notebook=notebook, variant=variant.name, label=variant.label, protocol=protocol, **variant.run)


def source_of(given: str, profile: str) -> str:
    if not isinstance(given, (str, Path)) or not str(given):
        raise InputError(f"SOURCE is {given!r}; it is imagenet, untrained or the path of a weights file")
    return "untrained" if profile == "smoke" and given == "imagenet" else str(given)


def results_dir_of(given: dict) -> Path:
    return Path(given["RESULTS_DIR"] or paths.RESULTS_DIR).expanduser().absolute()


def _data_dir(given: str | None, dataset: str, smoke: bool) -> Path:
    if given is None and smoke:
        return samples.make() / ("own_images" if dataset == "folder" else "")
    if given is None and dataset == "folder":
        raise InputError(
            "DATA_DIR is not given: name the folder of your images, with good ones in it, or train/good/* and "
            "test/<kind>/*"
        )
    folder = Path(given or paths.DATA_DIR).expanduser().absolute()
    if not folder.is_dir():
        what = "of your images" if dataset == "folder" else "that holds the data sets"
        raise InputError(f"DATA_DIR {folder} is not a folder: name the folder {what}")
    return folder


def _own(given: dict, data_dir: Path) -> dict:
    """What is asked for of one's own images. Lists them, so that what is wrong with the folders is said at once."""
    label, rate = given.get("TEST_LABEL"), given.get("FALSE_ALARMS", FALSE_ALARMS)
    folder = given.get("TEST_DIR") and Path(given["TEST_DIR"]).expanduser().absolute()
    if folder and not folder.is_dir():
        raise InputError(f"TEST_DIR {folder} is not a folder: name the folder of pictures to score, or leave it out")
    if label is not None:
        one_of("TEST_LABEL", label, tuple(layouts.LABELS))
        if not folder:
            raise InputError(
                f"TEST_LABEL is {label!r} and there is no TEST_DIR: it says what the pictures in there are"
            )
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 0.5:
        raise InputError(f"FALSE_ALARMS is {rate!r}; it is a share above 0 and up to 0.5, such as {FALSE_ALARMS}")
    layouts.list_files("folder", "", data_dir, 0, test_dir=folder, test_label=label)
    return {"test_dir": folder or None, "test_label": label, "false_alarms": float(rate)}


def _classes(given: Sequence | str | None, dataset: str, data_dir: Path, smoke: bool) -> tuple[str, ...]:
    if given is None:
        there = data.classes(dataset, data_dir)
        classes = there[:1] if smoke else there
    elif isinstance(given, (list, tuple)) and given:
        classes = tuple(dict.fromkeys(data.resolve_class(dataset, str(name), data_dir) for name in given))
    else:
        raise InputError(f"CLASSES is {given!r}; it is None for all classes, or a list such as ['3']")
    status = data.status(dataset, data_dir)
    sample = [cls for cls, line in status.items() if not line]
    for cls in classes:
        if smoke and status[cls] and data_dir == paths.SAMPLES_DIR:
            raise InputError(f"{dataset} {cls}: not in the generated sample, which has {', '.join(sample)}")
        if status[cls] not in ("", "download"):
            raise InputError(
                f"{dataset} {cls}: {status[cls]}" + (" (or name others in CLASSES)" if len(status) > 1 else "")
            )
    return classes


def one_of(name: str, value, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it is one of {', '.join(allowed)}{_suggest(value, allowed)}")
    return value


def some_of(name: str, value, allowed: tuple) -> tuple:
    """None: all of them."""
    if value is None:
        return allowed
    wrong = [v for v in value if v not in allowed] if isinstance(value, (list, tuple)) else None
    if wrong is None or wrong:
        hint = _suggest(wrong[0], allowed) if wrong else ""
        raise InputError(f"{name} is {value!r}; it is None for all, or a list of some of {list(allowed)}{hint}")
    return tuple(dict.fromkeys(value))


def whole(name: str, value, *, least: int, default: int | None = None) -> int:
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"{name} is {value!r}; it is a whole number of at least {least}" + (" or None" if default else "")
        )
    return value


def device_of(name: str) -> torch.device:
    """The device of that name, "auto" for a GPU where there is one; InputError when it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"DEVICE {name!r} cannot be used ({reason}); auto takes a GPU where there is one") from error
    return device


def _suggest(word, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word).upper(), [k.upper() for k in known], n=1)
    return f" (did you mean {next(k for k in known if k.upper() == close[0])}?)" if close else ""
