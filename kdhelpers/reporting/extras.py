"""Tables of what the article leaves out: more metrics, the ablations' variants, and running time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, mark, only_one
from kdhelpers.experiments.variants import variants_of
from kdhelpers.protocols import LAST_EPOCHS, protocol_for
from kdhelpers.reporting.ablations import METRICS, paired, variants_frame
from kdhelpers.reporting.published import NAMES
from kdhelpers.reporting.text import (
    NOTHING,
    groups_of,
    in_order,
    is_main_or_14,
    main_runs,
    mean_std,
    number,
    title_of,
    without_empty,
)


def metrics(records: Sequence[dict]) -> pd.DataFrame:
    """What the article leaves out of its main runs: AUROC, AP and F1-max, a row for each data set, class and variant.

    "best of the last ten" is what choosing the epoch on the test set would have reported, among the ten that there are.
    """
    rows = []
    for (dataset, cls, variant), group in groups_of(main_runs(records)):
        best = [
            max([value for _, value in r["detection"]["auroc_by_epoch"] or []][-LAST_EPOCHS:], default=np.nan)
            for r in group
        ]
        rows.append(
            {
                "data set": title_of(dataset),
                "class": title_of(cls) + mark(group),
                "variant": variant or "",
                "seeds": len(group),
            }
            | {name: mean_std([r["detection"][key] for r in group]) for key, name in _DETECTION.items()}
            | {"last epoch": mean_std([r["detection"]["auroc_last"] for r in group])}
            | {"best of the last ten": mean_std(best)}
        )
    return without_empty(pd.DataFrame(rows), "variant")


_DETECTION = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max"}


def localization(records: Sequence[dict]) -> pd.DataFrame:
    """Every measure of the maps, a row for each data set, class and method, without and with the Gaussian.

    Pixel AUROC over the anomalous images, as in the article, and over all test images, as elsewhere; AUPRO.
    """
    only_one(records)
    rows = []
    for (dataset, cls, _), group in groups_of([r for r in records if r["localization"] and is_main_or_14(r)]):
        for method in group[0]["localization"]:
            for filtered, words in (("raw", "without"), ("gaussian", "with")):
                found = [r["localization"][method][filtered] for r in group]
                row = {
                    "data set": title_of(dataset),
                    "class": title_of(cls) + mark(group),
                    "method": method.replace("_", " "),
                    "Gaussian": words,
                }
                row |= {name: mean_std([f[key] for f in found]) for key, name in _LOCALIZATION.items()}
                rows.append(row | {"seeds": len(group)})
    return pd.DataFrame(rows)


_LOCALIZATION = {"pixel_auroc": "pixel AUROC", "pixel_auroc_all": "over all images", "aupro": "AUPRO"}


def ablation(notebook: str, records: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """An ablation class by class: a column for each variant, mean ± standard deviation over seeds; text.

    metric: one of `comparisons.METRICS`. In brackets how many seeds where there are fewer than of the main run.
    """
    frame, _ = variants_frame(notebook, records)
    frame = frame.dropna(subset=metric)
    rows = []
    groups = frame.groupby(["dataset", "class"], sort=False)
    for (dataset, cls), part in sorted(groups, key=lambda group: (list(NAMES).index(group[0][0]), in_order(*group[0]))):
        most = part.groupby("variant").size().max()
        row = {"data set": title_of(dataset), "class": title_of(cls), "seeds": most}
        for variant, of_variant in part.groupby("variant", sort=False):
            fewer = f" ({len(of_variant)})" if len(of_variant) < most else ""
            row[variant] = mean_std(of_variant[metric]) + fewer + (f" {STALE}" if of_variant["stale"].any() else "")
        rows.append(row)
    return pd.DataFrame(rows).fillna(NOTHING)


def variants_beside(notebook: str, records: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """The variants of an ablation below each other, a row for each data set and variant, against its main run; text.

    The mean over classes ± the standard deviation over seeds, and beside it the main run's over the same classes and
    seeds, with what `comparisons.paired` says of the difference. A main run's own row has all of its classes and seeds.
    """
    frame, _ = variants_frame(notebook, records)
    frame = frame.dropna(subset=metric)
    pairs = paired(frame, metric)
    rows = []
    for (dataset, variant), part in frame.groupby(["dataset", "variant"], sort=False):
        behind = frame[(frame["dataset"] == dataset) & (frame["main"] | (frame["variant"] == variant))]
        row = {"data set": title_of(dataset), "variant": variant + (f" {STALE}" if behind["stale"].any() else "")}
        pair = pairs[(pairs["dataset"] == dataset) & (pairs["variant"] == variant)]
        if len(pair):
            one = pair.iloc[0]
            row |= {"classes": one["classes"], "seeds": one["seeds"]}
            row |= {METRICS[metric]: number(one["value"], one["std"]), "main run": f"{one['main']:.2f}"}
            row["difference"] = f"{one['difference']:+z.2f}"
            if one["seeds"] > 1:
                row["95 % interval"] = f"{one['low']:+z.2f} to {one['high']:+z.2f}"
                row["p (Wilcoxon)"] = f"{one['p']:.3g} (n = {one['seeds']})"
        else:  # the main run, or a variant that has nothing to be compared with
            means = part.groupby("seed")[metric].mean()
            row |= {"classes": part["class"].nunique(), "seeds": len(means), METRICS[metric]: mean_std(means)}
        rows.append(row)
    columns = ["data set", "variant", "classes", "seeds", METRICS[metric], "main run", "difference"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "95 % interval", "p (Wilcoxon)"]).astype(object).fillna("")


def changes(runs: Sequence) -> pd.DataFrame:
    """What each variant of `config.from_notebook` changes in its data set's main run, a row each."""
    mains = {run.dataset: run for run in reversed(runs)}
    rows = []
    for run in runs:
        main = mains[run.dataset]
        changed = [
            f"{name}: {getattr(of, name)} → {getattr(to, name)}"
            for of, to in ((main.protocol, run.protocol), (main, run))
            for name in (*type(of).__dataclass_fields__,)
            if getattr(of, name) != getattr(to, name) and name not in ("protocol", "variant", "label", "notebook")
        ]
        nothing = f"nothing: the run of {main.notebook}" if run.variant is None else "nothing: so it is already"
        words = "; ".join(changed) or nothing
        rows.append(
            {
                "data set": title_of(run.dataset),
                "variant": run.label,
                "in VARIANTS": run.variant or "",
                "changes": words,
            }
        )
    return pd.DataFrame(rows)


