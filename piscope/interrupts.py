"""Counters of notification vectors, as /proc/interrupts has them by pCPU.

               CPU0       CPU1
    PIN:          2          1   Posted-interrupt notification event
    NPI:          0          0   Nested posted-interrupt event
    PIW:         76         52   Posted-interrupt wakeup event

They come as copies of that file, or as markers in the trace, which the recording
command of `piscope check` writes:

    piscope-interrupts PIN 0=2 1=1

Source: Documentation/filesystems/proc.rst, /proc/interrupts; arch/x86/kernel/irq.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from piscope.errors import TraceFormatError

__all__ = (
    "COUNTERS",
    "MARKER",
    "Counted",
    "Counts",
    "counted_between",
    "read_interrupts",
    "read_marker",
    "read_tables",
)

COUNTERS = ("PIN", "NPI", "PIW")
MARKER = "piscope-interrupts"
"""The first word of a marker's text."""

_MOST_BYTES = 1 << 24

Counts = Mapping[str, Mapping[int, int]]
"""Counter -> pCPU -> count."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters' growth over a capture: counter -> pCPU -> count."""

    growth: Counts


def read_tables(text: str, path: str) -> list[Counts]:
    """Every /proc/interrupts table in a text, in order, the lines of COUNTERS only.

    Raises TraceFormatError, naming the line, for a table that is cut short.
    """
    if len(text) > _MOST_BYTES:
        raise TraceFormatError(
            f"{len(text)} bytes, expected at most {_MOST_BYTES}", path=path
        )
    tables: list[dict[str, dict[int, int]]] = []
    cpus: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and all(re.fullmatch(r"CPU\d{1,5}", word) for word in words):
            cpus = [int(word[3:]) for word in words]
            tables.append({})
            continue
        name = words[0].rstrip(":") if words else ""
        if name not in COUNTERS or not words[0].endswith(":"):
            continue
        values = words[1 : 1 + len(cpus)]
        if not tables or len(values) < len(cpus) or not all(map(_is_count, values)):
            raise TraceFormatError(
                f"{name}: expected a count for each of {len(cpus)} pCPUs",
                path=path,
                line=number,
            )
        tables[-1][name] = dict(zip(cpus, map(int, values), strict=True))
    return [table for table in tables if table]


def _is_count(word: str) -> bool:
    return re.fullmatch(r"\d{1,20}", word) is not None


def counted_between(tables: Sequence[Counts], path: str) -> Counted:
    """The growth from the first of two tables to the second.

    A pCPU that only one of them has counts from 0, as one that went online.

    Raises TraceFormatError unless there are two, and counts do not fall.
    """
    if len(tables) != 2:
        raise TraceFormatError(
            f"{len(tables)} tables with PIN or PIW, expected one before and one after",
            path=path,
        )
    before, after = tables
    growth: dict[str, dict[int, int]] = {}
    for name in COUNTERS:
        was, became = before.get(name, {}), after.get(name, {})
        growth[name] = {cpu: became[cpu] - was.get(cpu, 0) for cpu in sorted(became)}
        if any(value < 0 for value in growth[name].values()):
            raise TraceFormatError(
                f"{name} falls from the first table to the second: swapped, or of "
                "different boots",
                path=path,
            )
    return Counted(growth)


def read_interrupts(path: str) -> Counts:
    """The one /proc/interrupts table in a file.

    Raises TraceFormatError, naming the file and line, for any other number of tables
    and for one that is cut short; OSError where the file can't be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise TraceFormatError(
            f"more than {_MOST_BYTES} bytes, expected /proc/interrupts", path=path
        )
    tables = read_tables(data.decode("utf-8", "replace"), path)
    if len(tables) != 1:
        raise TraceFormatError(
            f"{len(tables)} tables with PIN or PIW, expected one", path=path
        )
    return tables[0]


_COUNT = re.compile(r"(\d{1,5})=(\d{1,20})")


def read_marker(text: str) -> tuple[str, dict[int, int]] | None:
    """A marker's counter, and its counts by pCPU; None: it is no such marker.

    One marker may hold some of the pCPUs only. A word that can't be read makes it none:
    a marker that was cut off must not count as less.
    """
    words = text.split()
    if len(words) < 3 or words[0] != MARKER or words[1] not in COUNTERS:
        return None
    found = [_COUNT.fullmatch(word) for word in words[2:]]
    if not all(found):
        return None
    return words[1], {int(m[1]): int(m[2]) for m in found if m}
