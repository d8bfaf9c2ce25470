"""What kind of text a file is, judged by its first lines.

Who wrote it (tracefs, trace-cmd report, perf script), which columns its lines have,
and whether libtraceevent's plugins reworded the events. The lines after are then
tried in that shape first; a line in another shape is still read.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from piscope.errors import TraceFormatError, UnsupportedTraceError
from piscope.sources.text_columns import Layout
from piscope.sources.text_forms import When
from piscope.sources.text_lines import MAX_LINE_BYTES
from piscope.sources.text_shapes import (
    UNKNOWN,
    EventLine,
    Shape,
    classify,
    is_raw_report_of_raw_clock,
)

__all__ = ("Judgement", "judge")

Writer = Literal["tracefs", "trace-cmd report", "perf script", "unknown tool"]

_ENOUGH_EVENTS = 200

EXPECTED = (
    "expected the lines of tracefs `trace`, of `trace-cmd report` or of `perf script`,"
    " such as `qemu-4711 [003] d..1. 12.345678: kvm_exit: vcpu 0 reason HLT ...`"
)

# entries-in-buffer/entries-written: 381200/1199928   #P:24
_ENTRIES = re.compile(
    rb"^# entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18}) +#P:(\d{1,5})",
    re.MULTILINE,
)
_PERF_RELEASE = re.compile(rb"^# os release : (\S{1,64})", re.MULTILINE)
_PERF_COMMAND = re.compile(rb"^# cmdline : (.{1,1000})", re.MULTILINE)
_TRACEFS_HEAD = re.compile(rb"^# tracer: ", re.MULTILINE)
_REPORT_HEAD = re.compile(rb"^(cpus=\d+|version = \d+|CPU \d+ is empty)$", re.MULTILINE)
_KERNEL_WORDS = re.compile(
    rb": +prev_comm=|: +vcpu \d+, rip |reason .{1,48}? info1 0x|: comm=.{0,16} pid="
)
_PLUGIN_WORDS = re.compile(
    rb"kvm_entry: +vcpu \d+ rip 0x|\[-?\d+\] [RSDTtXZxWI|]+ ==> |\[-?\d+\] CPU:\d"
)
# perf script without an event name, or without a time
_PERF_NO_EVENT = re.compile(rb"^ *\S.{0,15}? +\d+ \[\d{3,5}\] +\d+\.\d{6,9}: ")
_PERF_NO_TIME = re.compile(rb"^.{0,40}\w+:\w+: ")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the first lines of a text say of the whole.

    shape       that of most event lines
    layout      their columns; None: no fast form, line by line
    whens       which wordings the events can have; "plugins" unless the text shows
                that libtraceevent's plugins did not reword them
    has_cpu, has_tid, has_comm, has_flags   whether the lines show them
    overwritten (entries in the buffer, entries written) where the header tells
    """

    shape: Shape
    layout: Layout | None
    writer: Writer
    whens: frozenset[When]
    has_cpu: bool
    has_tid: bool
    has_comm: bool
    has_flags: bool
    fraction_digits: int
    flags_width: int
    overwritten: tuple[int, int] | None = None
    host_cpus: int | None = None
    kernel_release: str | None = None
    command: str | None = None


