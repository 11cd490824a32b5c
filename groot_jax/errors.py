"""The one exception that means "the user can mend this", and how a job ends on it.

A job prints its message as one sentence and exits with status 1; anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """One sentence that names what is at fault (file:line, key, sentence) and what to do."""


def exit_on_user_error(
    main: Callable[[], object],
    interrupted: str = "interrupted; run the same command again to continue",
) -> None:
    """Runs `main`; a UserError, or a disk that is full, becomes one line on stderr and exit
    status 1. `interrupted`: what Ctrl-C says."""
    _quiet_after_failure()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has enough of it. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}; make room and run the same command again")


def _fail(sentence: str) -> None:
    # Saves that were cut off would complain once more when the interpreter takes them apart.
    atexit.register(setattr, sys, "unraisablehook", lambda _: None)
    print("error:", " ".join(sentence.splitlines()), file=sys.stderr)
    sys.exit(1)


def _quiet_after_failure() -> None:
    """When one array of a checkpoint fails, those under way find the reader's event loop closed,
    and each would print a traceback beside the sentence that says what happened."""
    before = sys.unraisablehook

    def hook(event: Any) -> None:
        if str(event.exc_value) != "Event loop is closed":
            before(event)

    sys.unraisablehook = hook
