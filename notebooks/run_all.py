"""The commands of ./run_all.sh; its first lines describe them."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kdhelpers import paths
from kdhelpers.errors import DEBUG, InputError


def run_notebooks(profile: str, words: list[str]) -> int:
    """Run smoke, full or a run list: plan the jobs, fetch their data, and let Snakemake run those not yet recorded."""
    parser = argparse.ArgumentParser(prog=f"./run_all.sh {profile}", add_help=False)
    parser.add_argument("notebooks", nargs="*")
    parser.add_argument("--config", "-C", nargs="+", action="extend", default=[])
    parser.add_argument("--cores", "--jobs", "-c", "-j")
    parser.add_argument("--profile")
    parser.add_argument("--dry-run", "-n", action="store_true")
    parser.add_argument("--debug", action="store_true")
    asked, options = parser.parse_known_args(words)
    if any(option.startswith("--batch") for option in options):
        raise InputError("--batch would wait for the other batches: share the seeds, --config seeds=[0,2,4]")
    if asked.debug:
        os.environ[DEBUG] = "1"
    import jobs  # slow: imported after the checks above, where Ctrl-C is handled
    import plan
    from execute import name_of, values_of
    from snakemake.utils import available_cpu_count

    values = values_of(asked.config)
    given = {name: value for name, value in values.items() if name.isupper()}
    settings = plan.settings_of({name: value for name, value in values.items() if not name.isupper()})
    if re.fullmatch(r"cuda:\d+", str(given.get("DEVICE"))):
        raise InputError(f"give DEVICE=cuda, and before the command CUDA_VISIBLE_DEVICES={given['DEVICE'][5:]}")
    if asked.notebooks and asked.notebooks[0].endswith((".yaml", ".yml")):
        if asked.notebooks[1:] or settings["seeds"] is not None:
            raise InputError(f"{asked.notebooks[0]} names its notebooks and seeds: give neither beside it")
        planned, text = plan.of_list(Path(asked.notebooks[0]), profile, given)
    else:
        planned, text = plan.of_notebooks(profile, [name_of(word) for word in asked.notebooks], settings, given)
    print(text, flush=True)
    results = Path(given.get("RESULTS_DIR") or planned[0].parameters.get("RESULTS_DIR") or paths.RESULTS_DIR)
    results = results.expanduser().absolute()
    # A notebook that failed or was killed after its records were written is run again.
    left = {path.name.split(".")[0] for path in (results / "executed" / profile).glob("*.*.ipynb")}
    pending = [job for job in planned if job.pending or job.name in left]
    if not pending:
        print("nothing to do: everything that can run is recorded")
        return 0
    if asked.dry_run:
        names = " ".join(job.name for job in pending)
        print(textwrap.fill(f"would run {names}", 110, subsequent_indent="    ", break_on_hyphens=False))
        return 0
    if asked.profile:
        options += [f"--profile={asked.profile}", *([f"--jobs={asked.cores}"] if asked.cores else [])]
    else:
        options.append(f"--cores={asked.cores or 'all'}")
    with jobs.locked(results) as lock:
        pending, lost = jobs.fetch(pending)
        cores = int(asked.cores) if str(asked.cores).isdecimal() else available_cpu_count()
        found = jobs.for_snakemake(pending, results, profile, settings, cores, cluster=bool(asked.profile))
        return (jobs.run(found, results, profile, options, lock) if pending else 0) or lost


def test(options: list[str]) -> int:
    """Check the style, then run pytest over the package's tests and over copies of the notebooks in smoke."""
    import papermill
    from execute import NOTEBOOKS, parameters_of
    from plan import IN_SMOKE, PEERS

    # Within the repository: outside of it, pytest would give the cells of two notebooks the same name.
    with tempfile.TemporaryDirectory(dir=paths.ROOT, prefix=".test-") as folder:
        for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
            if notebook.stem == PEERS and not find_spec("anomalib"):
                why = "the optional anomalib is not installed (pip install '.[anomalib]')"
                print(f"{notebook.stem} is left out: {why}")
                continue
            parameters = {"PROFILE": "smoke", "RESULTS_DIR": f"{folder}/results"} | IN_SMOKE.get(notebook.stem, {})
            if "EPOCHS" in parameters_of(notebook, given=parameters):
                parameters["EPOCHS"] = 2  # enough to check that they run
            named = {"language": "python", "kernel_name": "python3"}
            papermill.execute_notebook(notebook, f"{folder}/{notebook.name}", parameters, prepare_only=True, **named)
        pytest = "pytest -c pyproject.toml --rootdir . -n 2 --dist loadfile --no-loadscope-reorder"
        pytest = f"{pytest} --nbval-lax --nbval-current-env kdhelpers/tests -m".split()
        pytest += ["", *map(str, Path(folder).glob("*.ipynb")), *options]  # -m "": the slow tests too
        for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], pytest):
            # One thread each: two workers with two threads would wait for each other.
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            if code := subprocess.run([sys.executable, "-m", *command], env=environment).returncode:
                return code
        return 0


def gpu_check(words: list[str]) -> int:
    """Run the tests that need a GPU, then notebook 21, which writes its figures to files; words: NAME=VALUE."""
    import torch
    from execute import values_of

    given = values_of(words)
    if unknown := given.keys() - {"DATA_DIR", "SOURCE", "RESULTS_DIR"}:
        raise InputError(f"unknown name {min(unknown)}; gpu-check has DATA_DIR, SOURCE and RESULTS_DIR")
    if not torch.cuda.is_available():
        raise InputError("gpu-check needs a GPU that torch can use, and this machine has none")
    results = Path(given.get("RESULTS_DIR") or paths.RESULTS_DIR).expanduser().absolute()
    # pytest runs in the repository; only a built-in source is no path.
    where = {f"KDHELPERS_{name}": str(Path(path).expanduser().absolute()) for name, path in given.items() if path}
    where |= {"KDHELPERS_SOURCE": given["SOURCE"]} if given.get("SOURCE") in ("imagenet", "untrained") else {}
    pytest = ["-m", "pytest", "-m", "gpu", "-rs", "--durations=0", "-s", "kdhelpers/tests/test_gpu.py"]
    tests = subprocess.run([sys.executable, *pytest], env=os.environ | where, cwd=paths.ROOT).returncode
    out = results / "executed" / "full" / "21_running_time.ipynb"
    words = ["notebooks/21_running_time.ipynb", out, f"RESULTS_DIR={results}"]
    return subprocess.run([sys.executable, "notebooks/execute.py", *words], cwd=paths.ROOT).returncode or tests


def main() -> int | None:
    command, *words = sys.argv[1:] or ["full"]
    if command == "test":
        return test(words)
    if command == "gpu-check":
        return gpu_check(words)
    if command in ("publish", "release", "report", "verify"):
        return import_module(command).main(words)
    profile, words = (command, words) if command in ("smoke", "full") else ("full", [command, *words])
    return run_notebooks(profile, words)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # even if the parent process ignores Ctrl-C
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for running threads
    except BrokenPipeError:  # as in `| head`
        os._exit(1)
