"""Runs a module or a script with its arguments; Ctrl-C while it is still starting is a line, and no traceback."""

import os
import runpy
import sys

try:
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        sys.path[0] = os.path.dirname(sys.argv[0])
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
    sys.exit(130)
