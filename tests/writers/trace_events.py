"""Tracepoints for the writers of trace files: their format texts, and their records.

Written from kernel/trace/trace_events.c (f_show) and trace_events.h, independently
of the readers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Endian = Literal["little", "big"]

COMMON = (
    ("unsigned short", "common_type", 2, False),
    ("unsigned char", "common_flags", 1, False),
    ("unsigned char", "common_preempt_count", 1, False),
    ("int", "common_pid", 4, True),
)


@dataclass(frozen=True)
class Tracepoint:
    """`fields` are (C type, name) in order; arrays are written as `char name[16]`.

    A `long` is as long as the kernel's. `gap` puts unused bytes before each field.
    """

    system: str
    name: str
    id: int
    fields: tuple[tuple[str, str], ...]
    gap: int = 0

    def placed(self, long_size: int) -> list[tuple[str, str, int, int, bool]]:
        """(declaration, bare name, offset, size, signed) of each field."""
        rows = []
        offset = 8
        for c_type, name in self.fields:
            size, align, signed = _size_of(c_type, name, long_size)
            offset = -(-(offset + self.gap) // align) * align
            bare = name.split("[")[0]
            rows.append((f"{c_type} {name}", bare, offset, size, signed))
            offset += size
        return rows

    def format(self, long_size: int) -> str:
        """The text of events/SYSTEM/NAME/format."""
        lines = [f"name: {self.name}", f"ID: {self.id}", "format:"]
        offset = 0
        for c_type, name, size, signed in COMMON:
            lines.append(_field_line(f"{c_type} {name}", offset, size, signed))
            offset += size
        lines.append("")
        for declaration, _, at, size, signed in self.placed(long_size):
            lines.append(_field_line(declaration, at, size, signed))
        shown = ", ".join(f"REC->{row[1]}" for row in self.placed(long_size))
        lines += ["", f'print fmt: "{self.name}", {shown}', ""]
        return "\n".join(lines)


@dataclass(frozen=True)
class Event:
    """One tracepoint hit: `ts` in ticks of the trace clock."""

    name: str
    ts: int
    cpu: int
    tid: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    flags: int = 0


def record_of(event: Event, point: Tracepoint, endian: Endian, long_size: int) -> bytes:
    """The record of an event, as it lies in a ring buffer."""
    order = "<" if endian == "little" else ">"
    head = struct.pack(order + "HBBi", point.id, event.flags, 0, event.tid)
    rows = point.placed(long_size)
    end = max((at + size for _, _, at, size, _ in rows), default=8)
    record = bytearray(head.ljust(end, b"\0"))
    for declaration, name, at, size, _ in rows:
        value = event.fields.get(name, 0)
        if declaration.startswith(("__data_loc", "__rel_loc")):
            data = _bytes_of(value)
            if "char" in declaration:
                data += b"\0"
            base = 0 if declaration.startswith("__data_loc") else at + 4
            place = len(data) << 16 | (len(record) - base)
            record[at : at + 4] = struct.pack(order + "I", place)
            record += data
        elif "[" in declaration:
            record[at : at + size] = _bytes_of(value)[:size].ljust(size, b"\0")
        else:
            mask = (1 << 8 * size) - 1
            record[at : at + size] = (int(value) & mask).to_bytes(size, endian)
    return bytes(record)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else b""


def _field_line(declaration: str, offset: int, size: int, signed: bool) -> str:
    return (
        f"\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:{int(signed)};"
    )


def _size_of(c_type: str, name: str, long_size: int) -> tuple[int, int, bool]:
    if c_type.startswith(("__data_loc", "__rel_loc")):
        return 4, 4, False
    signed = not c_type.startswith(("unsigned", "u", "bool"))
    size = {
        "char": 1,
        "u8": 1,
        "bool": 1,
        "unsigned char": 1,
        "short": 2,
        "u16": 2,
        "int": 4,
        "pid_t": 4,
        "u32": 4,
        "unsigned int": 4,
        "u64": 8,
        "s64": 8,
        "long": long_size,
        "unsigned long": long_size,
    }[c_type]
    align = size
    if "[" in name:
        size *= int(name.split("[")[1].rstrip("]"))
    return size, align, signed and c_type != "char"


POINTS = (
    Tracepoint(
        "sched",
        "sched_switch",
        305,
        (
            ("char", "prev_comm[16]"),
            ("pid_t", "prev_pid"),
            ("int", "prev_prio"),
            ("long", "prev_state"),
            ("char", "next_comm[16]"),
            ("pid_t", "next_pid"),
            ("int", "next_prio"),
        ),
    ),
    Tracepoint(
        "sched",
        "sched_migrate_task",
        306,
        (
            ("__data_loc char[]", "comm"),
            ("pid_t", "pid"),
            ("int", "orig_cpu"),
            ("int", "dest_cpu"),
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_entry",
        1600,
        (("unsigned int", "vcpu_id"), ("unsigned long", "rip"), ("bool", "immediate")),
    ),
    Tracepoint(
        "kvm",
        "kvm_exit",
        1601,
        (
            ("unsigned int", "exit_reason"),
            ("unsigned long", "guest_rip"),
            ("u32", "isa"),
            ("u64", "info1"),
            ("u64", "info2"),
            ("u32", "intr_info"),
            ("unsigned int", "vcpu_id"),
        ),
    ),
    Tracepoint(
        "test",
        "all_kinds",
        1700,
        (
            ("u8", "bytes[6]"),
            ("short", "minus"),
            ("__rel_loc char[]", "relative"),
            ("__data_loc u8[]", "blob"),
            ("s64", "wide"),
            ("u16", "narrow"),
        ),
        gap=1,
    ),
    Tracepoint("test", "empty", 1701, ()),
)
"""Events of every kind of field; `gap` gives one its alignment gaps."""

BY_NAME = {point.name: point for point in POINTS}
