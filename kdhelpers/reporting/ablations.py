"""Ablations over their variants: the numbers of each, and how much a variant differs from the main run, seed by
seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp, wilcoxon

from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import DATASETS, Variant, main_notebook, variants_of
from kdhelpers.protocols import protocol_for
from kdhelpers.reporting.published import NAMES

METRICS = {
    "auroc": "AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_auroc_raw": "pixel AUROC without the Gaussian",
    "aupro": "AUPRO",
}
CONFIDENCE = 0.95
_ALIKE = ("epochs", "batch_size", "image_size")  # what the variants of a comparison must have in common


def variants_frame(notebook: str, records: Sequence[dict]) -> tuple[pd.DataFrame, list[str]]:
    """A row for each class, seed and variant of an ablation, and in words what was left out because it does not
    compare.

    records: of one kind. Columns: dataset, class, variant (its label), main (whether it is the main run), seed, stale
    (made by another version of the method), and METRICS in per cent. A variant whose main run was made with other
    epochs, batch or image size is left out.
    """
    kind = only_one(records)
    by_key = {tuple(r[name] for name in ("notebook", "dataset", "class", "variant", "seed")): r for r in records}
    rows, left_out = [], []
    for dataset in DATASETS[notebook] if kind else ():
        main = main_notebook(dataset)
        keys = sorted({(cls, seed) for n, d, cls, _, seed in by_key if n in (main, notebook) and d == dataset})
        for variant in variants_of(notebook, dataset, protocol_for(kind.protocol, dataset)):
            for cls, seed in keys:
                record = by_key.get((notebook if variant.name else main, dataset, cls, variant.name, seed))
                reference = by_key.get((main, dataset, cls, None, seed))
                if record is None:
                    continue
                differs = _difference(variant, record, reference)
                if differs:
                    left_out.append(f"{NAMES[dataset]} {cls}, {variant.label}, seed {seed}: {differs}")
                else:
                    row = {
                        "dataset": dataset,
                        "class": cls,
                        "variant": variant.label,
                        "main": variant.name is None,
                        "seed": seed,
                    }
                    rows.append(row | {"stale": results.is_stale(record)} | _metrics(record))
    return pd.DataFrame(rows, columns=["dataset", "class", "variant", "main", "seed", "stale", *METRICS]), left_out


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean over classes for each data set, variant and seed, over the classes that all variants of the data set
    have.

    frame: of `variants_frame`. Columns: dataset, variant, main, seed, classes (how many), value. A seed counts for a
    variant that has all of these classes with it.
    """
    rows = []
    frame = frame.dropna(subset=metric)
    for dataset, part in frame.groupby("dataset", sort=False):
        shared = set.intersection(*(set(variant["class"]) for _, variant in part.groupby("variant")))
        for (variant, main, seed), values in part[part["class"].isin(shared)].groupby(
            ["variant", "main", "seed"], sort=False
        ):
            if len(values) == len(shared):
                row = {"dataset": dataset, "variant": variant, "main": main, "seed": seed}
                rows.append(row | {"classes": len(shared), "value": values[metric].mean()})
    return pd.DataFrame(rows, columns=["dataset", "variant", "main", "seed", "classes", "value"])


def paired(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each variant against the main run, paired over seeds: the mean difference, its interval, and Wilcoxon's test.

    frame: of `variants_frame`. Pairs are seeds, over the classes that the variant has in common with the main run; a
    seed counts when both have all of these. Columns: dataset, variant, metric, classes (how many), seeds (pairs),
    value and std (the variant's mean and standard deviation over these seeds), main (the main run's mean over the
    same), difference (variant minus main, points), low and high (the 95 % interval of the mean difference by Student's
    t), p (two-sided, exact signed-rank; with n pairs it cannot be below 2 / 2ⁿ). NaN where two pairs are needed and
    there is one.
    """
    rows = []
    frame = frame.dropna(subset=metric)
    keys = ["class", "seed"]
    for dataset, part in frame.groupby("dataset", sort=False):
        of_main = part[part["main"].astype(bool)].set_index(keys)[metric].rename("main run")
        for variant, values in part[~part["main"].astype(bool)].groupby("variant", sort=False):
            both = values.set_index(keys)[[metric]].join(of_main, how="inner").unstack("class").dropna()
            if both.empty:
                continue
            means = both.T.groupby(level=0).mean().T  # over classes: a column for the variant and one for the main run
            difference = (means[metric] - means["main run"]).to_numpy()
            several = len(difference) > 1
            low, high = _interval(difference) if several else (np.nan, np.nan)
            rows.append(
                {
                    "dataset": dataset,
                    "variant": variant,
                    "metric": metric,
                    "classes": both.shape[1] // 2,
                    "seeds": len(difference),
                    "value": means[metric].mean(),
                    "std": means[metric].std(ddof=1),
                    "main": means["main run"].mean(),
                    "difference": difference.mean(),
                    "low": low,
                    "high": high,
                    "p": _p_value(difference) if several else np.nan,
                }
            )
    names = "dataset variant metric classes seeds value std main difference low high p".split()
    return pd.DataFrame(rows, columns=names)


def _p_value(difference: np.ndarray) -> float:
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def _interval(difference: np.ndarray) -> tuple[float, float]:
    if np.ptp(difference) == 0:  # Student's t has nothing to divide by
        return float(difference[0]), float(difference[0])
    interval = ttest_1samp(difference, 0).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def _difference(variant: Variant, record: dict, reference: dict | None) -> str:
    if variant.name is None or reference is None:
        return ""
    for name in _ALIKE:
        ours, main = record["parameters"][name], reference["parameters"][name]
        if name not in variant.run and ours != main:
            return f"{name.replace('_', ' ')} {ours}, the main run's {main}"
    return ""


def _metrics(record: dict) -> dict[str, float | None]:
    maps = (record["localization"] or {}).get(record["parameters"]["method"], {})
    gaussian, raw = maps.get("gaussian", {}), maps.get("raw", {})
    return {
        "auroc": record["detection"]["auroc"],
        "pixel_auroc": gaussian.get("pixel_auroc"),
        "pixel_auroc_raw": raw.get("pixel_auroc"),
        "aupro": gaussian.get("aupro"),
    }
