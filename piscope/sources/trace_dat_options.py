"""The options of a trace.dat file: what the recorder noted beside the events.

    option: | u16 id | u32 size | data |

To be read beside trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v7.5.txt and
handle_options() of trace-input.c. Vendors have reused ids, and old writers left
some without data: an option whose data are not of its shape is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

from piscope.errors import TraceFormatError
from piscope.sources.cursor import ByteFile, Cursor
from piscope.sources.event_format import ByteOrder
from piscope.sources.trace_dat_clock import Clock, ShiftSample, TimeShift, Tsc2Nsec

__all__ = (
    "MAX_CPUS",
    "BufferOption",
    "CpuRange",
    "CpuStat",
    "Guest",
    "OptionId",
    "Options",
    "selected_clock",
)

# The kernel's largest NR_CPUS (x86 CONFIG_MAXSMP); more in a file is damage.
MAX_CPUS = 8192
_MAX_SHIFT_SAMPLES = 1 << 20
_MAX_NAME_BYTES = 4096
_MAX_BUFFERS = 256


class OptionId(IntEnum):
    """Ids of options, and of the v7 sections of the same name.

    Source: trace-cmd, lib/trace-cmd/include/private/trace-cmd-private.h, v3.4.
    """

    DONE = 0
    DATE = 1
    CPUSTAT = 2
    BUFFER = 3
    TRACECLOCK = 4
    UNAME = 5
    HOOK = 6
    OFFSET = 7
    CPUCOUNT = 8
    VERSION = 9
    PROCMAPS = 10
    TRACEID = 11
    TIME_SHIFT = 12
    GUEST = 13
    TSC2NSEC = 14
    STRINGS = 15
    HEADER_INFO = 16
    FTRACE_EVENTS = 17
    EVENT_FORMATS = 18
    KALLSYMS = 19
    PRINTK = 20
    CMDLINES = 21
    BUFFER_TEXT = 22
    BTF_FILE = 23
    LAST_BOOT_INFO = 24
    MODULES_FILE = 25


_SECTION_OPTIONS = frozenset(
    {
        OptionId.HEADER_INFO,
        OptionId.FTRACE_EVENTS,
        OptionId.EVENT_FORMATS,
        OptionId.KALLSYMS,
        OptionId.PRINTK,
        OptionId.CMDLINES,
        OptionId.BTF_FILE,
        OptionId.MODULES_FILE,
    }
)


@dataclass(frozen=True, slots=True)
class CpuRange:
    """Where the data of one pCPU's buffer lie in the file, in bytes.

    `missing` bytes behind them should be there as well, and are not.
    """

    cpu: int
    offset: int
    size: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class BufferOption:
    """One ring buffer: the top one has no name, instances have theirs.

    `clock`, `page_size` and `cpus` are v7's; `text` marks a latency tracer's buffer.
    """

    name: str
    offset: int
    clock: str | None = None
    page_size: int | None = None
    cpus: tuple[CpuRange, ...] = ()
    text: bool = False


@dataclass(frozen=True, slots=True)
class CpuStat:
    """tracefs per_cpu/cpuN/stats at the end of the recording; None: line absent."""

    entries: int | None = None
    overrun: int | None = None
    commit_overrun: int | None = None
    dropped_events: int | None = None
    read_events: int | None = None

    @property
    def recorded(self) -> int | None:
        """Events that the file should hold: those read, and those left at the end."""
        if self.entries is None or self.read_events is None:
            return None
        return self.entries + self.read_events


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that was traced together with this host: `threads` is tid -> vcpu_id."""

    name: str
    trace_id: int
    threads: dict[int, int]


