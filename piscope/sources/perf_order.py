"""Samples in time order, from a file that is in the order in which perf read them.

perf reads the ring buffers one after the other, again and again, and writes
FINISHED_ROUND after each time. What is written to a buffer while round k is read is
at the latest found in round k + 1:

    file   | cpu0 .. | cpu1 .. | R | cpu0 .. | cpu1 .. | R | cpu0 .. | cpu1 .. | R
             round 1                 round 2                 round 3
                          newest time of round 1 ... nothing older comes from here

To be read beside ordered_events__flush() in tools/perf/util/ordered-events.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_losses import LossLog
from piscope.sources.raw import Payload, RawChunk

__all__ = ("CHUNK_ROWS", "RoundClock", "TimeOrder", "median_of_three")

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

CHUNK_ROWS = 1 << 18
_FLUSH_ROWS = 1 << 12  # fewer are not worth a flush


def median_of_three(ts_ns: Index) -> Index:
    """Each time between its two neighbors replaced by the middle one of the three.

    So a single time that a flipped bit has thrown far ahead or back does not move the
    limits that are taken from it. int64[n]; the first and last stay.
    """
    if len(ts_ns) < 3:
        return ts_ns
    before, here, after = ts_ns[:-2], ts_ns[1:-1], ts_ns[2:]
    low, high = np.minimum(before, here), np.maximum(before, here)
    middle = np.maximum(low, np.minimum(high, after))
    return np.concatenate((ts_ns[:1], middle, ts_ns[-1:]))


class RoundClock:
    """The time before which nothing more comes, by the rounds that have finished.

    limit_ns  None until two rounds have finished
    """

    def __init__(self) -> None:
        self.limit_ns: int | None = None
        self._newest_ns: int | None = None  # of all samples up to now
        self._at_round_ns: int | None = None  # the same, when the last round finished

    def add(self, ts_ns: Index, rounds_at: Index) -> None:
        """Some samples' times in file order, and the rounds that finished among them.

        `rounds_at` is int64[rounds], ascending: how many of the samples came before
        each end of a round.
        """
        if len(ts_ns) < 3:  # too few to tell a flipped bit; lower limits are safe
            ts_ns = ts_ns[:0]
            rounds_at = rounds_at * 0
        newest = np.maximum.accumulate(median_of_three(ts_ns)[1:-1])
        for count in rounds_at.tolist():
            # Of the samples before the round's end, the last has its later neighbor
            # in the next round, which must not count yet.
            done = min(count - 2, len(newest))
            if done > 0:
                self._see(int(newest[done - 1]))
            if self._at_round_ns is not None:
                self.limit_ns = self._at_round_ns
            self._at_round_ns = self._newest_ns
        if len(newest):
            self._see(int(newest[-1]))

    def _see(self, ts_ns: int) -> None:
        if self._newest_ns is None or ts_ns > self._newest_ns:
            self._newest_ns = ts_ns


@dataclass(slots=True)
class _Part:
    columns: dict[str, Array]
    payload: dict[int, Payload]


class TimeOrder:
    """Holds rows back until nothing older can come, and gives them in time order.

    Rows of one time keep their order in the file. A row that comes when later ones
    have been given already is left out and counted; there is one only if the clocks
    of two pCPUs differ by more than a round, or a time is damaged.
    """

    def __init__(self, losses: LossLog) -> None:
        self._losses = losses
        self._parts: list[_Part] = []
        self._held = 0
        self._kept = 0  # rows that the last flush had to keep
        self._given_ns: int | None = None

    @property
    def held(self) -> int:
        """Rows that wait."""
        return self._held

    def add(self, columns: dict[str, Array], payload: dict[int, Payload]) -> None:
        """Rows in any order: the columns of a RawChunk by name, and its payload."""
        part = _Part(columns, payload)
        if self._given_ns is not None:
            late = columns["ts_ns"] < self._given_ns
            if late.any():
                self._losses.add(
                    "damaged",
                    f"{int(late.sum())} events are older than what perf has marked as"
                    " finished before them; left out",
                    start_ns=int(columns["ts_ns"].min()),
                    end_ns=self._given_ns,
                    count=int(late.sum()),
                )
                part = _take(part, np.flatnonzero(~late))
        if len(part.columns["ts_ns"]):
            self._parts.append(part)
            self._held += len(part.columns["ts_ns"])

    def flush(self, limit_ns: int | None, *, force: bool = False) -> Iterator[RawChunk]:
        """Rows before `limit_ns`; None: all rows.

        Waits until as many rows have come as it kept the last time, so that the cost
        of sorting stays in proportion, unless told to `force`.
        """
        if (
            limit_ns is not None
            and not force
            and self._held < 2 * self._kept + _FLUSH_ROWS
        ):
            return
        if not self._parts:
            return
        part = _joined(self._parts)
        ts_ns = part.columns["ts_ns"]
        if (ts_ns[1:] < ts_ns[:-1]).any():
            part = _take(part, np.argsort(ts_ns, kind="stable"))
            ts_ns = part.columns["ts_ns"]
        end = len(ts_ns)
        if limit_ns is not None:
            end = int(np.searchsorted(ts_ns, limit_ns, "left"))
            self._given_ns = limit_ns
        rest = _slice(part, end, len(ts_ns))
        self._parts = [rest] if end < len(ts_ns) else []
        self._held = self._kept = len(ts_ns) - end
        for begin in range(0, end, CHUNK_ROWS):
            stop = min(begin + CHUNK_ROWS, end)
            piece = _slice(part, begin, stop) if stop - begin < len(ts_ns) else part
            # Within a flush, the next piece goes on with the time after this one.
            mark = limit_ns if stop == end else int(ts_ns[stop])
            yield RawChunk(**piece.columns, payload=piece.payload, watermark_ns=mark)


def _joined(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    columns = {
        name: np.concatenate([part.columns[name] for part in parts])
        for name in parts[0].columns
    }
    begins = np.cumsum([0] + [len(part.columns["ts_ns"]) for part in parts])
    payload: dict[int, Payload] = {}
    for event in sorted({event for part in parts for event in part.payload}):
        have = [
            (part.payload[event], int(begin))
            for part, begin in zip(parts, begins[:-1], strict=True)
            if event in part.payload
        ]
        payload[event] = _joined_payload(have)
    return _Part(columns, payload)


def _joined_payload(have: list[tuple[Payload, int]]) -> Payload:
    result = Payload(np.concatenate([p.rows + begin for p, begin in have]), {})
    for name in have[0][0].columns:
        columns = [p.columns[name] for p, _ in have]
        result.columns[name] = np.concatenate(columns)
        if any(name in p.valid for p, _ in have):
            masks = [p.valid.get(name, np.ones(len(p.rows), np.bool_)) for p, _ in have]
            result.valid[name] = np.concatenate(masks)
    return result


# The rows `order` of a part, in that order.
def _take(part: _Part, order: Index) -> _Part:
    place = np.full(len(part.columns["ts_ns"]), -1, np.int64)
    place[order] = np.arange(len(order))
    payload: dict[int, Payload] = {}
    for event, old in part.payload.items():
        rows = place[old.rows]
        inner = np.argsort(rows, kind="stable")
        inner = inner[int(np.searchsorted(rows[inner], 0)) :]
        if len(inner):
            payload[event] = Payload(
                rows[inner],
                {name: column[inner] for name, column in old.columns.items()},
                {name: mask[inner] for name, mask in old.valid.items()},
            )
    columns = {name: column[order] for name, column in part.columns.items()}
    return _Part(columns, payload)


def _slice(part: _Part, begin: int, end: int) -> _Part:
    payload: dict[int, Payload] = {}
    for event, old in part.payload.items():
        first, last = np.searchsorted(old.rows, (begin, end))
        if first < last:
            payload[event] = Payload(
                old.rows[first:last] - begin,
                {name: column[first:last] for name, column in old.columns.items()},
                {name: mask[first:last] for name, mask in old.valid.items()},
            )
    columns = {name: column[begin:end] for name, column in part.columns.items()}
    return _Part(columns, payload)