def running_time(records: Sequence[dict]) -> pd.DataFrame:
    """Seconds for one class and seed, the mean over all of a variant, and its peak memory in MB."""
    only_one(records)
    rows = []
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        px = record["parameters"]["image_size"]
        key = record["notebook"], list(NAMES).index(record["dataset"]), record["variant"] or "", px
        groups.setdefault(key, []).append(record)
    for (notebook, _, _, px), group in sorted(groups.items()):
        first = group[0]
        variants = variants_of(notebook, first["dataset"], protocol_for(first["protocol"], first["dataset"]))
        label = next(
            (variant.label for variant in variants if variant.name == first["variant"]), first["variant"]
        ) + mark(group)
        row = {"notebook": notebook, "data set": title_of(first["dataset"]), "variant": label, "records": len(group)}
        row |= {"px": px, "epochs": round(np.mean([r["training"]["stopped_at"] for r in group]))}
        for name in ("data", "source", "train", "detect", "localize"):
            row[f"{name} (s)"] = f"{np.mean([r['seconds'].get(name, 0) for r in group]):.1f}"
        row["host (MB)"] = max(r["peak_memory_mb"]["host"] for r in group)
        devices = [r["peak_memory_mb"]["device"] for r in group if r["peak_memory_mb"]["device"] is not None]
        row["GPU (MB)"] = max(devices) if devices else NOTHING
        rows.append(row | {"device": ", ".join(sorted({r["environment"]["device"] for r in group}))})
    return pd.DataFrame(rows)
