"""Protobuf messages by the million: one template, a row of numbers for each message.

    rows = message(1, varint(8, ts_ns), constant(sequence), message(11, kind, name))
    file.write(rows.to_bytes())

A message with the same fields in every row is laid out once as a matrix: a row for each
message, a column for each byte that one of them may need. Which bytes a row does need
is a second matrix, and the bytes it keeps are what protobuf itself would write; a test
holds them to that. Field numbers come from the definitions, never from here.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array

__all__ = ("Rows", "constant", "fixed64", "message", "optional", "tag", "varint")

_VARINT, _FIXED64, _LENGTH = 0, 1, 2  # wire types
_MOST_BYTES = 10  # of a varint of 64 bits


@dataclass(slots=True)
class Rows:
    """Bytes of many messages.

    parts  (data uint8[n or 1, w], keep bool[n or 1, w]), side by side
    size   int64[n], or a number where all have the same: bytes kept in each row
    """

    parts: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]
    size: Array | int

    def to_bytes(self) -> bytes:
        """All messages, one behind the other."""
        lengths = {len(data) for data, _ in self.parts}
        n = 0 if 0 in lengths else max(lengths, default=0)
        if not n:
            return b""
        width = sum(data.shape[1] for data, _ in self.parts)
        all_data, all_keep = np.empty((n, width), np.uint8), np.empty((n, width), bool)
        column = 0
        for data, keep in self.parts:
            at = slice(column, column + data.shape[1])
            all_data[:, at], all_keep[:, at] = data, keep
            column = at.stop
        return all_data[all_keep].tobytes()


def tag(number: int, wire_type: int) -> bytes:
    """The key before a field's value."""
    return _varint_bytes(number << 3 | wire_type)


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def constant(value: bytes) -> Rows:
    """The same bytes in every row: fields that were serialized before."""
    data = np.frombuffer(value, np.uint8)[None, :]
    return Rows([(data, np.ones_like(data, bool))], len(value))


def varint(number: int, values: Array) -> Rows:
    """A field of any of protobuf's varint types, values not negative.

    Raises ValueError for a negative value: as an int64 it would need ten bytes.
    """
    if values.min(initial=0) < 0:
        raise ValueError(f"field {number}: {values.min()} is negative")
    head = constant(tag(number, _VARINT))
    body = _varint_rows(values)
    return Rows(head.parts + body.parts, body.size + head.size)


def _varint_rows(values: Array) -> Rows:
    values = values.astype(np.uint64)
    top = int(values.max(initial=0))
    width = max(-(-top.bit_length() // 7), 1)
    assert width <= _MOST_BYTES
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    groups = values[:, None] >> shifts
    keep = groups > 0
    keep[:, 0] = True
    data = (groups & np.uint64(0x7F)).astype(np.uint8)
    data[:, :-1] |= keep[:, 1:].astype(np.uint8) << 7
    return Rows([(data, keep)], keep.sum(axis=1))


def fixed64(number: int, values: Array) -> Rows:
    """A field of fixed64."""
    head = constant(tag(number, _FIXED64))
    data = values.astype("<u8")[:, None].view(np.uint8)
    return Rows([*head.parts, (data, np.ones_like(data, bool))], 8 + head.size)


def optional(which: npt.NDArray[np.bool_], rows: Rows) -> Rows:
    """The rows where `which` (bool[n]) says so; nothing in the others."""
    parts = [(data, keep & which[:, None]) for data, keep in rows.parts]
    return Rows(parts, np.where(which, rows.size, 0))


def message(number: int, *fields: Rows) -> Rows:
    """A field that is a message of these fields, in the order of their numbers."""
    size: Array | int = sum((field.size for field in fields), start=0)
    head = constant(tag(number, _LENGTH))
    if isinstance(size, int):
        length = constant(_varint_bytes(size))
    else:
        length = _varint_rows(size)
    return Rows(_joined((head, length, *fields)), head.size + length.size + size)


def _joined(
    rows: Sequence[Rows],
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
    return [part for each in rows for part in each.parts]
