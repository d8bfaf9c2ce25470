"""Ranges of counts by a number, such as a VM-exit reason, that add up part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from piscope.report.summary import Bounds
from piscope.sources.raw import Array

__all__ = ("BoundsBy", "bounds_of")

_NARROW = 1 << 16
# Numbers that lie so close together are counted without being sorted.


def bounds_of(surely: npt.NDArray[np.bool_], maybe: npt.NDArray[np.bool_]) -> Bounds:
    """How many rows (bool[n] twice) are so for sure, and how many may be."""
    return Bounds(int(np.count_nonzero(surely)), int(np.count_nonzero(maybe)))


class BoundsBy:
    """Ranges by number; what was never counted is 0."""

    def __init__(self) -> None:
        self._found: dict[int, Bounds] = {}

    def add(
        self,
        key: Array,
        surely: npt.NDArray[np.bool_],
        maybe: npt.NDArray[np.bool_],
    ) -> None:
        """Count rows, [n] each: their numbers, whether they count surely, or maybe."""
        for number, n in _counted(key[surely]):
            self._found[number] = self[number] + Bounds(n, 0)
        for number, n in _counted(key[maybe]):
            self._found[number] = self[number] + Bounds(0, n)

    def __getitem__(self, number: int) -> Bounds:
        return self._found.get(number, Bounds())

    def items(self) -> list[tuple[int, Bounds]]:
        """Numbers that something may be counted for, ascending, with the ranges."""
        found = [(k, b) for k, b in self._found.items() if b.max]
        return sorted(found, key=lambda item: item[0])


def _counted(key: Array) -> Iterator[tuple[int, int]]:
    if not len(key):
        return
    least = int(key.min())
    if int(key.max()) - least < _NARROW:
        times = np.bincount(key - least)
        numbers = np.flatnonzero(times)
        yield from zip((numbers + least).tolist(), times[numbers].tolist(), strict=True)
    else:
        numbers, times = np.unique(key, return_counts=True)
        yield from zip(numbers.tolist(), times.tolist(), strict=True)
