"""Variants against the main run, against the same by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from kdhelpers.reporting import extras
from kdhelpers.reporting.ablations import by_seed, paired, variants_frame, with_variants

NOTEBOOK = "11_critical_layers"


@pytest.fixture
def six_seeds(record):
    """MNIST 0 and 3 with six seeds: the main run and one variant, and the second variant for one class only."""
    rng = np.random.default_rng(1)
    values = {(cls, seed): rng.normal((90, 87, 81), 1) for cls in "03" for seed in range(6)}
    records = []
    for (cls, seed), (main, two, one) in values.items():
        records.append(record(cls=cls, seed=seed, auroc=main))
        records.append(record(NOTEBOOK, cls=cls, seed=seed, variant="last_two", auroc=two))
        if cls == "0":
            records.append(record(NOTEBOOK, cls=cls, seed=seed, variant="last", auroc=one))
    return records, values


def test_pairs_are_seeds_and_the_test_is_exact(six_seeds):
    records, values = six_seeds
    row = paired(with_variants(NOTEBOOK, records, "auroc"), "auroc").set_index("variant").loc["last two"]
    difference = np.array([np.mean([values[c, s][1] - values[c, s][0] for c in "03"]) for s in range(6)])
    assert (row["classes"], row["seeds"]) == (2, 6)
    assert row["difference"] == pytest.approx(difference.mean())
    half = stats.t.ppf(0.975, 5) * difference.std(ddof=1) / np.sqrt(6)
    assert (row["low"], row["high"]) == pytest.approx((difference.mean() - half, difference.mean() + half))
    ranks = stats.rankdata(np.abs(difference))
    statistic = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    sums = [np.dot(signs, ranks) for signs in product((0, 1), repeat=6)]  # every outcome there is
    assert row["p"] == pytest.approx(min(1, 2 * np.mean([s <= statistic for s in sums])))


def test_means_are_over_the_classes_that_all_variants_have(six_seeds):
    records, values = six_seeds
    means = by_seed(variants_frame(NOTEBOOK, records)[0])
    assert set(means["classes"]) == {1} and len(means) == 18
    assert means[means["main"]]["value"].tolist() == [values["0", seed][0] for seed in range(6)]


def test_what_is_shown_beside_a_difference_is_what_it_is_made_of(six_seeds):
    records, values = six_seeds
    records = [r for r in records if r["variant"] is None or r["seed"] < 2]  # fewer seeds than the main run has
    table = extras.variants_beside(NOTEBOOK, records).set_index("variant")
    two, main = (np.mean([values[c, s][k] for c in "03" for s in (0, 1)]) for k in (1, 0))
    assert table.loc["last two", ["seeds", "classes", "main run"]].tolist() == [2, 2, f"{main:.2f}"]
    assert table.loc["last two", "AUROC"].startswith(f"{two:.2f} ± ")
    assert table.loc["last two", "difference"] == f"{two - main:+.2f}"
    assert table.loc["last", ["seeds", "classes"]].tolist() == [2, 1]
    assert table.loc["last four", "seeds"] == 6


def test_only_seeds_with_all_classes_are_averaged_also_where_nothing_is_paired(record):
    records = [record(cls=cls, seed=0, auroc=value) for cls, value in (("0", 90.0), ("3", 80.0))]
    records += [record(cls="0", seed=1, auroc=99.0)]  # without 3
    for cls in "03":  # at no seed of the main run
        records.append(record(NOTEBOOK, cls=cls, seed=2, variant="last_two", auroc=70.0))
        records.append(record(NOTEBOOK, cls=cls, seed=3 + int(cls), variant="last"))
    records.append(record(NOTEBOOK, cls="3", seed=7, variant="last", auroc=60.0))
    table = extras.variants_beside(NOTEBOOK, records).set_index("variant")
    assert table["AUROC"].to_dict() == {"last four": "85.00", "last two": "70.00", "last": "75.00 ± 21.21"}
    assert table["seeds"].tolist() == [1, 1, 2] and table["classes"].tolist() == [2, 2, 1]


def test_a_class_with_a_seed_of_its_own_empties_nothing(record):
    records = []
    for cls, seed in (("3", 0), ("3", 1), ("3", 2), ("8", 5)):
        records.append(record(cls=cls, seed=seed, auroc=90.0))
        records.append(record(NOTEBOOK, cls=cls, seed=seed, variant="last", auroc=88.0 + seed if cls == "3" else 10.0))
    row = extras.variants_beside(NOTEBOOK, records).set_index("variant").loc["last"]
    assert row[["classes", "seeds", "difference"]].tolist() == [1, 3, "-1.00"]
    assert by_seed(variants_frame(NOTEBOOK, records)[0])["value"].tolist() == [90, 90, 90, 88, 89, 90]


def test_the_main_run_has_the_classes_of_its_variants_and_one_seed_has_no_interval(record):
    of_main = [record(cls="3", auroc=99), record(cls="5", auroc=90)]
    records = [*of_main, record(NOTEBOOK, cls="3", variant="last", auroc=97)]
    table = extras.variants_beside(NOTEBOOK, records).set_index("variant")
    assert table["AUROC"].to_dict() == {"last four": "99.00", "last": "97.00"}
    assert table["difference"].tolist() == ["", "-2.00"] and set(table["95 % interval"]) == {""}
    assert extras.ablation(NOTEBOOK, records)["class"].tolist() == ["3"]


def test_runs_of_other_settings_are_left_out_unless_the_variant_is_that_setting(record):
    settings = ("epochs", "batch_size", "image_size")
    changed = [record(NOTEBOOK, cls=name, variant="last", parameters={name: 7}) for name in settings]
    frame, left_out = variants_frame(NOTEBOOK, [*(record(cls=name) for name in settings), *changed])
    assert frame["main"].all() and len(frame) == len(left_out) == 3
    size = record("15_unstated_details", "head_ct", "normal", "size_256", parameters={"image_size": 256})
    source = record("15_unstated_details", variant="untrained", source={"name": "untrained", "sha256": "0" * 64})
    records = [record(), source, record("06_head_ct", "head_ct", "normal"), size]
    frame, left_out = variants_frame("15_unstated_details", records)
    assert len(frame) == 4 and not left_out
