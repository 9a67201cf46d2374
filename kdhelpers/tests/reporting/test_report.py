"""The report, from records made up here: what it says, what it keeps apart, and that it needs nothing but itself."""

import re
import runpy
import shutil

from bs4 import BeautifulSoup

from kdhelpers.experiments.records import Kind, find
from kdhelpers.paths import ROOT
from kdhelpers.protocols import SEEDS
from kdhelpers.reporting import report, summary, tables
from kdhelpers.tests.conftest import make_record

FULL = Kind("imagenet", "full", "official")
STAND_IN = Kind("vgg16_other-01234567", "full", "official")
SMOKE = Kind("untrained", "smoke", "official")
MAIN_KIND = runpy.run_path(str(ROOT / "notebooks" / "report.py"))["main_kind"]
PNG = b"\x89PNG\r\n\x1a\n"


def record(kind=FULL, **fields) -> dict:
    of_kind = {"source_name": kind.source, "profile": kind.profile, "protocol": kind.protocol}
    return make_record(**of_kind | {"auroc": 99.8} | fields)


def screw(variant=None, **fields) -> dict:
    """A record of screw: of the main run, or of a variant of notebook 11."""
    notebook = "11_critical_layers" if variant else "04_mvtec"
    return record(notebook=notebook, dataset="mvtec", cls="screw", variant=variant, **fields)


def page_of(*records: dict) -> str:
    return report.render({FULL: list(records)} if records else {}, FULL, {})


def between(page: str, start: str, end: str) -> str:
    return page.split(f'id="{start}"')[1].split(f'id="{end}"')[0]


def test_smoke_is_said_in_the_title_the_heading_and_a_banner():
    page = report.render({SMOKE: [record(SMOKE)]}, SMOKE, {})
    for tag in ("title", "h1"):
        assert re.search(rf"<{tag}>[^<]+smoke run: the numbers mean", page)
    assert "No number on this page means anything" in page
    assert "smoke" not in page_of(record())
    rough = Kind("VGG-01234567-bfloat16", "full", "official")
    page = report.render({rough: [record(rough)]}, rough, {})
    assert re.search("<h1>[^<]+computed in bfloat16", page) and "Smoke run" not in page
    assert "1 records of source VGG-01234567-bfloat16, " in report.render({rough: [record(rough)]}, FULL, {})


def test_without_records_it_says_how_to_begin_and_keeps_every_place():
    page = report.render({}, Kind("imagenet", "full", "text"), {})
    assert "There are no records of source imagenet, profile full, protocol text yet" in page
    assert "<code>./run_all.sh full --config PROTOCOL=text</code>" in page
    other = report.render({}, Kind("imagenet-bfloat16", "full", "official"), {})
    assert "<code>./run_all.sh full --config PRECISION=bfloat16</code>" in other
    assert "<strong>0 of the 75</strong>" in page
    assert all(f'id="table_{table}"' in page for table in range(1, 7))


def test_a_number_made_as_the_articles_is_counted_and_one_that_deviates_is_not():
    as_article = [record(seed=seed, auroc=99.8 + seed / 1000) for seed in range(SEEDS)]
    page = page_of(*as_article, record(cls="1", deviations=["epochs 5 instead of 51"]))
    assert "<strong>1 of the 75</strong>" in page
    for style, count, words in (("inside", 1, "inside"), ("deviates", 1, "deviates"), ("none", 73, "no records")):
        assert f'<li class="{style}"><b>{count}</b> {words}</li>' in page
    numbers = between(page, "numbers", "doubtful")
    assert "99.80<small>± 0.00</small>" in numbers and "epochs 5 instead of 51; 1 seed instead of 10" in numbers
    assert len(re.findall(r"<code>\./run_all\.sh full \d\d_", numbers)) == 75  # each with its command
    page = page_of(*(record(seed=seed, auroc=90.0) for seed in range(SEEDS)))
    assert "<strong>1 of the 75</strong>" in page and '<li class="off"><b>1</b> off</li>' in page


def test_nothing_is_loaded_and_every_anchor_of_the_contents_is_there_once():
    page = report.render({FULL: [record()], STAND_IN: [record(STAND_IN)]}, FULL, {"figure_1": PNG})
    tags = BeautifulSoup(page, "html.parser").find_all(True)
    loading = ("src", "srcset", "data", "poster", "background", "action")
    loaded = [tag[name] for tag in tags for name in loading if name in tag.attrs]
    assert loaded == ["data:image/png;base64,iVBORw0KGgo="]
    assert not {tag.name for tag in tags} & {"link", "script", "iframe", "object", "embed", "base"}
    assert "url(" not in page and "@import" not in page
    ids = [tag["id"] for tag in tags if "id" in tag.attrs]
    assert len(ids) == len(set(ids))
    links = {tag["href"] for tag in tags if "href" in tag.attrs}
    assert links <= {f"#{one}" for one in ids} | {"https://arxiv.org/abs/2011.11108"}