def judge(text: bytes, name: str | None) -> Judgement:
    """What the text is that begins with these whole lines.

    Raises TraceFormatError when no line is an event, naming the first line;
    UnsupportedTraceError for a raw report of a raw clock, which is ambiguous.
    """
    events: list[EventLine] = []
    first_line = (0, b"")
    header = text
    for number, line in enumerate(text.split(b"\n"), 1):
        if len(line) > MAX_LINE_BYTES:
            continue
        found = classify(line, events[-1].shape if events else "ftrace", perf=False)
        if isinstance(found, EventLine):
            events.append(found)
            if len(events) == _ENOUGH_EVENTS:
                break
            continue
        if not first_line[0] and found == "unparsed":
            first_line = (number, line)
        if is_raw_report_of_raw_clock(line):
            raise UnsupportedTraceError(
                "a raw report (-R) of a raw clock: flags and time can't be told apart;"
                " run `trace-cmd report -N -t`, or give the trace.dat itself",
                path=name,
                line=number,
            )
    if not events:
        raise _no_event(first_line, name)
    header = text[:_HEADER_BYTES]
    shapes = Counter(event.shape for event in events)
    shape = shapes.most_common(1)[0][0]
    typical = [event for event in events if event.shape == shape]
    digits = Counter(event.fraction_digits for event in typical).most_common(1)[0][0]
    width = Counter(event.flags_width for event in typical).most_common(1)[0][0]
    most = len(typical) // 2
    has_cpu = sum(event.cpu != UNKNOWN for event in typical) > most
    has_tid = sum(event.tid != UNKNOWN for event in typical) > most
    has_tgid = sum(event.tgid is not None for event in typical) > most
    has_flags = sum(event.flags is not None for event in typical) > most
    raw_flags = any(
        event.flags is not None and not event.flags_width for event in events
    )
    layout = None
    if shape in ("ftrace", "glued", "perf") and has_cpu and not raw_flags:
        layout = Layout(
            perf=shape == "perf",
            flags_width=width,
            fraction_digits=digits,
            has_tid=has_tid,
            has_tgid=has_tgid and shape != "perf",
        )
    writer = _writer(text, typical)
    entries = _ENTRIES.search(header)
    release, command = _PERF_RELEASE.search(header), _PERF_COMMAND.search(header)
    return Judgement(
        shape=shape,
        layout=layout,
        writer=writer,
        whens=_whens(text, writer),
        has_cpu=has_cpu,
        has_tid=has_tid,
        has_comm=sum(event.comm is not None for event in typical) > most,
        has_flags=has_flags,
        fraction_digits=digits,
        flags_width=width,
        overwritten=None if entries is None else (int(entries[1]), int(entries[2])),
        host_cpus=None if entries is None else int(entries[3]),
        kernel_release=None
        if release is None
        else release[1].decode("utf-8", "replace"),
        command=None if command is None else command[1].decode("utf-8", "replace"),
    )


_HEADER_BYTES = 64 << 10


def _writer(text: bytes, events: list[EventLine]) -> Writer:
    shape = events[0].shape
    if shape == "perf":
        return "perf script"
    if shape == "bare":
        return "unknown tool"
    if shape == "usecs" or _TRACEFS_HEAD.search(text[:_HEADER_BYTES]):
        return "tracefs"
    if shape in ("glued", "latency") or _REPORT_HEAD.search(text[:_HEADER_BYTES]):
        return "trace-cmd report"
    # Without a header: report pads names to 20 columns, tracefs adds one blank.
    padded = sum(event.payload.startswith(b" ") for event in events)
    return "trace-cmd report" if padded * 4 > len(events) else "tracefs"


def _whens(text: bytes, writer: Writer) -> frozenset[When]:
    if writer == "tracefs":
        return frozenset({"always", "tracefs", "no plugins"})
    if _PLUGIN_WORDS.search(text) or not _KERNEL_WORDS.search(text):
        return frozenset({"always", "tools", "plugins"})
    return frozenset({"always", "tools", "no plugins"})


def _no_event(first: tuple[int, bytes], name: str | None) -> TraceFormatError:
    number, line = first
    if not number:
        return TraceFormatError(f"holds no event; {EXPECTED}", path=name)
    shown = line[:80].decode("utf-8", "replace")
    what = f"not a trace line: {shown!r}; {EXPECTED}"
    if _PERF_NO_EVENT.match(line):
        what = f"perf script without event names: {shown!r}; add `event` to its -F"
    elif _PERF_NO_TIME.match(line):
        what = f"perf script without times: {shown!r}; add `time` to its -F"
    return TraceFormatError(what, path=name, line=number)
