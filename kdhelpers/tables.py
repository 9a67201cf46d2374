"""Ours beside the article's: records on one side, the published numbers of data/paper on the other."""

import pandas as pd

from kdhelpers.published import published


def beside_article(records: list[dict], table: int) -> pd.DataFrame:
    """A row for each record: its AUROC, the article's, the difference, and in what the run deviates from the article.

    Numbers are per cent; "article ±" is the article's standard deviation over ten seeds. A difference of one seed is
    not yet a comparison.
    """
    rows = []
    paper = published(table).query("method.str.startswith('ours')")
    for record in records:
        method = "ours+aug" if record["arm"] == "augmented" else "ours"
        cell = paper[
            (paper["dataset"] == record["dataset"]) & (paper["class"] == record["class"]) & (paper["method"] == method)
        ]
        value, std = cell[["value", "std"]].iloc[0] if len(cell) else (None, None)
        if table == 4:
            ours = record["localization"]["gradients"]["gaussian"]["pixel_auroc"]
        else:
            ours = record["detection"]["auroc"]
        rows.append(
            {
                "class": record["class"],
                "arm": record["arm"] or "",
                "seed": record["seed"],
                "ours": ours,
                "article": value,
                "article ±": std,
                "difference": None if ours is None or value is None else ours - value,
                "deviates": "; ".join(record["deviations"]) or "in nothing",
            }
        )
    frame = pd.DataFrame(rows)
    return frame.drop(columns="arm") if (frame["arm"] == "").all() else frame