def test_kinds_have_sections_of_their_own_whatever_their_order():
    found = {kind: [record(kind, auroc=auroc)] for kind, auroc in ((FULL, 98.76), (STAND_IN, 12.34), (SMOKE, 55.55))}
    page = report.render(found, FULL, {})
    main, other = page.split('<h2 id="kind_1"')
    assert "98.76" in main and "12.34" not in main
    assert "12.34" in other and "98.76" not in other
    assert "Other records: source vgg16_other-01234567, protocol official</h2>" in other
    assert "55.55" not in page  # of another profile
    assert len(re.findall(r"<code>\./run_all\.sh", other)) == 1  # only what has records
    assert page == report.render(dict(reversed(found.items())), FULL, {})


def test_the_committed_tables_are_those_of_the_committed_records(tmp_path):
    """Otherwise ./run_all.sh report was forgotten."""
    results, found = ROOT / "results", find(ROOT / "results", "full")
    tables.write_all(found[MAIN_KIND(found)], tmp_path)
    first, second = ({p.name: p.read_text() for p in one.rglob("*.*")} for one in (tmp_path, results / "tables"))
    assert first == second
    texts = {ROOT / "README.md": [summary.markdown(found)], ROOT / "docs/findings.md": summary.findings(found)}
    for path, filled in (texts | {results / "README.md": [summary.recorded(found)]}).items():
        summary.fill(shutil.copy(path, tmp_path / "page.md"), *filled)
        assert (tmp_path / "page.md").read_text() == path.read_text(), path


def test_the_tables_are_of_the_article_s_source_or_of_the_most_records_without_own_images():
    own = [record(notebook="00_quickstart", dataset="folder", cls="parts", seed=seed) for seed in range(3)]
    assert MAIN_KIND({FULL: own, STAND_IN: [record(STAND_IN)]}) == STAND_IN
    assert MAIN_KIND({FULL: [record()], STAND_IN: [record(STAND_IN, seed=seed) for seed in (0, 1)]}) == FULL


def test_records_by_another_version_are_counted_and_marked():
    old = record(cls="1")
    old["environment"] |= {"method_version": 0}
    page = page_of(record(), old)
    assert "1 of 2 records come from another method version" in page
    assert "<code>01_mnist</code> (1)" in page and '<li class="stale"><b>1</b> stale</li>' in page
    provenance = page.split('id="provenance"')[1]
    assert "<b>another version</b>" in provenance and "<b>this version</b>" in provenance
    assert "d" * 64 in provenance and "5" * 64 in provenance and "c" * 40 in provenance
    assert '<td class="number verdict stale"><b>stale</b></td>' in between(page, "table_2", "table_3")
    metrics = between(page, "metrics", "localization")
    assert '<td class="text">1 †</td>' in metrics and '<td class="text">0</td>' in metrics
    assert "† Computed from records of another method version" in metrics
    assert "from another method version" not in page_of(record())


def test_an_ablation_has_its_variants_what_was_left_out_and_marks_of_another_version():
    records = [screw(seed=seed, auroc=80.0) for seed in (0, 1)]
    records += [screw("last", seed=seed, auroc=71.0 + 2 * seed) for seed in (0, 1)]
    records.append(screw("last_two", parameters={"epochs": 5}))
    records.append(screw("last", seed=2, data=records[0]["data"] | {"sha256": "e" * 64}))
    records.append(screw("last", seed=3, source={"name": "imagenet", "sha256": "6" * 64}))
    records += [screw(seed=seed, auroc=80.0) for seed in (2, 3)]
    page = between(page_of(*records), "11_critical_layers", "12_cloner_size")
    assert "last, seed 2: data eeeeeeee, the main run&#39;s dddddddd" in page
    assert "last, seed 3: source 66666666, the main run&#39;s 55555555" in page
    assert "-8.00" in page and "p (Wilcoxon)" in page and "AUPRO" in page and "†" not in page
    assert "MVTecAD screw, last two, seed 0: epochs 5, the main run&#39;s 601" in page and "99.80" not in page
    for main in records[:2]:
        main["environment"] |= {"method_version": 0}
    page = between(page_of(*records), "11_critical_layers", "12_cloner_size")
    assert ">last †</td>" in page and ">last four †</td>" in page  # beside each other
    assert "± 0.00 †</small>" in page and "± 1.41</small>" in page  # class by class


def test_names_are_escaped():
    own = record(notebook="00_quickstart", dataset="folder", cls="<script>alert(1)</script>")
    page = page_of(own, record(deviations=["<b>bold</b> instead of plain"]))
    assert "<script" not in page and "<b>bold" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
