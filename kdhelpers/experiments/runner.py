"""From data to record: train one class of a data set, evaluate it and write the record, for each requested variant."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from kdhelpers import localization, metrics, networks, training
from kdhelpers.cache import SourceActivations, keep_freed_memory, out_of_memory
from kdhelpers.data import weights
from kdhelpers.data.images import Images, in_words
from kdhelpers.data.split import Split
from kdhelpers.errors import InputError
from kdhelpers.experiments import artifacts, baselines, records
from kdhelpers.experiments.checkpoints import Checkpoint
from kdhelpers.experiments.runs import Run, by_class, to_do
from kdhelpers.files import atomic_write
from kdhelpers.protocols import METHOD_VERSION, NOT_SCALED
from kdhelpers.training import Fit, timed

DEGREES, SCALE = 20, (0.9, 1.05)  # Sec. 4.2.3, the augmentation of HeadCT
# Where S's activations are cached; where they go next if GPU memory is full.
_CACHES = {"auto": ("auto", "host", "none"), "device": ("device", "host", "none"), "host": ("host", "none")}


def run_experiments(runs: Sequence[Run], *, cloners: bool = False) -> list[dict]:
    """Run every experiment without an up-to-date record; return the records of all runs, class by class.

    runs: the variants of one or several data sets, from `config.from_notebook`. The variants of a class share the
    split and S's activations on it; those that differ only in their maps also share the cloner. cloners: also retrain
    when the record exists but its trained cloner does not. Raises InputError for missing data or weights, and when a
    single batch exceeds the GPU's memory.
    """
    keep_freed_memory()
    training.use_precision(runs[0].precision, runs[0].device)  # before S computes anything
    if todo := to_do(runs, cloners):  # before hours of training: InputError when the folder is not writable
        with atomic_write(probe := runs[0].results_dir / ".writable"):
            pass
        probe.unlink(missing_ok=True)
    shared: dict[str, tuple] = {}
    for number, (cls, run, main) in enumerate(todo):
        name = " ".join(filter(None, (run.dataset, cls, run.variant)))
        try:
            _record(cls, run, main, shared, title=f"{name} ({number + 1} of {len(todo)})")
        except KeyboardInterrupt:
            print(f"stopped at {name}; {number} of {len(todo)} are recorded; rerun to resume from its checkpoint")
            raise
    return [records.read(run.record_path(cls)) for cls, group in by_class(runs) for run in group]


def _once(shared: dict[str, tuple], name: str, key: tuple, compute: Callable):
    """`compute()`, or its last result under `name` if that has the same `key`; one result per name is cached."""
    if name not in shared or shared[name][0] != key:
        shared.pop(name, None)  # frees its memory first
        shared[name] = key, compute()
    return shared[name][1]


def _record(cls: str, run: Run, main: Run, shared: dict[str, tuple], *, title: str) -> None:
    """Train, evaluate and record one class; `shared` caches the results that its variants share."""
    seconds: dict[str, float] = {}
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    which = run.dataset, cls, run.image_size, run.normal_test
    with timed(seconds, "data"):
        split = _once(shared, "split", which, lambda: run.load(cls))
        trivial = _once(shared, "baselines", which, lambda: baselines.without_network(split))
    source, source_id = _once(shared, "source", (run.source,), lambda: weights.load_source(run.source, run.device))
    model = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "cpu"
    made_of = {"data": split.sha256, "version": METHOD_VERSION, "device": model}
    checkpoint = Checkpoint(run.checkpoint_path(cls), run.parameters(cls) | made_of)
    if run.shares_cloner:
        path = main.record_path(cls)
        if records.read(path)["data"]["sha256"] != split.sha256:  # its scores are of other images
            fix = f"give DATA_DIR as it was, or delete {path}, so that the main run is trained again"
            what = f"{run.dataset} {cls} changed since its main run, whose cloner {run.variant} shares"
            raise InputError(f"{what}: {fix}")
        cloner, fit = main.fit(cls)
        fit = replace(fit, protocol=replace(run.protocol, lam=fit.protocol.lam))
    else:
        cloner, fit = _distil(run, split, source, which, shared, seconds, checkpoint=checkpoint, title=title)
    with timed(seconds, "localize"):
        few, pixels = split.sample_indices(), None  # the test images whose maps are displayed
        maps_of = partial(localization.maps, run.method, source, cloner, protocol=fit.protocol, seed=run.seed)
        if split.tiles:  # each tile's map would be scaled separately, so that the maps would not join
            few, shown = few[:0], np.empty((0, *split.test.pixels.shape[2:]))
        elif split.masks is None:  # nothing to measure
            shown = maps_of(split.test.subset(few))["gaussian"]
        else:
            maps = maps_of(split.test)
            shown, pixels = maps["gaussian"][few], metrics.localization_of(maps, split, fit.protocol)
            if run.method in NOT_SCALED:
                pixels = {name: p | metrics.detection_by_maps(maps[name], split.labels) for name, p in pixels.items()}
    measured = {
        "source": source_id,
        "detection": metrics.detection(fit.scores, split.labels, fit.scored),
        "localization": pixels and {run.method: pixels},
        "baselines": trivial,
        "seconds": seconds,
    }
    artifacts.save(run, cls, split, fit, cloner, (split.subset(few), shown), measured)
    checkpoint.path.unlink(missing_ok=True)


def _distil(
    run: Run, split: Split, source: nn.Sequential, which: tuple, shared: dict, seconds: dict, **options
) -> tuple[nn.Sequential, Fit]:
    """Train a cloner; S's activations are cached where memory allows. options: passed to `training.fit`."""
    seen = split.tiles or split
    tested = split.dataset, split.test.pixels.shape, *split.names  # often the same for all classes of a data set

    def activations(name: str, key: tuple, images: Images, cache: str) -> SourceActivations:
        key = run.source, cache, *key
        return _once(shared, name, key, lambda: SourceActivations(source, images, cache=cache))

    options |= {"epochs": run.epochs, "batch_size": run.batch_size, "seed": run.seed}
    options["augment"] = training.random_affine(DEGREES, SCALE) if run.augment else None
    if run.dataset == "folder":
        options["scored_every"] = run.epochs  # nobody looks at your own images' AUROC by epoch: only the last ten
    for cache in _CACHES.get(run.cache, ("none",)):
        if cache != run.cache:
            where = "cached in main memory" if cache == "host" else "computed again in every epoch"
            warnings.warn(f"out of GPU memory: S's activations are {where}", stacklevel=2)
        with suppress(torch.OutOfMemoryError), out_of_memory():
            with timed(seconds, "source"):
                train = activations("train", which, seen.train, "none" if run.augment else cache)
                test = activations("test", tested, seen.test, cache)
            cloner = networks.make_cloner(run.protocol, run.seed).to(run.device)
            fit = training.fit(train, cloner, run.protocol, test=test, **options)
            return cloner, replace(fit, scores=split.tiles.worst(fit.scores)) if split.tiles else fit
        train = test = cloner = None  # frees their memory on the GPU
        shared.pop("train", None)
        shared.pop("test", None)
        torch.cuda.empty_cache()
    batch = f"a batch of {run.batch_size} images of {in_words(run.image_size)}, even without a cache"
    fix = "give a smaller BATCH_SIZE, which deviates from the article, or DEVICE=cpu"
    raise InputError(f"{run.device} has no room for {batch}: {fix}")
