"""From data to record: one class of a data set, distilled, judged and written down, for each variant that is asked
for."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from kdhelpers import data, localization, metrics, networks, training
from kdhelpers.cache import SourceActivations, keep_freed_memory
from kdhelpers.data import weights
from kdhelpers.errors import InputError
from kdhelpers.experiments import artifacts
from kdhelpers.experiments import records as results
from kdhelpers.experiments.checkpoints import Checkpoint
from kdhelpers.experiments.runs import Run
from kdhelpers.files import check_writable
from kdhelpers.protocols import METHOD_VERSION
from kdhelpers.training import Fit, timed

DEGREES, SCALE = 20, (0.9, 1.05)  # Sec. 4.2.3, the augmentation of HeadCT
_INSTEAD = {"auto": "host", "device": "host", "host": "none"}  # where S's activations go when the GPU has no room


def run_experiments(runs: Sequence[Run], *, cloners: bool = False) -> list[dict]:
    """Does what has no record yet, and returns the records of all runs, class by class.

    runs: the variants of one or several data sets, as `config.from_notebook` gives them. What the variants of a
    class have in common is computed once: the split, S on it, and the cloner where they differ only in how maps are
    made. cloners: a record without its trained cloner on this machine is made again. Raises InputError for data or
    weights that are not there, and where a GPU has not even room for one batch.
    """
    keep_freed_memory()
    training.use_full_float32()  # before S computes anything
    mains = {run.dataset: run for run in reversed(runs)}  # the first run of each data set
    in_order = [
        (cls, run)
        for dataset in dict.fromkeys(run.dataset for run in runs)
        for cls in mains[dataset].classes
        for run in runs
        if run.dataset == dataset
    ]
    todo = [
        (cls, run)
        for cls, run in in_order
        if run.is_pending(cls, cloners or any(r.is_pending(cls) for r in runs if r.shares_cloner_with(run)))
    ]
    if todo:
        check_writable(runs[0].results_dir)  # now, and not after hours of training
    shared = _Shared()
    for number, (cls, run) in enumerate(todo):
        name = " ".join([run.dataset, cls, *([run.variant] if run.variant else [])])
        try:
            _record(cls, run, mains[run.dataset], shared, title=f"{name} ({number + 1} of {len(todo)})")
        except KeyboardInterrupt:
            print(f"stopped at {name}; {number} of {len(todo)} are recorded; run it again to go on from its checkpoint")
            raise
    return [results.read(run.record_path(cls)) for cls, run in in_order]


class _Shared:
    """What the variants of a class have in common, always the last one only: S, the split, S's activations on it.

    Those of training and test images are apart: the classes of a data set may have the same test images.
    """

    def __init__(self):
        self.source = lru_cache(maxsize=1)(weights.load_source)
        self.split = lru_cache(maxsize=1)(self._split)
        self.on_train = lru_cache(maxsize=1)(self._on_train)
        self.tests: dict[tuple, SourceActivations] = {}

    def _split(self, main: Run, cls: str, image_size: int, normal_test: int) -> tuple[data.Split, dict]:
        split = main.load(cls, image_size, normal_test)
        return split, metrics.baselines(split)

    def _on_train(self, source: str, device: torch.device, cache: str, *which) -> SourceActivations:
        return SourceActivations(self.source(source, device)[0], self.split(*which)[0].train, cache=cache)

    def on_test(self, source: str, device: torch.device, cache: str, *which) -> SourceActivations:
        split, _ = self.split(*which)
        key = source, cache, split.dataset, split.test.pixels.shape, *split.names
        if key not in self.tests:
            self.tests.clear()
            self.tests[key] = SourceActivations(self.source(source, device)[0], split.test, cache=cache)
        return self.tests[key]

    def free(self) -> None:
        """Lets go of S's activations."""
        self.on_train.cache_clear()
        self.tests.clear()
        torch.cuda.empty_cache()


def _record(cls: str, run: Run, main: Run, shared: _Shared, *, title: str) -> None:
    seconds: dict[str, float] = {}
    which = main, cls, run.image_size, run.normal_test
    with timed(seconds, "data"):
        split, trivial = shared.split(*which)
    source, source_id = shared.source(run.source, run.device)
    checkpoint = Checkpoint(
        run.checkpoint_path(cls),
        run.parameters(cls) | {"data": split.sha256, "version": METHOD_VERSION, "device": str(run.device)},
    )
    if run.shares_cloner_with(main):
        cloner, fit = main.fit(cls)
        fit = replace(fit, protocol=replace(run.protocol, lam=fit.protocol.lam))
    else:
        cloner, fit = _distil(run, which, shared, checkpoint, seconds, title)
    detection = metrics.detection(fit.scores, split.labels, fit.scored)
    with timed(seconds, "localize"):
        # Without masks there is nothing to measure, and a few maps are made to be looked at.
        judged = split if split.masks is not None else split.subset(split.sample_indices())
        maps = localization.maps(run.method, source, cloner, judged.test, fit.protocol, seed=run.seed)
        pixels = metrics.localization_of(maps, split, fit.protocol) if split.masks is not None else None
    shown = judged.sample_indices()
    artifacts.save(
        run,
        cls,
        source=source_id,
        split=split,
        fit=fit,
        cloner=cloner,
        detection=detection,
        localization=pixels and {run.method: pixels},
        baselines=trivial,
        seconds=seconds,
        shown=(judged.subset(shown), maps["gaussian"][shown]),
    )
    checkpoint.remove()


def _distil(
    run: Run, which: tuple, shared: _Shared, checkpoint: Checkpoint, seconds: dict[str, float], title: str
) -> tuple[nn.Sequential, Fit]:
    """The cloner, trained, with S's activations where there is room for them."""
    cache = run.cache
    while True:
        try:
            with timed(seconds, "source"):
                train = shared.on_train(run.source, run.device, "none" if run.augment else cache, *which)
                test = shared.on_test(run.source, run.device, cache, *which)
            cloner = networks.make_cloner(run.protocol, run.seed).to(run.device)
            fit = training.fit(
                train,
                cloner,
                run.protocol,
                epochs=run.epochs,
                batch_size=run.batch_size,
                seed=run.seed,
                test=test,
                augment=training.random_affine(DEGREES, SCALE) if run.augment else None,
                checkpoint=checkpoint,
                title=title,
            )
            return cloner, fit
        except torch.OutOfMemoryError:
            if cache == "none":
                raise InputError(
                    f"{run.device} has no room for a batch of {run.batch_size} images of {run.image_size} px, with "
                    "nothing else kept: give a smaller BATCH_SIZE, which deviates from the article, or DEVICE=cpu"
                ) from None
            cache = _INSTEAD[cache]
            where = "in main memory" if cache == "host" else "nowhere, and S computes in every epoch"
            warnings.warn(f"out of GPU memory: S's activations are kept {where}", stacklevel=2)
        train = test = cloner = None  # or they would stay on the GPU
        shared.free()
