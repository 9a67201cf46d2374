"""Snakemake, but for one thing: Ctrl-C while it is still starting is a line, and no traceback."""

import sys

try:
    from snakemake.cli import main

    main()
except KeyboardInterrupt:
    print("stopped before anything ran", file=sys.stderr)
    sys.exit(130)
