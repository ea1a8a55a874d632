"""Limits of the service: sizes, times, and requests a minute."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits for visitors; the page and GET /service show them."""

    megabytes: float = 200.0  # of a file
    seconds: float = 60.0  # of speech
    characters: int = 1000  # of typed text
    waiting: int = 8  # jobs in the queue, without those that run
    making: float = 1800.0  # seconds that one video may take
    looking: float = 120.0  # seconds that looking at a file may take
    keeping: float = 3600.0  # seconds until files are deleted
    rate: float = 60.0  # files and jobs that one visitor may send in a minute
    disk: float = 10_000.0  # megabytes of all files
    live: int = 1  # live sessions at a time
    live_seconds: float = 600.0  # of one live session

    @property
    def bytes(self) -> int:
        """The most that a file may have."""
        return round(1e6 * self.megabytes)


class Rate:
    """A token bucket for each visitor: so many requests a minute, also all at once."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}  # visitor -> how many are left, and when that was
        self._lock = threading.Lock()

    def wait(self, visitor: str) -> float:
        """Take a token; 0, or the seconds until there is one."""
        now = time.monotonic()
        with self._lock:
            if len(self._left) > 10_000:  # after a minute a bucket is full again
                self._left = {who: had for who, had in self._left.items() if now - had[1] < 60}
            had, when = self._left.get(visitor, (self.per_minute, now))
            left = min(self.per_minute, had + (now - when) * self.per_minute / 60)
            if left < 1:
                return (1 - left) * 60 / self.per_minute
            self._left[visitor] = left - 1, now
        return 0.0
