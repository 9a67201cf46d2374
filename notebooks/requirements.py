"""Print the requirements of pyproject.toml and the named extras that this Python lacks; exit with 1 if it lacks any."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  it has no tomllib
    sys.exit(f"Python 3.11 (it has {sys.version.split()[0]})")

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
wanted = [f"python{project['requires-python']}", *project["dependencies"]]
wanted += [one for extra in sys.argv[1:] for one in project["optional-dependencies"][extra]]
# Python imports the first of several versions on its path.
present = {canonicalize_name(one.name): one.version for one in reversed([*distributions()])}
present["python"] = sys.version.split()[0]
lacking = [
    str(one)
    for one in map(Requirement, wanted)
    if not one.specifier.contains(present.get(canonicalize_name(one.name), "0"), prereleases=True)
]
print(", ".join(lacking))
sys.exit(bool(lacking))
