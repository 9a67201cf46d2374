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

ADDRESS = r"https://github\.com/\w[\w.-]*/[\w.-]+"  # of a placeholder, the name begins with a hyphen
# In badges (github/OWNER/NAME/blob/TAG/notebooks/, github.com/...) and in setup cells (the tag's archive).
NAMED = re.compile(r"(github(?:\.com)?)/[\w.-]+/[\w.-]+/(blob|archive/refs/tags)/v[\w.]+?(?=/notebooks/|\.tar\.gz)")
BADGE = re.compile(r"(/blob/[\w.]+/notebooks/)\w+\.ipynb")  # of a notebook copied from another one


def main(words: list[str]) -> None:
    """Release. Raises InputError for a placeholder as address, uncommitted changes, and a tag of another commit."""
    if words:
        raise InputError(f"release takes no words, and {words[0]} was given")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address, version = project["urls"]["Repository"], project["version"]
    if not re.fullmatch(ADDRESS, address):
        raise InputError(f"{address} is no repository on GitHub: set Repository under [project.urls] in pyproject.toml")
    if git("status", "--porcelain"):
        raise InputError("there are uncommitted changes (git status): commit them, then release")
    tag = f"v{version}"
    changes = {path: text for path, text in texts(address, version).items() if text != path.read_text("utf-8")}
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
    named = {NAMED: rf"\1/{address.removeprefix('https://github.com/')}/\2/v{version}"}
    found = {}
    for name, fields in {
        "README.md": named,
        "notebooks/*.ipynb": named,
        "CITATION.cff": {r"(?m)(?<=^repository-code: ).*": address, r"(?m)(?<=^version: ).*": version},
        "codemeta.json": {r'(?<="codeRepository": ")[^"]*': address, r'(?<="version": ")[^"]*': version},
    }.items():
        for path in sorted(ROOT.glob(name)):
            text = path.read_text("utf-8")
            for pattern, value in fields.items():
                text = re.sub(pattern, value, text)
            found[path] = BADGE.sub(rf"\g<1>{path.name}", text) if path.suffix == ".ipynb" else text
    return found


def git(*arguments: str) -> str:
    """The output of a git command; InputError with its first line when it fails."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {arguments[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[0]}")
    return done.stdout.strip()
