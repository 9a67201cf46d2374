"""The article's Tables 1 to 6 as typed in data/paper, its inconsistent means, and reruns by others."""

from fractions import Fraction

import pandas as pd

from kdhelpers import paths

TABLES = (1, 2, 3, 4, 5, 6)
NAMES = {  # of data sets, in the article's order, and of other entries of its tables
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "mvtec": "MVTecAD",
    "retinal_oct": "Retinal-OCT",
    "head_ct": "HeadCT",
    "brain_mri": "BrainMRI",
    "folder": "own images",
    "resc": "RESC",
    "oct2017": "OCT2017",
    "dataset": "data set",
    "method": "filter",
    "without_gaussian": "without the Gaussian",
    "with_gaussian": "with the Gaussian",
    "guided_backprop": "GBP",
    "smoothgrad": "SmoothGrad",
    "gradients": "Gradients",
}


def published(table: int) -> pd.DataFrame:
    """One of the article's Tables 1 to 6, as typed from it: columns dataset, method, class, value, std (per cent).

    Table 5 prints its whole row under "RESC". Here, the article's own number is under oct2017: Sec. 4.1 describes
    OCT2017, the released code reads it, and an independent rerun got 96.62 on OCT2017 and 88.97 on RESC.
    """
    return as_printed(table).drop(columns="text").astype({"value": float, "std": float})


def as_printed(table: int) -> pd.DataFrame:
    """`published` as text, with the digits that the article prints; a further column, text, has value ± std."""
    return _read(f"table_{table}.csv")


def reruns(table: int) -> pd.DataFrame:
    """Results of others with this method: columns table, dataset, class, who, value, std, note, text, method.

    They are from public repositories and articles; `note` names the place and the settings. The numbers are AUROC in
    per cent. They are not comparable with the article's where the settings differ.
    """
    found = _read("reruns.csv")
    return found.assign(method="rerun: " + found["who"])[found["table"] == str(table)]


def comparisons() -> pd.DataFrame:
    """The article's claims that one variant is better than another.

    Columns: claim, place (in the article), notebook, dataset ("" for all of the notebook's), metric (of
    `ablations.METRICS`), better and worse (labels of `variants.variants_of`).
    """
    return pd.read_csv(paths.PAPER_DIR / "claims.csv", dtype=str, keep_default_na=False)


def _read(name: str) -> pd.DataFrame:
    found = pd.read_csv(paths.PAPER_DIR / name, dtype=str)
    return found.assign(text=found["value"] + (" ± " + found["std"]).fillna(""))


def doubtful_means() -> pd.DataFrame:
    """Rows whose printed mean is not that of their classes: columns table, dataset, method, printed, computed, allowed.

    The last three are in per cent. A number printed with d decimals stands for any value within h = 0.5 · 10⁻ᵈ of it,
    with its own d. So |computed - printed| may reach the mean's h plus the average h of the classes. A trailing zero
    that the article drops (82 among 76.2 and 84.8) only increases the allowed difference.
    """
    found = []
    for table in TABLES:
        for (dataset, method), row in as_printed(table).groupby(["dataset", "method"]):
            texts = row.set_index("class")["value"]
            if "mean" in texts:
                numbers = texts.map(Fraction)  # exact, as a third is not in decimals
                half = texts.map(lambda text: Fraction(5, 10 ** (1 + len(text.partition(".")[2]))))  # 0.05 for 61.2
                computed, allowed = (sum(one.drop("mean")) / (len(row) - 1) for one in (numbers, half))
                allowed += half["mean"]
                if abs(computed - numbers["mean"]) > allowed:
                    found.append((table, dataset, method, *map(float, (numbers["mean"], computed, allowed))))
    return pd.DataFrame(sorted(found), columns=["table", "dataset", "method", "printed", "computed", "allowed"])
