"""./run_all.sh site: builds the site from README, docs, notebooks and the report into site/html, then checks it.

A broken internal link is an error, and so is a script or style from another server. With a Chromium or Chrome
on PATH, axe looks for what keeps people from reading the pages, light and dark; serious findings are errors.
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
PAGES = [
    "README",
    "docs/findings",
    "report",
    *(f"notebooks/{name}" for name in ("00_quickstart", "01_mnist", "04_mvtec", "06_head_ct", "90_tables_and_figures")),
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOADED = {"script": "src", "link": "href", "iframe": "src", "img": "src"}  # without a click


def broken_links(site: Path) -> list[str]:
    """What the pages under `site` link to within the site and is not there, and what they load from elsewhere."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # the theme's templates
    pages = {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in paths}
    names = {path: {tag.get("id") or tag.get("name") for tag in page.find_all(True)} for path, page in pages.items()}
    found = []
    for path, page in pages.items():
        for tag in page.find_all(["a", *LOADED]):
            link = tag.get(LOADED.get(tag.name, "href"))
            parts = urlsplit(link or "")
            if parts.scheme or parts.netloc:
                wrong = tag.name not in ("a", "img")  # a picture of another server, such as a badge, has its text
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                wrong = not target.is_file() or parts.fragment and unquote(parts.fragment) not in names.get(target, ())
            if link and wrong:
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def barriers(site: Path, browser: str) -> list[str]:
    """axe's serious and critical findings on PAGES, in both colour schemes."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for scheme in ("light", "dark"):
            page = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}).new_page()
            for name in PAGES:
                page.goto((site / f"{name}.html").as_uri())
                page.add_style_tag(content="* { transition: none !important }")  # axe would measure colours half-way
                for one in Axe().run(page).response["violations"]:
                    if one["impact"] in ("serious", "critical"):
                        where = "; ".join(node["html"][:120] for node in one["nodes"][:3])
                        found.append(f"{name}, {scheme}: {one['help']} ({len(one['nodes'])}): {where}")
        chromium.close()
    return found


def main() -> int:
    from sphinx.cmd.build import main as sphinx

    folder, site = ROOT / "site", ROOT / "site" / "html"
    shutil.rmtree(folder, ignore_errors=True)
    options = [f"--conf-dir={ROOT / 'docs'}", f"--doctree-dir={folder / 'pages'}"]
    options += ["--nitpicky", "--fail-on-warning", "--quiet"]
    if code := sphinx([*options, str(ROOT), str(site)]):
        return code
    (site / "index.html").write_text('<!DOCTYPE html><meta http-equiv="refresh" content="0; url=README.html">\n')
    wrong = [f"broken link in {one}" for one in broken_links(site)]
    if browser := next(filter(None, map(shutil.which, BROWSERS)), None):
        wrong += barriers(site, browser)
    else:
        print(f"not checked for accessibility: none of {', '.join(BROWSERS)} is on PATH")
    print(*wrong, f"{site / 'index.html'}: {len(wrong)} findings", sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
