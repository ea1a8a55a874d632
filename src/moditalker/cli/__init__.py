"""The command line. A user's mistake is one sentence and exit code 2.

One module a command; importing it adds it to the application, and costs nothing heavy.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading

# fmt: off
# ruff: isort: off
from moditalker.cli import generate, dub, motion, batch, serve  # noqa: F401  (their commands, in the help's order)
from moditalker.cli import evaluate, benchmark, speed, study  # noqa: F401
from moditalker.cli import prepare, train, adapt  # noqa: F401
from moditalker.cli import weights, convert, configuration, verify, doctor  # noqa: F401
# ruff: isort: on
# fmt: on
from moditalker.cli.common import app
from moditalker.cli.former import present
from moditalker.errors import UserError
from moditalker.jobs.files import too_long
from moditalker.jobs.heaps import share_heaps
from moditalker.jobs.machine import calm

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 partly failed, 2 user's mistake, 130 interrupted, 143 ended."""
    calm()  # before torch and NumPy are loaded
    share_heaps()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unfinished files go away
    try:
        app(args=present(sys.argv[1:] if arguments is None else arguments), prog_name="moditalker")
    except UserError as error:
        print(f"moditalker: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or error.filename is None:
            raise
        print(f"moditalker: {too_long(os.fsdecode(error.filename))}", file=sys.stderr)
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt) as left:
        # Typer makes the code of Ctrl-C, while it is at work.
        if isinstance(left, KeyboardInterrupt) or left.code == INTERRUPTED:
            print("moditalker: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        raise
