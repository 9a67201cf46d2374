"""Tables beyond the article's: more metrics, the ablations' variants, and running time."""

import json
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, is_stale, only_one
from kdhelpers.experiments.variants import main_notebook, variants_of
from kdhelpers.protocols import LAST_EPOCHS, PRECISIONS, protocol_for
from kdhelpers.reporting.ablations import METRICS, metrics_of, paired, with_variants
from kdhelpers.reporting.text import NOTHING, in_order, main_runs, mean_std, number, title_of

MARK = {True: f" {STALE}", False: ""}  # after a name or number, by whether a record behind it is stale


def metrics(records: Sequence[dict]) -> pd.DataFrame:
    """AUROC, AP and F1-max of the main runs, one row per data set, class and variant.

    "best of the last ten" is the AUROC that choosing one of the last ten epochs on the test set would have reported.
    """
    rows = []
    for record in main_runs(records):
        last = [auroc for _, auroc in record["detection"]["auroc_by_epoch"] or []][-LAST_EPOCHS:]
        rows.append(record | record["detection"] | {"best": max(last, default=None)})
    titles = {"seed": "seeds", "auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "auroc_last": "last epoch"}
    table = _means(rows, ["dataset", "class", "variant"], titles | {"best": "best of the last ten"})
    return without_empty_variant(table)


def without_empty_variant(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="variant") if len(frame) and (frame["variant"] == "").all() else frame


def localization(records: Sequence[dict]) -> pd.DataFrame:
    """Metrics of the maps, one row per data set, class and method, without and with the Gaussian.

    Pixel AUROC is over the anomalous images, as in the article, and over all test images, as elsewhere; then AUPRO.
    """
    only_one(records)
    rows = []
    for record in records:
        if record["notebook"] in (main_notebook(record["dataset"]), "14_interpretability"):
            for method, maps in (record["localization"] or {}).items():
                for key, words in (("raw", "without"), ("gaussian", "with")):
                    rows.append(record | {"method": method.replace("_", " "), "Gaussian": words} | maps[key])
    titles = {"pixel_auroc": "pixel AUROC", "pixel_auroc_all": "over all images", "aupro": "AUPRO", "seed": "seeds"}
    return _means(rows, ["dataset", "class", "method", "Gaussian"], titles)


def _means(records: Sequence[dict], by: list[str], titles: dict[str, str]) -> pd.DataFrame:
    """One row of text per group, in the article's order: the mean ± standard deviation of fields, by their titles.

    Of "seed", the count. A class with a stale record is marked.
    """
    only_one(records)
    rows = [r | {"variant": r["variant"] or "", "stale": is_stale(r)} for r in records]
    rows.sort(key=lambda row: (*in_order(row["dataset"], row["class"]), row["variant"]))
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(by, sort=False)
    columns = {title: (name, "size" if name == "seed" else mean_std) for name, title in titles.items()}
    table = groups.agg(mark=("stale", "any"), **columns).reset_index()
    table["class"] = table["class"].map(title_of) + table.pop("mark").map(MARK)
    return table.assign(dataset=table["dataset"].map(title_of)).rename(columns={"dataset": "data set"})


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
            row[variant] = mean_std(of_variant[metric]) + fewer + MARK[of_variant["stale"].any()]
        rows.append(row)
    return pd.DataFrame(rows).fillna(NOTHING)


def variants_beside(notebook: str, records: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """The rows of `ablations.paired` as text: each variant of an ablation beside the main run."""
    return _beside_main(with_variants(notebook, records, metric), metric)


def settings_beside(plain: Sequence[dict], others: Sequence[dict], metric: str = "auroc") -> pd.DataFrame:
    """Main runs of another protocol or precision beside those of `plain`, paired over seeds; text.

    plain: official and in float32; others: not, and of the same source. Only runs whose parameters are otherwise the
    same are paired.
    """

    def row(record: dict) -> dict:
        same = {k: v for k, v in record["parameters"].items() if k not in ("precision", "source_name", "protocol")}
        precision, protocol = record["parameters"].get("precision", PRECISIONS[0]), record["protocol"]
        main = (precision, protocol) == (PRECISIONS[0], "official")
        setting = "main run" if main else precision if protocol == "official" else f"protocol {protocol}"
        names = {"variant": setting, "main": main, "stale": is_stale(record)}
        return record | names | metrics_of(record) | {"same": json.dumps(same, sort_keys=True)}

    rows = [row(record) for record in main_runs([*plain, *others]) if record["variant"] is None]
    frame = pd.DataFrame(rows, columns=["dataset", "class", "variant", "main", "seed", "stale", metric, "same"])
    frame = frame.dropna(subset=metric)
    # Of the rest, no run has a partner.
    frame = frame[frame.groupby(["dataset", "same"])["main"].transform("nunique") == 2]
    return _beside_main(frame, metric)


def _beside_main(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = []
    for pair in paired(frame, metric).to_dict("records"):
        row = {"data set": title_of(pair["dataset"]), "variant": pair["variant"] + MARK[pair["stale"]]}
        row |= {"classes": pair["classes"], "seeds": pair["seeds"], METRICS[metric]: number(pair["value"], pair["std"])}
        if pd.notna(pair["main"]):
            row |= {"main run": number(pair["main"]), "difference": number(pair["difference"], digits="+.2f")}
        if pd.notna(pair["low"]):
            row["95 % interval"] = f"{pair['low']:+.2f} to {pair['high']:+.2f}"
            row["p (Wilcoxon)"] = f"{pair['p']:.3g} (n = {pair['seeds']})"
        rows.append(row)
    columns = ["data set", "variant", "classes", "seeds", METRICS[metric], "main run", "difference"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "95 % interval", "p (Wilcoxon)"]).astype(object).fillna("")


def changes(runs: Sequence) -> pd.DataFrame:
    """One row per variant of `config.from_notebook`: what it changes in its data set's main run."""
    mains = {run.dataset: run for run in reversed(runs)}
    ignored = ("protocol", "variant", "label", "notebook", "shares_cloner")
    rows = []
    for run in runs:
        main = mains[run.dataset]
        before, after = ({**vars(one.protocol), **vars(one)} for one in (main, run))
        names = [name for name in after if after[name] != before[name] and name not in ignored]
        nothing = f"nothing: the run of {main.notebook}" if run.variant is None else "nothing: as in the main run"
        changed = "; ".join(f"{name}: {before[name]} → {after[name]}" for name in names) or nothing
        rows.append((title_of(run.dataset), run.label, run.variant or "", changed))
    return pd.DataFrame(rows, columns=["data set", "variant", "in VARIANTS", "changes"])


def running_time(records: Sequence[dict]) -> pd.DataFrame:
    """Seconds for one class and seed, as the mean over a variant's records, and their highest peak memory in MB."""
    only_one(records)

    def place(record: dict) -> tuple:
        size = np.atleast_1d(record["parameters"]["image_size"]).tolist()
        return record["notebook"], in_order(record["dataset"], ""), record["variant"] or "", size

    rows = []
    for (notebook, _, variant, size), members in groupby(sorted(records, key=place), place):
        group = list(members)
        dataset = group[0]["dataset"]
        variants = variants_of(notebook, dataset, protocol_for(group[0]["protocol"], dataset))
        labels = {one.name: one.label for one in variants}
        label = labels.get(group[0]["variant"], variant) + MARK[any(map(is_stale, group))]
        row = {"notebook": notebook, "data set": title_of(dataset), "variant": label, "records": len(group)}
        row |= {"px": "×".join(map(str, size)), "epochs": round(np.mean([r["training"]["stopped_at"] for r in group]))}
        for name in ("data", "source", "train", "detect", "localize"):
            row[f"{name} (s)"] = f"{np.mean([r['seconds'].get(name, 0) for r in group]):.1f}"
        for name, title in (("host", "host (MB)"), ("device", "GPU (MB)")):
            row[title] = max((r["peak_memory_mb"][name] for r in group if r["peak_memory_mb"][name]), default=NOTHING)
        rows.append(row | {"device": ", ".join(sorted({r["environment"]["device"] for r in group}))})
    return pd.DataFrame(rows)
