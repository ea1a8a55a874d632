"""Files and folders for long runs.

A file is written completely or not at all. A folder is locked by one run at a time. Names are shortened to
what the system allows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moditalker.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept out
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder and lock it against other runs; the lock ends with its process.

    Raises:
        UserError: it cannot be made, another run is at work in it, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be a folder ({error.strerror}); choose another one") from error
    with _locked(folder), disk_full_named(folder):
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(
            f"{folder}: another run is at work in it; wait for its end, or choose another folder"
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def disk_full_named(folder: Path) -> Iterator[None]:
    """Raise UserError if the disk of a folder is full while the block runs."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"{folder}: no space is left on its disk; make room and start again") from error


SHORT = 128  # bytes of a name that any file system takes
SHOWN = 40  # letters of a name that is too long, in a sentence about it


def shortened(name: str, more: int, target: str | None = None) -> str:
    """The name, or one cut by whole letters, so that with ``more`` bytes it is no longer than the target's.

    Unfinished files have such names, next to their target. Two names that are cut to the same letters stay
    different.

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


def inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, through all links.

    Raises:
        ValueError: a zero in a name.
    """
    # `Path.resolve` raises for links in a circle, up to Python 3.12.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def too_long(path: str | os.PathLike[str]) -> UserError:
    """The error for a path with a name that is too long."""
    name = max(Path(path).parts, key=len, default="")
    size = len(name.encode(errors="surrogateescape"))
    return UserError(
        f"{name[:SHOWN]}...: a name of {size} bytes is too long; most systems allow 255 bytes in a name and "
        "4095 in a path: choose a shorter one"
    )


FRESH = 2.0  # s for which a file without a mark is not taken for an abandoned one


def mark(handle: int) -> None:
    """Mark an open, unfinished file as one that is being written, until it is closed or its process ends."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # waits, as `abandoned` holds the lock for a moment


def abandoned(path: Path) -> bool:
    """Whether a file that `mark` marked is not being written any more, as its process was killed."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if time.time() - os.fstat(handle).st_mtime < FRESH:  # perhaps not marked yet
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def appearing(path: Path, secret: bool = False) -> Iterator[IO[bytes]]:
    """A file to write that appears, complete, only if the block succeeds; what killed processes left goes.

    secret: this user alone may read it, and a file that is there already stays.
    """
    begin = f".{shortened(path.name, 16)}."
    left = re.compile(re.escape(begin) + r"[a-z0-9_]{8}\.part")
    with contextlib.suppress(OSError):  # a folder that may be written to and not read
        for part in [one for one in path.absolute().parent.iterdir() if left.fullmatch(one.name)]:
            if abandoned(part):
                part.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(".part", begin, path.parent)
    mark(handle)
    held = -1 if fcntl is None else os.dup(handle)  # the mark stays until the file has its name
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if secret:
            _place_first(name, path)
        else:
            Path(name).chmod(0o644)
            Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    finally:
        if held >= 0:
            os.close(held)


def _place_first(name: str, path: Path) -> None:
    """Move a file to its place, unless one is there already."""
    try:
        os.link(name, path)
    except FileExistsError:
        pass
    except (OSError, AttributeError):  # a file system without hard links
        Path(name).replace(path)
    Path(name).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, secret: bool = False) -> None:
    """Write a file completely or not at all, also if the power fails; secret: as for `appearing`."""
    with appearing(path, secret) as file:
        file.write(content)
