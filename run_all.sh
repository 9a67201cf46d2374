#!/usr/bin/env bash
# Regenerates everything: makes the environment where there is none, then runs the notebooks. See --help.
set -euo pipefail

usage() {
    cat <<'END'
Regenerates the article's tables and figures, and finds anomalies in your own images. See README.md.

  ./run_all.sh smoke     run every notebook on generated samples, in minutes and without data; the first time this
                         creates an environment in .venv, later it needs no network
  ./run_all.sh           run every notebook with ten seeds, as the article does (also called full); first lists which
                         data are present, which will be downloaded, and how to get the others
  ./run_all.sh LIST.yaml run a list in its order: results/measured.yaml made the committed results
  ./run_all.sh verify    rerun three recorded trainings and compare every number
  ./run_all.sh test      check the style, run the tests, and run every notebook in smoke
  ./run_all.sh report    make tables, figures, report.html and the README's table from the records
  ./run_all.sh publish   copy the outputs of executed full runs into notebooks/

smoke, full and publish take notebooks (01, 01_mnist or notebooks/01_mnist.ipynb); smoke and full take options:

  --config NAME=VALUE ...   notebooks' parameters in capitals; settings of notebooks/config.yaml in small letters
  --dry-run                 list what would run
  --debug                   show tracebacks
  --profile FOLDER          run on a cluster: docs/cluster.md
                            any other option is passed to Snakemake

verify takes the number of trainings (smoke: all) and NAME=VALUE: seed, which draws them, PROFILE, RESULTS_DIR,
DATA_DIR, SOURCE, DEVICE. test takes options of pytest.

  ./run_all.sh full 00 --config DATA_DIR=good_parts TEST_DIR=new_parts          images of your own
  ./run_all.sh full 04 --config 'CLASSES=[screw]' seeds=3 DATA_DIR=/data        one category, three seeds
  ./run_all.sh verify 5 seed=1 DATA_DIR=/data

Ctrl-C at any time; rerun the same command to resume.
END
}

fail() {
    echo "error: $*" >&2
    exit 1
}

# Prints what an environment lacks of pyproject.toml's requirements (with the extras $2 ...); nothing if it has them all.
lacks() {
    "$1" - "${@:2}" <<'END' 2>/dev/null || echo "a Python that pyproject.toml allows, or the package 'packaging'"
import sys, tomllib
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = project["dependencies"] + [one for extra in sys.argv[1:] for one in project["optional-dependencies"][extra]]
lacks = []
if not SpecifierSet(project["requires-python"]).contains(sys.version.split()[0]):
    lacks.append(f"Python {project['requires-python']}")
for requirement in map(Requirement, wanted):
    try:
        if not requirement.specifier.contains(version(requirement.name), prereleases=True):
            lacks.append(str(requirement))
    except PackageNotFoundError:
        lacks.append(str(requirement))
print(", ".join(lacks))
END
}

# Sets `python` to the interpreter to use: the active environment's if it will do, or that of one made from the lock.
find_environment() {
    local active missing
    for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        [[ -n $active && -x $active/bin/python ]] || continue
        missing=$(lacks "$active/bin/python" "$@")
        if [[ -z $missing ]]; then
            python=$active/bin/python
            echo "environment: $active"
            return
        fi
        echo "the active environment $active is not used, it lacks: $missing"
    done
    local folder=.venv hash
    hash=$(sha256 requirements.lock)
    [[ ${CI:-} != true ]] || folder=${XDG_CACHE_HOME:-$HOME/.cache}/kdhelpers/${hash:0:12}
    python=$folder/bin/python
    mkdir -p "$(dirname "$folder")"
    if command -v flock >/dev/null; then # two runs at once: the second waits for the first one's environment
        exec 9>"$folder.lock"
        flock 9
    fi
    if [[ $(cat "$folder/kdhelpers.lock-sha256" 2>/dev/null) != "$hash" || ! -x $python ]]; then
        make_environment "$folder" "$hash"
    fi
    exec 9>&-
    echo "environment: $folder"
}

make_environment() {
    local folder=$1 hash=$2 candidate base="" clear="" total log=$1/install.log
    for candidate in python3.12 python3.13 python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            base=$candidate
            break
        fi
    done
    [[ -n $base ]] || fail "there is no Python 3.11, 3.12 or 3.13 on PATH: install one, or activate an environment"
    total=$(grep -c '==' requirements.lock)
    echo "installing $total packages into $folder: two minutes when they are cached, else as long as 3 GB take to come"
    # Begun by an earlier run and not finished: from scratch, because a half-written package may look installed.
    [[ $(cat "$folder/kdhelpers.lock-sha256" 2>/dev/null) != unfinished ]] || clear=--clear
    "$base" -m venv $clear "$folder" || fail "$base cannot make environments: install its venv module (python3-venv)"
    echo unfinished >"$folder/kdhelpers.lock-sha256"
    "$python" -m pip install --requirement requirements.lock --progress-bar off 2>"$log" |
        awk -v total="$total" '
            /^(Collecting|Processing|Requirement already)/ { if (++n % 25 == 0) { print "  " n " of " total " packages found"; fflush() } }
            /^Installing/ { print "  unpacking, a minute or two"; fflush() }' ||
        fail "the installation failed: $(grep -m1 ERROR "$log" || tail -n 1 "$log"); all of it: $log"
    mkdir -p "$folder/etc/jupyter"
    cp jupyter_nbconvert_config.py "$folder/etc/jupyter/"
    if [[ ${CI:-} != true ]]; then
        "$python" -m pip install --quiet --no-deps --editable . 2>>"$log" ||
            fail "kdhelpers could not be installed into $folder: see $log"
    fi
    echo "$hash" >"$folder/kdhelpers.lock-sha256"
}

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# The name of a notebook as it stands in notebooks/, from a number, a name or a path.
name_of() {
    local name found
    [[ $1 != *=* ]] || fail "put --config before $1: ./run_all.sh full NOTEBOOK --config $1"
    name=$(basename "$1" .ipynb)
    found=$(ls notebooks | grep -E "^${name//./}(_.*)?\.ipynb$" || true)
    [[ $(wc -w <<<"$found") == 1 ]] ||
        fail "there is no command or notebook $1; commands are smoke, full, test, report, publish and verify, notebooks $(ls notebooks | sed -n 's/\.ipynb$//p' | paste -sd' ' -)"
    echo "${found%.ipynb}"
}

