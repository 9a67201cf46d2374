"""Which of the article's comparisons hold in our records."""

from collections.abc import Sequence

import pandas as pd

from kdhelpers.experiments.variants import DATASETS
from kdhelpers.reporting.ablations import paired, with_variants
from kdhelpers.reporting.extras import MARK
from kdhelpers.reporting.published import comparisons
from kdhelpers.reporting.text import NOTHING, number, title_of

NOT_MEASURED = "not measured"
_COLUMNS = [
    "the article's claim",
    "in",
    "data set",
    "difference",
    "95 % interval",
    "classes",
    "seeds",
    "deviates in",
    "here",
]


def claims(records: Sequence[dict]) -> pd.DataFrame:
    """One row per comparison that the article makes (data/paper/claims.csv) and data set: whether it holds; text.

    records: of one kind. The difference is in points of AUROC, the better side by the article minus the other, as the
    mean over seeds with its 95 % interval. A claim holds if the interval is above zero, the opposite if it is below.
    Deviations of the source are left out.
    """
    rows = []
    for claim in comparisons().to_dict("records"):
        frame = with_variants(claim["notebook"], records, claim["metric"])
        frame = frame[frame.groupby(["dataset", "class", "seed"])["main"].transform("any").astype(bool)]
        frame = frame[frame["variant"].isin([claim["better"], claim["worse"]])]
        pairs = paired(frame.assign(main=frame["variant"] == claim["worse"]), claim["metric"])
        pairs = pairs[pairs["variant"] == claim["better"]].dropna(subset="difference").set_index("dataset")
        row = dict.fromkeys(_COLUMNS, NOTHING) | {"the article's claim": claim["claim"], "in": claim["place"]}
        missing = []
        for dataset in [claim["dataset"]] if claim["dataset"] else DATASETS[claim["notebook"]]:
            if dataset in pairs.index:
                deviations = set(frame.loc[frame["dataset"] == dataset, "deviations"].sum())
                words = "; ".join(sorted(d for d in deviations if not d.startswith("source "))) or NOTHING
                of_dataset = {"data set": title_of(dataset), "deviates in": words}
                rows.append(row | of_dataset | _measured(pairs.loc[dataset]))
            else:
                missing.append(title_of(dataset))
        if missing:
            rows.append(row | {"data set": ", ".join(missing), "here": NOT_MEASURED})
    return pd.DataFrame(rows)


def _measured(pair: pd.Series) -> dict[str, str]:
    """The cells of a measured claim; pair: a row of `ablations.paired`."""
    difference, low, high = pair[["difference", "low", "high"]]
    found = {"difference": number(difference, digits="+.2f") + MARK[pair["stale"]]}
    found |= {"classes": str(pair["classes"]), "seeds": str(pair["seeds"])}
    if pair["seeds"] == 1:
        return found | {"here": f"one seed, {'for' if difference > 0 else 'against'} it" if difference else "undecided"}
    here = "holds" if low > 0 else "the opposite holds" if high < 0 else "undecided"
    return found | {"95 % interval": f"{low:+.2f} to {high:+.2f}", "here": here}
