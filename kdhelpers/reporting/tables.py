"""Tables of our numbers, from records, beside the article's, from data/paper.

Every table is a DataFrame; `write_all` writes three files of each. Numbers are per cent unless a column says otherwise.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, only_one
from kdhelpers.experiments.variants import ABLATIONS, EDGES
from kdhelpers.files import atomic_write
from kdhelpers.reporting import extras
from kdhelpers.reporting.ablations import METRICS, variants_frame
from kdhelpers.reporting.claims import claims
from kdhelpers.reporting.comparison import MEAN, OWN, cells, classes_of, place_of, value_of
from kdhelpers.reporting.published import TABLES, as_printed, published, reruns
from kdhelpers.reporting.text import BASELINES, NOTHING, as_text, either_way, number, title_of

_IN_LATEX = {"±": r"$\pm$", "–": "--", "λ": r"$\lambda$", "·": r"$\cdot$", "−": "$-$", STALE: r"$\dagger$"}
TRIVIAL = {table: {} if table in (1, 4) else BASELINES for table in TABLES}  # stored in the main runs' records


def beside_article(records: list[dict], table: int) -> pd.DataFrame:
    """One row per record: its number, the article's, the difference, the trivial baselines, and the run's deviations.

    "article ±" is the article's standard deviation over ten seeds. One seed's difference is not yet a comparison.
    """
    only_one(records)
    paper = published(table).set_index(["dataset", "class", "method"])
    rows = []
    for record in records:
        cell = record["dataset"], record["class"], "ours+aug" if record["variant"] == "augmented" else "ours"
        row = {"class": record["class"], "variant": record["variant"] or "", "seed": record["seed"]}
        row["ours"] = value_of(record, table)
        row["article"], row["article ±"] = paper.reindex([cell]).iloc[0]
        row["difference"] = None if row["ours"] is None else row["ours"] - row["article"]
        row |= {words: either_way(name, record["baselines"][name]) for name, words in TRIVIAL[table].items()}
        rows.append(row | {"deviates": "; ".join(record["deviations"]) or "in nothing"})
    return extras.without_empty_variant(pd.DataFrame(rows))


def article_table(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """One of the article's Tables 1 to 6 with all competing methods, and our rows below the article's own; text.

    The article's numbers are as printed. Ours are mean ± standard deviation over seeds (no ± for one seed), "–" without
    records. Below them are the number of seeds, the difference, and `comparison.verdict`; then the reruns by others
    (`published.reruns`). All but Table 1 end with the `trivial` baselines.
    """
    keys = ["dataset", "method", "class"]
    printed = as_printed(table)
    own = cells(records, table).drop(columns="article").merge(printed, how="left", on=keys)
    own = own.rename(columns={"text": "article", "verdict": "  verdict"})
    own["this reproduction"] = list(map(number, own["ours"], own["±"]))
    own["  seeds"] = own["seeds"].map(lambda seeds: str(seeds or NOTHING))
    own["  difference"] = own["difference"].map(lambda points: number(points, digits="+.2f"))
    lines = ["article", "this reproduction", "  seeds", "  difference", "  verdict"]
    own = own.set_index(keys)[lines].stack().rename_axis([*keys, "row"]).reset_index(name="text")
    if table != 1:  # whose blocks are its own methods
        own["row"] += own["method"].map(OWN)
    computed = trivial(table, records)
    computed["text"] = computed["value"].map(number)
    every = pd.concat([printed[~printed["method"].isin(OWN)], own, reruns(table), computed])
    every = every.assign(row=every["row"].fillna(every["method"]))
    by = {1: "method", 2: "dataset"}.get(table)  # the first column; other tables have one block
    column = "dataset" if table == 6 else "class"
    columns = sorted(printed[column].unique(), key=lambda name: name != MEAN)  # the mean first, in view
    every["block"] = every[by].map(title_of) if by else ""
    rows = pd.concat(part for _, part in every.groupby("block", sort=False))[["block", "row"]].drop_duplicates()
    wide = every.pivot(index=["block", "row"], columns=column, values="text")
    wide = wide.reindex(index=pd.MultiIndex.from_frame(rows), columns=columns).fillna("").reset_index()
    wide["block"] = wide["block"].mask(wide["block"].duplicated(), "")
    wide = wide.rename(columns=title_of).rename_axis(columns=None)
    return wide.rename(columns={"block": title_of(by)}) if by else wide.drop(columns="block")


def article_numbers(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The numbers of `article_table`, one per row: columns dataset, class, method, value, std, and for our rows seeds,
    difference, verdict, deviates, missing and command."""
    paper, ours = published(table), cells(records, table)
    ours = ours.rename(columns={"ours": "value", "±": "std"})
    paper["method"] = [f"article{OWN[method]}" if method in OWN else method for method in paper["method"]]
    ours["method"] = "this reproduction" + ours["method"].map(OWN)
    others = reruns(table).astype({"value": float, "std": float})
    names = ["dataset", "class", "method", "value", "std", "seeds", "difference"]
    names += ["verdict", "deviates", "missing", "command"]
    frames = [frame for frame in (paper, ours, others, trivial(table, records)) if len(frame)]
    return pd.concat(frames).reindex(columns=names).astype({"seeds": "Int64"})


