"""The README's table: computed from records, against the article's numbers typed here."""

import pytest

from kdhelpers.experiments.records import Kind
from kdhelpers.reporting import summary
from kdhelpers.tests.conftest import refused

ORIGINAL = summary.ORIGINAL


def test_a_line_a_data_set_over_the_classes_that_are_recorded(record):
    values = {"0": 99.0, "3": 97.0}
    records = [record(cls=cls, seed=seed, auroc=value + seed) for cls, value in values.items() for seed in (0, 2)]
    records.append(record(cls="3", seed=7, auroc=10.0))  # without 0, so that it is in no mean
    records += [record("03_cifar10", "cifar10", str(seed), seed=seed, auroc=60.0 + seed) for seed in (1, 2)]
    records.append(record("06_head_ct", "head_ct", "normal", variant="augmented", auroc=81.0))
    records.append(record("13_loss_terms", cls="4", variant="dir", auroc=10.0))  # an ablation's is not the article's
    frame = summary.article_beside_ours(records).set_index("data set")
    mnist = frame.loc["MNIST"]
    assert mnist["article"] == 98.71 and mnist["article, these classes"] == pytest.approx((99.82 + 98.75) / 2)
    assert (mnist["ours"], mnist["±"]) == (pytest.approx(99.0), pytest.approx(2**0.5))
    assert (mnist["seeds"], mnist["classes"]) == (2, "2 of 10")
    assert frame.loc["CIFAR-10", ["ours", "seeds"]].tolist() == [61.5, 1]  # no seed has both classes
    assert frame.loc["HeadCT, augmented", "ours"] == 81.0 and frame["ours"].isna().sum() == len(summary.LINES) - 3
    assert frame["article"].tolist() == [98.71, 94.49, 87.18, 87.74, 90.71, 97.01, 78.04, 80.42, 95.01]


def test_only_verdicts_are_counted_and_numbers_of_another_version_are_marked(record):
    kind, source = Kind("imagenet", "full", "official"), {"source_name": ORIGINAL}
    ten = [record(cls="3", seed=seed) for seed in range(10)]
    one_seed = record("03_cifar10", "cifar10", "3")
    found = {kind: [*ten, one_seed], kind._replace(source=ORIGINAL): [record(cls="3", **source)]}
    assert summary.markdown(found).startswith("1 of the article's 75")
    assert "†" not in summary.markdown(found) + "".join(summary.findings(found))
    for records in found.values():
        records[0]["environment"] |= {"method_version": 0}
    assert summary.markdown(found).startswith("0 of the article's 75")
    assert "| **90.00** ± 0.00 † | 10 |" in summary.markdown(found) and "| **90.00** † | 1 |" in summary.markdown(found)
    assert "| 90.00 † | – | 1 |" in summary.findings(found)[0]


def test_a_source_without_a_number_of_the_article_s_has_no_table(record):
    own = record("00_quickstart", "folder", "parts")
    variant = record("11_critical_layers", cls="3", variant="last", source_name=ORIGINAL)
    found = {Kind(one["source"]["name"], "full", "official"): [one] for one in (own, variant)}
    assert "|" not in summary.markdown(found) and summary.findings(found) == ("", "")


def test_it_is_put_between_the_markers_and_the_same_twice(record, tmp_path):
    found = {Kind(ORIGINAL, "full", "official"): [record(cls="3", source_name=ORIGINAL)]}
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    for _ in range(2):
        summary.fill(readme, summary.markdown(found))
        text = readme.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("0 of the article's 75 numbers") == 1
        assert "| 98.71 (98.75 on 1 of 10 classes) | **90.00** | 1 |" in text
    place = f"{summary.BEGIN}\n{summary.END}\n"
    readme.write_text(f"{place}between\n{place}")
    summary.fill(readme, "first", "second")
    filled = [summary.BEGIN, "first", summary.END, "between", summary.BEGIN, "second", summary.END]
    assert readme.read_text().splitlines() == filled
    for text in (place + place, "no place", summary.BEGIN, summary.END + place, place + summary.END):
        readme.write_text(text)
        with refused("no place for the tables", summary.BEGIN):
            summary.fill(readme, "one")


def test_findings_have_the_trivial_rows_the_others_and_the_ablations(record):
    kind = Kind(ORIGINAL, "full", "official")
    records = []
    for seed in range(3):
        of = {"seed": seed, "source_name": ORIGINAL}
        trivial = {"mean_brightness": (40.0, 70.0, 40.0)[seed], "pca": 70.0}  # one direction for all seeds
        records.append(record("06_head_ct", "head_ct", "normal", auroc=80.0 + seed, baselines=trivial, **of))
        records.append(record(cls="3", auroc=90.0, **of))
        records.append(record("04_mvtec", "mvtec", "screw", auroc=80.0, **of))
        records.append(record("11_critical_layers", cls="3", variant="last", auroc=80.0 + seed, **of))
        edges = {"variant": "edges", "method": "edges", "auroc": 60.0 + seed}
        records.append(record("14_interpretability", "mvtec", "screw", **edges, **of))
    text, variants = summary.findings({kind: records})
    assert "### With original weights" in text
    own = "| HeadCT | 78.04 | 81.00 ± 1.00 | 78.52 to 83.48 | 3 | 50.00 | 70.00 | – |"
    assert f"{own} a user of the released code 60.80, AHL 79.3 |" in text
    screw = next(line for line in text.splitlines() if "MVTecAD, detection" in line)
    assert screw.endswith("| Paddle port 77.99, Paddle port, best epoch 83.5 |")  # of this class, not of all fifteen
    assert "| MNIST | last four" not in text and variants.startswith("### Variants with original weights")
    pixels = next(line for line in text.splitlines() if "MVTecAD, localization" in line)
    assert "| 3 | – | – | 61.00 |" in pixels and text.count("| 61.00 |") == 1  # the edges: of maps alone
    assert "| MNIST, 1 of 10 classes | 98.75 | 90.00 ± 0.00 | 90.00 to 90.00 | 3 |" in text
    assert "| MNIST | last | 1 | 3 | 81.00 ± 1.00 | 90.00 | -9.00 | -11.48 to -6.52 |" in variants


