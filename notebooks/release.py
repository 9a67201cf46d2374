"""./run_all.sh release: write the repository's address and version into all files that name them, commit and tag.

Both are set in pyproject.toml and nowhere else. Nothing is pushed. Trained cloners in results/cloners are packed in
dist/cloners as release assets.
"""

import re
import subprocess
import tomllib
from pathlib import Path

from kdhelpers.errors import InputError
from kdhelpers.experiments import cloners
from kdhelpers.paths import ROOT

PLACEHOLDER = "-unpublished-"
# In badges (github/OWNER/NAME/blob/TAG/notebooks/, github.com/...) and in setup cells (the tag's archive).
NAMED = re.compile(r"(github(?:\.com)?)/[\w.-]+/[\w.-]+/(blob|archive/refs/tags)/v[\w.]+?(?=/notebooks/|\.tar\.gz)")
BADGE = re.compile(r"(/blob/[\w.]+/notebooks/)\w+\.ipynb")  # of a notebook copied from another one


def release() -> None:
    """Release. Raises InputError for a placeholder as address, uncommitted changes, and a tag of another commit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address, version = project["urls"]["Repository"], project["version"]
    if PLACEHOLDER in address or not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise InputError(f"{address} is no repository on GitHub: set Repository under [project.urls] in pyproject.toml")
    if git("status", "--porcelain"):
        raise InputError("there are uncommitted changes (git status): commit them, then release")
    tag = f"v{version}"
    changes = {path: text for path, text in texts(address, version).items() if text != _read(path)}
    tagged = git("tag", "--list", tag)
    if tagged and changes:
        names = ", ".join(str(path.relative_to(ROOT)) for path in changes)
        raise InputError(f"{tag} is already tagged, and {names} would change: raise version in pyproject.toml")
    if tagged and git("rev-parse", f"{tag}^{{commit}}") != git("rev-parse", "HEAD"):
        raise InputError(f"{tag} is already tagged on another commit: raise version in pyproject.toml")
    packed = cloners.pack(ROOT / "results", ROOT / "dist" / "cloners")
    if tagged:
        print(f"nothing is new: {tag} is tagged, and every file names {address}")
        return
    for path, text in changes.items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: written")
    if changes:
        git("add", *map(str, changes))
        git("commit", "--quiet", "--message", f"Release {tag}")
    git("tag", "--annotate", "--message", tag, tag)
    assets = " dist/cloners/*.zip" if packed else ""
    print(f"{tag} is tagged. To publish it: git push origin HEAD {tag} && gh release create {tag}{assets}")


def texts(address: str, version: str) -> dict[Path, str]:
    """Each file that names the address or the version, and its text with the current ones."""
    place = address.removeprefix("https://github.com/")
    found = {}
    for path in [ROOT / "README.md", *sorted(ROOT.glob("notebooks/*.ipynb"))]:
        found[path] = NAMED.sub(rf"\1/{place}/\2/v{version}", _read(path))
        if path.suffix == ".ipynb":
            found[path] = BADGE.sub(rf"\g<1>{path.name}", found[path])
    for name, fields in {
        "CITATION.cff": {r"(?<=^repository-code: ).*": address, r"(?<=^version: ).*": version},
        "codemeta.json": {r'(?<="codeRepository": ")[^"]*': address, r'(?<="version": ")[^"]*': version},
    }.items():
        text = _read(ROOT / name)
        for pattern, value in fields.items():
            text = re.sub(pattern, value, text, flags=re.MULTILINE)
        found[ROOT / name] = text
    return found


def git(*arguments: str) -> str:
    """The output of a git command; InputError with its first line when it fails."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {arguments[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[0]}")
    return done.stdout.strip()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
