"""The tables in README.md, docs/findings.md and results/README.md: the article beside this reproduction."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from kdhelpers.errors import InputError
from kdhelpers.experiments.records import Kind, is_stale, precision_of, source_name
from kdhelpers.experiments.variants import ABLATIONS, EDGES
from kdhelpers.files import atomic_write
from kdhelpers.protocols import PRECISIONS
from kdhelpers.reporting import extras
from kdhelpers.reporting.ablations import METRICS, interval
from kdhelpers.reporting.claims import NOT_MEASURED, claims
from kdhelpers.reporting.comparison import MEAN, cells, place_of, recorded_numbers
from kdhelpers.reporting.published import reruns
from kdhelpers.reporting.tables import trivial
from kdhelpers.reporting.text import BASELINES, NOTHING, number, title_of

BEGIN, END = "<!-- results -->", "<!-- /results -->"
LINES = {  # title: (table, dataset, method)
    "MNIST": (2, "mnist", "ours"),
    "Fashion-MNIST": (2, "fashion_mnist", "ours"),
    "CIFAR-10": (2, "cifar10", "ours"),
    "MVTecAD, detection": (3, "mvtec", "ours"),
    "MVTecAD, localization (pixels)": (4, "mvtec", "ours"),
    "OCT2017": (5, "retinal_oct", "ours"),
    "HeadCT": (6, "head_ct", "ours"),
    "HeadCT, augmented": (6, "head_ct", "ours+aug"),
    "BrainMRI": (6, "brain_mri", "ours"),
}
ORIGINAL = "vgg16_imagenet-62f2f82f"  # an ImageNet VGG-16 with its original authors' weights
_OF_FINDINGS = {"14_interpretability": ("pixel_auroc_raw", "pixel_auroc", "aupro")}  # its variants share their scores
SOURCES = {"imagenet": "torchvision's weights", ORIGINAL: "original weights", "untrained": "untrained source"}


def article_beside_ours(records: Sequence[dict]) -> pd.DataFrame:
    """One row per entry of LINES, AUROC in per cent. records: of one kind.

    Columns: data set; article (over all classes); article, these classes (over the recorded ones); ours, ±, low and
    high (95 % interval), and seeds (of the mean over these classes, over the seeds that have all of them; where none
    has, the mean of the classes' means, NaN, and the fewest of any class); classes (the recorded ones, "2 of 10", or ""
    for all); deviates (the deviations other than the source); mark († if any is stale). NaN without records.
    """
    of_article = cells(records).groupby(["table", "dataset", "method"])
    rows = []
    for title, place in LINES.items():
        line = of_article.get_group(place).set_index("class", drop=False)
        classes = line.drop(MEAN, errors="ignore")
        there = classes.dropna(subset="ours")
        row = {"data set": title, "article": line["article"].get(MEAN, classes["article"].mean())}
        if len(there):
            found, values = recorded_numbers(records, there.iloc[0], there.index)
            means = values.dropna().mean(axis=1)
            values = values.loc[means.index] if len(means) else values
            used = [record for record in found if record["seed"] in values.index]
            deviates = {d for r in used for d in r["deviations"] if not d.startswith("source ")}
            row |= {"article, these classes": there["article"].mean(), "ours": values.mean().mean()}
            row |= {"±": means.std(), "seeds": values.count().min()}
            row["low"], row["high"] = interval(means)
            row["classes"] = "" if len(there) == len(classes) else f"{len(there)} of {len(classes)}"
            row |= {"deviates": "; ".join(sorted(deviates)), "mark": extras.MARK[any(map(is_stale, used))]}
        rows.append(row)
    names = ["data set", "article", "article, these classes", "ours", "±", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=[*names, "classes", "deviates", "mark"])


def markdown(found: dict[Kind, list[dict]]) -> str:
    """The number of the article's cells with records of torchvision's weights, then a table per official source."""
    verdicts = cells(found.get(Kind("imagenet", "full", "official"), []))["verdict"]
    judged = verdicts.isin(["inside", "near", "off"]).sum()
    lines = [
        f"{judged} of the article's {len(verdicts)} numbers are regenerated so far with torchvision's ImageNet "
        "weights, which the released code loads; only these are judged against the article's."
    ]
    for words, beside, *_ in _official(found):
        lines += ["", f"With {words} (AUROC in per cent):", ""]
        lines += ["| data set | article | ours | seeds | deviates in |", "|---|---:|---:|---:|---|"]
        for row in beside.to_dict("records"):
            article, ours = f"{row['article']:.2f}", f"{NOTHING} | {NOTHING} | |"
            if pd.notna(row["ours"]):
                if row["classes"]:
                    article += f" ({row['article, these classes']:.2f} on {row['classes']} classes)"
                mean, sign, std = number(row["ours"], row["±"]).partition(" ± ")
                ours = f"**{mean}**{sign}{std}{row['mark']} | {row['seeds']:.0f} | {row['deviates'] or NOTHING} |"
            lines.append(f"| {row['data set']} | {article} | {ours}")
    return "\n".join(lines)


def findings(found: dict[Kind, list[dict]]) -> tuple[str, str]:
    """Two texts with tables per official source: ours beside trivial baselines and reruns by others, with the article's
    claims; and each ablation's variants."""
    first, lines = [], []
    for words, beside, records, others in _official(found):
        rows = [_beside_baselines(row, records) for row in beside.dropna(subset="ours").to_dict("records")]
        first += ["", f"### With {words}", "", "Protocol `official`:", "", *_markdown(pd.DataFrame(rows))]
        first += ["", "Comparisons, protocol `official`:", "", *_markdown(claims(records))]
        by_text = [record for record in others if record["protocol"] == "text"]
        by_protocol = claims(by_text)
        if len(measured := by_protocol[by_protocol["here"] != NOT_MEASURED]):
            first += ["", "The same by protocol `text`, as far as measured:", "", *_markdown(measured)]
        lines += ["", f"### Variants with {words}", *_ablations(records)]
        for metric in ("auroc", "pixel_auroc"):
            settings = extras.settings_beside(records, others, metric)
            if len(settings):
                against = f"{METRICS[metric]} against the main run (official, float32), paired over seeds"
                lines += ["", f"`PROTOCOL` and `PRECISION`, {against}:", "", *_markdown(settings)]
        lines += _ablations(by_text)
    return "\n".join(first).strip(), "\n".join(lines).strip()


