"""The article's claims: of variants that exist, and judged by intervals computed by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from kdhelpers.experiments.variants import DATASETS, variants_of
from kdhelpers.protocols import PROTOCOLS, protocol_for
from kdhelpers.reporting.ablations import METRICS
from kdhelpers.reporting.claims import claims
from kdhelpers.reporting.published import comparisons


def test_every_claim_compares_variants_and_a_metric_that_exist():
    for claim in comparisons().to_dict("records"):
        assert claim["dataset"] in ("", *DATASETS[claim["notebook"]]) and claim["metric"] in METRICS
        for dataset, protocol in product(DATASETS[claim["notebook"]], PROTOCOLS):
            labels = {one.label for one in variants_of(claim["notebook"], dataset, protocol_for(protocol, dataset))}
            assert {claim["better"], claim["worse"]} <= labels


@pytest.mark.parametrize(
    "two, last, verdicts",
    [
        ((88, 88.5, 89), (80, 79, 81), ["holds", "holds"]),  # four have 90, 91, 92
        ((93, 95, 94), (80, 79, 81), ["the opposite holds", "holds"]),
        ((89, 95, 91), (80, 99, 95), ["undecided", "undecided"]),
        ((89,), (90,), ["one seed, for it", "one seed, against it"]),
    ],
)
def test_a_claim_holds_where_the_interval_excludes_zero(record, two, last, verdicts):
    main = [90.0 + seed for seed in range(3)]
    records = [record(cls="3", seed=seed, auroc=value) for seed, value in enumerate(main)]
    for name, values in {"last_two": two, "last": last}.items():
        of = {"cls": "3", "variant": name}
        records += [record("11_critical_layers", seed=seed, auroc=value, **of) for seed, value in enumerate(values)]
    table = claims(records).set_index(["the article's claim", "data set"])
    four, growth = (next(claim for claim, _ in table.index if claim.startswith(number)) for number in ("four", "two"))
    assert [table.loc[(claim, "MNIST"), "here"] for claim in (four, growth)] == verdicts
    assert table.loc[(four, "MVTecAD"), "here"] == "not measured" and table.loc[(four, "MVTecAD"), "seeds"] == "–"
    difference = np.array(main[: len(two)]) - two
    row = table.loc[(four, "MNIST")]
    assert row["difference"] == f"{difference.mean():+.2f}" and row["seeds"] == str(len(two))
    half = stats.t.ppf(0.975, 2) * difference.std(ddof=1) / 3**0.5 if len(two) == 3 else np.nan
    low, high = (f"{difference.mean() + sign * half:+.2f}" for sign in (-1, 1))
    assert row["95 % interval"] == (f"{low} to {high}" if len(two) == 3 else "–")


def test_a_claim_says_what_its_runs_deviate_in_and_needs_their_main_run(record):
    how = {"deviations": ["source other instead of imagenet", "epochs 5 instead of 51"]}
    variants = [record("11_critical_layers", cls="3", variant=name, **how) for name in ("last", "last_two")]
    assert set(claims(variants)["here"]) == {"not measured"}  # nobody knows whether their settings are the same
    found = claims([record(cls="3", auroc=80.0, **how), *variants])
    row = found[(found["data set"] == "MNIST") & found["the article's claim"].str.startswith("four")].iloc[0]
    assert (row["deviates in"], row["here"]) == ("epochs 5 instead of 51", "one seed, against it")
