"""Tables beyond the article's: more metrics, the ablations' variants, and running time."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, mark, only_one
from kdhelpers.experiments.variants import main_notebook, variants_of
from kdhelpers.protocols import LAST_EPOCHS, protocol_for
from kdhelpers.reporting.ablations import METRICS, paired, with_variants
from kdhelpers.reporting.text import NOTHING, groups_of, in_order, main_runs, mean_std, number, title_of

_DETECTION = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "auroc_last": "last epoch"}
_LOCALIZATION = {"pixel_auroc": "pixel AUROC", "pixel_auroc_all": "over all images", "aupro": "AUPRO"}


def metrics(records: Sequence[dict]) -> pd.DataFrame:
    """AUROC, AP and F1-max of the main runs, one row per data set, class and variant.

    "best of the last ten" is the AUROC that choosing one of the last ten epochs on the test set would have reported.
    """
    rows = []
    for names, group in groups_of(main_runs(records)):
        detection = [r["detection"] for r in group]
        numbers = {title: mean_std(one[key] for one in detection) for key, title in _DETECTION.items()}
        last = ([auroc for _, auroc in one["auroc_by_epoch"] or []][-LAST_EPOCHS:] for one in detection)
        best = mean_std(max(values, default=None) for values in last)
        rows.append(names | {"seeds": len(group)} | numbers | {"best of the last ten": best})
    return without_empty(pd.DataFrame(rows), "variant")


def without_empty(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.drop(columns=column) if len(frame) and (frame[column] == "").all() else frame


def localization(records: Sequence[dict]) -> pd.DataFrame:
    """Metrics of the maps, one row per data set, class and method, without and with the Gaussian.

    Pixel AUROC is over the anomalous images, as in the article, and over all test images, as elsewhere; then AUPRO.
    """
    only_one(records)
    rows = []
    of = [r for r in records if r["notebook"] in (main_notebook(r["dataset"]), "14_interpretability")]
    for names, group in groups_of([r for r in of if r["localization"]]):
        del names["variant"]
        for method, filtered in product(group[0]["localization"], ("raw", "gaussian")):
            found = [r["localization"][method][filtered] for r in group]
            how = {"method": method.replace("_", " "), "Gaussian": "with" if filtered == "gaussian" else "without"}
            numbers = {title: mean_std(one[key] for one in found) for key, title in _LOCALIZATION.items()}
            rows.append(names | how | numbers | {"seeds": len(group)})
    return pd.DataFrame(rows)


def ablation(notebook: str, records: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """An ablation class by class: one column per variant, mean ± standard deviation over seeds; text.

    metric: one of `ablations.METRICS`. A number in brackets is a variant's seeds, if it has fewer than another variant.
    """
    frame = with_variants(notebook, records, metric)
    rows = []
    for (dataset, cls), part in sorted(frame.groupby(["dataset", "class"]), key=lambda group: in_order(*group[0])):
        most = part["variant"].value_counts().max()
        row = {"data set": title_of(dataset), "class": title_of(cls), "seeds": most}
        for variant, of_variant in part.groupby("variant", sort=False):
            fewer = f" ({len(of_variant)})" if len(of_variant) < most else ""
            row[variant] = mean_std(of_variant[metric]) + fewer + (f" {STALE}" if of_variant["stale"].any() else "")
        rows.append(row)
    return pd.DataFrame(rows).fillna(NOTHING)


def variants_beside(notebook: str, records: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """The variants of an ablation against the main run, one row per data set and variant; text.

    A row has the mean over classes ± the standard deviation over seeds, the main run's mean over the same classes and
    seeds, and the difference by `ablations.paired`. The main run's own row covers all of its seeds, and the classes
    that have a variant.
    """
    frame = with_variants(notebook, records, metric)
    pairs = {(pair["dataset"], pair["variant"]): pair for pair in paired(frame, metric).to_dict("records")}
    rows = []
    for (dataset, variant), part in frame.groupby(["dataset", "variant"], sort=False):
        behind = frame[(frame["dataset"] == dataset) & (frame["main"] | (frame["variant"] == variant))]
        row = {"data set": title_of(dataset), "variant": variant + (f" {STALE}" if behind["stale"].any() else "")}
        if pair := pairs.get((dataset, variant)):
            row |= {"classes": pair["classes"], "seeds": pair["seeds"]}
            row |= {METRICS[metric]: number(pair["value"], pair["std"]), "main run": number(pair["main"])}
            row["difference"] = number(pair["difference"], digits="+z.2f")
            if pair["seeds"] > 1:
                row["95 % interval"] = f"{pair['low']:+z.2f} to {pair['high']:+z.2f}"
                row["p (Wilcoxon)"] = f"{pair['p']:.3g} (n = {pair['seeds']})"
        else:  # the main run, or a variant without a pair
            means = part.groupby("seed")[metric].mean()
            row |= {"classes": part["class"].nunique(), "seeds": len(means), METRICS[metric]: mean_std(means)}
        rows.append(row)
    columns = ["data set", "variant", "classes", "seeds", METRICS[metric], "main run", "difference"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "95 % interval", "p (Wilcoxon)"]).astype(object).fillna("")


def changes(runs: Sequence) -> pd.DataFrame:
    """One row per variant of `config.from_notebook`: what it changes in its data set's main run."""
    mains = {run.dataset: run for run in reversed(runs)}
    rows = []
    for run in runs:
        main = mains[run.dataset]
        changed = [
            f"{name}: {getattr(of, name)} → {getattr(to, name)}"
            for of, to in ((main.protocol, run.protocol), (main, run))
            for name in type(of).__dataclass_fields__
            if getattr(of, name) != getattr(to, name)
            and name not in ("protocol", "variant", "label", "notebook", "shares_cloner")
        ]
        nothing = f"nothing: the run of {main.notebook}" if run.variant is None else "nothing: so it is already"
        rows.append((title_of(run.dataset), run.label, run.variant or "", "; ".join(changed) or nothing))
    return pd.DataFrame(rows, columns=["data set", "variant", "in VARIANTS", "changes"])


def running_time(records: Sequence[dict]) -> pd.DataFrame:
    """Seconds for one class and seed, as the mean over a variant's records, and their highest peak memory in MB."""
    only_one(records)
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        size = record["parameters"]["image_size"]
        place = in_order(record["dataset"], "")[0], record["variant"] or "", tuple(np.atleast_1d(size).tolist())
        groups.setdefault((record["notebook"], *place), []).append(record)
    rows = []
    for (notebook, _, variant, size), group in sorted(groups.items(), key=lambda item: item[0]):
        dataset = group[0]["dataset"]
        variants = variants_of(notebook, dataset, protocol_for(group[0]["protocol"], dataset))
        label = next((one.label for one in variants if (one.name or "") == variant), variant) + mark(group)
        row = {"notebook": notebook, "data set": title_of(dataset), "variant": label, "records": len(group)}
        row["px"] = size[0] if len(size) == 1 else "×".join(map(str, size))
        row["epochs"] = round(np.mean([r["training"]["stopped_at"] for r in group]))
        for name in ("data", "source", "train", "detect", "localize"):
            row[f"{name} (s)"] = f"{np.mean([r['seconds'].get(name, 0) for r in group]):.1f}"
        for name, title in (("host", "host (MB)"), ("device", "GPU (MB)")):
            row[title] = max((r["peak_memory_mb"][name] for r in group if r["peak_memory_mb"][name]), default=NOTHING)
        rows.append(row | {"device": ", ".join(sorted({r["environment"]["device"] for r in group}))})
    return pd.DataFrame(rows)
