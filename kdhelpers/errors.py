"""The exception for users: one line that names the error and its fix."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from traceback import format_exception

DEBUG = "KDHELPERS_DEBUG"  # environment variable set by --debug: also show the traceback


class InputError(Exception):
    """Wrong input: a parameter, a file or a folder. The message is one line and names the fix."""

    def __init__(self, message: str):
        # A file's name may contain line breaks or undecodable bytes; they are shown as escapes.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))

    def _render_traceback_(self) -> list[str]:
        """Replace IPython's traceback, so that a notebook ends with the one-line message."""
        traceback = format_exception(self)[:-1] if os.environ.get(DEBUG) else []
        return [*traceback, f"InputError: {self}"]


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the name in `known` closest to `word`, ignoring case; "" when none is close."""
    names = {name.upper(): name for name in known}
    close = difflib.get_close_matches(str(word).upper(), names, n=1)
    return f" (did you mean {names[close[0]]}?)" if close else ""


def in_one_line(function: Callable, *arguments) -> None:
    """Call a command's function; exit with code 1 on an InputError and 130 on Ctrl-C, after a one-line message."""
    try:
        function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