def test_edges_are_of_the_same_categories_and_settings_as_ours_or_not_shown(record):
    of = {"source_name": ORIGINAL}
    edges = {"variant": "edges", "method": "edges", "auroc": 60.0} | of
    both = [record("04_mvtec", "mvtec", cls, **of) for cls in ("screw", "bottle")]
    one = record("14_interpretability", "mvtec", "screw", **edges)
    other = record("14_interpretability", "mvtec", "bottle", **edges | {"auroc": 70.0})
    small = record("14_interpretability", "mvtec", "bottle", **edges, parameters={"image_size": 64})
    for found, shown in (([one], "–"), ([one, small], "–"), ([one, other], "65.00")):
        text = summary.findings({Kind(ORIGINAL, "full", "official"): both + found})[0]
        pixels = next(line for line in text.splitlines() if "MVTecAD, localization" in line)
        assert f"| 1 | – | – | {shown} |" in pixels


def test_findings_pair_protocols_and_precisions_and_the_readme_has_the_official_one_in_float32_alone(record):
    rough = f"{ORIGINAL}-bfloat16"
    found = {Kind(source, "full", "official"): [] for source in (ORIGINAL, rough)}
    for seed, difference in enumerate((0.1, -0.2, 0.4)):
        of = {"cls": "3", "seed": seed, "source_name": ORIGINAL}
        found[Kind(ORIGINAL, "full", "official")].append(record(auroc=90.0 + seed, **of))
        other = {"precision": "bfloat16", "source_name": rough}
        found[Kind(rough, "full", "official")] += [
            record(auroc=90.0 + seed + difference, parameters=other, **of),
            record(auroc=50.0, parameters=other | {"epochs": 7}, **of | {"cls": "5"}),  # there is none to pair it with
        ]
    medical = {"cls": "normal", "source_name": ORIGINAL}  # of two data sets, but with the same parameters
    found[Kind(ORIGINAL, "full", "official")].append(record("06_head_ct", "head_ct", auroc=60.0, **medical))
    other |= {"image_size": 128}
    found[Kind(rough, "full", "official")].append(record("07_brain_mri", "brain_mri", parameters=other, **medical))
    told = {"cls": "3", "seed": 1, "source_name": ORIGINAL, "protocol": "text"}
    found[Kind(ORIGINAL, "full", "text")] = [record(auroc=92.0, **told)]
    screw = "04_mvtec", "mvtec", "screw"
    found[Kind(ORIGINAL, "full", "official")].append(record(*screw, auroc=80.0, source_name=ORIGINAL))
    found[Kind(ORIGINAL, "full", "text")].append(record(*screw, auroc=85.0, source_name=ORIGINAL, protocol="text"))
    of_images, of_pixels = summary.findings(found)[1].split(", pixel AUROC against the main run")
    assert "| MVTecAD | protocol text | 1 | 1 | 85.00 | 80.00 | +5.00 |" in of_pixels and "MNIST" not in of_pixels
    text = of_images
    assert "| MNIST | protocol text | 1 | 1 | 92.00 | 91.00 | +1.00 |" in text
    assert "| MNIST | bfloat16 | 1 | 3 | 91.10 ± 1.18 | 91.00 | +0.10 | -0.65 to +0.85 | 0.75 (n = 3) |" in text
    assert text.count("| bfloat16 |") == text.count("###") == 1
    assert "50.00" not in text and summary.markdown(found).count("With ") == 1


def test_what_is_recorded_is_listed_with_classes_of_the_same_seeds_together(record):
    seconds = {"train": 60.0, "localize": 30.0}
    records = [
        record(cls=cls, seed=seed, seconds=seconds) for cls in "035" for seed in (0, 2) if (cls, seed) != ("3", 2)
    ]
    records.append(record(cls="7", seed=0, seconds={"train": 600.0}))
    records[-1]["training"]["stopped_at"] = 34  # converged
    records.append(record("11_critical_layers", cls="3", variant="last", seconds=seconds))
    lines = summary.recorded({Kind("imagenet", "full", "official"): records}).splitlines()
    assert lines[0] == "7 records of source imagenet, profile full, protocol official:"
    assert lines[-2:] == [
        "| 01_mnist | MNIST |  | 32 | 1 to 34 | 0, 5 (seeds 0, 2); 3, 7 (seed 0) | 2 to 10 |",
        "| 11_critical_layers | MNIST | last | 32 | 1 | 3 (seed 0) | 2 |",
    ]