def trivial(table: int, records: Sequence[dict], methods: Iterable[str] = OWN) -> pd.DataFrame:
    """The trivial baselines on the splits of our `methods` in a table: columns dataset, class, method and value.

    A value is the mean over seeds. For brightness, the direction is then chosen once per class, not for each seed. Of
    Table 4, the baseline is `localization.edges`, as recorded by notebook 14.
    """
    if table == 4:
        return _edges(records)
    rows, paper = [], published(table)
    for method, (name, words) in product(methods, TRIVIAL[table].items()):
        for dataset in paper["dataset"][paper["method"] == method].unique():
            place = place_of({"table": table, "dataset": dataset, "method": method})
            main = [r for r in records if (r["notebook"], r["dataset"], r["variant"]) == place]
            values: dict[str, float | None] = {}
            for cls in paper["class"][paper["dataset"] == dataset].unique():
                found = [r["baselines"][name] for r in main if r["class"] == cls]
                of = list(values.values()) if cls == MEAN else found
                values[cls] = either_way(name, np.mean(of) if of and None not in of else None)
            title = words + OWN[method].replace(", ", ", splits of ")
            rows += [(dataset, cls, title, value) for cls, value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "class", "method", "value"]).astype({"value": float})


def _edges(records: Sequence[dict]) -> pd.DataFrame:
    """`trivial` for Table 4."""
    frame = variants_frame("14_interpretability", records)[0].dropna(subset="pixel_auroc")
    values = frame[frame["variant"] == EDGES].groupby("class")["pixel_auroc"].mean().reindex(classes_of("mvtec"))
    values[MEAN] = values.mean(skipna=False)
    return values.rename("value").rename_axis("class").reset_index().assign(dataset="mvtec", method=EDGES)


def write_all(records: Sequence[dict], folder: Path) -> None:
    """Write to `folder` Tables 1 to 6 and the tables beyond the article's, as csv, md and tex each.

    table_1 … table_6, cells, metrics, localization, running_time, claims; in ablations NOTEBOOK_METRIC by class and
    NOTEBOOK_METRIC_variants. Each file names the kind of its records; those of tables without rows are removed.
    """
    kind = str(only_one(records) or "no records")
    frames = {f"table_{table}": article_table(table, records) for table in TABLES} | {"cells": cells(records)}
    makers = extras.metrics, extras.localization, extras.running_time, claims
    frames |= {make.__name__: make(records) for make in makers}
    for notebook, metric in product(ABLATIONS, METRICS):
        frames[f"ablations/{notebook}_{metric}"] = extras.ablation(notebook, records, metric)
        frames[f"ablations/{notebook}_{metric}_variants"] = extras.variants_beside(notebook, records, metric)
    numbers = frames | {f"table_{table}": article_numbers(table, records) for table in TABLES}
    for stem, frame in frames.items():
        if frame.empty:  # so that no tables of another kind remain
            for suffix in ("csv", "md", "tex"):
                (folder / f"{stem}.{suffix}").unlink(missing_ok=True)
            continue
        texts = frame.map(as_text)
        styled = texts.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        latex = styled.to_latex(hrules=True, column_format="l" * len(frame.columns))
        files = {
            "csv": numbers[stem].assign(records=kind).to_csv(index=False, lineterminator="\n"),
            "md": f"*{kind}*\n\n" + texts.to_markdown(index=False, disable_numparse=True) + "\n",
            "tex": f"% {kind}\n" + latex.translate(str.maketrans(_IN_LATEX)),
        }
        for suffix, text in files.items():
            with atomic_write(folder / f"{stem}.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
