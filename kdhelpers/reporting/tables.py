"""Ours beside the article's: records on one side, the published numbers of data/paper on the other.

Every table is a DataFrame; `write` makes the three files of it. Numbers are per cent unless a column says otherwise.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, Kind, mark, only_one
from kdhelpers.experiments.variants import ABLATIONS, main_notebook, variants_of
from kdhelpers.files import atomic_write
from kdhelpers.metrics import BASELINES, either_way
from kdhelpers.protocols import LAST_EPOCHS, MVTEC, protocol_for
from kdhelpers.reporting.ablations import METRICS, paired, variants_frame
from kdhelpers.reporting.comparison import MEAN, cells, value_of
from kdhelpers.reporting.published import NAMES, TABLES, as_printed, published

NOTHING = "–"


def beside_article(records: list[dict], table: int) -> pd.DataFrame:
    """A row for each record: its number, the article's, the difference, and in what the run deviates from the article.

    "article ±" is the article's standard deviation over ten seeds. A difference of one seed is not yet a comparison.
    """
    only_one(records)
    paper = published(table)
    rows = []
    for record in records:
        method = "ours+aug" if record["variant"] == "augmented" else "ours"
        same = (paper["dataset"] == record["dataset"]) & (paper["class"] == record["class"])
        cell = paper[same & (paper["method"] == method)]
        value, std = cell[["value", "std"]].iloc[0] if len(cell) else (None, None)
        ours = value_of(record, table)
        rows.append(
            {
                "class": record["class"],
                "variant": record["variant"] or "",
                "seed": record["seed"],
                "ours": ours,
                "article": value,
                "article ±": std,
                "difference": None if ours is None or value is None else ours - value,
            }
            | (_trivial_of(record) if table not in (1, 4) else {})
            | {"deviates": "; ".join(record["deviations"]) or "in nothing"}
        )
    frame = pd.DataFrame(rows)
    return frame.drop(columns="variant") if (frame["variant"] == "").all() else frame


def article_table(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """Table 1 to 6 of the article in full, all competing methods, with our rows under the article's own; text.

    The numbers of the article stand as printed. Ours are mean ± standard deviation over seeds (no ± for one seed), "–"
    where records are missing; below them how many seeds, the difference, and the verdict of `cells.verdict`. Tables of
    detection end with the trivial rows, AUROC on the same split: whichever of brighter and darker separates better.
    """
    ours = cells(records)
    ours = ours[ours["table"] == table]
    by = {1: "method", 2: "dataset"}.get(table)  # what stands in the first column; the other tables have one block
    column = "dataset" if table == 6 else "class"
    blocks = []
    for group, part in as_printed(table).groupby(by, sort=False) if by else [("", as_printed(table))]:
        lines: dict[str, dict[str, str]] = {}
        for method, row in part.groupby("method", sort=False):
            name, own_name = _row_names(method)
            lines[name] = {cell[column]: _with_std(cell) for _, cell in row.iterrows()}
            if own_name:
                own = ours[(ours["method"] == method) & ours["dataset"].isin(part["dataset"])]
                lines |= _our_lines(own, column, own_name)
        if table == 5:  # RESC has no published number of the article's own, and stands beside OCT2017
            resc = [r["detection"]["auroc"] for r in _main(records) if r["class"] == "resc"]
            lines[_row_names("ours")[1]]["resc"] = _mean_std(resc) if resc else NOTHING
        if table in (2, 3, 5, 6):
            lines |= _trivial_lines(part, column, records)
        columns = sorted(dict.fromkeys(part[column]), key=lambda name: name != MEAN)  # the mean first, and in sight
        block = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
        block = block.rename(columns=_title).rename_axis("row").reset_index()
        if by:
            block.insert(0, _title(by), [_title(group), *[""] * (len(block) - 1)])
        blocks.append(block)
    return pd.concat(blocks).fillna("").reset_index(drop=True)


def _row_names(method: str) -> tuple[str, str]:
    """What a published row is called, and the one below it with ours; "" where it is not the article's own method."""
    if method == "ours+aug":
        return "article, augmented", "this reproduction, augmented"
    own = method == "ours" or method in ("with_gaussian", "without_gaussian")
    return ("article", "this reproduction") if own else (method, "")


