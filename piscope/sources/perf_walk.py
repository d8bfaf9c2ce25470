"""Where each record of a stretch of perf.data begins.

    | type u32 | misc u16 | size u16 | body ... | type | misc | size | ...
    '--------------- size ---------------------'

Each record says only where the next one begins, so the chain has to be followed. A
loop does that at about 6 million records a second. Where it is long, it is cut into
segments that are followed all at once, each from a guessed beginning; a guess is
right if the segment before ends there, and else that segment is followed again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_abi import MAX_RECORD_TYPE, RECORD_HEADER_BYTES, Record

__all__ = (
    "FOLLOWED_BY_DATA",
    "MAX_RECORD_BYTES",
    "Walk",
    "find_record",
    "headers_at",
    "walk",
)

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]

Stop = Literal["end", "partial", "data", "damaged"]

MAX_RECORD_BYTES = 0xFFFF

FOLLOWED_BY_DATA = frozenset((Record.TRACING_DATA, Record.AUXTRACE))
"""Records with data behind them that is not a record; a walk stops after one."""

_SEGMENT_WORDS = 512  # of 8 bytes
_PROBE_WORDS = 64
_FAST_BYTES_MIN = 32 * 8 * _SEGMENT_WORDS
_FIRST_BLOCK_BYTES = 1 << 19
# Where walks are short, because there is much to stop at, the loop is cheaper.
_PLAIN_RECORDS = 256

# Types that exist today: to find the chain again, a stricter test than to follow it.
_KNOWN_TYPE = np.zeros(256, np.bool_)
_KNOWN_TYPE[1:23] = True  # PERF_RECORD_MMAP to _CALLCHAIN_DEFERRED
_KNOWN_TYPE[64:91] = True  # those of perf itself
_CHAIN = 4  # records in a row that make a place believable
_SEARCH_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Walk:
    """The whole records found in a stretch of bytes.

    offsets  int64[n], ascending
    end      where the walk stopped: behind the last record, or at a place that
             can't be a record
    stop     "end" of the stretch; "partial": a record goes on behind it; "data": the
             last record is of FOLLOWED_BY_DATA; "damaged": no record begins here
    """

    offsets: Index
    end: int
    stop: Stop


def walk(data: Bytes, at: int, size: int, mark: Literal["<", ">"]) -> Walk:
    """Follow the records of data[at:size]; `mark` is the byte order.

    What it costs is in proportion to how far it comes.

    Source: tools/perf/util/session.c, __perf_session__process_events().
    """
    step = _walk_plain(data, at, size, mark, at_most=_PLAIN_RECORDS)
    parts = [step.offsets]
    stop, at = step.stop, step.end
    block = _FIRST_BLOCK_BYTES
    while stop == "end" and size - at >= _FAST_BYTES_MIN:
        end = min(at + block, size)
        fast = _walk_segments(data[at:end], mark) + at
        headers = _headers(data, mark)[fast]
        behind = np.flatnonzero(np.isin(_types(headers, mark), tuple(FOLLOWED_BY_DATA)))
        if len(behind):
            fast, stop = fast[: int(behind[0]) + 1], "data"
        parts.append(fast)
        if len(fast):
            last = len(fast) - 1
            at = int(fast[last]) + int(_sizes(headers[last : last + 1], mark)[0])
        if at < end - MAX_RECORD_BYTES:
            break  # at something that the loop has to look at
        block *= 8
    if stop == "end":
        step = _walk_plain(data, at, size, mark)
        parts.append(step.offsets)
        stop, at = step.stop, step.end
    return Walk(np.concatenate(parts), at, stop)


def _walk_plain(
    data: Bytes, at: int, size: int, mark: str, at_most: int = 1 << 62
) -> Walk:
    unpack = struct.Struct(mark + "IHH").unpack_from
    view = data.data
    offsets: list[int] = []
    stop: Stop = "end"
    while at < size and len(offsets) < at_most:
        if at + RECORD_HEADER_BYTES > size:
            stop = "partial"
            break
        kind, _, length = unpack(view, at)
        if length < RECORD_HEADER_BYTES or not 0 < kind <= MAX_RECORD_TYPE:
            stop = "damaged"
            break
        if at + length > size:
            stop = "partial"
            break
        offsets.append(at)
        at += length
        if kind in FOLLOWED_BY_DATA:
            stop = "data"
            break
    return Walk(np.array(offsets, np.int64), at, stop)


def headers_at(data: Bytes, offsets: Index, mark: str) -> npt.NDArray[np.uint64]:
    """The 8 bytes of each record header, as one number in the given byte order."""
    return _headers(data, mark)[offsets].astype(np.uint64, copy=False)


# The u64 that begins at each byte; indexing it gathers at any alignment.
def _headers(data: Bytes, mark: str) -> npt.NDArray[np.uint64]:
    count = max(len(data) - 7, 0)
    return np.ndarray((count,), mark + "u8", data.data, strides=(1,))


def _types(headers: npt.NDArray[np.uint64], mark: str) -> npt.NDArray[Any]:
    return headers & 0xFFFFFFFF if mark == "<" else headers >> np.uint64(32)


def _sizes(headers: npt.NDArray[np.uint64], mark: str) -> npt.NDArray[Any]:
    return headers >> np.uint64(48) if mark == "<" else headers & 0xFFFF


# Offsets of the records at the beginning of `data` whose sizes are multiples of 8,
# up to the first that isn't, is no record, or isn't whole. All else is left to
# _walk_plain.
def _walk_segments(data: Bytes, mark: str) -> Index:
    words = data[: len(data) & -8].view(mark + "u8")
    lanes = len(words) // _SEGMENT_WORDS
    begins = np.arange(lanes, dtype=np.int64) * _SEGMENT_WORDS
    limits = begins + _SEGMENT_WORDS
    starts = _guess(words[: lanes * _SEGMENT_WORDS].reshape(lanes, -1), mark)
    starts += begins
    starts[0] = 0
    steps, exits = _follow(words, starts, limits, mark)
    positions = _joined(words, starts, steps, exits, mark)

    headers = words[positions]
    types, sizes = _types(headers, mark), _sizes(headers, mark).astype(np.int64)
    good = (types > 0) & (types <= MAX_RECORD_TYPE) & (sizes >= RECORD_HEADER_BYTES)
    good &= (sizes & 7 == 0) & (positions * 8 + sizes <= len(data))
    if not good.all():
        positions = positions[: int(good.argmin())]
    return positions * 8


# In each segment, the first word that looks like the header of a sample.
def _guess(segments: npt.NDArray[np.uint64], mark: str) -> Index:
    first = np.zeros(len(segments), np.int64)
    open_lanes = np.arange(len(segments))
    for columns in (slice(0, _PROBE_WORDS), slice(_PROBE_WORDS, None)):
        part = segments[open_lanes, columns]
        sizes = _sizes(part, mark)
        looks = (_types(part, mark) == Record.SAMPLE) & (sizes & 7 == 0) & (sizes > 8)
        found = looks.any(axis=1)
        first[open_lanes[found]] = looks[found].argmax(axis=1) + (columns.start or 0)
        open_lanes = open_lanes[~found]
        if len(open_lanes) == 0:
            break
    return first


# Follow every segment to its end: int64[steps, lanes] of positions (-1: finished),
# and where each left its segment.
def _follow(
    words: npt.NDArray[np.uint64], starts: Index, limits: Index, mark: str
) -> tuple[Index, Index]:
    rows: list[Index] = []
    exits = starts.copy()
    lanes = np.arange(len(starts))
    at = starts
    while len(lanes):
        row = np.full(len(starts), -1, np.int64)
        row[lanes] = at
        rows.append(row)
        sizes = (_sizes(words[at], mark) >> np.uint64(3)).view(np.int64)
        at = at + np.maximum(sizes, 1)  # 0 is damage: seen later, but do get on
        inside = at < limits[lanes]
        if not inside.all():
            exits[lanes[~inside]] = at[~inside]
            lanes, at = lanes[inside], at[inside]
    return np.array(rows), exits


# All positions in order, with the segments that were followed from a wrong guess
# followed again from where the segment before them ends.
def _joined(
    words: npt.NDArray[np.uint64],
    starts: Index,
    steps: Index,
    exits: Index,
    mark: str,
) -> Index:
    by_lane = steps.T
    wrong = np.flatnonzero(starts[1:] != exits[:-1]) + 1
    parts: list[Index] = []
    done = 0  # lanes whose positions are in `parts`
    for first_wrong in wrong.tolist():
        if first_wrong < done or starts[first_wrong] == exits[first_wrong - 1]:
            continue  # it has been reached, from a segment that was followed again
        parts.append(_flat(by_lane[done:first_wrong]))
        lane, at = first_wrong, int(exits[first_wrong - 1])
        while lane < len(starts) and int(starts[lane]) != at:
            again: list[int] = []
            limit = (lane + 1) * _SEGMENT_WORDS
            while at < limit:
                again.append(at)
                at += max(int(_sizes(words[at : at + 1], mark)[0]) >> 3, 1)
            parts.append(np.array(again, np.int64))
            exits[lane] = at
            lane += 1
        done = lane
    parts.append(_flat(by_lane[done:]))
    return np.concatenate(parts)


def _flat(by_lane: Index) -> Index:
    return by_lane[by_lane >= 0]


def find_record(data: Bytes, at: int, size: int, mark: Literal["<", ">"]) -> int | None:
    """The first place in data[at:size] from where records can be followed again.

    Believable are records of known types, four in a row or up to the end of the
    stretch. The search goes on block by block, so that its cost is that of the bytes
    that are skipped.
    """
    headers = _headers(data[:size], mark)
    while at < len(headers):
        end = min(at + _SEARCH_BYTES, len(headers))
        # Nearly all places are ruled out by the one byte of the type that isn't 0.
        low = at if mark == "<" else at + 3
        places = np.flatnonzero(_KNOWN_TYPE[data[low : low + end - at]]) + at
        places = places[_believable(headers[places], mark)]
        places = places[_chain_holds(headers, places, size, mark)]
        if len(places):
            return int(places[0])
        at = end
    return None


def _believable(headers: npt.NDArray[np.uint64], mark: str) -> npt.NDArray[np.bool_]:
    types = _types(headers, mark)
    known = _KNOWN_TYPE[np.minimum(types, 0xFF).astype(np.uint8)]
    result: npt.NDArray[np.bool_] = known & (_sizes(headers, mark) >= 8)
    return result


# Which of the places are followed by believable records, or by the end of the
# stretch: exactly, or after a hop or two.
def _chain_holds(
    headers: npt.NDArray[np.uint64], places: Index, size: int, mark: str
) -> npt.NDArray[np.bool_]:
    holds = np.ones(len(places), np.bool_)
    active = np.arange(len(places))
    here = places.copy()
    for hop in range(_CHAIN - 1):
        here[active] += _sizes(headers[here[active]], mark).astype(np.int64)
        inside = here[active] < len(headers)
        left = active[~inside]
        holds[left] = (here[left] == size) | (hop > 0)
        active = active[inside]
        good = _believable(headers[here[active]], mark)
        holds[active[~good]] = False
        active = active[good]
    return holds