@dataclass(slots=True)
class Options:
    """All options of a file, those that repeat in the file's order.

    `stats` is buffer name -> cpu -> stats; `sections` option id -> file offset;
    `malformed` and `unknown` count options that were passed over, by id.
    """

    clock: str | None = None
    clock_seen: bool = False
    uname: str | None = None
    version: str | None = None
    cpu_count: int | None = None
    trace_id: int | None = None
    tsc: Tsc2Nsec | None = None
    shift: TimeShift | None = None
    offset_ns: int = 0
    guests: list[Guest] = field(default_factory=list)
    buffers: list[BufferOption] = field(default_factory=list)
    stats: dict[str, dict[int, CpuStat]] = field(default_factory=dict)
    sections: dict[int, int] = field(default_factory=dict)
    malformed: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    _stats_buffer: str = ""

    def time(self) -> Clock:
        """The conversion of ticks that these options describe."""
        return Clock(shift=self.shift, tsc=self.tsc, offset_ns=self.offset_ns)

    def add(self, number: int, data: bytes, order: ByteOrder, version: int) -> None:
        """Take note of one option. Never raises."""
        try:
            self._add(number, data, order, version)
        except (TraceFormatError, ValueError):
            self.malformed[number] += 1

    def _add(self, number: int, data: bytes, order: ByteOrder, version: int) -> None:
        cursor = Cursor(ByteFile(data), order, what=f"option {number}")
        match number:
            case OptionId.DATE:
                # Stored in microseconds, against the nanoseconds of OFFSET.
                self.offset_ns += _integer(data) * 1000
            case OptionId.OFFSET:
                self.offset_ns += _integer(data)
            case OptionId.CPUSTAT:
                self._add_stats(_text(data))
            case OptionId.BUFFER | OptionId.BUFFER_TEXT:
                text = number == OptionId.BUFFER_TEXT
                buffer = _buffer(cursor, version, text)
                if len(self.buffers) >= _MAX_BUFFERS:
                    raise ValueError("more buffers than any recorder makes")
                if all(known.name != buffer.name for known in self.buffers):
                    self.buffers.append(buffer)
            case OptionId.TRACECLOCK:
                self.clock_seen = True
                self.clock = self.clock or selected_clock(_text(data))
            case OptionId.UNAME:
                self.uname = self.uname or _text(data)
            case OptionId.VERSION:
                self.version = self.version or _text(data)
            case OptionId.CPUCOUNT:
                if len(data) != 4:
                    raise ValueError("not a u32")
                count = cursor.number(4, "a number of CPUs")
                if self.cpu_count is None and 0 < count <= MAX_CPUS:
                    self.cpu_count = count
            case OptionId.TRACEID:
                self.trace_id = cursor.number(8, "a trace id")
            case OptionId.TIME_SHIFT:
                self.shift = self.shift or _time_shift(cursor)
            case OptionId.GUEST:
                guest = _guest(cursor)
                if guest not in self.guests:
                    self.guests.append(guest)
            case OptionId.TSC2NSEC:
                mult = cursor.number(4, "mult")
                shift = cursor.number(4, "shift")
                # mult 0 means that there is no such conversion.
                if mult and self.tsc is None:
                    self.tsc = Tsc2Nsec(mult, shift)
            case _ if number in _SECTION_OPTIONS:
                offset = cursor.number(8, "a section's offset")
                self.sections.setdefault(number, offset)
            case OptionId.HOOK | OptionId.PROCMAPS | OptionId.LAST_BOOT_INFO:
                pass
            case _:
                self.unknown[number] += 1

    # The stats of an instance's CPUs follow an option that names the instance.
    def _add_stats(self, text: str) -> None:
        named = re.match(r"\s*Buffer:\s*(\S+)\s*$", text)
        if named:
            self._stats_buffer = named[1]
            return
        for part in re.split(r"(?m)^(?=CPU: )", text):
            found = dict(re.findall(r"(?m)^([\w ]+): +(\d+)\s*$", part))
            if "CPU" not in found:
                continue
            stat = CpuStat(
                entries=_count(found.get("entries")),
                overrun=_count(found.get("overrun")),
                commit_overrun=_count(found.get("commit overrun")),
                dropped_events=_count(found.get("dropped events")),
                read_events=_count(found.get("read events")),
            )
            self.stats.setdefault(self._stats_buffer, {}).setdefault(
                int(found["CPU"][:9]), stat
            )


