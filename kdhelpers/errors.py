"""The one exception a user is meant to see: a line that names what is wrong and the fix."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from traceback import format_exception

DEBUG = "KDHELPERS_DEBUG"  # the environment variable that --debug sets: the traceback is shown as well


class InputError(Exception):
    """Wrong input: a parameter, a file or a folder. The message is one line and says what to do about it."""

    def __init__(self, message: str):
        # A file's name may hold a line break, or bytes that no text holds: they are shown as escapes.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of a traceback, so that a notebook ends in the one line that helps."""
        traceback = format_exception(self)[:-1] if os.environ.get(DEBUG) else []
        return [*traceback, f"InputError: {self}"]


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """ " (did you mean X?)" with the one of `known` that is most like `word`, whatever the case; "" when none is."""
    names = {name.upper(): name for name in known}
    close = difflib.get_close_matches(str(word).upper(), names, n=1)
    return f" (did you mean {names[close[0]]}?)" if close else ""


def in_one_line(function: Callable, *arguments) -> None:
    """Call a function for a command line: an InputError ends it with exit code 1, Ctrl-C with 130, in a line each."""
    try:
        function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
