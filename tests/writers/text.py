"""Writes a list of events as the text of each tool, column by column.

Written from trace_print_context() and lat_print_generic() of
kernel/trace/trace_output.c, from trace-cmd's report and from perf's
perf_sample__fprintf_start(), independently of the reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

IRQS_OFF, HARDIRQ, SOFTIRQ = 0x01, 0x08, 0x10


@dataclass(frozen=True)
class Event:
    """One event; `text` is the payload as the kernel's print fmt words it."""

    ts_ns: int
    cpu: int
    tid: int
    comm: str
    system: str
    name: str
    text: str
    flags: int = 0
    tgid: int | None = None


def flag_columns(flags: int, width: int) -> str:
    """irqs-off, need-resched, context, preempt-depth ...; -RT has 7 columns."""
    context = {0: ".", HARDIRQ: "h", SOFTIRQ: "s", HARDIRQ | SOFTIRQ: "H"}
    in_context = context[flags & (HARDIRQ | SOFTIRQ)]
    lazy = "." if width == 7 else ""
    columns = ("d" if flags & IRQS_OFF else ".") + "." + lazy + in_context + "2"
    return columns.ljust(width, ".")


def _seconds(ts_ns: int, digits: int) -> str:
    # Microseconds are rounded by the kernel and by trace-cmd.
    if digits == 6:
        us = (ts_ns + 500) // 1000
        return f"{us // 10**6:5d}.{us % 10**6:06d}"
    return f"{ts_ns // 10**9:5d}.{ts_ns % 10**9:09d}"


def tracefs(events: Iterable[Event], flags_width: int = 5, tgids: bool = False) -> str:
    """`trace` and `trace_pipe`; 0, 4, 5 or 7 flag columns, a tgid column or not."""
    lines = ["# tracer: nop", "#"]
    for event in events:
        line = f"{event.comm:>16}-{event.tid:<7d} "
        if tgids:
            tgid = "-------" if event.tgid is None else f"{event.tgid:7d}"
            line += f"({tgid}) "
        line += f"[{event.cpu:03d}] "
        if flags_width:
            line += flag_columns(event.flags, flags_width) + " "
        lines.append(f"{line}{_seconds(event.ts_ns, 6)}: {event.name}: {event.text}")
    return "\n".join(lines) + "\n"


def tracefs_latency(events: Iterable[Event]) -> str:
    """`trace` with the latency-format option."""
    return "".join(
        f"{event.comm:>8.8}-{event.tid:<7d} {event.cpu:3d}"
        f"{flag_columns(event.flags, 5)} {event.ts_ns // 1000:4d}us : "
        f"{event.name}: {event.text}\n"
        for event in events
    )


def report(
    events: Iterable[Event], digits: int = 6, flags: bool = False, prefix: str = ""
) -> str:
    """`trace-cmd report`, -t with 9 digits; flags as from trace-cmd 3.3 on.

    `prefix` is that of a report of several buffers: "inst: ".
    """
    lines = ["cpus=8"]
    for event in events:
        line = f"{prefix}{event.comm:>16}-{event.tid:<5d} [{event.cpu:03d}] "
        if flags:
            line += flag_columns(event.flags, 5) + " "
        stamp = f"{_seconds(event.ts_ns, digits)}: {event.name + ':':<21} "
        lines.append(line + stamp + event.text)
    return "\n".join(lines) + "\n"


def report_latency(events: Iterable[Event]) -> str:
    """`trace-cmd report -l`."""
    return "cpus=8\n" + "".join(
        f"{event.comm:>8.8}-{event.tid:<5d} {event.cpu:3d}"
        f"{flag_columns(event.flags, 5)} {_seconds(event.ts_ns, 6)}: "
        f"{event.name + ':':<21} {event.text}\n"
        for event in events
    )


def report_raw_clock(events: Iterable[Event]) -> str:
    """`trace-cmd report` (3.3) of an x86-tsc file: flags and time touch."""
    return "cpus=8\n" + "".join(
        f"{event.comm:>16}-{event.tid:<5d} [{event.cpu:03d}] "
        f"{flag_columns(event.flags, 5)}{event.ts_ns:12d}: {event.name + ':':<21} "
        f"{event.text}\n"
        for event in events
    )


PERF_COLUMNS = ("comm", "tid", "cpu")


def perf_script(
    events: Iterable[Event],
    columns: Iterable[str] = PERF_COLUMNS,
    digits: int = 6,
    chain: bool = False,
) -> str:
    """`perf script` with some of comm, pid, tid, cpu before time, event and trace.

    perf cuts nanoseconds off where the others round. `chain` adds a call chain.
    """
    wanted, out = frozenset(columns), ""
    for event in events:
        line = f"{event.comm:>16} " if "comm" in wanted else ""
        if {"pid", "tid"} <= wanted:
            line += f"{event.tgid or 0:>5}/{event.tid:<5} "
        elif "tid" in wanted:
            line += f"{event.tid:>5} "
        line += f"[{event.cpu:03d}] " if "cpu" in wanted else ""
        ns = event.ts_ns % 10**9
        stamp = f"{event.ts_ns // 10**9:5d}.{ns // 10 ** (9 - digits):0{digits}d}"
        out += f"{line}{stamp}: {event.system + ':' + event.name:>22}: {event.text}\n"
        if chain:
            out += "\tffffffff81234567 vmx_vcpu_run+0x10 ([kvm_intel])\n\n"
    return out
