"""The command line: thin hands on the package. A user's mistake is one sentence and exit code 2.

One module a command; importing it adds it to the application, and costs nothing heavy.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading

from moditalker.cli import (  # noqa: F401  (their commands)
    ab,
    adapt,
    batch,
    bench,
    benchmark,
    configuration,
    convert,
    doctor,
    evaluate,
    generate,
    motion,
    prepare,
    render,
    train,
    verify,
    web,
    weights,
)
from moditalker.cli.common import app
from moditalker.errors import UserError
from moditalker.jobs.files import too_long

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave: 0 done, 1 a part of it failed, 2 the user's mistake, 130 interrupted, 143
    terminated.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unfinished files go away
    try:
        app(args=arguments, prog_name="moditalker")
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