def _ablations(records: Sequence[dict]) -> list[str]:
    """A table for each ablation of one kind's records and each of its metrics."""
    lines, protocol = [], ", protocol `text`" if records and records[0]["protocol"] == "text" else ""
    for notebook in ABLATIONS:
        for metric in _OF_FINDINGS.get(notebook, ("auroc", "pixel_auroc")):
            variants = extras.variants_beside(notebook, records, metric)
            if len(variants):
                link = f"[{notebook}](../notebooks/{notebook}.ipynb){protocol}, {METRICS[metric]}"
                lines += ["", f"{link} against the main run, paired over seeds:", "", *_markdown(variants)]
    return lines


def recorded(found: dict[Kind, list[dict]]) -> str:
    """A table per kind: the classes and seeds recorded of each notebook, data set and variant, and their minutes."""
    lines = []
    for kind, records in found.items():
        rows = []
        for record in records:
            size, epochs = (record["parameters"][name] for name in ("image_size", "epochs"))
            row = {"notebook": record["notebook"], "data set": title_of(record["dataset"])}
            row |= {"variant": record["variant"] or "", "px": str(size), "epochs": str(epochs)}
            row |= {"minutes": sum(record["seconds"].values()) / 60, "stopped": record["training"]["stopped_at"]}
            rows.append(record | row)
        keys, table = ["notebook", "data set", "variant", "px", "epochs"], []
        for key, part in pd.DataFrame(rows).groupby(keys, sort=False):
            seeds = part.groupby("class", sort=False)["seed"].agg(lambda of: ", ".join(map(str, sorted(of))))
            alike = [
                f"{', '.join(classes.index)} (seed{'s' * (',' in of)} {of})"
                for of, classes in seeds.groupby(seeds, sort=False)
            ]
            row = dict(zip(keys, key, strict=True)) | {"epochs": _span(part["stopped"]), "classes": "; ".join(alike)}
            table.append(row | {"minutes": _span(part["minutes"])})
        lines += ["", f"{len(records)} records of {kind}:", "", *_markdown(pd.DataFrame(table))]
    return "\n".join(lines).strip()


