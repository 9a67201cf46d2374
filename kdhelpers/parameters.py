"""The parameters of a notebook: checked once, resolved once, an unknown name or value refused."""

import ast
import difflib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kdhelpers import data, memory, networks, paths, results, samples
from kdhelpers.errors import InputError
from kdhelpers.protocols import BATCH_SIZE, PROTOCOLS, SEEDS, SETTINGS, SMOKE_EPOCHS, Protocol, protocol_for

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
    "DATA_DIR",
    "RESULTS_DIR",
)
OPTIONAL = ("CLASSES", "ARMS", "METHODS")
"""Names that only some notebooks have: CLASSES not for one's own folder, ARMS and METHODS where there are several."""
METHODS = ("gradients", "smoothgrad", "guided_backprop")
PROFILES = ("smoke", "full")


@dataclass(frozen=True)
class Run:
    """Everything in force for one run of a notebook."""

    notebook: str
    dataset: str
    profile: str
    protocol: Protocol
    seed: int
    source: str  # "imagenet", "untrained" or a path
    source_folder: str  # the name records of this source are kept under
    classes: tuple[str, ...]
    arms: tuple[str | None, ...]
    methods: tuple[str, ...]  # of localization
    epochs: int
    image_size: int
    batch_size: int
    device: torch.device
    data_dir: Path
    results_dir: Path

    def record_path(self, cls: str, arm: str | None) -> Path:
        return self._path("records", cls, arm, ".json")

    def cloner_path(self, cls: str, arm: str | None) -> Path:
        return self._path("cloners", cls, arm, ".safetensors")

    def _path(self, kind: str, cls: str, arm: str | None, suffix: str) -> Path:
        folder = self.results_dir / kind / self.source_folder / self.profile / self.protocol.name / self.notebook
        parts = [self.dataset, cls, *([arm] if arm else []), f"seed{self.seed}"]
        return folder / ("-".join(parts) + suffix)

    def parameters(self, cls: str, arm: str | None) -> dict:
        """What decides the numbers of one record; a record made with other values is stale."""
        return {
            "class": cls,
            "arm": arm,
            "seed": self.seed,
            "source": self.source_folder,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "methods": list(self.methods),
            "protocol": asdict(self.protocol),
        }

    def load(self, cls: str) -> data.Split:
        """Training and test images of a class, on the device."""
        split = data.load(self.dataset, cls, self.data_dir, image_size=self.image_size, seed=self.seed)
        return split.to(self.device)

    def records(self) -> list[dict]:
        """The records of all classes and arms, in order."""
        return [results.read(self.record_path(cls, arm)) for cls in self.classes for arm in self.arms]

    def cloner(self, cls: str, arm: str | None = None) -> tuple[torch.nn.Sequential, Protocol, np.ndarray]:
        """The trained cloner in eval mode, its protocol with λ resolved, and the test scores of its last epoch."""
        state, scores = results.load_cloner(self.cloner_path(cls, arm))
        cloner = networks.make_cloner(self.protocol, self.seed)
        cloner.load_state_dict(state)
        lam = results.read(self.record_path(cls, arm))["training"]["lambda"]
        return cloner.eval().to(self.device), replace(self.protocol, lam=lam), scores[-1]

    def pending(self, cloners: bool = False) -> list[tuple[str, str | None]]:
        """The (class, arm) pairs without a record by this code and these parameters.

        cloners: those without a trained cloner on this machine, too; a notebook needs it for its pictures.
        """
        return [
            (cls, arm)
            for cls in self.classes
            for arm in self.arms
            if not results.is_current(self.record_path(cls, arm), self.parameters(cls, arm))
            or (cloners and not self.cloner_path(cls, arm).is_file())
        ]

    @property
    def work(self) -> float:
        """The cost of what is pending, relative to other runs: pixels that pass through the cloner in training.

        In smoke every run takes about as long: what counts is starting it.
        """
        if self.profile == "smoke":
            return float(len(self.pending()))
        return len(self.pending()) * SETTINGS[self.dataset].images * self.epochs * self.image_size**2

    def deviations(self) -> list[str]:
        """What differs from the article and its released code; [] when nothing does."""
        setting, own = SETTINGS[self.dataset], self.dataset == "folder"
        compared = [("batch size", self.batch_size, BATCH_SIZE), ("source", self.source_folder, "imagenet")]
        if not own:  # for one's own images the article sets neither
            compared = [
                ("epochs", self.epochs, setting.epochs),
                ("image size", self.image_size, setting.image_size),
                *compared,
            ]
        found = ["images of one's own; the article has none"] if own else []
        found += [f"{name} {given} instead of {set_}" for name, given, set_ in compared if given != set_]
        if self.profile == "smoke":
            found.insert(0, "smoke: a small generated sample, an untrained source; no number means anything")
        if self.seed >= SEEDS:
            found.append(f"seed {self.seed} instead of one of 0 to {SEEDS - 1}")
        return found

    def summary(self) -> str:
        """What will happen, in a few lines, for the reader of a notebook."""
        pending = self.pending(cloners=True)
        count = len(self.classes) * len(self.arms)
        lines = [
            f"{self.dataset}, classes {', '.join(self.classes)}; protocol {self.protocol.name}, seed {self.seed}",
            f"source {self.source_folder}, {self.image_size} px, {self.epochs} epochs, on {self.device}",
            f"to train: {len(pending)} of {count}" + ("; the others are recorded" if len(pending) < count else ""),
            f"deviates from the article: {'; '.join(self.deviations()) or 'in nothing'}",
            f"records: {self.record_path(self.classes[0], self.arms[0]).parent}",
        ]
        return "\n".join(lines)

    @property
    def training(self) -> dict[str, int]:
        """The arguments of `training.train` that are parameters."""
        return {"epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed}

    @property
    def title(self) -> str:
        """What every figure of a smoke run must say; empty otherwise."""
        return "smoke: proves the way, not a number" if self.profile == "smoke" else ""


def check(notebook: str, namespace: dict) -> Run:
    """The `Run` of a notebook from its globals, right after its parameters cell.

    Raises InputError for a name that papermill has injected or a user has typed and that is no parameter, and for a
    value that is not allowed.
    """
    named = {name for name in namespace if name.isupper() and not name.startswith("_")} | _injected(namespace)
    known = [name for name in (*COMMON, *OPTIONAL) if name in named]
    for name in sorted(named - set(known)):
        raise InputError(f"unknown parameter {name}{_suggest(name, known)}; {notebook} has {', '.join(known)}")
    memory.keep_freed_memory()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # for readers, without a line of code
    return resolve(notebook, **{name: namespace[name] for name in known})


def _injected(namespace: dict) -> set[str]:
    """The names that papermill's own cell assigned, whatever their case."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    statements = [s for cell in cells for s in ast.parse(cell).body if isinstance(s, ast.Assign)]
    return {target.id for s in statements for target in s.targets if isinstance(target, ast.Name)}


def dataset_of(notebook: str) -> str:
    """The data set of a notebook: its name without the number; 00_quickstart's is one's own folder."""
    name = notebook.split("_", 1)[1]
    return "folder" if name == "quickstart" else name


def resolve(notebook: str, **given) -> Run:
    """The `Run` of a notebook with all of its parameters given (their defaults stand in the notebook).

    Raises InputError for one that is missing or not allowed.
    """
    for name in COMMON:
        if name not in given and name not in OPTIONAL:
            raise InputError(f"parameter {name} is missing; {notebook} needs {', '.join(COMMON)}")
    dataset = dataset_of(notebook)
    setting = SETTINGS[dataset]
    profile = _one_of("PROFILE", given["PROFILE"], PROFILES)
    smoke = profile == "smoke"
    source = given["SOURCE"]
    if not isinstance(source, (str, Path)) or not str(source):
        raise InputError(f"SOURCE is {source!r}; it is imagenet, untrained or the path of a weights file")
    source = "untrained" if smoke and source == "imagenet" else str(source)
    data_dir = _data_dir(given["DATA_DIR"], dataset, smoke)
    return Run(
        notebook=notebook,
        dataset=dataset,
        profile=profile,
        protocol=protocol_for(_one_of("PROTOCOL", given["PROTOCOL"], tuple(PROTOCOLS)), dataset),
        seed=_whole("SEED", given["SEED"], least=0),
        source=source,
        source_folder=networks.source_folder(source),
        classes=_classes(given.get("CLASSES"), dataset, data_dir, smoke),
        arms=_some_of("ARMS", given.get("ARMS"), setting.arms),
        methods=_some_of("METHODS", given.get("METHODS", []), METHODS),
        epochs=_whole("EPOCHS", given["EPOCHS"], least=1, default=SMOKE_EPOCHS if smoke else setting.epochs),
        image_size=_whole(
            "IMAGE_SIZE",
            given["IMAGE_SIZE"],
            least=32,
            default=setting.smoke_size if smoke and setting.smoke_size else setting.image_size,
        ),
        batch_size=_whole("BATCH_SIZE", given["BATCH_SIZE"], least=1, default=BATCH_SIZE),
        device=_device(given["DEVICE"]),
        data_dir=data_dir,
        results_dir=Path(given["RESULTS_DIR"] or paths.RESULTS_DIR).expanduser().absolute(),
    )


def _data_dir(given: str | None, dataset: str, smoke: bool) -> Path:
    if given is None and smoke:
        return samples.make() / ("own_images" if dataset == "folder" else "")
    if given is None and dataset == "folder":
        raise InputError(
            "DATA_DIR is not given: name the folder of your images, with train/good/* and test/<kind>/* in it"
        )
    folder = Path(given or paths.DATA_DIR).expanduser().absolute()
    if not folder.is_dir():
        what = "of your images" if dataset == "folder" else "that holds the data sets"
        raise InputError(f"DATA_DIR {folder} is not a folder: name the folder {what}")
    return folder


def _classes(given: Sequence | str | None, dataset: str, data_dir: Path, smoke: bool) -> tuple[str, ...]:
    if given is None:
        there = data.classes(dataset, data_dir)
        classes = there[:1] if smoke else there
    elif isinstance(given, (list, tuple)) and given:
        classes = tuple(dict.fromkeys(data.resolve_class(dataset, str(name), data_dir) for name in given))
    else:
        raise InputError(f"CLASSES is {given!r}; it is None for all classes, or a list such as ['3']")
    status = data.status(dataset, data_dir)
    for cls in classes:
        if status[cls] not in ("", "download"):
            raise InputError(
                f"{dataset} {cls}: {status[cls]}" + (" (or name others in CLASSES)" if len(status) > 1 else "")
            )
    return classes


def _one_of(name: str, value, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it is one of {', '.join(allowed)}{_suggest(value, allowed)}")
    return value


def _some_of(name: str, value, allowed: tuple) -> tuple:
    """None: all of them."""
    if value is None:
        return allowed
    if not isinstance(value, (list, tuple)) or any(v not in allowed for v in value):
        raise InputError(f"{name} is {value!r}; it is None for all, or a list of some of {list(allowed)}")
    return tuple(dict.fromkeys(value))


def _whole(name: str, value, *, least: int, default: int | None = None) -> int:
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"{name} is {value!r}; it is a whole number of at least {least}" + (" or None" if default else "")
        )
    return value


def _device(name: str) -> torch.device:
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
