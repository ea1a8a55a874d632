"""Names of files: as long as the system allows, and no longer."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from moditalker.errors import UserError

SHORT = 128  # bytes of a name that any file system takes
SHOWN = 40  # letters of a name that is too long, in a sentence about it


def shortened(name: str, more: int, target: str | None = None) -> str:
    """The name, or one cut by whole letters, so that with ``more`` bytes it is no longer than the target's.

    A file that takes the target's place later lies beside it under such a name. Two names that are cut to the
    same letters stay different.

    Args:
        more: bytes that are added to the name.
        target: name of the file that is written in the end; None: ``name``.
    """
    most = max(SHORT, len((target or name).encode(errors="surrogateescape"))) - more
    content = name.encode(errors="surrogateescape")
    if len(content) <= most:
        return name
    end = "~" + hashlib.sha256(content).hexdigest()[:8]
    return content[: most - len(end)].decode(errors="ignore") + end


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise UserError where a name is longer than the file system allows."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise too_long(path) from error
    except ValueError:  # a zero in a name: no file has one, as whoever opens it says
        return


def too_long(path: str | os.PathLike[str]) -> UserError:
    """The sentence about a path that has a name which is too long."""
    name = max(Path(path).parts, key=len, default="")
    size = len(name.encode(errors="surrogateescape"))
    return UserError(
        f"{name[:SHOWN]}...: a name of {size} bytes is too long; most systems allow 255 bytes in a name and "
        "4095 in a path: choose a shorter one"
    )
