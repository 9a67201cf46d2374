"""Which of the article's comparisons hold in our records."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdhelpers.experiments.variants import DATASETS
from kdhelpers.reporting.ablations import paired, with_variants
from kdhelpers.reporting.extras import MARK
from kdhelpers.reporting.published import comparisons
from kdhelpers.reporting.text import NOTHING, number, title_of

_COLUMNS = ["the article's claim", "in", "data set", "difference", "95 % interval", "classes", "seeds", "here"]


def claims(records: Sequence[dict]) -> pd.DataFrame:
    """One row per comparison that the article makes (data/paper/claims.csv) and data set: whether it holds; text.

    records: of one kind. The difference is in points of AUROC, the better side by the article minus the other, as the
    mean over seeds with its 95 % interval. A claim holds if the interval is above zero, the opposite if it is below.
    """
    rows = []
    for claim in comparisons().to_dict("records"):
        frame = with_variants(claim["notebook"], records, claim["metric"])
        frame = frame[frame["variant"].isin([claim["better"], claim["worse"]])]
        pairs = paired(frame.assign(main=frame["variant"] == claim["worse"]), claim["metric"])
        pairs = pairs[pairs["variant"] == claim["better"]].dropna(subset="difference")
        told = dict.fromkeys(_COLUMNS, NOTHING) | {"the article's claim": claim["claim"], "in": claim["place"]}
        for pair in pairs.to_dict("records"):
            row = {"data set": title_of(pair["dataset"]), "classes": str(pair["classes"]), "seeds": str(pair["seeds"])}
            row["difference"] = number(pair["difference"], digits="+.2f") + MARK[pair["stale"]]
            if pair["seeds"] > 1:
                row["95 % interval"] = f"{pair['low']:+.2f} to {pair['high']:+.2f}"
            rows.append(told | row | {"here": _here(pair)})
        if others := [title_of(name) for name in DATASETS[claim["notebook"]] if name not in set(pairs["dataset"])]:
            rows.append(told | {"data set": ", ".join(others), "here": "not measured"})
    return pd.DataFrame(rows)


def _here(pair: Mapping) -> str:
    """What a difference says about its claim."""
    if pair["seeds"] == 1:
        return f"one seed, {'for' if pair['difference'] > 0 else 'against'} it"
    return "holds" if pair["low"] > 0 else "the opposite holds" if pair["high"] < 0 else "undecided"
