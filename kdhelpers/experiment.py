"""From data to record: one class of a data set, distilled, judged and written down, for each arm that is asked for."""

from collections.abc import Sequence
from functools import lru_cache

from kdhelpers import baselines, evaluation, localization, networks, results, training
from kdhelpers.training import timed

DEGREES, SCALE = 20, (0.9, 1.05)  # Sec. 4.2.3, the augmentation of HeadCT


def carry_out(runs: Sequence, *, cloners: bool = False) -> list[dict]:
    """Does what has no record yet, and returns the records of all `parameters.Run`s, class by class.

    runs: the arms of one or several data sets, as `parameters.check_arms` gives them. What the arms of a class have in
    common is computed once: the split, S on it, and the cloner where they differ only in how maps are made. cloners: a
    record without its trained cloner on this machine is made again. Raises InputError for data or weights that are not
    there.
    """
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
    source_of = lru_cache(maxsize=1)(networks.load_source)

    @lru_cache(maxsize=1)
    def split_of(main, cls: str, image_size: int, normal_test: int) -> tuple:
        split = main.load(cls, image_size, normal_test)
        return split, baselines.trivial(split)

    # Of training and test images apart: the classes of a data set may have the same test images.
    @lru_cache(maxsize=1)
    def on_train(source: str, cache: str, *which) -> networks.SourceActivations:
        return networks.SourceActivations(source_of(source, runs[0].device)[0], split_of(*which)[0].train, cache=cache)

    tests: dict[tuple, networks.SourceActivations] = {}  # the last one only

    def on_test(source: str, cache: str, *which) -> networks.SourceActivations:
        split, _ = split_of(*which)
        key = source, cache, split.dataset, split.test.pixels.shape, *split.names
        if key not in tests:
            tests.clear()
            network, _ = source_of(source, runs[0].device)
            tests[key] = networks.SourceActivations(network, split.test, cache=cache)
        return tests[key]

    for number, (cls, run) in enumerate(todo, start=1):
        seconds: dict[str, float] = {}
        main = mains[run.dataset]
        which = main, cls, run.image_size, run.normal_test
        with timed(seconds, "data"):
            split, trivial = split_of(*which)
        source, source_id = source_of(run.source, run.device)
        if run.shares_cloner_with(main):
            cloner, fit = results.load_fit(results.read(main.record_path(cls)), main.cloner_path(cls), run)
        else:
            with timed(seconds, "source"):
                train = on_train(run.source, "none" if run.augment else run.cache, *which)
                test = on_test(run.source, run.cache, *which)
            cloner = networks.make_cloner(run.protocol, run.seed).to(run.device)
            fit = training.train(
                train,
                cloner,
                run.protocol,
                epochs=run.epochs,
                batch_size=run.batch_size,
                seed=run.seed,
                test=test,
                augment=training.random_affine(DEGREES, SCALE) if run.augment else None,
                title=" ".join([run.dataset, cls, *([run.arm] if run.arm else []), f"({number} of {len(todo)})"]),
            )
        detection = evaluation.detection(fit.scores, split.labels)
        with timed(seconds, "localize"):
            # Without masks there is nothing to measure, and a few maps are made to be looked at.
            judged = split if split.masks is not None else split.subset(split.spread())
            maps = localization.maps(run.method, source, cloner, judged.test, fit.protocol, seed=run.seed)
            pixels = evaluation.localization_of(maps, split, fit.protocol) if split.masks is not None else None
        shown = judged.spread()
        results.save(
            run,
            cls,
            source=source_id,
            split=split,
            fit=fit,
            cloner=cloner,
            detection=detection,
            localization=pixels and {run.method: pixels},
            trivial=trivial,
            seconds=seconds,
            shown=(judged.subset(shown), maps["gaussian"][shown]),
        )
    return [results.read(run.record_path(cls)) for cls, run in in_order]
