"""A source that can't tell its watermarks, read once and kept beside, on disk.

A text may come in any order, so that its source has no watermark to give: whoever
merges it holds all of it. Once it was read to its end, what each chunk has behind it is
known:

    chunk          1        2        3
    its events     10..19   12..31   25..40
    watermark      12       25       -       the first instant of all later chunks

And a text is slow to decode, but is gone through several times.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.sources.raw import Array, Payload, RawChunk, Source, Wanted

__all__ = ("Spooled",)

_ROWS = ("ts_ns", "cpu", "seq", "tid", "flags", "event")
_MAX_INT64 = (1 << 63) - 1


class Spooled:
    """The chunks of a source, always the same ones, with watermarks.

    Chunks that have some pass through. Others wait until all have come: up to
    `most_rows` of them in memory, to be forgotten then; more in an unnamed temporary
    file, from which they are read from then on.
    """

    def __init__(self, source: Source, most_rows: int) -> None:
        self._source = source
        self._most_rows = most_rows
        self._file: _File | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The source's own chunks; `wanted` is the same each time.

        Raises UsageError where the temporary file would take more than half of the
        free space.
        """
        if self._file is not None:
            yield from self._file.chunks()
            return
        chunks = self._source.chunks(wanted)
        held: list[RawChunk] = []
        rows = 0
        file: _File | None = None
        for chunk in chunks:
            if not held and file is None and chunk.watermark_ns is not None:
                yield chunk
                yield from chunks
                return
            held.append(chunk)
            rows += len(chunk)
            if rows > self._most_rows:
                file = file or _File()
                for waiting in held:
                    file.add(waiting)
                held.clear()
        if file is None:
            yield from _with_watermarks(held)
            return
        for waiting in held:
            file.add(waiting)
        self._file = file
        yield from file.chunks()


def _with_watermarks(chunks: list[RawChunk]) -> Iterator[RawChunk]:
    """The chunks, none of them held on to."""
    behind = _firsts_behind([_first_ns(chunk) for chunk in chunks])
    chunks.reverse()
    for watermark_ns in behind:
        yield replace(chunks.pop(), watermark_ns=watermark_ns)


def _first_ns(chunk: RawChunk) -> int:
    return int(chunk.ts_ns.min()) if len(chunk) else _MAX_INT64


def _firsts_behind(firsts_ns: list[int]) -> list[int | None]:
    """The first instant of all later ones; None behind the last."""
    if not firsts_ns:
        return []
    least_ns = np.minimum.accumulate(np.array(firsts_ns[:0:-1], np.int64))[::-1]
    return [*least_ns.tolist(), None]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array in the file; `words` are those that its numbers stand for."""

    offset: int
    count: int
    dtype: np.dtype[Any]
    words: list[Any] | None = None


@dataclass(slots=True)
class _Words:
    """Values that are no numbers, each once."""

    values: list[Any] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)

    def encoded(self, values: Array) -> npt.NDArray[np.int32]:
        for value in values.tolist():
            if value not in self.numbers:
                self.numbers[value] = len(self.values)
                self.values.append(value)
        numbers = [self.numbers[value] for value in values.tolist()]
        return np.array(numbers, np.int32)


class _File:
    """Chunks in a temporary file that has no name; where each is, is in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="piscope-")  # noqa: SIM115
        self._folder = tempfile.gettempdir()
        self._most_bytes = shutil.disk_usage(self._folder).free // 2
        self._size_bytes = 0
        self._firsts_ns: list[int] = []
        self._stored: list[_StoredChunk] = []
        self._words: dict[tuple[int, str], _Words] = {}

    def add(self, chunk: RawChunk) -> None:
        self._firsts_ns.append(_first_ns(chunk))
        rows = {name: self._store(getattr(chunk, name)) for name in _ROWS}
        payload = {}
        for index, p in chunk.payload.items():
            columns = {
                name: self._store(values, (index, name))
                for name, values in p.columns.items()
            }
            valid = {name: self._store(known) for name, known in p.valid.items()}
            payload[index] = _StoredPayload(self._store(p.rows), columns, valid)
        self._stored.append(_StoredChunk(rows, payload))

    def chunks(self) -> Iterator[RawChunk]:
        self._file.flush()
        behind = _firsts_behind(self._firsts_ns)
        for stored, watermark_ns in zip(self._stored, behind, strict=True):
            payload = {
                index: Payload(
                    self._read(p.rows),
                    {name: self._read(column) for name, column in p.columns.items()},
                    {name: self._read(known) for name, known in p.valid.items()},
                )
                for index, p in stored.payload.items()
            }
            rows = {name: self._read(column) for name, column in stored.rows.items()}
            yield RawChunk(**rows, payload=payload, watermark_ns=watermark_ns)

    def _store(self, values: Array, key: tuple[int, str] | None = None) -> _Stored:
        words: _Words | None = None
        if values.dtype.hasobject:
            assert key is not None
            words = self._words.setdefault(key, _Words())
            values = words.encoded(values)
        data = np.ascontiguousarray(values)
        at = self._size_bytes
        self._size_bytes += data.nbytes
        if self._size_bytes > self._most_bytes:
            raise UsageError(
                "to be read again, the decoded trace needs more than half of the free"
                f" space of {self._folder}: set TMPDIR"
            )
        self._file.write(data.data)
        return _Stored(at, len(data), data.dtype, words.values if words else None)

    def _read(self, stored: _Stored) -> Array:
        if not stored.count:
            return np.empty(0, object if stored.words is not None else stored.dtype)
        data = bytearray(stored.count * stored.dtype.itemsize)
        done = os.preadv(self._file.fileno(), [data], stored.offset)
        if done != len(data):
            raise OSError(f"a temporary file in {self._folder} was cut short")
        values: Array = np.frombuffer(data, stored.dtype)
        if stored.words is None:
            return values
        words = np.empty(len(stored.words), object)
        words[:] = stored.words
        result: Array = words[values]
        return result


@dataclass(frozen=True, slots=True)
class _StoredPayload:
    rows: _Stored
    columns: dict[str, _Stored]
    valid: dict[str, _Stored]


@dataclass(frozen=True, slots=True)
class _StoredChunk:
    rows: dict[str, _Stored]
    payload: dict[int, _StoredPayload]