def article_numbers(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The same table as numbers, a row for each: columns dataset, class, method, value, std, and for our rows seeds,
    difference, verdict, deviates, missing and command."""
    paper = published(table)
    ours = cells(records)
    ours = ours[ours["table"] == table].rename(columns={"ours": "value", "±": "std"})
    for frame, which in ((paper, 0), (ours, 1)):
        names = [_row_names(method)[which] for method in frame["method"]]
        if table == 1:
            names = [f"{name}, {method.replace('_', ' ')}" for name, method in zip(names, frame["method"], strict=True)]
        frame["method"] = names
    names = ["dataset", "class", "method", "value", "std", "seeds", "difference"]
    names += ["verdict", "deviates", "missing", "command"]
    trivial = [] if table in (1, 4) else [_trivial_numbers(paper, records)]
    return pd.concat([paper, ours, *trivial]).reindex(columns=names).astype({"seeds": "Int64"})


def metrics(records: Sequence[dict]) -> pd.DataFrame:
    """What the article leaves out of its main runs: AUROC, AP and F1-max, a row for each data set, class and variant.

    "best of the last ten" is what choosing the epoch on the test set would have reported, among the ten that there are.
    """
    rows = []
    for (dataset, cls, variant), group in _groups(_main(records)):
        best = [
            max([value for _, value in r["detection"]["auroc_by_epoch"] or []][-LAST_EPOCHS:], default=np.nan)
            for r in group
        ]
        rows.append(
            {
                "data set": _title(dataset),
                "class": _title(cls) + mark(group),
                "variant": variant or "",
                "seeds": len(group),
            }
            | {name: _mean_std([r["detection"][key] for r in group]) for key, name in _DETECTION.items()}
            | {"last epoch": _mean_std([r["detection"]["auroc_last"] for r in group])}
            | {"best of the last ten": _mean_std(best)}
        )
    return _without_empty(pd.DataFrame(rows), "variant")


_DETECTION = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max"}


def localization(records: Sequence[dict]) -> pd.DataFrame:
    """Every measure of the maps, a row for each data set, class and method, without and with the Gaussian.

    Pixel AUROC over the anomalous images, as in the article, and over all test images, as elsewhere; AUPRO.
    """
    only_one(records)
    rows = []
    for (dataset, cls, _), group in _groups([r for r in records if r["localization"] and _is_main_or_14(r)]):
        for method in group[0]["localization"]:
            for filtered, words in (("raw", "without"), ("gaussian", "with")):
                found = [r["localization"][method][filtered] for r in group]
                row = {
                    "data set": _title(dataset),
                    "class": _title(cls) + mark(group),
                    "method": method.replace("_", " "),
                    "Gaussian": words,
                }
                row |= {name: _mean_std([f[key] for f in found]) for key, name in _LOCALIZATION.items()}
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
        row = {"data set": _title(dataset), "class": _title(cls), "seeds": most}
        for variant, of_variant in part.groupby("variant", sort=False):
            fewer = f" ({len(of_variant)})" if len(of_variant) < most else ""
            row[variant] = _mean_std(of_variant[metric]) + fewer + (f" {STALE}" if of_variant["stale"].any() else "")
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
        row = {"data set": _title(dataset), "variant": variant + (f" {STALE}" if behind["stale"].any() else "")}
        pair = pairs[(pairs["dataset"] == dataset) & (pairs["variant"] == variant)]
        if len(pair):
            one = pair.iloc[0]
            row |= {"classes": one["classes"], "seeds": one["seeds"]}
            row |= {METRICS[metric]: _number(one["value"], one["std"]), "main run": f"{one['main']:.2f}"}
            row["difference"] = f"{one['difference']:+z.2f}"
            if one["seeds"] > 1:
                row["95 % interval"] = f"{one['low']:+z.2f} to {one['high']:+z.2f}"
                row["p (Wilcoxon)"] = f"{one['p']:.3g} (n = {one['seeds']})"
        else:  # the main run, or a variant that has nothing to be compared with
            means = part.groupby("seed")[metric].mean()
            row |= {"classes": part["class"].nunique(), "seeds": len(means), METRICS[metric]: _mean_std(means)}
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
            {"data set": _title(run.dataset), "variant": run.label, "in VARIANTS": run.variant or "", "changes": words}
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
        row = {"notebook": notebook, "data set": _title(first["dataset"]), "variant": label, "records": len(group)}
        row |= {"px": px, "epochs": round(np.mean([r["training"]["stopped_at"] for r in group]))}
        for name in ("data", "source", "train", "detect", "localize"):
            row[f"{name} (s)"] = f"{np.mean([r['seconds'].get(name, 0) for r in group]):.1f}"
        row["host (MB)"] = max(r["peak_memory_mb"]["host"] for r in group)
        devices = [r["peak_memory_mb"]["device"] for r in group if r["peak_memory_mb"]["device"] is not None]
        row["GPU (MB)"] = max(devices) if devices else NOTHING
        rows.append(row | {"device": ", ".join(sorted({r["environment"]["device"] for r in group}))})
    return pd.DataFrame(rows)


def write_all(records: Sequence[dict], folder: Path) -> None:
    """Writes Tables 1 to 6 and what the article leaves out to `folder`, as csv, md and tex each.

    table_1 … table_6, cells, metrics, localization, running_time; in ablations NOTEBOOK_METRIC by class and by variant.
    """
    kind = only_one(records)
    shutil.rmtree(folder, ignore_errors=True)  # none of another kind is left beside these
    for table in TABLES:
        write(article_table(table, records), f"table_{table}", folder, kind, article_numbers(table, records))
    write(cells(records), "cells", folder, kind)
    for name, make in (("metrics", metrics), ("localization", localization), ("running_time", running_time)):
        write(make(records), name, folder, kind)
    for notebook in ABLATIONS:
        for metric in METRICS:
            by_class = ablation(notebook, records, metric)
            if len(by_class):
                write(by_class, f"{notebook}_{metric}", folder / "ablations", kind)
                write(
                    variants_beside(notebook, records, metric),
                    f"{notebook}_{metric}_variants",
                    folder / "ablations",
                    kind,
                )


def write(wide: pd.DataFrame, stem: str, folder: Path, kind: Kind | None, numbers: pd.DataFrame | None = None) -> None:
    """Writes STEM.csv (of `numbers` where they are given), STEM.md and STEM.tex to `folder`, each at once or not.

    Each says of which kind its records are; a table without rows is not written.
    """
    if not len(wide):
        return
    said = str(kind) if kind else "no records"
    as_text = wide.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value).replace("nan", NOTHING)
    files = {
        "csv": (wide if numbers is None else numbers).assign(records=said).to_csv(index=False, lineterminator="\n"),
        "md": f"*{said}*\n\n" + as_text.to_markdown(index=False, disable_numparse=True) + "\n",
        "tex": f"% {said}\n" + _latex(as_text),
    }
    for suffix, text in files.items():
        with atomic_write(folder / f"{stem}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _latex(wide: pd.DataFrame) -> str:
    styled = wide.astype(str).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    text = styled.to_latex(hrules=True, column_format="l" * len(wide.columns))
    for sign, command in (("±", r"$\pm$"), ("–", "--"), ("λ", r"$\lambda$"), ("·", r"$\cdot$"), ("−", "$-$")):
        text = text.replace(sign, command)
    return text.replace(STALE, r"$\dagger$")


def _our_lines(ours: pd.DataFrame, column: str, name: str) -> dict[str, dict[str, str]]:
    lines: dict[str, dict[str, str]] = {name: {}, "  seeds": {}, "  difference": {}, "  verdict": {}}
    for _, cell in ours.iterrows():
        there = cell["seeds"] > 0
        texts = _number(cell["ours"], cell["±"]), str(cell["seeds"]), f"{cell['difference']:+z.2f}"
        for line, text in zip(lines, [*(texts if there else [NOTHING] * 3), cell["verdict"]], strict=True):
            lines[line][cell[column]] = text
    if name != "this reproduction":  # the second block of Table 6
        lines = {line if line == name else f"{line}, augmented": row for line, row in lines.items()}
    return lines


def _trivial_numbers(paper: pd.DataFrame, records: Sequence[dict]) -> pd.DataFrame:
    rows = []
    for name, title in BASELINES.items():
        for dataset, part in paper.groupby("dataset", sort=False):
            values = {cls: _trivial_value(records, dataset, cls, name) for cls in dict.fromkeys(part["class"])}
            if MEAN in values:
                values[MEAN] = _mean_of([value for cls, value in values.items() if cls != MEAN])
            rows += [
                {"dataset": dataset, "class": cls, "method": title, "value": value} for cls, value in values.items()
            ]
    return pd.DataFrame(rows).astype({"value": float})


def _trivial_lines(part: pd.DataFrame, column: str, records: Sequence[dict]) -> dict[str, dict[str, str]]:
    lines: dict[str, dict[str, str]] = {}
    for _, cell in _trivial_numbers(part, records).iterrows():
        text = NOTHING if pd.isna(cell["value"]) else f"{cell['value']:.2f}"
        lines.setdefault(cell["method"], {})[cell[column]] = text
    return lines


def _trivial_value(records: Sequence[dict], dataset: str, cls: str, name: str) -> float | None:
    """The mean over seeds, then the sign that separates better: one sign for a class, not one for each seed."""
    main = [r for r in records if (r["notebook"], r["class"], r["variant"]) == (main_notebook(dataset), cls, None)]
    mean = _mean_of([r["baselines"][name] for r in main])
    return either_way(name, mean)


def _trivial_of(record: dict) -> dict[str, float | None]:
    return {title: either_way(name, record["baselines"][name]) for name, title in BASELINES.items()}


def _mean_of(values: Sequence[float | None]) -> float | None:
    return float(np.mean(values)) if len(values) and all(value is not None for value in values) else None


def _main(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["notebook"] == main_notebook(r["dataset"])]


def _is_main_or_14(record: dict) -> bool:
    return record["notebook"] in (main_notebook(record["dataset"]), "14_interpretability")


def _groups(records: Sequence[dict]) -> list[tuple[tuple, list[dict]]]:
    """Records by (data set, class, variant), in the order of the article's tables."""
    only_one(records)
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["dataset"], record["class"], record["variant"]), []).append(record)
    order = {dataset: i for i, dataset in enumerate(NAMES)}
    return sorted(groups.items(), key=lambda item: (order[item[0][0]], *in_order(*item[0][:2]), str(item[0][2] or "")))


def in_order(dataset: str, cls: str) -> tuple[int, str]:
    """The key that sorts classes as the article's tables have them."""
    return (MVTEC.index(cls) if dataset == "mvtec" and cls in MVTEC else 0, cls)


def _mean_std(values) -> str:
    known = [float(value) for value in values if value is not None and not np.isnan(value)]
    return _number(np.mean(known), np.std(known, ddof=1) if len(known) > 1 else None) if known else NOTHING


def _number(value: float, std: float | None) -> str:
    return f"{value:.2f}" + ("" if std is None or np.isnan(std) else f" ± {std:.2f}")


def _with_std(row: pd.Series) -> str:
    return row["value"] + (f" ± {row['std']}" if isinstance(row["std"], str) else "")


def _title(name: str) -> str:
    """A data set, class, method or column in words."""
    return NAMES.get(name, name.replace("_", " "))


def _without_empty(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.drop(columns=column) if len(frame) and (frame[column] == "").all() else frame
