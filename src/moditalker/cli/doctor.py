"""`moditalker doctor`."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from moditalker.cli.common import app
from moditalker.errors import UserError


def examine() -> Iterator[tuple[str, str, str | None]]:
    """Each check as what was looked at, what was found, and what is wrong with it (None: nothing)."""
    import torch

    from moditalker import machine, media, weights
    from moditalker.provenance import credentials

    yield "python", platform.python_version(), None
    for package in ("moditalker", "torch", "av", "numpy", "c2pa-python"):
        yield package, version(package), None
    for name in weights.NAMED:
        try:
            yield f"weights {name}", weights.find(name).name, None
        except UserError as error:
            yield f"weights {name}", "unusable", str(error)
    for codec in media.ENCODERS:
        wrong = None if media.can_encode(codec) else "pip install --force-reinstall av"
        yield f"encoder {codec}", "missing" if wrong else "present", wrong
    key = credentials.folder() / credentials.FILE
    try:
        found = str(key) if key.exists() and credentials.own() else "none yet; the first video makes one"
        yield "provenance key", found, None
    except UserError as error:
        yield "provenance key", "unusable", str(error)
    yield "device cpu", f"{torch.get_num_threads()} threads", None
    for device in ("cuda", "mps"):
        try:
            machine.check_device(device)
        except UserError:
            yield f"device {device}", "not here (optional)", None
        else:
            yield f"device {device}", "present", None


@app.command()
def doctor() -> None:
    """Check versions, weights, codecs and devices, and say what to do; exit code 2 where something is wrong.

    Example: moditalker doctor
    """
    wrong = []
    for what, found, problem in examine():
        print(f"{'ok ' if problem is None else 'BAD'} {what}: {found}" + (f"; {problem}" if problem else ""))
        if problem:
            wrong.append(what)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not in order; do what the lines marked BAD say")
