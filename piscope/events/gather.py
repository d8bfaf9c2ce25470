"""A whole trace's events as columns that grow while chunks arrive.

What a chunk brings is copied behind what came before, and the chunk is dropped, so that
the trace is in memory once and not once in pieces and once as a whole.
"""

from __future__ import annotations

import contextlib
import mmap
import sys

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Payload, RawChunk

__all__ = ("Gathered",)

_INT32_MAX = int(np.iinfo(np.int32).max)

# Smaller columns are copied when they grow.
_MAPPED_BYTES = 1 << 22

# On Linux a mapping grows without its pages being copied, or twice in memory meanwhile.
_MAP_GROWS = sys.platform.startswith("linux")


class _Column:
    """An array that grows at its end; room that is not used yet takes no memory."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._room: Array = np.empty(0, dtype)
        self._map: mmap.mmap | None = None
        self._length = 0

    def extend(self, values: Array) -> None:
        self._fit(values.dtype)
        end = self._length + len(values)
        if end > len(self._room):
            self._grow(max(end, 2 * len(self._room)))
        self._room[self._length : end] = values
        self._length = end

    def values(self) -> Array:
        """All values so far; the column must not grow while they are in use."""
        return self._room[: self._length]

    def _grow(self, length: int) -> None:
        dtype = self._room.dtype
        size = length * dtype.itemsize
        if self._map is not None:
            # a mapping that an array looks into can't be moved
            self._room = np.empty(0, dtype)
            self._map.resize(size)
        elif _MAP_GROWS and size >= _MAPPED_BYTES and not dtype.hasobject:
            self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            # far fewer page faults, where the system has huge pages
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
        else:
            room = np.empty(length, dtype)
            room[: self._length] = self.values()
            self._room = room
            return
        room = np.frombuffer(self._map, dtype, length)
        room[: len(self._room)] = self._room  # what was not mapped so far
        self._room = room

    def _fit(self, dtype: np.dtype[np.generic]) -> None:
        old = self._room.dtype
        if dtype == old:
            return
        wide = np.result_type(old, dtype)
        kinds = {old.kind, dtype.kind}
        if wide.kind not in kinds or (len(kinds) > 1 and wide.kind not in "iu"):
            # Texts only: a key whose values are numbers in one chunk and words in the
            # next, or int64 beside uint64, which numpy would turn into float64.
            wide = np.dtype(object)
        if wide != old:
            self._room = self.values().astype(wide)
            self._map = None


class _Fields:
    """The payloads of one event."""

    def __init__(self) -> None:
        self._rows = _Column(np.int32)
        self._columns: dict[str, _Column] = {}
        # Only of the columns of which a value is missing.
        self._valid: dict[str, _Column] = {}
        self._length = 0

    def extend(self, payload: Payload, first_row: int) -> None:
        count = len(payload.rows)
        rows = payload.rows + first_row
        narrow = first_row + int(payload.rows[-1]) <= _INT32_MAX if count else True
        self._rows.extend(rows.astype(np.int32) if narrow else rows)
        for name, values in payload.columns.items():
            if name not in self._columns:
                self._columns[name] = _Column(values.dtype)
                if self._length:
                    self._columns[name].extend(np.zeros(self._length, values.dtype))
                    self._known(name, np.zeros(self._length, np.bool_), 0)
            self._columns[name].extend(values)
            known = payload.valid.get(name)
            if known is not None or name in self._valid:
                known = np.ones(count, np.bool_) if known is None else known
                self._known(name, known, self._length)
        for name, column in self._columns.items():
            if name not in payload.columns:
                column.extend(np.zeros(count, column.values().dtype))
                self._known(name, np.zeros(count, np.bool_), self._length)
        self._length += count

    def _known(self, name: str, known: npt.NDArray[np.bool_], before: int) -> None:
        if name not in self._valid:
            self._valid[name] = _Column(np.bool_)
            self._valid[name].extend(np.ones(before, np.bool_))
        self._valid[name].extend(known)

    def payload(self) -> Payload:
        valid = {name: column.values() for name, column in self._valid.items()}
        return Payload(
            self._rows.values(),
            {name: column.values() for name, column in self._columns.items()},
            {name: known for name, known in valid.items() if not known.all()},
        )


class Gathered:
    """Chunks that follow one another, as one; without the numbers in their buffers."""

    def __init__(self) -> None:
        self._ts_ns = _Column(np.int64)
        self._cpu, self._tid = _Column(np.int32), _Column(np.int32)
        self._flags, self._event = _Column(np.uint8), _Column(np.uint16)
        self._fields: dict[int, _Fields] = {}
        self._length = 0

    def extend(self, chunk: RawChunk) -> None:
        """Add a chunk's rows behind those that came before."""
        self._ts_ns.extend(chunk.ts_ns)
        self._cpu.extend(chunk.cpu)
        self._tid.extend(chunk.tid)
        self._flags.extend(chunk.flags)
        self._event.extend(chunk.event)
        for index, payload in chunk.payload.items():
            if index not in self._fields:
                self._fields[index] = _Fields()
            self._fields[index].extend(payload, self._length)
        self._length += len(chunk)

    def whole(self) -> RawChunk:
        """All rows so far. A value that only some of an event's payloads have is
        marked invalid in the rows of the others; `seq` is empty, and the rows of
        payloads are int32 while all of them fit.
        """
        return RawChunk(
            ts_ns=self._ts_ns.values(),
            cpu=self._cpu.values(),
            seq=np.empty(0, np.int64),
            tid=self._tid.values(),
            flags=self._flags.values(),
            event=self._event.values(),
            payload={i: fields.payload() for i, fields in self._fields.items()},
        )
