"""Makes trace.dat files of versions 6 and 7 from one list of events.

A malformed file is a well-formed one with one argument changed, or with its bytes
changed afterwards. The file itself is written by piscope.synth.trace_dat_file, which
was written from trace-cmd's documents, independently of the reader; here is what goes
into it, sub-buffers of every shape.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from piscope.synth.trace_dat_file import (
    BUFFER,
    BUFFER_TEXT,
    CMDLINES,
    CPUCOUNT,
    CPUSTAT,
    DATE,
    EVENT_FORMATS,
    FTRACE_EVENTS,
    GUEST,
    HEADER_EVENT,
    HEADER_INFO,
    KALLSYMS,
    OFFSET,
    PRINTK,
    STRINGS,
    TIME_SHIFT,
    TRACECLOCK,
    TRACEID,
    TSC2NSEC,
    UNAME,
    VERSION,
    Buffer,
    Compressor,
    Recording,
    compress,
    write,
)
from piscope.synth.trace_dat_file import header_page as page_text
from writers.ring_buffer import PageShape, pages_of
from writers.trace_events import POINTS, Event, Tracepoint, record_of

__all__ = (
    "BUFFER",
    "BUFFER_TEXT",
    "CMDLINES",
    "CPUCOUNT",
    "CPUSTAT",
    "DATE",
    "EVENT_FORMATS",
    "FTRACE_EVENTS",
    "GUEST",
    "HEADER_EVENT",
    "HEADER_INFO",
    "KALLSYMS",
    "OFFSET",
    "PRINTK",
    "STRINGS",
    "TIME_SHIFT",
    "TRACECLOCK",
    "TRACEID",
    "TSC2NSEC",
    "UNAME",
    "VERSION",
    "Buffer",
    "Compressor",
    "Recording",
    "compress",
    "header_page",
    "recording",
    "trace_dat",
    "write",
)


def header_page(shape: PageShape, *, overwrite: str = "int") -> bytes:
    """The text of events/header_page for sub-buffers of a shape."""
    return page_text(shape.page_size, shape.long_size, overwrite)


def recording(
    events: Sequence[Event],
    *,
    version: int = 7,
    shape: PageShape | None = None,
    compressor: Compressor = "none",
    instances: Mapping[str, Sequence[Event]] | None = None,
    instance_page_size: int | None = None,
    missed: Mapping[tuple[int, int], int | None] | None = None,
    per_page: int | None = None,
    points: Sequence[Tracepoint] = POINTS,
    described: Sequence[Tracepoint] | None = None,
    clock: str | None = "local",
    comms: Mapping[int, str] | None = None,
    options: Sequence[tuple[int, bytes]] = (),
    stats: Mapping[int, Mapping[str, int]] | None = None,
    empty_cpus: Sequence[int] = (),
    cpu_count: int | None = None,
    zero_page: bool = False,
) -> Recording:
    """A recording of events, given in any order; each pCPU's are kept in theirs.

    `missed` is (cpu, number of sub-buffer) -> events lost before it. `described`
    are the tracepoints whose formats the file has, if not all. `stats` replaces
    lines of CPUSTAT, which else tells the truth. `zero_page` ends each pCPU's data
    with an unused sub-buffer.
    """
    shape = shape or PageShape()
    by_name = {point.name: point for point in points}
    made = Recording(
        version=version,
        endian=shape.endian,
        compressor=compressor,
        page_size=shape.page_size,
        header_page=header_page(shape),
        comms=comms or {},
        clock=clock,
    )
    systems: dict[str, list[bytes]] = {}
    for point in points if described is None else described:
        text = point.format(shape.long_size).encode()
        systems.setdefault(point.system, []).append(text)
    made.ftrace_formats = tuple(systems.pop("ftrace", ()))
    made.systems = tuple(systems.items())

    def pages(own: Sequence[Event], cpu: int, form: PageShape) -> list[bytes]:
        records = (
            (e.ts, record_of(e, by_name[e.name], form.endian, form.long_size))
            for e in own
        )
        lost = {n: c for (at, n), c in (missed or {}).items() if at == cpu}
        out = list(pages_of(form, records, missed=lost, per_page=per_page))
        return [*out, bytes(form.page_size)] if zero_page else out

    def buffer(name: str, own: Sequence[Event], form: PageShape) -> Buffer:
        cpus: dict[int, list[bytes]] = {cpu: [] for cpu in empty_cpus}
        for cpu in sorted({e.cpu for e in own}):
            cpus[cpu] = pages([e for e in own if e.cpu == cpu], cpu, form)
        return Buffer(name, clock or "local", form.page_size, cpus)

    made.buffers = [buffer("", events, shape)]
    other = replace(shape, page_size=instance_page_size or shape.page_size)
    stat_options = _stat_options(events, "", stats)
    for name, own in (instances or {}).items():
        made.buffers.append(buffer(name, own, other))
        stat_options += _stat_options(own, name, None)
    made.options = [*options, *stat_options]
    highest = max((e.cpu for e in events), default=0)
    made.cpu_count = cpu_count or max([highest, *empty_cpus]) + 1
    return made


def _stat_options(
    events: Sequence[Event], buffer: str, stats: Mapping[int, Mapping[str, int]] | None
) -> list[tuple[int, bytes]]:
    out = []
    if buffer:
        out.append((CPUSTAT, f"\nBuffer: {buffer}\n\n\0".encode()))
    for cpu in sorted({e.cpu for e in events}):
        lines = {
            "entries": 0,
            "overrun": 0,
            "commit overrun": 0,
            "bytes": 0,
            "dropped events": 0,
            "read events": sum(e.cpu == cpu for e in events),
            **((stats or {}).get(cpu, {})),
        }
        text = f"CPU: {cpu}\n" + "".join(f"{k}: {v}\n" for k, v in lines.items())
        out.append((CPUSTAT, text.encode() + b"\0"))
    return out


def trace_dat(made: Recording) -> bytes:
    """The bytes of a recording."""
    file = io.BytesIO()
    write(file, made)
    return file.getvalue()
