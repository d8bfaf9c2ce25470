"""The shapes that one line of a text capture can have, and what each tells.

    ftrace   qemu-4711 [003] d..1. 12.345678: kvm_exit: ...     tracefs, report
    glued    qemu-4711 [003] d..1.1234567890: kvm_exit: ...     report of a raw clock
    latency  qemu-4711   3d..1.  12.345678: kvm_exit: ...       report -l
    usecs    qemu-4711   3d..1. 12345678us : kvm_exit: ...      tracefs, latency-format
    perf     CPU 0/KVM 4711 [003] 12.345678: kvm:kvm_exit: ...  perf script, any -F
    bare     12.345678: kvm_exit: ...                           cut by hand

A line is tried against the shape of its file first. One pattern per shape, so that
each can be read beside the function that prints it: `trace_print_context()` and
`lat_print_generic()` of kernel/trace/trace_output.c, `tep_print_event()` of
libtraceevent with trace-cmd's trace-read.c, `perf_sample__fprintf_start()` of
tools/perf/builtin-script.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from piscope.sources.text_names import common_flags

__all__ = (
    "MAX_CPU",
    "MAX_TID",
    "SHAPES",
    "UNKNOWN",
    "EventLine",
    "LostLine",
    "Other",
    "Shape",
    "classify",
    "is_event_name",
    "is_raw_report_of_raw_clock",
)

Shape = Literal["ftrace", "glued", "latency", "usecs", "perf", "bare"]
Other = Literal["header", "continuation", "unparsed"]

UNKNOWN: Final = -1
"""Stands for a cpu or tid that the lines of a text do not show."""


class EventLine(NamedTuple):
    """One event, as far as its line's prefix tells.

    ts_ns     ns, or raw ticks where `fraction_digits` is 0
    cpu, tid  UNKNOWN where the line has no such column
    flags     common_flags; None: no flag columns
    system    b"" where the shape has none
    payload   the text behind the event's name, still with leading blanks
    fraction_digits   digits of a second behind the point: 6, 9, or 0
    flags_width       flag columns: 0, 4, 5, 7
    period            events that this one stands for, where perf script shows it
    """

    shape: Shape
    ts_ns: int
    cpu: int
    tid: int
    flags: int | None
    system: bytes
    name: bytes
    payload: bytes
    comm: bytes | None
    tgid: int | None
    buffer: bytes | None
    fraction_digits: int
    flags_width: int
    period: int | None


@dataclass(frozen=True, slots=True)
class LostLine:
    """A line that says that events of a pCPU are missing here; count None: unknown."""

    cpu: int | None
    count: int | None


_EVENT = rb"(?P<event>[A-Za-z_][\w.]*)"
# "name: text", tracefs' "func <-parent", "sys_read(fd: 3, ...)", "sys_read -> 0x1"
_FTRACE_EVENT = (
    _EVENT + rb"(?::(?: (?P<text>.*)|)|(?P<call> <-.*)|"
    rb"(?P<enter>\(.*)|(?P<leave> -> .*))$"
)
_PLAIN_EVENT = _EVENT + rb":(?: (?P<text>.*)|)$"
_TASK = rb"(?P<comm>(?:\S.{0,15}?)?)-(?P<pid>\d{1,10})"
_TIME = rb"(?P<time>\d{1,19}(?:\.(?P<fraction>\d{6}(?:\d{3})?))?)"
_FLAGS = rb"(?P<flags>[^\s\d]\S{3,7})"
_RAW_FLAGS = rb"-0x(?P<rawflags>[0-9a-f]{1,2})"

SHAPES: dict[Shape, re.Pattern[bytes]] = {
    "ftrace": re.compile(
        rb"^(?:(?P<buffer>[\w.-]{1,64}): )? *" + _TASK + rb" +"
        rb"(?:\( *(?P<tgid>\d{1,10}|-+)\) +)?\[(?P<cpu>\d{3,5})\]"
        rb"(?:"
        + _RAW_FLAGS
        + rb")?(?: +"
        + _FLAGS
        + rb")? +"
        + _TIME
        + rb": +"
        + _FTRACE_EVENT
    ),
    # Five flag columns, then a bare number that may touch them.
    "glued": re.compile(
        rb"^(?:(?P<buffer>[\w.-]{1,64}): )? *"
        + _TASK
        + rb" +\[(?P<cpu>\d{3,5})\] (?P<flags>[^\s\d]\S{4})(?P<time>\d{1,19}): +"
        + _FTRACE_EVENT
    ),
    "latency": re.compile(
        rb"^(?:(?P<buffer>[\w.-]{1,64}): )? *(?P<comm>(?:\S.{0,7}?)?)-"
        rb"(?P<pid>\d{1,10}) +(?P<cpu>\d{1,5})(?:"
        + _RAW_FLAGS
        + rb"|(?P<flags>[^\s\d]\S{3,7}?))(?: +"
        + _TIME
        + rb"|(?P<ticks>\d{9,19})): +"
        + _FTRACE_EVENT
    ),
    "usecs": re.compile(
        rb"^ *(?P<comm>(?:\S.{0,7}?)?)-(?P<pid>\d{1,10}) +(?P<cpu>\d{1,5})"
        rb"(?P<flags>[^\s\d]\S{3,7}?) +(?P<usecs>\d{1,16})us(?P<mark>.): "
        + _FTRACE_EVENT
    ),
    # Columns as -F left them; comm only if the line does not fit without one.
    "perf": re.compile(
        rb"^ *(?:(?P<comm>\S.{0,15}?) +)??"
        rb"(?:(?P<pid>-?\d{1,10})(?:/(?P<tid>-?\d{1,10}))? +)?"
        rb"(?:\[(?P<cpu>\d{3,5})\] +)?"
        + _TIME
        + rb": +(?:(?P<period>\d{1,18}) +)?(?P<system>[A-Za-z_][\w-]*):"
        + _PLAIN_EVENT
    ),
    "bare": re.compile(rb"^ *" + _TIME + rb": +" + _PLAIN_EVENT),
}

_LOST = (
    # print_trace_line() of kernel/trace/trace.c
    re.compile(rb"^CPU:(?P<cpu>\d{1,5}) \[LOST (?:(?P<count>\d{1,18}) )?EVENTS\]"),
    # show_data of trace-cmd's trace-read.c
    re.compile(
        rb"^ *(?:[\w.-]{1,64}: *)?CPU:(?P<cpu>\d{1,5}) "
        rb"\[(?:(?P<count>\d{1,18}) )?EVENTS DROPPED\]"
    ),
    # perf script --show-lost-events
    re.compile(
        rb"^.{0,64}?(?:\[(?P<cpu>\d{3,5})\] .{0,40}?)?PERF_RECORD_LOST"
        rb"(?:_SAMPLES)? +(?:lost )?(?P<count>\d{1,18})"
    ),
)
_HEADER = re.compile(
    rb"^(?:[ \t]*$|#|cpus=\d|version = |CPU \d+ is empty|trace-cmd: |"
    rb"  \[\w+\] |'\w+' not valid for |\S+:$|.{0,80}PERF_RECORD_(?!LOST)\w)"
)
# Kernel stacks (" => func"), perf's call chains (address, symbol, module).
_STACK = re.compile(rb"^ *=> |^[\t ]+[0-9a-f]{4,16} \S")
_SYMBOL_STACK = re.compile(rb"^(?:\t| {4,})[\w.$<\[]\S*(?: \([^()]*\))?$")
_GLUED_RAW_REPORT = re.compile(
    rb"^ *\S.{0,15}?-\d{1,10} +\[\d{3,5}\]-0x[0-9a-f]{1,2}\d{9,19}: +\w+:"
)

_MAX_NS = (1 << 63) - 1
MAX_TID = (1 << 31) - 1
"""pid_t is an int."""
MAX_CPU = (1 << 16) - 1
"""Far above any NR_CPUS."""


def is_event_name(name: bytes) -> bool:
    """Whether the bytes can be the name of an event (or `system:name` of perf)."""
    return _NAME.fullmatch(name) is not None


_NAME = re.compile(rb"(?:[A-Za-z_][\w-]*:)?[A-Za-z_][\w.]*")


def is_raw_report_of_raw_clock(line: bytes) -> bool:
    """`trace-cmd report -R` of an x86-tsc file: "[005]-0x1303280081944169:".

    Flags in hexadecimal touch the time in decimal, and nothing separates them.
    """
    return _GLUED_RAW_REPORT.match(line) is not None


def classify(line: bytes, first: Shape, perf: bool) -> EventLine | LostLine | Other:
    """What a line (without its newline) is, trying the shape `first` before others.

    `perf` says that the file is a perf script, where indented symbols are frames of
    a call chain. Nothing is guessed: what fits no shape is "unparsed".
    """
    event = _event_line(first, line)
    if event is not None:
        return event
    if _HEADER.match(line):
        return "header"
    for lost in _LOST:
        if (match := lost.match(line)) is not None:
            cpu, count = match["cpu"], match["count"]
            return LostLine(
                None if cpu is None else int(cpu),
                None if count is None else int(count),
            )
    for shape in SHAPES:
        if shape != first and (event := _event_line(shape, line)) is not None:
            return event
    if _STACK.match(line) or (perf and _SYMBOL_STACK.match(line)):
        return "continuation"
    return "unparsed"


def _event_line(shape: Shape, line: bytes) -> EventLine | None:
    match = SHAPES[shape].match(line)
    if match is None:
        return None
    got = match.groupdict()
    time = _time(got)
    cpu = UNKNOWN if got.get("cpu") is None else int(got["cpu"])
    tid = got.get("tid") or got.get("pid")
    tgid = got["pid"] if got.get("tid") else got.get("tgid")
    if time is None or cpu > MAX_CPU:
        return None
    tid_number = UNKNOWN if tid is None else int(tid)
    if tid_number > MAX_TID:
        return None
    name, payload = _name_and_payload(got)
    if name is None:
        return None
    flags, width = None, 0
    if got.get("flags"):
        flags, width = common_flags(got["flags"]), len(got["flags"])
    elif got.get("rawflags"):
        flags = int(got["rawflags"], 16)
    return EventLine(
        shape,
        time[0],
        cpu,
        tid_number,
        flags,
        got.get("system") or b"",
        name,
        payload,
        got.get("comm"),
        int(tgid) if tgid and tgid.isdigit() and int(tgid) <= MAX_TID else None,
        got.get("buffer"),
        time[1],
        width,
        int(got["period"]) if got.get("period") else None,
    )


def _time(got: dict[str, bytes]) -> tuple[int, int] | None:
    if got.get("usecs"):
        ns, digits = int(got["usecs"]) * 1000, 6
    elif got.get("fraction"):
        digits = len(got["fraction"])
        seconds = int(got["time"][: -digits - 1])
        ns = seconds * 1_000_000_000 + int(got["fraction"]) * 10 ** (9 - digits)
    else:
        ns, digits = int(got.get("ticks") or got["time"]), 0
    return (ns, digits) if ns <= _MAX_NS else None


def _name_and_payload(got: dict[str, bytes]) -> tuple[bytes | None, bytes]:
    name = got["event"]
    if got.get("call"):
        return b"function", name + got["call"]
    if got.get("enter") or got.get("leave"):
        # syscall events in tracefs: print_syscall_enter(), print_syscall_exit()
        if not name.startswith(b"sys_"):
            return None, b""
        if got.get("enter"):
            return b"sys_enter_" + name[4:], got["enter"][1:].removesuffix(b")")
        return b"sys_exit_" + name[4:], got["leave"][4:]
    return name, got.get("text") or b""
