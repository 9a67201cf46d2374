"""Two notebooks as a person runs them: opened in JupyterLab in a browser, Run > Run All Cells, and then looked at.

SCREENSHOTS=FOLDER keeps the pictures there; without it they lie among pytest's own temporary folders.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kdhelpers.paths import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")
pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install -e '.[run]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH")]

SETTINGS = {  # as a person may have them, but for the first: all cells are to be in the page, not only those in view
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
WIDTH, HEIGHT = 1400, 900
PATIENCE = 60  # seconds for anything to appear


class Lab:
    """A running JupyterLab with its own settings, over a copy of the notebooks."""

    def __init__(self, folder: Path):
        self.folder, self.notebooks = folder, folder / "notebooks"
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=shutil.ignore_patterns(".*"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.token = f"http://127.0.0.1:{port}", secrets.token_hex()
        for name, values in SETTINGS.items():
            self.set(name, values)
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.{name}" for name in (f"port={port}", "port_retries=0", "ip=127.0.0.1")]
        command += [f"--ServerApp.root_dir={self.notebooks}", f"--IdentityProvider.token={self.token}"]
        command += [f"--LabApp.user_settings_dir={folder / 'settings'}", f"--LabApp.workspaces_dir={folder / 'spaces'}"]
        command += ["--LabApp.extension_manager=readonly"]  # the other one asks a package registry
        # No kernel or configuration of the user's: `python3` is the interpreter that runs the tests.
        own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        environment = os.environ | own | {"PYTHONPATH": python_path(ROOT), "JUPYTER_PATH": "", "OMP_NUM_THREADS": "1"}
        self.log = folder / "lab.log"
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT
        )

    def ask(self, what: str):
        with urllib.request.urlopen(f"{self.address}/api/{what}?token={self.token}", timeout=10) as answer:
            return json.load(answer)

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("status")
                return
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        raise AssertionError(f"JupyterLab did not start:\n{self.log.read_text()}")

    def has_kernel(self, name: str) -> bool:
        """True once the page is connected with an idle kernel for this notebook; before, it asks which one to take."""
        kernels = [session["kernel"] for session in self.ask("sessions") if session["path"] == f"{name}.ipynb"]
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def set(self, name: str, values: dict) -> None:
        path = self.folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def stop(self) -> None:
        self.process.terminate()  # it ends its kernels first
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def python_path(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.wait()
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(PATIENCE * 1000)
    yield page
    page.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    kept = os.environ.get("SCREENSHOTS")
    folder = Path(kept).absolute() if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\nscreenshots: {folder}")
    return folder


def given(path: Path, **parameters) -> None:
    """Types values into the parameters cell."""
    notebook = json.loads(path.read_text())
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    for name, value in parameters.items():
        changed = [
            re.sub(rf"^{name} = \S+", lambda _, n=name, v=value: f"{n} = {v!r}", line) for line in cell["source"]
        ]
        assert changed != cell["source"], name
        cell["source"] = changed
    path.write_text(json.dumps(notebook))


def open_notebook(page, lab, name: str) -> None:
    page.goto(f"{lab.address}/lab/tree/{name}.ipynb?reset&token={lab.token}")
    page.locator(".jp-NotebookPanel:visible").wait_for()
    end = time.monotonic() + PATIENCE
    while not lab.has_kernel(name) and time.monotonic() < end:
        page.wait_for_timeout(100)
    assert no_dialog(page)


def no_dialog(page) -> bool:
    """True when JupyterLab asks and announces nothing."""
    return page.locator(".jp-Dialog, .Toastify__toast").all_inner_texts() == []


def choose(page, menu: str, item: str) -> None:
    page.get_by_role("menubar").get_by_text(menu, exact=True).click()
    page.get_by_role("menu").get_by_text(item, exact=True).click()


def run_all(page) -> None:
    """Chooses Run > Run All Cells and waits for the last cell, or for an error, which stops the others."""
    choose(page, "Run", "Run All Cells")
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(p => p.innerText);
            const idle = document.querySelector('.jp-Notebook-ExecutionIndicator[data-status="idle"]');
            const begun = prompts.some(p => /\\d/.test(p));
            return document.querySelector('.jp-Dialog') || (idle && begun && !prompts.some(p => p.includes('*')));
        }"""
    )
    assert no_dialog(page)


