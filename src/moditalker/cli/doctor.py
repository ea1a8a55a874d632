"""`moditalker doctor`."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product

from moditalker.cli.common import KEEP, app
from moditalker.errors import UserError


def examine() -> Iterator[tuple[str, str, str | None]]:
    """Each check: what is checked, what was found, and the fault (None: no fault)."""
    import torch

    from moditalker import media
    from moditalker.jobs import machine
    from moditalker.weights import named
    from moditalker.weights.files import load_weights

    yield "python", platform.python_version(), None
    for package in ("moditalker", "torch", "av", "numpy"):
        yield package, version(package), None
    for name in named.NAMED:
        try:
            yield f"weights {name}", named.find(name).name, None
        except UserError as error:
            yield f"weights {name}", "unusable", str(error)
    for model, part in product(sorted({"tiny", *named.models()}), ("atom", "mtov")):
        path = named.MODELS / model / f"{part}.safetensors"
        if model != "tiny" and part == "mtov" and not path.exists():
            continue  # it makes motion alone
        try:
            load_weights(path)  # which compares them with the checksum that they carry
            yield f"weights {model}/{part}", f"SHA-256 {named.sha256(path)}", None
        except UserError as error:
            yield f"weights {model}/{part}", "unusable", f"{error}; install moditalker again"
    for codec in media.ENCODERS:
        wrong = None if media.can_encode(codec) else "pip install --force-reinstall av"
        yield f"encoder {codec}", "missing" if wrong else "present", wrong
    yield ("provenance", *_provenance())
    yield "device cpu", f"{torch.get_num_threads()} threads", None
    for device in ("cuda", "mps"):
        try:
            machine.check_device(device)
        except UserError:
            yield f"device {device}", "not here (optional)", None
        else:
            yield f"device {device}", "present", None


def _provenance() -> tuple[str, str | None]:
    """Whether manifests can be signed, and with which key."""
    try:
        from moditalker.provenance import credentials, manifest  # noqa: F401  (is its package here?)
        from moditalker.weights.files import check_writable
    except ImportError:
        return "no manifests", "pip install c2pa-python"
    key = credentials.folder() / credentials.FILE
    try:
        if not key.exists():
            check_writable(key)
            return "no key yet; the first video makes one", None
        credentials.own()
    except UserError as error:
        return "unusable key", str(error)
    return f"signed with {key}", None


@app.command(rich_help_panel=KEEP)
def doctor() -> None:
    """Check versions, weights, codecs and devices, and say what to do; exit code 2 if something is wrong.

    Example: moditalker doctor
    """
    wrong = []
    for what, found, problem in examine():
        print(f"{'ok ' if problem is None else 'BAD'} {what}: {found}" + (f"; {problem}" if problem else ""))
        if problem:
            wrong.append(what)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not in order; do what the lines marked BAD say")
