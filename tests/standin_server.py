"""`moditalker serve` with workers that only pretend, as a process that can be killed.

python tests/standin_server.py FOLDER --seconds 0.1 --workers 2
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from standin_task import glancing, pretending

from moditalker.serve.limits import Limits
from moditalker.serve.server import run
from moditalker.serve.service import Service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0, help="that a job takes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--waiting", type=int, default=8)
    arguments = parser.parse_args()
    limits = Limits(megabytes=1, waiting=arguments.waiting, rate=1e6, making=60)
    starts = glancing, partial(pretending, arguments.seconds)
    service = Service(arguments.folder, live="", workers=arguments.workers, limits=limits, starts=starts)
    try:
        run(service, "127.0.0.1", "127.0.0.1")
    finally:
        service.close()


if __name__ == "__main__":
    main()
