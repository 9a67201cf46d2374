"""Ablations: the numbers of each variant, and how much it differs from the main run, seed by seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp, wilcoxon

from kdhelpers.experiments.records import is_stale, only_one
from kdhelpers.experiments.variants import DATASETS, main_notebook, variants_of
from kdhelpers.protocols import protocol_for
from kdhelpers.reporting.published import NAMES

METRICS = {
    "auroc": "AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_auroc_raw": "pixel AUROC without the Gaussian",
    "aupro": "AUPRO",
    "auroc_maximum": "AUROC by the map's maximum",
    "auroc_top": "AUROC by the map's top 1 %",
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
    rows, left_out = [], []
    for dataset in DATASETS[notebook] if kind else ():
        for variant in variants_of(notebook, dataset, protocol_for(kind.protocol, dataset)):
            place = notebook if variant.name else main_notebook(dataset), dataset, variant.name
            found = [r for r in records if (r["notebook"], r["dataset"], r["variant"]) == place]
            if variant.name is None:
                mains = {(r["class"], r["seed"]): r["parameters"] for r in found}
            for record in sorted(found, key=lambda r: (r["class"], r["seed"])):
                cls, seed, its = record["class"], record["seed"], record["parameters"]
                main = mains.get((cls, seed), its)
                differs = [name for name in _ALIKE if name not in variant.run and its[name] != main[name]]
                if differs:
                    made = f"{differs[0].replace('_', ' ')} {its[differs[0]]}, the main run's {main[differs[0]]}"
                    left_out.append(f"{NAMES[dataset]} {cls}, {variant.label}, seed {seed}: {made}")
                    continue
                names = {"dataset": dataset, "class": cls, "variant": variant.label, "main": variant.name is None}
                maps = (record["localization"] or {}).get(its["method"], {})
                numbers = maps.get("gaussian", {}) | {"auroc": record["detection"]["auroc"]}
                numbers["pixel_auroc_raw"] = maps.get("raw", {}).get("pixel_auroc")
                rows.append(names | {"seed": seed, "stale": is_stale(record)} | numbers)
    return pd.DataFrame(rows, columns=["dataset", "class", "variant", "main", "seed", "stale", *METRICS]), left_out


def with_variants(notebook: str, records: Sequence[dict], metric: str) -> pd.DataFrame:
    """The rows of `variants_frame` that have the metric, of classes with a variant beside the main run."""
    frame = variants_frame(notebook, records)[0].dropna(subset=metric).astype({"main": bool})
    return frame[~frame.groupby(["dataset", "class"])["main"].transform("all").astype(bool)]


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean for each data set, variant and seed over the classes that all variants of the data set have.

    frame: of `variants_frame`. Columns: dataset, variant, main, seed, classes (how many), value. A seed counts for a
    variant that has all of these classes with it.
    """
    frame = frame.dropna(subset=metric)
    variants = frame.groupby("dataset")["variant"].transform("nunique")
    frame = frame[frame.groupby(["dataset", "class"])["variant"].transform("nunique") == variants]
    groups = frame.groupby(["dataset", "variant", "main", "seed"], sort=False)[metric]
    means = groups.agg(classes="size", value="mean").reset_index()
    return means[means["classes"] == means["dataset"].map(frame.groupby("dataset")["class"].nunique())]


def paired(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each variant against the main run, paired over seeds: the mean difference, its interval, and Wilcoxon's test.

    frame: of `variants_frame`. Pairs are seeds, over the classes that the variant has in common with the main run; a
    seed counts when both have all of these. Columns: dataset, variant, metric, classes (how many), seeds (pairs),
    value and std (the variant's mean and standard deviation over these seeds), main (the main run's mean over the
    same), difference (variant minus main, points), low and high (the 95 % interval of the mean difference by Student's
    t), p (two-sided, exact signed-rank; with n pairs it cannot be below 2 / 2ⁿ). The last three are NaN for one pair.
    """
    rows = []
    frame = frame.dropna(subset=metric).astype({"main": bool})
    keys = ["class", "seed"]
    for (dataset, variant), values in frame[~frame["main"]].groupby(["dataset", "variant"], sort=False):
        main = frame[frame["main"] & (frame["dataset"] == dataset)].set_index(keys)[metric].rename("main run")
        both = values.set_index(keys)[[metric]].join(main, how="inner").unstack("class").dropna()
        if both.empty:
            continue
        of_variant, of_main = (both[name].mean(axis=1) for name in (metric, "main run"))  # over classes
        difference = (of_variant - of_main).to_numpy()
        row = (dataset, variant, metric, both.shape[1] // 2, len(difference), of_variant.mean(), of_variant.std())
        rows.append((*row, of_main.mean(), difference.mean(), *_interval_and_p(difference)))
    names = "dataset variant metric classes seeds value std main difference low high p".split()
    return pd.DataFrame(rows, columns=names)


def _interval_and_p(difference: np.ndarray) -> tuple[float, float, float]:
    if len(difference) < 2:
        return np.nan, np.nan, np.nan
    p = wilcoxon(difference).pvalue if difference.any() else 1.0
    if np.ptp(difference) == 0:  # Student's t has nothing to divide by
        return difference[0], difference[0], p
    return *ttest_1samp(difference, 0).confidence_interval(CONFIDENCE), p