def save(page, path: Path) -> list[dict]:
    """Saves the notebook as a person does; returns its code cells as they then lie on disk."""
    before = path.stat().st_mtime_ns
    choose(page, "File", "Save Notebook")
    end = time.monotonic() + PATIENCE
    while path.stat().st_mtime_ns == before and time.monotonic() < end:
        page.wait_for_timeout(50)
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def red_lines(page) -> list[str]:
    """What the page shows on red: progress bars, warnings, and the tracebacks of errors."""
    texts = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    return [line for text in texts for line in text.splitlines() if line.strip()]


def errors(cells: list[dict]) -> list[str]:
    """The names of the errors among the outputs of a notebook as it lies on disk."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    return [output["ename"] for output in outputs if output["output_type"] == "error"]


def figures(page) -> list[dict]:
    """Of each picture in an output: its own width in pixels, and the width that it has on the page."""
    page.wait_for_function("[...document.querySelectorAll('.jp-OutputArea-output img')].every(i => i.complete)")
    return page.locator(".jp-OutputArea-output img").evaluate_all(
        "images => images.map(i => ({own: i.naturalWidth, shown: i.getBoundingClientRect().width}))"
    )


def photograph(page, path: Path) -> None:
    """The whole notebook in one picture: the window is made as high as what is in it."""
    inside = "document.querySelector('.jp-NotebookPanel .jp-WindowedPanel-outer')"
    page.evaluate(f"{inside}.scrollTop = 0")
    height = page.evaluate(f"{inside}.scrollHeight - {inside}.clientHeight")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT + height + 20})
    page.wait_for_timeout(500)  # until it is laid out and painted anew
    page.screenshot(path=path)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


@pytest.mark.parametrize("name", ["00_quickstart", "01_mnist"])
def test_run_all_cells_shows_every_figure_and_no_error(lab, page, pictures, sample_data, name):
    path, results = lab.notebooks / f"{name}.ipynb", lab.folder / f"results-{name}"
    data = sample_data / "own_images" if name == "00_quickstart" else sample_data
    given(path, PROFILE="smoke", DATA_DIR=str(data), RESULTS_DIR=str(results))

    open_notebook(page, lab, name)
    run_all(page)
    page.screenshot(path=pictures / f"{name}-window.png")
    cells = save(page, path)

    assert not errors(cells)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert list(results.rglob("records/**/*.json"))

    drawing = [cell for cell in cells if "figures.show_" in "".join(cell["source"])]
    expected = sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert all(any("image/png" in output.get("data", {}) for output in cell["outputs"]) for cell in drawing)
    shown = figures(page)
    assert len(shown) >= expected >= len(drawing) > 2  # a slider has a picture of its own, which is not saved
    assert all(figure["own"] > 200 and figure["shown"] > 200 for figure in shown), shown

    # No error and no warning: progress bars only, a line for each, and each at its end.
    bars = red_lines(page)
    assert any("epoch" in line for line in bars), bars
    assert all(re.search(r": 100%\|.+\| (\d+)/\1 \[", line) for line in bars), bars

    photograph(page, pictures / f"{name}-light.png")
    lab.set("apputils-extension/themes", {"theme": "JupyterLab Dark"})
    try:
        open_notebook(page, lab, name)  # as it was saved
        page.locator('body[data-jp-theme-light="false"]').wait_for(state="attached")
        assert len(figures(page)) >= expected
        photograph(page, pictures / f"{name}-dark.png")
    finally:
        lab.set("apputils-extension/themes", {"theme": "JupyterLab Light"})


def test_a_wrong_value_shows_one_clear_line_and_nothing_else(lab, page, pictures):
    path = lab.notebooks / "07_brain_mri.ipynb"
    given(path, PROFILE="smok")
    open_notebook(page, lab, path.stem)
    run_all(page)
    assert red_lines(page) == ["InputError: PROFILE is 'smok': input should be 'smoke' or 'full' (did you mean smoke?)"]
    assert errors(save(page, path)) == ["InputError"]
    assert not figures(page)
    photograph(page, pictures / f"{path.stem}-error.png")
