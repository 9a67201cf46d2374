"""Records of different sources, profiles or protocols never share a table."""

import json

import pytest

from kdhelpers.errors import InputError
from kdhelpers.experiments import records as kinds
from kdhelpers.experiments import records as results
from kdhelpers.reporting import ablations as comparisons
from kdhelpers.reporting import article_figures, extras, tables
from kdhelpers.reporting import comparison as cells

OTHERS = [{"source_name": "untrained"}, {"profile": "smoke"}, {"protocol": "text"}]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    "make",
    [
        cells.cells,
        lambda records: tables.article_table(2, records),
        lambda records: tables.article_numbers(2, records),
        lambda records: tables.beside_article(records, 2),
        extras.metrics,
        extras.localization,
        extras.running_time,
        lambda records: extras.ablation("11_critical_layers", records),
        lambda records: extras.variants_beside("11_critical_layers", records),
        lambda records: comparisons.variants_frame("11_critical_layers", records),
        article_figures.figure_3,
    ],
)
def test_mixed_records_are_refused(record, other, make):
    make([record(seed=0), record(seed=1)])
    with pytest.raises(InputError, match="records of different kinds cannot share a table: source .*; source"):
        make([record(seed=0), record(seed=1, **other)])


def test_an_untrained_variant_belongs_to_the_run_it_is_an_variant_of(record):
    variant = record("15_unstated_details", variant="untrained", source={"name": "untrained", "sha256": "0" * 64})
    assert kinds.only_one([record(), variant]) == ("imagenet", "full", "official")
    assert kinds.only_one([]) is None


def put(folder, record):
    path = results.path_of(folder, "records", record, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_records_are_found_by_kind(record, tmp_path):
    for one in [record(seed=1), record(seed=0), *(record(**other) for other in OTHERS)]:
        put(tmp_path, one)
    found = kinds.find(tmp_path, "full")
    assert list(found) == sorted(found) and len(found) == 3
    assert [one["seed"] for one in found["imagenet", "full", "official"]] == [0, 1]
    assert list(kinds.find(tmp_path, "smoke")) == [("imagenet", "smoke", "official")]
    assert kinds.find(tmp_path / "nothing", "full") == {}


def test_a_record_in_another_one_s_place_is_refused(record, tmp_path):
    path = put(tmp_path, record(seed=1))
    path.rename(path.with_name("mnist-0-seed2.json"))
    with pytest.raises(InputError, match="seed2.json is the record that belongs at .*seed1.json: move it there"):
        kinds.find(tmp_path, "full")