# smoke and full, also of a run list: everything that is missing, by Snakemake.
run_notebooks() {
    local profile=$1 notebooks=() config=() options=() cores=(--cores all) name status=0
    shift
    if [[ ${1:-} == *.yaml || ${1:-} == *.yml ]]; then
        [[ -f $1 ]] || fail "there is no run list $1"
        config+=("list=$1")
        shift
    fi
    while [[ $# -gt 0 && $1 != -* ]]; do
        name=$(name_of "$1") # on a line of its own, so that a failure ends the script
        notebooks+=("$name")
        shift
    done
    while [[ $# -gt 0 ]]; do # Snakemake takes one --config only
        if [[ $1 == --config || $1 == -C ]]; then
            shift
            while [[ $# -gt 0 && $1 != -* ]]; do
                config+=("$1")
                shift
            done
        elif [[ $1 == --debug ]]; then
            export KDHELPERS_DEBUG=1
            shift
        else
            [[ $1 != --batch* ]] || fail "--batch would wait for the other batches: share the seeds, --config seeds=[0,2,4]"
            [[ $1 != --profile* && $1 != --executor* ]] || cores=() # a cluster's jobs have the cores that their nodes have
            options+=("$1")
            shift
        fi
    done
    [[ ${#notebooks[@]} == 0 ]] || config+=("only=[$(IFS=,; echo "${notebooks[*]}")]")
    find_environment run
    trap 'status=130' INT # Snakemake says what is kept
    "$python" notebooks/quietly.py snakemake --snakefile notebooks/Snakefile ${cores[@]+"${cores[@]}"} --keep-going --nolock \
        --quiet all rules host reason ${options[@]+"${options[@]}"} --config "profile=$profile" "run=$(date +%Y%m%d-%H%M%S)-$$" \
        ${config[@]+"${config[@]}"} || status=$((status == 130 ? 130 : $?))
    return $status
}

# test: pytest over the package's tests and over copies of the notebooks with PROFILE="smoke".
run_tests() {
    find_environment run test export
    export OMP_NUM_THREADS=1 # two workers with two threads each would wait for each other
    folder=$(mktemp -d "$PWD/.test-XXXXXX") # within the repository, or two notebooks' cells would have one name
    trap 'rm -rf "$folder"' EXIT
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" - "$folder" <<'END'
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, "notebooks")
import execute

folder = Path(sys.argv[1])
for notebook in sorted(Path("notebooks").glob("*.ipynb")):
    if notebook.stem == "30_beside_anomalib" and not find_spec("anomalib"):
        print("30_beside_anomalib is left out: anomalib is optional and not installed (pip install '.[anomalib]')")
        continue
    parameters = {"PROFILE": "smoke", "RESULTS_DIR": str(folder / "results")}
    if "EPOCHS" in execute.parameters_of(notebook):
        parameters["EPOCHS"] = 2  # whether they run, not what they find
    if notebook.stem == "15_unstated_details":  # fifty variants: those of one data set here
        parameters["CLASSES"] = {"head_ct": ["normal"]}
    execute.prepare(notebook, folder / notebook.name, parameters)
END
    "$python" -m pytest -c pyproject.toml --rootdir . -m "" -n 2 --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env kdhelpers/tests "$folder"/*.ipynb "$@"
}

# publish: the outputs of executed full runs, into notebooks/.
publish_outputs() {
    local names=() name
    for name in "$@"; do
        name=$(name_of "$name")
        names+=("$name")
    done
    find_environment run
    "$python" notebooks/publish.py results ${names[@]+"${names[@]}"}
}

# report: tables, figures, report.html and the README's table, from the records.
make_report() {
    find_environment run
    "$python" notebooks/report.py "${1:-results}"
}

# verify: is what is recorded what comes out?
run_verification() {
    find_environment run
    "$python" notebooks/verify.py "$@"
}

cd "$(dirname "${BASH_SOURCE[0]}")"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
case ${1:-full} in
    -h | --help) usage ;;
    test) shift && run_tests "$@" ;;
    publish) shift && publish_outputs "$@" ;;
    report) shift && make_report "$@" ;;
    verify) shift && run_verification "$@" ;;
    smoke | full) run_notebooks "${1:-full}" "${@:2}" ;;
    *) run_notebooks full "$@" ;;
esac
