"""./run_all.sh report: generate tables, figures, report.html, and the tables in README.md, docs/ and results/.

All read only records. Official records with torchvision's weights fill the tables, figures and page; without any, the
source and protocol with the most records do. The page has a section for each other one.
"""

from pathlib import Path

from kdhelpers.errors import InputError
from kdhelpers.experiments.records import Kind, find
from kdhelpers.paths import RESULTS_DIR, ROOT
from kdhelpers.reporting import article_figures, heat_maps, summary, tables
from kdhelpers.reporting import report as page


def main(words: list[str]) -> None:
    """Generate them from the records under a folder, by default RESULTS_DIR; InputError without a full run there."""
    if len(words) > 1:
        raise InputError(f"report takes one folder, and {words[1]} was given too")
    folder = Path(*words or [RESULTS_DIR])
    found = find(folder, "full")
    if not found:
        raise InputError(f"{folder / 'records'} has no record of a full run: ./run_all.sh makes them")
    kind = main_kind(found)
    tables.write_all(found[kind], folder / "tables")
    heat_maps.commit_pictures(found[kind], folder)
    article_figures.write_all(found[kind], folder, folder / "figures")
    print(f"{page.write(found, kind, folder)}: {len(found[kind])} records of {kind}")
    if folder.resolve() == (ROOT / "results").resolve():
        heat_maps.readme_picture(found, kind, folder, ROOT / "docs" / "heat_maps.png")
        summary.fill(ROOT / "README.md", summary.markdown(found))
        summary.fill(ROOT / "docs" / "findings.md", *summary.findings(found))
        summary.fill(folder / "README.md", summary.recorded(found))


def main_kind(found: dict[Kind, list[dict]]) -> Kind:
    """The kind that fills the tables. Records of your own images do not count: no table of the article has them."""
    judged = {kind: sum(record["dataset"] != "folder" for record in found[kind]) for kind in found}
    article = Kind("imagenet", "full", "official")
    return article if judged.get(article) else max(judged, key=judged.get)
