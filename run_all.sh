#!/usr/bin/env bash
# Regenerates the article's tables and figures, and finds anomalies in your own images. See README.md.
#
#   ./run_all.sh smoke      run every notebook but 30 on generated samples, in minutes and without data; the first time
#                           this creates an environment in .venv, later it needs no network
#   ./run_all.sh            run every notebook but 00 and 30 with ten seeds, as the article does, or three for 15 (also
#                           called full); first lists which data are present or will be downloaded, and how to get more
#   ./run_all.sh LIST.yaml  run a list of notebooks in its order; results/measured.yaml produced the committed results
#   ./run_all.sh verify     rerun three recorded trainings and compare every number
#   ./run_all.sh test       check the style, run the tests, and run every notebook in smoke
#   ./run_all.sh gpu-check  run the tests that need a GPU, then notebook 21, which writes its table and figure to
#                           results/running_time; takes DATA_DIR, SOURCE and RESULTS_DIR as NAME=VALUE
#   ./run_all.sh report     generate tables, figures, report.html and the tables in the READMEs and docs from records
#   ./run_all.sh site       build a site of README, docs, notebooks and report in site/html, and check its links; the first
#                           time this creates a small environment in .venv-site
#   ./run_all.sh publish    copy the outputs of executed full runs into notebooks/
#   ./run_all.sh release    write pyproject.toml's address and version into badges and setup cells, commit and tag
#
# smoke, full and publish take notebooks (01, 01_mnist or notebooks/01_mnist.ipynb); smoke and full take options:
#
#   --config NAME=VALUE ...   parameters of notebooks, in capitals; or seeds (a number or a list), gpus, jobs_per_gpu,
#                             threads (of each job)
#   --dry-run                 list what would run
#   --debug                   show tracebacks
#   --profile FOLDER          run on a cluster: docs/cluster.md
#                             any other option is passed to Snakemake, as --option=value
#
# verify takes the number of trainings (smoke: all) and NAME=VALUE: seed, which draws them, PROFILE, RESULTS_DIR,
# DATA_DIR, SOURCE, DEVICE. test takes options of pytest.
#
#   ./run_all.sh full 00 --config DATA_DIR=good_parts TEST_DIR=new_parts          images of your own
#   ./run_all.sh full 04 --config 'CLASSES=[screw]' seeds=3 DATA_DIR=/data        one category, three seeds
#   ./run_all.sh verify 5 seed=1 DATA_DIR=/data
#
# Stop with Ctrl-C at any time; rerun the same command to resume.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if [[ ${1:-} != test && " $* " =~ \ (-h|--help)\  ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' run_all.sh
    exit
fi

fail() {
    echo "error: $*" >&2
    exit 1
}

# Use an active environment if it has all that pyproject.toml requires; otherwise create one from the lock file.
extras=(run) lock=requirements.lock folder=.venv program=(notebooks/run_all.py "$@") size="3 GB"
[[ ${1:-} != test && ${1:-} != gpu-check ]] || extras=(run test export)
if [[ ${1:-} == site ]]; then # needs neither torch nor data
    [[ $# == 1 ]] || fail "site takes nothing else"
    unset VIRTUAL_ENV CONDA_PREFIX
    lock=docs/site.lock folder=.venv-site program=(docs/build_site.py) size="100 MB"
fi
for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [[ -x $active/bin/python ]] || continue
    if lacks=$("$active/bin/python" notebooks/requirements.py "${extras[@]}" 2>&1); then
        echo "environment: $active"
        exec "$active/bin/python" "${program[@]}"
    fi
    echo "the active environment $active is not used because it lacks ${lacks##*$'\n'}"
done

hash=$(cat "$lock" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12)
[[ ${CI:-} != true ]] || folder=${XDG_CACHE_HOME:-$HOME/.cache}/kdhelpers/$hash
ready() { [[ $(cat "$folder/finished" 2>/dev/null) == "$hash" ]]; }
if ! ready; then
    { mkdir -p "$folder" && : >>"$folder.lock"; } 2>/dev/null ||
        fail "$folder cannot be written: make its folder writable, or activate an environment with all packages"
    exec 9>"$folder.lock"
    ! command -v flock >/dev/null || flock 9 || echo "warning: $folder cannot be locked" >&2 # a second command waits
fi
if ! ready; then
    base=
    for candidate in python3.12 python3.13 python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            base=$candidate
            break
        fi
    done
    [[ -n $base ]] || fail "there is no Python 3.11, 3.12 or 3.13 on PATH: install one, or activate an environment"
    total=$(grep -c '==' "$lock")
    echo "installing $total packages into $folder: two minutes if they are cached, otherwise $size to download"
    "$base" -m venv --clear "$folder" || fail "$base cannot create environments: install its venv module (python3-venv)"
    "$folder/bin/python" -m pip install --requirement "$lock" --no-deps --progress-bar off 2>"$folder/install.log" |
        awk -v total="$total" '/^(Collecting|Processing)/ && ++n % 25 == 0 { print "  " n " of " total " packages found"; fflush() }
            /^Installing/ { print "  unpacking, a minute or two"; fflush() }' ||
        fail "the installation failed: $(grep -m1 ERROR "$folder/install.log" || tail -n 1 "$folder/install.log")"
    mkdir -p "$folder/etc/jupyter"
    cp jupyter_nbconvert_config.py "$folder/etc/jupyter/"
    [[ ${CI:-} == true || ${1:-} == site ]] || "$folder/bin/python" -m pip install --quiet --no-deps --editable . ||
        fail "kdhelpers could not be installed into $folder"
    echo "$hash" >"$folder/finished"
fi
exec 9>&-
echo "environment: $folder"
exec "$folder/bin/python" "${program[@]}"
