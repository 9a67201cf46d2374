"""Ours beside the article's: records on one side, the published numbers of data/paper on the other.

Every table is a DataFrame; `write` makes the three files of it. Numbers are per cent unless a column says otherwise.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, Kind, only_one
from kdhelpers.experiments.variants import ABLATIONS, main_notebook
from kdhelpers.files import atomic_write
from kdhelpers.metrics import BASELINES, either_way
from kdhelpers.reporting import extras
from kdhelpers.reporting.ablations import METRICS
from kdhelpers.reporting.comparison import MEAN, cells, value_of
from kdhelpers.reporting.published import TABLES, as_printed, published, reruns
from kdhelpers.reporting.text import NOTHING, main_runs, mean_std, number, title_of


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
    where records are missing; below them how many seeds, the difference, and the verdict of `comparison.verdict`; then
    what others got (`published.reruns`). Tables of detection end with the trivial rows, AUROC on the same split:
    whichever of brighter and darker separates better.
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
            resc = [r["detection"]["auroc"] for r in main_runs(records) if r["class"] == "resc"]
            lines[_row_names("ours")[1]]["resc"] = mean_std(resc) if resc else NOTHING
        others = reruns(table)
        for who, row in others[others["dataset"].isin(part["dataset"])].groupby("who", sort=False):
            lines[f"rerun: {who}"] = {cell[column]: _with_std(cell) for _, cell in row.iterrows()}
        if table in (2, 3, 5, 6):
            lines |= _trivial_lines(part, column, records)
        columns = sorted(dict.fromkeys(part[column]), key=lambda name: name != MEAN)  # the mean first, and in sight
        block = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
        block = block.rename(columns=title_of).rename_axis("row").reset_index()
        if by:
            block.insert(0, title_of(by), [title_of(group), *[""] * (len(block) - 1)])
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
    others = reruns(table).astype({"value": float, "std": float}).drop(columns="table")
    others["method"] = "rerun: " + others["who"]
    return pd.concat([paper, ours, others, *trivial]).reindex(columns=names).astype({"seeds": "Int64"})


def write_all(records: Sequence[dict], folder: Path) -> None:
    """Writes Tables 1 to 6 and what the article leaves out to `folder`, as csv, md and tex each.

    table_1 … table_6, cells, metrics, localization, running_time; in ablations NOTEBOOK_METRIC by class and by variant.
    """
    kind = only_one(records)
    shutil.rmtree(folder, ignore_errors=True)  # none of another kind is left beside these
    for table in TABLES:
        write(article_table(table, records), f"table_{table}", folder, kind, article_numbers(table, records))
    write(cells(records), "cells", folder, kind)
    for name, make in (
        ("metrics", extras.metrics),
        ("localization", extras.localization),
        ("running_time", extras.running_time),
    ):
        write(make(records), name, folder, kind)
    for notebook in ABLATIONS:
        for metric in METRICS:
            by_class = extras.ablation(notebook, records, metric)
            if len(by_class):
                write(by_class, f"{notebook}_{metric}", folder / "ablations", kind)
                write(
                    extras.variants_beside(notebook, records, metric),
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
        texts = number(cell["ours"], cell["±"]), str(cell["seeds"]), f"{cell['difference']:+z.2f}"
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


def _with_std(row: pd.Series) -> str:
    return row["value"] + (f" ± {row['std']}" if isinstance(row["std"], str) else "")
