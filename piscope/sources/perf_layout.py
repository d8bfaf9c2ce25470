"""Where a sample's values lie, for each sample_type, and which attr it belongs to.

    header 8 | IDENTIFIER | IP | TID | TIME | ADDR | ID | STREAM_ID | CPU | PERIOD
             | READ | CALLCHAIN | RAW: u32 size, tracepoint record | ...

Each value is there only if its bit is set in the attr's sample_type; up to PERIOD
each takes 8 bytes. READ and CALLCHAIN have their own lengths.

To be read beside perf_output_sample() in kernel/events/core.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_abi import (
    RECORD_HEADER_BYTES,
    PerfAttr,
    ReadFormat,
    SampleType,
)

__all__ = ("Gather", "SampleLayout", "id_offset", "trailer_offsets")

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FIXED_ORDER = (
    SampleType.IDENTIFIER,
    SampleType.IP,
    SampleType.TID,
    SampleType.TIME,
    SampleType.ADDR,
    SampleType.ID,
    SampleType.STREAM_ID,
    SampleType.CPU,
    SampleType.PERIOD,
)
# sample_id_all: the same values again at the end of all other records.
_TRAILER_ORDER = (
    SampleType.TID,
    SampleType.TIME,
    SampleType.ID,
    SampleType.STREAM_ID,
    SampleType.CPU,
    SampleType.IDENTIFIER,
)


class Gather:
    """Reads integers at many byte places of one buffer, at any alignment.

    Every place must have been found to lie inside the buffer.
    """

    def __init__(self, data: Bytes, mark: Literal["<", ">"]) -> None:
        self._data = data
        self._mark = mark
        self._views: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, kind: str, at: Index) -> npt.NDArray[Any]:
        """The integers of numpy kind `u1`, `u2`, `u4`, `i4` or `u8` at `at`."""
        view = self._views.get(kind)
        if view is None:
            # One item begins at each byte. Indexing such a view takes 5 ns an item,
            # as much as an aligned one.
            dtype = np.dtype(self._mark + kind)
            count = max(len(self._data) - dtype.itemsize + 1, 0)
            view = np.ndarray((count,), dtype, self._data.data, strides=(1,))
            self._views[kind] = view
        gathered = view[at]
        return gathered.astype(gathered.dtype.newbyteorder("="), copy=False)


class SampleLayout:
    """The places of a sample's values for one sample_type and read_format."""

    def __init__(self, sample_type: int, read_format: int) -> None:
        self._sample_type = sample_type
        self._read_format = read_format
        self._offsets: dict[int, int] = {}
        at = RECORD_HEADER_BYTES
        for bit in _FIXED_ORDER:
            if sample_type & bit:
                self._offsets[bit] = at
                at += 8
        self.fixed_end = at

    def offset(self, bit: SampleType) -> int | None:
        """Where a value lies, from the record's beginning; None: it isn't there."""
        return self._offsets.get(bit)

    def raw_places(
        self, gather: Gather, starts: Index, sizes: Index
    ) -> tuple[Index, Index, Mask]:
        """Where the RAW records lie, how long they are, and which do lie inside.

        int64[n] twice and bool[n]; the first two mean nothing where the last is
        False.
        """
        ends = starts + sizes
        at = starts + self.fixed_end
        inside = at <= ends
        if self._sample_type & SampleType.READ:
            at, inside = self._after_read(gather, at, ends, inside)
        if self._sample_type & SampleType.CALLCHAIN:
            at, inside = _after_array(gather, at, ends, inside, extra=0, item_bytes=8)
        inside = inside & (at + 4 <= ends)
        if inside.all():
            lengths = gather("u4", at).astype(np.int64)
        else:
            lengths = gather("u4", np.where(inside, at, 0)).astype(np.int64)
        at = at + 4
        inside &= at + lengths <= ends
        return at, lengths, inside

    # READ: { value, [enabled], [running], [id], [lost] }, or in a group
    # { nr, [enabled], [running], nr x { value, [id], [lost] } }
    def _after_read(
        self, gather: Gather, at: Index, ends: Index, inside: Mask
    ) -> tuple[Index, Mask]:
        form = self._read_format
        times = bool(form & ReadFormat.TOTAL_TIME_ENABLED) + bool(
            form & ReadFormat.TOTAL_TIME_RUNNING
        )
        member = 8 * (1 + bool(form & ReadFormat.ID) + bool(form & ReadFormat.LOST))
        if not form & ReadFormat.GROUP:
            at = at + 8 * times + member
            return at, inside & (at <= ends)
        return _after_array(
            gather, at, ends, inside, extra=8 * times, item_bytes=member
        )


# Behind { u64 n, extra bytes, n items }.
def _after_array(
    gather: Gather, at: Index, ends: Index, inside: Mask, *, extra: int, item_bytes: int
) -> tuple[Index, Mask]:
    room = ends - at - 8 - extra
    inside = inside & (room >= 0)
    counts = gather("u8", np.where(inside, at, 0))
    inside &= counts <= (np.maximum(room, 0) // item_bytes).astype(np.uint64)
    counts = np.where(inside, counts, 0).astype(np.int64)
    return at + 8 + extra + item_bytes * counts, inside


def id_offset(attrs: Sequence[PerfAttr]) -> int | None:
    """Where every sample carries the id of its attr; None: not all at one place."""
    places = set()
    for attr in attrs:
        layout = SampleLayout(attr.sample_type, attr.read_format)
        identifier = layout.offset(SampleType.IDENTIFIER)
        places.add(layout.offset(SampleType.ID) if identifier is None else identifier)
    return places.pop() if len(places) == 1 else None


def trailer_offsets(sample_type: int) -> dict[int, int]:
    """sample_id_all: bit -> bytes before the record's end at which its value begins.

    Source: perf_event__output_id_sample() in kernel/events/core.c.
    """
    offsets: dict[int, int] = {}
    at = 0
    for bit in reversed(_TRAILER_ORDER):
        if sample_type & bit:
            at += 8
            offsets[bit] = at
    return offsets
