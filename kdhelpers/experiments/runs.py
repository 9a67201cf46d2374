"""A run: the settings of one variant of one data set, where its files are, and which classes are pending."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from kdhelpers import data
from kdhelpers.data import weights
from kdhelpers.experiments import artifacts
from kdhelpers.experiments import records as results
from kdhelpers.experiments.variants import AFTER_TRAINING, METHODS
from kdhelpers.protocols import BATCH_SIZE, FALSE_ALARMS, NORMAL_TEST, PRECISIONS, SEEDS, SETTINGS, Protocol


@dataclass(frozen=True)
class Run:
    """All settings of one variant of one data set: its classes are run one after the other, with one seed."""

    notebook: str  # whose records these are
    dataset: str
    variant: str | None
    label: str  # of the variant, in tables and figures
    profile: str
    protocol: Protocol
    seed: int
    source: str  # "imagenet", "untrained" or a path
    source_name: str  # the name of the source whose records these lie among
    classes: tuple[str, ...]
    epochs: int
    image_size: int
    batch_size: int
    device: torch.device
    data_dir: Path
    results_dir: Path
    cache: str = "auto"  # where S's activations are cached; no number depends on it
    precision: str = PRECISIONS[0]
    method: str = METHODS[0]  # of localization
    augment: bool = False  # Sec. 4.2.3, HeadCT
    normal_test: int = NORMAL_TEST  # random normal test images of a medical data set
    # Of your own images only:
    test_dir: Path | None = None  # pictures to score
    test_label: str | dict | None = None  # their label, one of `layouts.LABELS`, or those of folders by name
    map: str = "disagreement"  # of the detector, one of `inspection.detector.MAPS`; no record depends on it
    score_by: str = "loss"  # of the detector, one of `inspection.detector.SCORES`; no record depends on it
    false_alarms: float = FALSE_ALARMS  # the share of good images that may be called bad; no record depends on it

    def record_path(self, cls: str) -> Path:
        return self._path("records", cls, ".json")

    def cloner_path(self, cls: str) -> Path:
        return self._path("cloners", cls, ".safetensors")

    def predictions_path(self, cls: str) -> Path:
        return self._path("cloners", cls, ".predictions.csv.gz")

    def checkpoint_path(self, cls: str) -> Path:
        return self._path("checkpoints", cls, ".pt")

    def _path(self, kind: str, cls: str, suffix: str) -> Path:
        names = ("source_name", "profile", "notebook", "dataset", "variant", "seed")
        record = {name: getattr(self, name) for name in names} | {"protocol": self.protocol.name, "class": cls}
        return results.path_of(self.results_dir, kind, record, suffix)

    def parameters(self, cls: str) -> dict:
        """The settings that the numbers of one record depend on; a record with other values is stale."""
        return {
            "class": cls,
            "variant": self.variant,
            "seed": self.seed,
            "source": weights.source_name(self.source),
            "source_name": self.source_name,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "method": self.method,
            "augment": self.augment,
            "normal_test": self.normal_test,
            "protocol": asdict(self.protocol),
        } | {
            name: getattr(self, name)
            for name, counts in (
                ("test_label", self.dataset == "folder"),
                ("precision", self.precision != PRECISIONS[0]),
            )
            if counts
        }

    def shares_cloner_with(self, main: "Run") -> bool:
        """True for a variant that differs from the run `main` only in how the trained cloner is used."""
        settled = {name: getattr(main.protocol, name) for name in AFTER_TRAINING}
        alike = replace(self, protocol=replace(self.protocol, **settled), method=main.method)
        if self.dataset != main.dataset or self.variant == main.variant:
            return False
        return alike.parameters("") | {"variant": main.variant} == main.parameters("")

    def load(self, cls: str, image_size: int | None = None, normal_test: int | None = None) -> data.Split:
        """Training and test images of a class, on the device; in this run's size and split by default."""
        split = data.load(
            self.dataset,
            cls,
            self.data_dir,
            image_size=image_size or self.image_size,
            seed=self.seed,
            normal_test=normal_test or self.normal_test,
            test_dir=self.test_dir,
            test_label=self.test_label,
        )
        return split.to(self.device)

    def is_pending(self, cls: str, cloner: bool = False) -> bool:
        """True without an up-to-date record with these parameters; cloner: or without its cloner on this machine.

        Your own images may change: a record of other images than the present ones does not count.
        """
        if not results.is_current(self.record_path(cls), self.parameters(cls)):
            return True
        if self.dataset == "folder":
            now = data.fingerprint(self.data_dir, seed=self.seed, test_dir=self.test_dir, test_label=self.test_label)
            if results.read(self.record_path(cls))["data"]["sha256"] != now:
                return True
        return cloner and not (self.cloner_path(cls).is_file() and self.predictions_path(cls).is_file())

    def records(self) -> list[dict]:
        """The records of all classes, in order."""
        return [results.read(self.record_path(cls)) for cls in self.classes]

    def fit(self, cls: str) -> tuple:
        """The trained cloner in eval mode, and the `training.Fit` with its protocol and test scores."""
        record = results.read(self.record_path(cls))
        fit = artifacts.load_fit(record, self.predictions_path(cls), self.protocol)
        return artifacts.load_cloner(self.cloner_path(cls), self), fit

    @property
    def work(self) -> float:
        """The cost of the pending classes, relative to other runs: pixels that pass through the cloner in training.

        In smoke all runs take about equally long: starting them dominates.
        """
        pending = sum(self.is_pending(cls) for cls in self.classes)
        if self.profile == "smoke":
            return float(pending)
        return pending * SETTINGS[self.dataset].images * self.epochs * self.image_size**2

    def deviations(self) -> list[str]:
        """How the run differs from the article and its released code; [] when it does not."""
        setting, own = SETTINGS[self.dataset], self.dataset == "folder"
        compared = [("batch size", self.batch_size, BATCH_SIZE), ("precision", self.precision, PRECISIONS[0])]
        compared += [("source", self.source_name.removesuffix(f"-{self.precision}"), "imagenet")]
        if not own:  # for your own images the article sets neither
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

    def pictures(self, cls: str) -> results.Pictures:
        """A few test images with their maps, stored beside the cloner."""
        return results.load_pictures(self.cloner_path(cls))

    @property
    def title(self) -> str:
        """The remark that every figure of this run must show."""
        return results.remark(self.profile, self.source_name)


def summary(runs: Sequence[Run]) -> str:
    """What will happen, in a few lines, for the reader of a notebook."""
    first = runs[0]
    pending = sum(run.is_pending(cls) for run in runs for cls in run.classes)
    count = sum(len(run.classes) for run in runs)
    lines = [f"protocol {first.protocol.name}, seed {first.seed}, source {first.source_name}, on {first.device}"]
    for run in runs:
        if run.dataset not in [before.dataset for before in runs[: runs.index(run)]]:
            lines += [f"{run.dataset}, classes {', '.join(run.classes)}; {run.image_size} px, {run.epochs} epochs"]
    deviations = dict.fromkeys(deviation for run in runs for deviation in run.deviations())
    lines += [
        f"to do: {pending} of {count}" + ("; the others are recorded" if pending < count else ""),
        f"deviates from the article: {'; '.join(deviations) or 'in nothing'}",
        f"records: {runs[-1].record_path('').parent}",
    ]
    return "\n".join(lines)
