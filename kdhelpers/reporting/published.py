"""The article's Tables 1 to 6 as typed in data/paper, which of its means do not follow, and what others got."""

from decimal import Decimal

import pandas as pd

from kdhelpers import paths

TABLES = (1, 2, 3, 4, 5, 6)
NAMES = {  # of data sets, in the article's order, and of what else stands in its tables
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
    """Table 1 to 6 of the article as typed from it: columns dataset, method, class, value, std (per cent).

    Table 5 prints all of its row under "RESC"; the article's own number stands under oct2017 here: Sec. 4.1 describes
    OCT2017, the released code reads it, and an independent rerun got 96.62 on OCT2017 and 88.97 on RESC.
    """
    return as_printed(table).astype({"value": float, "std": float})


def as_printed(table: int) -> pd.DataFrame:
    """The same as text, with the digits that the article prints; NaN where it gives no std."""
    return pd.read_csv(paths.PAPER_DIR / f"table_{table}.csv", dtype=str)


def reruns(table: int) -> pd.DataFrame:
    """What others got with this method, as text: columns table, dataset, class, who, value, std, note.

    Read from public repositories and articles; `note` names the place and the settings. The numbers are AUROC in per
    cent, and do not compare with the article's where the settings differ.
    """
    found = pd.read_csv(paths.PAPER_DIR / "reruns.csv", dtype=str)
    found["method"] = "rerun: " + found["who"]
    return found[found["table"] == str(table)]


def doubtful_means() -> pd.DataFrame:
    """Rows whose printed mean is not that of their classes: columns table, dataset, method, printed, computed, allowed.

    The last three are per cent. A number printed with d decimals stands for anything within h = 0.5 · 10⁻ᵈ of it, so
    |computed - printed| may reach h of the mean plus the average h of the classes, d being each number's own. A zero
    that the article left off (82 among 76.2 and 84.8) thus only widens what is allowed.
    """
    found = []
    for table in TABLES:
        for (dataset, method), row in as_printed(table).groupby(["dataset", "method"]):
            numbers = row.set_index("class")["value"].map(Decimal)
            if "mean" not in numbers:
                continue
            half = numbers.map(lambda text: Decimal(5).scaleb(text.as_tuple().exponent - 1))  # 0.05 of 61.2
            printed, classes = numbers["mean"], numbers.drop("mean")
            # Times the number of classes, so that the comparison is exact: a third has no last decimal.
            n = len(classes)
            allowed = n * half["mean"] + half.drop("mean").sum()
            if abs(classes.sum() - n * printed) > allowed:
                found.append((table, dataset, method, float(printed), float(classes.sum() / n), float(allowed / n)))
    return pd.DataFrame(sorted(found), columns=["table", "dataset", "method", "printed", "computed", "allowed"])