def _span(values: pd.Series) -> str:
    least, most = (f"{value:.0f}" for value in (values.min(), values.max()))
    return least if least == most else f"{least} to {most}"


def _official(found: dict[Kind, list[dict]]) -> Iterator[tuple[str, pd.DataFrame, list[dict], list[dict]]]:
    """Yield for each source with a number of the article's: its name in words, `article_beside_ours`, and its full runs
    of the official protocol in float32, and others."""
    for kind, records in found.items():
        if kind[1:] == ("full", "official") and precision_of(kind.source) == PRECISIONS[0]:
            beside = article_beside_ours(records)
            kinds = [kind._replace(source=source_name(kind.source, name)) for name in PRECISIONS[1:]]
            others = [found.get(other, []) for other in (kind._replace(protocol="text"), *kinds)]
            if beside["ours"].notna().any():
                yield SOURCES.get(kind.source, kind.source), beside, records, sum(others, [])


def _beside_baselines(row: dict, records: Sequence[dict]) -> dict[str, str]:
    """A row of `article_beside_ours` as text, with the mean of each trivial baseline and the reruns by others."""
    table, dataset, method = LINES[row["data set"]]
    alone = trivial(table, records, [method]).query("dataset == @dataset and `class` not in [@MEAN, 'resc']")
    place = place_of({"table": table, "dataset": dataset, "method": method})
    ours = {r["class"] for r in records if (r["notebook"], r["dataset"], r["variant"]) == place}
    alone = alone[alone["class"].isin(ours)].assign(method=alone["method"].str.split(",").str[0])
    means = alone.groupby("method")["value"].agg(lambda values: values.mean(skipna=False))
    # Of one recorded class, its reruns; of several but not all, none would have the same mean.
    classes = {record["class"] for record in records if record["dataset"] == dataset} if row["classes"] else {MEAN}
    others = reruns(table).query("dataset == @dataset and not who.str.contains('lowest|highest')")
    others = others[others["class"].isin(["normal", "oct2017", *(classes if len(classes) == 1 else ())])]
    return {
        "data set": row["data set"] + (f", {row['classes']} classes" if row["classes"] else ""),
        "article": f"{row['article, these classes']:.2f}",
        "ours": number(row["ours"], row["±"]) + row["mark"],
        "95 % interval": NOTHING if pd.isna(row["low"]) else f"{row['low']:.2f} to {min(row['high'], 100):.2f}",
        "seeds": f"{row['seeds']:.0f}",
        **{words: number(means.get(words)) for words in (*BASELINES.values(), EDGES)},
        "others": ", ".join(others["who"] + " " + others["value"]) if row["data set"] != "HeadCT, augmented" else "",
    }


def _markdown(frame: pd.DataFrame) -> list[str]:
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.to_numpy()]
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def fill(path: Path, *texts: str) -> None:
    """Put one text between each pair of markers of a Markdown file; InputError for another number of pairs."""
    page = path.read_text(encoding="utf-8")
    before, *parts = page.split(BEGIN)
    if len(parts) != len(texts) or any(part.count(END) != 1 for part in parts) or END in before:
        many = "once" if len(texts) == 1 else f"{len(texts)} times"
        raise InputError(f"{path} has no place for the tables: add {BEGIN} and {END} {many}, each on a line of its own")
    filled = (f"{BEGIN}\n{text}\n{END}{part.split(END)[1]}" for text, part in zip(texts, parts, strict=True))
    with atomic_write(path) as temporary:
        temporary.write_text(before + "".join(filled), encoding="utf-8")
