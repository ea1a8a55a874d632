"""Sound that is still arriving: from a microphone, a call, or a speech synthesizer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.errors import UserError
from moditalker.jobs.streams import ahead
from moditalker.media import MIN_SECONDS, SAMPLE_RATE, resampled
from moditalker.media.sound import RATES

Samples = NDArray[np.float32]

PIECE_SECONDS = 0.1  # of sound that is given out at once, at most
PIECES = 1000  # that are held for readers who do not come, at most: of 100 s


class ArrivingSound:
    """Chunks of sound for one reader, and the sound's length for others, in any threads.

    A chunk is taken when one is needed, and held until it is read.

    Args:
        chunks: arrays (n,) of floats in [-1, 1], mono, of any sizes; values beyond are clipped.
        rate: their samples a second.
        listening: once one is needed, take all chunks as they come, in another thread.

    Raises:
        UserError: an impossible rate; while reading, an impossible chunk, or less than MIN_SECONDS in all.
    """

    def __init__(self, chunks: Iterable[ArrayLike], rate: int = SAMPLE_RATE, listening: bool = False) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"sound at {rate} samples a second; {RATES[0]} to {RATES[1]} are possible")
        self.rate, self.notes = rate, list[str]()  # as `AudioReader` has them
        self._heard = 0  # samples taken, at that rate
        taken = self._taken(chunks)
        self._sound = resampled(ahead(taken, PIECES) if listening else taken, rate)
        self._ended = False
        self._waiting, self._read = deque[Samples](), False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Samples]:
        """From the start of the sound on: (n,) float32 at 16 kHz.

        Raises:
            ValueError: it was read before.
        """
        if self._read:
            raise ValueError("sound that arrives can be heard only once")
        self._read, waiting = True, self._waiting

        def read() -> Iterator[Samples]:
            while waiting or self._take(lambda: not waiting):
                yield waiting.popleft()

        return read()

    @property
    def heard(self) -> float:
        """Seconds of sound that were taken."""
        return self._heard / self.rate

    def length(self, until: Fraction) -> Fraction:
        """Seconds of the whole sound; where it is longer than `until`, any number beyond `until`."""
        self._take(lambda: self._heard <= until * self.rate)
        return Fraction(self._heard, self.rate)

    def _take(self, needed: Callable[[], bool]) -> bool:
        """Take chunks while they are needed; False where there are no more."""
        with self._lock:
            while needed():
                chunk = None if self._ended else next(self._sound, None)
                if chunk is None:
                    self._ended = True
                    return False
                self._waiting.append(chunk)
        return True

    def _taken(self, chunks: Iterable[ArrayLike]) -> Iterator[Samples]:
        for given in chunks:
            chunk = np.asarray(given)
            if chunk.ndim != 1 or not np.issubdtype(chunk.dtype, np.floating):
                raise UserError(
                    f"a chunk of sound is {chunk.dtype} of shape {chunk.shape}; floats in [-1, 1] of shape "
                    "(n,) are expected: divide int16 by 32768, average channels"
                )
            piece = max(1, round(PIECE_SECONDS * self.rate))
            for start in range(0, len(chunk), piece):
                part = chunk[start : start + piece]
                self._heard += len(part)
                yield np.nan_to_num(part.astype(np.float32)).clip(-1, 1)
        if self._heard < MIN_SECONDS * self.rate:
            raise UserError(
                f"{self._heard / self.rate:.3f} s of sound; at least {float(MIN_SECONDS):.2f} s is needed"
            )
