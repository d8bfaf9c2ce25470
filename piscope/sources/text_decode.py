"""Columns of text to typed columns: decimal, hexadecimal, names, and what is neither.

Each decoder takes the captured bytes of many lines and gives an array of the wanted
type, with a mask of the values that are good (None: all are). A value that the type
can't hold is not good; nothing wraps and nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array

__all__ = (
    "Decoded",
    "Decoder",
    "decimals",
    "flags_given",
    "hexadecimals",
    "looked_up",
    "numbers",
    "read_once",
    "signed_hexadecimals",
    "strings",
    "words",
)

Mask = npt.NDArray[np.bool_]
Decoded = tuple[Array, Mask | None]
Decoder = Callable[[Sequence[bytes], str], Decoded]

_NUMBER = re.compile(rb"(0x[0-9a-fA-F]{1,16})|(-?[0-9]{1,20})")


def decimals(values: Sequence[bytes], dtype: str) -> Decoded:
    """Decimal integers, signed or not."""
    try:
        return _fitted(list(map(int, values)), dtype)
    except ValueError:
        return _one_by_one(values, dtype, int)


def hexadecimals(values: Sequence[bytes], dtype: str) -> Decoded:
    """Hexadecimal integers, with or without 0x."""
    widths = set(map(len, values))
    if widths in ({8}, {16}):  # %08x, %016llx: all at once
        try:
            packed = bytes.fromhex(b"".join(values).decode("ascii"))
        except ValueError:
            return _one_by_one(values, dtype, _hexadecimal)
        wide = np.frombuffer(packed, ">u4" if widths == {8} else ">u8")
        if int(wide.max()) <= _bounds(dtype)[1]:
            return wide.astype(dtype), None
    try:
        return _fitted([int(value, 16) for value in values], dtype)
    except ValueError:
        return _one_by_one(values, dtype, _hexadecimal)


def signed_hexadecimals(values: Sequence[bytes], dtype: str) -> Decoded:
    """Hexadecimal images of int64: 0xffffffffffffffea is -22."""
    array, good = hexadecimals(values, "u8")
    return array.view(np.int64).astype(dtype), good


def numbers(values: Sequence[bytes], dtype: str) -> Decoded:
    """Integers that say themselves what they are: 0x.. or decimal."""
    return _one_by_one(values, dtype, _number)


def flags_given(values: Sequence[bytes], dtype: str) -> Decoded:
    """1 where the text has the words that stand for the flag, else 0."""
    return np.fromiter(map(bool, values), dtype, len(values)), None


def words(values: Sequence[bytes], dtype: str) -> Decoded:
    """Text of a char[N] field: bytes of dtype S<N>."""
    return np.array(values, dtype), None


def strings(values: Sequence[bytes], dtype: str) -> Decoded:
    """Text of a dynamic string: str objects."""
    array = np.empty(len(values), object)
    array[:] = [value.decode("utf-8", "replace") for value in values]
    return array, None


def looked_up(table: Mapping[bytes, int]) -> Decoder:
    """A decoder of the names in `table`; a number stands for itself."""

    def decode(values: Sequence[bytes], dtype: str) -> Decoded:
        found = [table.get(value) for value in values]
        if None not in found:
            return np.array(found, dtype), None
        return _one_by_one(values, dtype, lambda v: table.get(v, _number(v)))

    return decode


def read_once(
    read: Callable[[bytes], int | None],
) -> Decoder:
    """A decoder that asks `read` once for each different text; lines repeat."""

    def decode(values: Sequence[bytes], dtype: str) -> Decoded:
        known = {value: read(value) for value in set(values)}
        array = np.array([known[value] or 0 for value in values], dtype)
        if None not in known.values():
            return array, None
        good = np.array([known[value] is not None for value in values], bool)
        return array, good

    return decode


def _hexadecimal(value: bytes) -> int | None:
    try:
        return int(value, 16)
    except ValueError:
        return None


def _number(value: bytes) -> int | None:
    match = _NUMBER.fullmatch(value)
    if match is None:
        return None
    return int(value, 16) if match[1] else int(value)


def _fitted(numbers: Sequence[int], dtype: str) -> Decoded:
    if not numbers:
        return np.zeros(0, dtype), None
    low, high = _bounds(dtype)
    if min(numbers) >= low and max(numbers) <= high:
        return np.array(numbers, dtype), None
    return _masked(numbers, dtype)


def _one_by_one(
    values: Sequence[bytes], dtype: str, read: Callable[[bytes], int | None]
) -> Decoded:
    found: list[int | None] = []
    for value in values:
        try:
            found.append(read(value))
        except ValueError:
            found.append(None)
    return _masked(found, dtype)


def _masked(numbers: Sequence[int | None], dtype: str) -> Decoded:
    low, high = _bounds(dtype)
    good = np.fromiter(
        (number is not None and low <= number <= high for number in numbers),
        bool,
        len(numbers),
    )
    array = np.array(
        [n if ok else 0 for n, ok in zip(numbers, good.tolist(), strict=True)], dtype
    )
    return array, None if good.all() else good


def _bounds(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)
