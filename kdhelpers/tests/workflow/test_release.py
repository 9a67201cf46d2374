"""./run_all.sh release in a copy of the repository's own files."""

import json
import re
import shutil
import subprocess

import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import refused

ADDRESS = "https://github.com/somebody/some.where"


@pytest.fixture
def release(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import release

    return release


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a clean repository with everything that names the address."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "codemeta.json", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*"))

    def run(*arguments):
        return subprocess.run(
            ["git", "-C", tmp_path, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    run("init", "--quiet")
    return run


def set_project(folder, git, address, version):
    """Change pyproject.toml and commit everything."""
    path = folder / "pyproject.toml"
    text = re.sub('(?<=^Repository = ").*(?="$)', address, path.read_text(), flags=re.MULTILINE)
    path.write_text(re.sub('(?<=^version = ").*(?="$)', version, text, flags=re.MULTILINE))
    git("add", ".")
    git("commit", "--quiet", "--allow-empty", "--message", "changed")


def test_a_release_names_address_and_tag_everywhere_and_is_made_once(release, git, tmp_path, capsys):
    shutil.copy(tmp_path / "notebooks/01_mnist.ipynb", tmp_path / "notebooks/99_mine.ipynb")
    unpublished = f"https://github.com/{release.PLACEHOLDER}/kdhelpers"
    set_project(tmp_path, git, unpublished, "9.2.0")
    with refused(unpublished, "[project.urls] in pyproject.toml"):
        release.release(tmp_path)
    set_project(tmp_path, git, ADDRESS, "9.2.0")
    (tmp_path / "new").touch()
    with refused("uncommitted changes"):
        release.release(tmp_path)
    (tmp_path / "new").unlink()

    release.release(tmp_path)
    assert git("status", "--porcelain") == "" and git("tag", "--points-at", "HEAD") == "v9.2.0"
    for path in [tmp_path / "README.md", *tmp_path.glob("notebooks/*.ipynb")]:
        text = path.read_text()
        name = "01_mnist.ipynb" if path.name == "README.md" else path.name
        assert f"https://colab.research.google.com/github/somebody/some.where/blob/v9.2.0/notebooks/{name}" in text
        assert f"welcome?src={ADDRESS}/blob/v9.2.0/notebooks/{name}" in text
        assert path.suffix == ".md" or f"{ADDRESS}/archive/refs/tags/v9.2.0.tar.gz" in text
        assert release.PLACEHOLDER not in text and not re.search(r"/(blob|tags)/v(?!9)", text)
    described = json.loads((tmp_path / "codemeta.json").read_text())
    assert (described["codeRepository"], described["version"]) == (ADDRESS, "9.2.0")
    lines = (tmp_path / "CITATION.cff").read_text().splitlines()
    assert f"repository-code: {ADDRESS}" in lines and "version: 9.2.0" in lines

    head = git("rev-parse", "HEAD")
    capsys.readouterr()
    release.release(tmp_path)
    assert capsys.readouterr().out.startswith("nothing is new: v9.2.0 is tagged")
    assert git("rev-parse", "HEAD") == head and git("status", "--porcelain") == ""
    set_project(tmp_path, git, ADDRESS + "-else", "9.2.0")
    with refused("v9.2.0 is already tagged", "CITATION.cff", "raise version"):
        release.release(tmp_path)
