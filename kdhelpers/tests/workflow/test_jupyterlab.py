"""Notebooks as a person runs them: opened in JupyterLab in a browser, Run > Run All Cells, and then looked at."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")
pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install -e '.[run]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH")]

SETTINGS = {  # as a person may have them, but for the first: all cells are to be in the page, not only those in view
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},  # the test saves
}
PATIENCE = 60  # seconds for anything to appear
SPOKEN = ".jp-Dialog, .Toastify__toast"  # what JupyterLab asks and announces


def until(found):
    """What `found` returns, once that is anything."""
    end = time.monotonic() + PATIENCE
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder of the notebooks' copies in a running JupyterLab with its own settings, and its {url, token}."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}", f"--LabApp.workspaces_dir={folder / 'spaces'}"]
    command += ["--LabApp.extension_manager=readonly"]  # the other one asks a package registry
    # No kernel or configuration of the user's: `python3` is the interpreter that runs the tests.
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    with open(folder / "lab.log", "w") as log:
        environment = ENVIRONMENT | own | {"JUPYTER_PATH": ""}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        found = until(lambda: [text for path in folder.glob("runtime/jpserver-*.json") if (text := path.read_text())])
        assert found, (folder / "lab.log").read_text()
        yield folder, json.loads(found[0])
    finally:
        process.terminate()  # it ends its kernels first
        process.wait(20)


@pytest.fixture(scope="module")
def page():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


def has_kernel(server, name):
    """True once the page is connected with an idle kernel for this notebook."""
    with urllib.request.urlopen(f"{server['url']}api/sessions?token={server['token']}", timeout=10) as answer:
        kernels = [session["kernel"] for session in json.load(answer) if session["path"] == f"{name}.ipynb"]
    return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)


def choose(page, menu, item):
    page.get_by_role("menubar").get_by_text(menu, exact=True).click()
    page.get_by_role("menu").get_by_text(item, exact=True).click()


@pytest.fixture
def run_all(lab, page):
    """Types parameters into a notebook, runs all its cells and saves it; its code cells as they then lie on disk."""

    def run(name, **parameters):
        path = lab[0] / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text())
        (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        for parameter, value in parameters.items():
            line = f"{parameter} = {value!r}"
            changed = [re.sub(rf"^{parameter} = \S+", line, one) for one in cell["source"]]
            assert changed != cell["source"], parameter
            cell["source"] = changed
        path.write_text(json.dumps(notebook))

        page.goto(f"{lab[1]['url']}lab/tree/{name}.ipynb?reset&token={lab[1]['token']}")
        page.locator(".jp-NotebookPanel:visible").wait_for()
        assert until(lambda: has_kernel(lab[1], name))  # before, the page asks which one to take
        assert page.locator(SPOKEN).all_inner_texts() == []
        choose(page, "Run", "Run All Cells")
        page.wait_for_function(  # for the last cell, or for an error, which stops the others
            """() => {
                const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')];
                const idle = document.querySelector('.jp-Notebook-ExecutionIndicator[data-status="idle"]');
                const begun = prompts.some(p => /\\d/.test(p.innerText));
                return idle && begun && !prompts.some(p => p.innerText.includes('*'));
            }"""
        )
        assert page.locator(SPOKEN).all_inner_texts() == []
        saves = f"api/contents/{name}.ipynb"
        with page.expect_response(lambda it: it.request.method == "PUT" and saves in it.url) as answer:
            choose(page, "File", "Save Notebook")
        assert answer.value.ok  # until it has come, the file on disk may be empty
        return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]

    return run


def red_lines(page):
    """What the page shows on red: progress bars, warnings, and the tracebacks of errors."""
    texts = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    return [line for text in texts for line in text.splitlines() if line.strip()]


def figures(page):
    """Of each picture in an output: its own width in pixels, and the width that it has on the page."""
    page.wait_for_function("[...document.querySelectorAll('.jp-OutputArea-output img')].every(i => i.complete)")
    return page.locator(".jp-OutputArea-output img").evaluate_all(
        "images => images.map(i => [i.naturalWidth, i.getBoundingClientRect().width])"
    )


def outputs(cells):
    return [output for cell in cells for output in cell["outputs"]]


@pytest.mark.parametrize("name, data", [("00_quickstart", "own_images"), ("01_mnist", "")])
def test_run_all_cells_shows_every_figure_and_no_error(lab, page, run_all, sample_data, name, data):
    results = lab[0] / f"results-{name}"
    cells = run_all(name, PROFILE="smoke", DATA_DIR=str(sample_data / data), RESULTS_DIR=str(results))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs(cells) if output["output_type"] == "error"]
    assert list(results.rglob("records/**/*.json"))

    drawing = [cell for cell in cells if "figures.show_" in "".join(cell["source"])]
    pictures = [output for output in outputs(cells) if "image/png" in output.get("data", {})]
    assert all(any(output in pictures for output in cell["outputs"]) for cell in drawing)
    shown = figures(page)
    assert len(shown) >= len(pictures) >= len(drawing) > 2  # a slider has a picture of its own, which is not saved
    assert min(map(min, shown)) > 200, shown

    # No error and no warning: progress bars only, a line for each, and each at its end.
    bars = red_lines(page)
    assert any("epoch" in line for line in bars), bars
    assert all(re.search(r": 100%\|.+\| (\d+)/\1 \[", line) for line in bars), bars


def test_a_wrong_value_shows_one_clear_line_and_nothing_else(page, run_all):
    cells = run_all("07_brain_mri", PROFILE="smok")
    assert red_lines(page) == ["InputError: PROFILE is 'smok': input should be 'smoke' or 'full' (did you mean smoke?)"]
    assert [output["ename"] for output in outputs(cells)] == ["InputError"]
    assert not figures(page)
