"""Lays sounds over a film's own, and writes the mix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from moditalker.media.files import Samples
from moditalker.media.sound import AudioReader, write_blocks

MIX_RATE, CHANNELS = 48_000, 2
RAMP = 0.03  # s over which a film's own sound becomes quieter and louder
DUCKED = 10 ** (-15 / 20)  # a film's own sound under speech, if it is not replaced

Span = tuple[Fraction, Fraction]  # s


@dataclass(frozen=True)
class Placed:
    """A sound that is heard from `at`, seconds, without its first `skip` seconds, at most until `until`."""

    sound: AudioReader
    at: Fraction = Fraction(0)
    skip: Fraction = Fraction(0)
    until: Fraction | None = None


class Tape:
    """Blocks of sound (channels, n) by rising places, in samples; silence where there is none.

    at: where it begins to be heard, without its first `skip` samples; until: where it ends at the latest.
    """

    def __init__(self, blocks: Iterable[Samples], at: int, skip: int = 0, until: float = np.inf) -> None:
        self.blocks, self.place, self.until = iter(blocks), at - skip, until
        self.held: Samples = np.zeros((0, 0), np.float32)
        self.at = at

    def add(self, start: int, into: Samples) -> None:
        """Add what is heard from `start` on."""
        end = start + into.shape[1]
        while self.place < end and self.at < end:
            if not self.held.shape[1]:
                block = next(self.blocks, None)
                if block is None:
                    return
                self.held = block
            n = min(self.held.shape[1], end - self.place)
            first, last = max(self.place, self.at, start), min(self.place + n, self.until)
            if first < last:
                piece = self.held[:, first - self.place : int(last) - self.place]
                into[:, first - start : int(last) - start] += piece
            self.held, self.place = self.held[:, n:], self.place + n


def mixed(
    seconds: Fraction, placed: Sequence[Placed], own: AudioReader | None, over: Sequence[Span], level: float
) -> Iterator[Samples]:
    """The mix, (2, n) in [-1, 1] at MIX_RATE. own: the film's sound, at `level` in the spans `over`."""
    tapes = [
        Tape(
            one.sound.blocks(MIX_RATE, CHANNELS),
            round(one.at * MIX_RATE),
            round(one.skip * MIX_RATE),
            np.inf if one.until is None else round(one.until * MIX_RATE),
        )
        for one in placed
    ]
    base = None if own is None else Tape(own.blocks(MIX_RATE, CHANNELS), 0)
    times, gains = [-1.0], [1.0]
    for start, end in over:
        times += [float(start) - RAMP, float(start), float(end), float(end) + RAMP]
        gains += [1.0, level, level, 1.0]
    total = round(seconds * MIX_RATE)
    for first in range(0, total, MIX_RATE):
        block = np.zeros((CHANNELS, min(MIX_RATE, total - first)), np.float32)
        if base is not None:
            base.add(first, block)
            when = (first + np.arange(block.shape[1])) / MIX_RATE
            block *= np.interp(when, times, gains).astype(np.float32)
        for tape in tapes:
            tape.add(first, block)
        yield block.clip(-1, 1)


def write_mix(path: Path, blocks: Iterable[Samples]) -> None:
    """The mix as 16-bit WAV; the file appears whole or not at all."""
    write_blocks(path, blocks, MIX_RATE, CHANNELS)