def selected_clock(text: str) -> str | None:
    """The clock in brackets of tracefs `trace_clock`; or the one word that it is."""
    marked = re.search(r"\[([\w-]{1,32})\]", text)
    if marked:
        return marked[1]
    words = text.split()
    return words[0] if len(words) == 1 and len(words[0]) <= 32 else None


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


# As strtoll(text, NULL, 0): an optional sign, then 0x hex, 0 octal or decimal digits.
def _integer(data: bytes) -> int:
    found = re.match(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|\d+)", _text(data)[:64])
    if found is None:
        raise ValueError("not a number")
    digits = found[2]
    if digits[:2] in ("0x", "0X"):
        value = int(digits, 16)
    elif digits[0] == "0" and all(c in "01234567" for c in digits):
        value = int(digits, 8)
    else:
        value = int(digits)
    value = min(value, (1 << 63) - 1)
    return -value if found[1] == "-" else value


def _count(text: str | None) -> int | None:
    return None if text is None or len(text) > 20 else int(text)


def _buffer(cursor: Cursor, version: int, text: bool) -> BufferOption:
    offset = cursor.number(8, "a buffer's offset")
    name = cursor.string(_MAX_NAME_BYTES, "a buffer's name")
    if version < 7:
        return BufferOption(name, offset)
    clock = selected_clock(cursor.string(_MAX_NAME_BYTES, "a buffer's clock"))
    if text:
        return BufferOption(name, offset, clock, text=True)
    page_size = cursor.number(4, "a sub-buffer size")
    count = cursor.number(4, "a number of CPUs")
    if count > MAX_CPUS or count * 20 > cursor.left:
        raise cursor.error(f"{count} CPUs of 20 bytes each")
    cpus: dict[int, CpuRange] = {}
    for _ in range(count):
        cpu = cursor.number(4, "a CPU number")
        start = cursor.number(8, "the offset of its data")
        size = cursor.number(8, "the size of its data")
        if cpu < MAX_CPUS:
            cpus.setdefault(cpu, CpuRange(cpu, start, size))
    return BufferOption(name, offset, clock, page_size, tuple(cpus.values()))


def _guest(cursor: Cursor) -> Guest:
    name = cursor.string(_MAX_NAME_BYTES, "a guest's name")
    trace_id = cursor.number(8, "a trace id")
    count = cursor.number(4, "a number of vCPUs")
    if count * 8 > cursor.left:
        raise cursor.error(f"{count} vCPUs of 8 bytes each")
    threads = {}
    for _ in range(count):
        vcpu_id = cursor.number(4, "a vCPU number")
        threads[cursor.number(4, "its thread id")] = vcpu_id
    return Guest(name, trace_id, threads)


def _time_shift(cursor: Cursor) -> TimeShift:
    cursor.skip(8, "the peer's trace id")
    flags = cursor.number(4, "flags")
    count = cursor.number(4, "a number of CPUs")
    if count > MAX_CPUS:
        raise cursor.error(f"at most {MAX_CPUS} CPUs, not {count}")
    columns: list[tuple[list[int], list[int], list[int]]] = []
    for _ in range(count):
        samples = cursor.number(4, "a number of samples")
        if samples > _MAX_SHIFT_SAMPLES or samples * 24 > cursor.left:
            raise cursor.error(f"{samples} samples of 24 bytes each")
        times, offsets, scalings = (
            [cursor.number(8, "a sample") for _ in range(samples)] for _ in range(3)
        )
        columns.append((times, offsets, scalings))
    cpus: list[tuple[ShiftSample, ...]] = []
    # Older writers knew no fraction bits: there, the option ends here.
    has_fractions = cursor.left > 0
    for times, offsets, scalings in columns:
        fractions = [
            cursor.number(8, "fraction bits") if has_fractions else 0 for _ in times
        ]
        by_time: dict[int, ShiftSample] = {}
        for values in sorted(zip(times, offsets, scalings, fractions, strict=True)):
            time, offset, scaling, fraction = values
            offset -= (offset >> 63) << 64
            by_time.setdefault(time, ShiftSample(time, offset, scaling, fraction))
        cpus.append(tuple(by_time.values()))
    return TimeShift(interpolate=bool(flags & 1), cpus=tuple(cpus))
