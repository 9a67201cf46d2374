"""Ablations: each variant's numbers, and its difference from the main run, paired over seeds."""

from collections.abc import Sequence

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
# A variant shares these with its main run: in words, by the field of the run that may change them.
_ALIKE = dict(epochs="epochs", batch_size="batch size", image_size="image size", source="source", normal_test="data")


def variants_frame(notebook: str, records: Sequence[dict]) -> tuple[pd.DataFrame, list[str]]:
    """One row per class, seed and variant of an ablation, and a line of text for each record that was left out.

    records: of one kind. Columns: dataset, class, variant (label), main (bool: the main run), seed, stale (bool: made
    by another version of the method), deviations, and METRICS in per cent. A record is left out when its epochs, batch
    or image size, source or data differ from those of its main run, unless its variant changes them.
    """
    kind = only_one(records)
    rows, left_out, mains = [], [], {}
    for dataset in DATASETS[notebook] if kind else ():
        for variant in variants_of(notebook, dataset, protocol_for(kind.protocol, dataset)):  # the main run first
            place = notebook if variant.name else main_notebook(dataset), dataset, variant.name
            found = [r for r in records if (r["notebook"], r["dataset"], r["variant"]) == place]
            for record in sorted(found, key=lambda r: (r["class"], r["seed"])):
                cls, seed = record["class"], record["seed"]
                its = record["parameters"] | {"source": record["source"]["sha256"][:8]}
                its["normal_test"] = record["data"]["sha256"][:8]
                if variant.name is None:
                    mains[dataset, cls, seed] = its
                main = mains.get((dataset, cls, seed), its)
                if differs := [name for name in _ALIKE if name not in variant.run and its[name] != main[name]]:
                    made = f"{_ALIKE[differs[0]]} {its[differs[0]]}, the main run's {main[differs[0]]}"
                    left_out.append(f"{NAMES[dataset]} {cls}, {variant.label}, seed {seed}: {made}")
                    continue
                names = {"variant": variant.label, "main": variant.name is None, "stale": is_stale(record)}
                rows.append(record | names | metrics_of(record))
    return pd.DataFrame(rows, columns="dataset class variant main seed stale deviations".split() + [*METRICS]), left_out


def metrics_of(record: dict) -> dict[str, float | None]:
    """The METRICS of a record in per cent, those that it has."""
    maps = (record["localization"] or {}).get(record["parameters"]["method"], {})
    of_image, without = record["detection"]["auroc"], maps.get("raw", {}).get("pixel_auroc")
    return maps.get("gaussian", {}) | {"auroc": of_image, "pixel_auroc_raw": without}


def with_variants(notebook: str, records: Sequence[dict], metric: str) -> pd.DataFrame:
    """The rows of `variants_frame` with a value of the metric, for the classes that have a variant."""
    frame = variants_frame(notebook, records)[0].dropna(subset=metric).astype({"main": bool})
    return frame[~frame.groupby(["dataset", "class"])["main"].transform("all").astype(bool)]


def by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean AUROC for each data set, variant and seed over the classes that all variants of the data set have.

    frame: of `variants_frame`. Columns: dataset, variant, main, seed, classes (count), value. Only seeds with all
    of these classes count. If none has, the largest set of classes that each variant has in one seed replaces them.
    """
    parts = frame.dropna(subset="auroc").groupby("dataset", sort=False)
    kept = frame.loc[[row for _, part in parts for row in _complete(part).index]]
    groups = kept.groupby(["dataset", "variant", "main", "seed"], sort=False)["auroc"]
    return groups.agg(classes="size", value="mean").reset_index()


def _complete(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of one data set's seeds that have the same classes: all that its variants share, or else the most."""
    part = part[part.groupby("class")["variant"].transform("nunique") == part["variant"].nunique()]
    sets = part.groupby(["variant", "seed"])["class"].agg(frozenset)
    having = {classes: sets[[classes <= others for others in sets]].index for classes in sets}
    classes = max(having, key=lambda of: (having[of].unique("variant").size, len(of), len(having[of])), default=())
    part = part[part["class"].isin(classes)]
    return part[part.groupby(["variant", "seed"])["class"].transform("nunique") == len(classes)]


def interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % interval of the mean of values by Student's t; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if values.nunique() == 1:  # SciPy warns of them
        return values.iloc[0], values.iloc[0]
    return ttest_1samp(values, 0).confidence_interval(CONFIDENCE)


def paired(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row per data set and variant: its mean, and its difference from the main run, paired over seeds.

    frame: of `with_variants`. A pair is a seed: the means over the classes that the variant shares with the main run,
    if both have all of them. Columns: dataset, variant, stale (bool: of either), classes (count), seeds (number of
    pairs), value and std (the variant's mean and standard deviation over these seeds), main (the main run's mean over
    the same seeds), difference (variant minus main, in points), low and high (the 95 % interval of the mean difference
    by Student's t; NaN for one pair), p (two-sided, exact signed-rank; with n pairs at least 2 / 2ⁿ). The main run, and
    a variant without a pair, has in the first columns its seeds with all of its classes, and NaN from `main` on.
    """
    rows = []
    for (dataset, variant), part in frame.groupby(["dataset", "variant"], sort=False):
        main = frame[frame["main"] & (frame["dataset"] == dataset)]
        row = {"dataset": dataset, "variant": variant, "stale": (part["stale"].any() or main["stale"].any())}
        both = _complete(part.merge(main, on=["class", "seed"], suffixes=("", " of main")))
        alone = part["main"].all() or both.empty
        shown = _complete(part) if alone else both
        values = shown.groupby("seed")[metric].mean()  # over classes
        row["classes"] = shown["class"].nunique()
        if not alone:
            of_main = both.groupby("seed")[f"{metric} of main"].mean()
            difference = values - of_main
            row |= {"main": of_main.mean(), "difference": difference.mean()}
            row["low"], row["high"] = interval(difference)
            row["p"] = wilcoxon(difference).pvalue if difference.any() else 1.0
        rows.append(row | {"seeds": len(values), "value": values.mean(), "std": values.std()})
    names = "dataset variant stale classes seeds value std main difference low high p".split()
    return pd.DataFrame(rows, columns=names)
