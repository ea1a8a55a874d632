"""Deinterlaces a stream: as many frames, at the same times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter


def progressive(natives: Iterator[Any], base: Fraction, found: Callable[[], None]) -> Iterator[Any]:
    """Decoded frames with the lines of those that hold two fields (1/50 s apart, say) made of the first one.

    Frames that are not marked as interlaced stay untouched. Each frame depends on the one before and the one
    behind it.

    Args:
        base: time base of the frames' stamps, seconds.
        found: called when the first interlaced frame comes.
    """
    graph: _Graph | None = None
    before: Any = None
    for native in natives:
        if graph is None and not native.interlaced_frame:
            before = native
            yield native
            continue
        if graph is None:
            found()
            graph = _Graph(native, base)
            if before is not None and graph.fits(before):
                graph.seen(before)
        elif not graph.fits(native):
            yield from graph.finish()
            graph = _Graph(native, base)
        yield from graph.push(native)
    if graph is not None:
        yield from graph.finish()


class _Graph:
    """FFmpeg's bwdif, for frames of one size and format."""

    def __init__(self, native: Any, base: Fraction) -> None:
        self.form, self.base, self._skip = self._form(native), base, 0
        self._graph = av.filter.Graph()
        width, height, format = self.form
        source = self._graph.add_buffer(width=width, height=height, format=format, time_base=base)
        bwdif = self._graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()

    @staticmethod
    def _form(native: Any) -> tuple[int, int, Any]:
        return native.width, native.height, native.format.name

    def fits(self, native: Any) -> bool:
        """Whether the frame has the size and format that the graph was made for."""
        return self._form(native) == self.form

    def seen(self, native: Any) -> None:
        """A frame that was yielded already, and that the next one depends on."""
        self._skip = 1
        self._graph.push(native)

    def push(self, native: Any) -> Iterator[Any]:
        """The frames that are finished with this one."""
        self._graph.push(native)
        yield from self._pulled()

    def finish(self) -> Iterator[Any]:
        """The last frame."""
        self._graph.push(None)
        yield from self._pulled()

    def _pulled(self) -> Iterator[Any]:
        while True:
            try:
                native: Any = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self._skip:
                self._skip -= 1
                continue
            ratio = native.time_base / self.base
            if native.pts is not None:
                native.pts = round(native.pts * ratio)
            native.duration = round((native.duration or 0) * ratio)
            native.time_base = self.base
            yield native
