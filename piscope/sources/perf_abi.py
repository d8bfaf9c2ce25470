"""The numbers of perf.data: record types, sample_type bits, perf_event_attr.

To be read beside include/uapi/linux/perf_event.h (kernel records, attr) and
tools/lib/perf/include/perf/event.h (records 64 and up, which perf itself adds).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Literal

from piscope.errors import TraceFormatError

__all__ = (
    "CLOCK_NAMES",
    "MAX_RECORD_TYPE",
    "RECORD_HEADER_BYTES",
    "ByteOrder",
    "Feature",
    "PerfAttr",
    "ReadFormat",
    "Record",
    "SampleType",
    "read_attr",
)

ByteOrder = Literal["little", "big"]

RECORD_HEADER_BYTES = 8
"""struct perf_event_header: u32 type, u16 misc, u16 size (header included)."""

# The kernel is at 22 and perf at 86 (Linux 6.17). A type beyond this is not a record
# of some later version but a place where the record chain has been lost.
MAX_RECORD_TYPE = 1023


class Record(IntEnum):
    """PERF_RECORD_*: those that are acted upon; all others are skipped by size."""

    LOST = 2
    COMM = 3
    THROTTLE = 5
    UNTHROTTLE = 6
    FORK = 7
    SAMPLE = 9
    LOST_SAMPLES = 13
    ATTR = 64
    TRACING_DATA = 66
    FINISHED_ROUND = 68
    AUXTRACE = 71
    EVENT_UPDATE = 78
    FEATURE = 80
    COMPRESSED = 81
    FINISHED_INIT = 82
    COMPRESSED2 = 83


class SampleType(IntFlag):
    """PERF_SAMPLE_*: which values a sample carries; only those up to RAW matter."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    ADDR = 1 << 3
    READ = 1 << 4
    CALLCHAIN = 1 << 5
    ID = 1 << 6
    CPU = 1 << 7
    PERIOD = 1 << 8
    STREAM_ID = 1 << 9
    RAW = 1 << 10
    IDENTIFIER = 1 << 16


class ReadFormat(IntFlag):
    """PERF_FORMAT_*: the shape of a sample's READ part."""

    TOTAL_TIME_ENABLED = 1 << 0
    TOTAL_TIME_RUNNING = 1 << 1
    ID = 1 << 2
    GROUP = 1 << 3
    LOST = 1 << 4


class Feature(IntEnum):
    """HEADER_*: the feature sections that are read (tools/perf/util/header.h)."""

    TRACING_DATA = 1
    HOSTNAME = 3
    OSRELEASE = 4
    VERSION = 5
    NRCPUS = 7
    CMDLINE = 11
    EVENT_DESC = 12
    COMPRESSED = 27


CLOCK_NAMES = {0: "real", 1: "mono", 4: "mono_raw", 7: "boot", 11: "tai"}
"""CLOCK_* of include/uapi/linux/time.h -> the trace clock's name in tracefs."""

_TRACEPOINT = 2  # PERF_TYPE_TRACEPOINT
_ATTR_VER0_BYTES = 64  # PERF_ATTR_SIZE_VER0: no attr is shorter
_MAX_ATTR_BYTES = 4096  # the kernel refuses more (PAGE_SIZE)
_BIT_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# Bit numbers in the flags word of perf_event_attr, at byte 40.
_FREQ = 10
_SAMPLE_ID_ALL = 18
_USE_CLOCKID = 25


@dataclass(frozen=True, slots=True)
class PerfAttr:
    """One recorded event as it was asked of the kernel (struct perf_event_attr).

    config         the tracepoint's id where `is_tracepoint`
    period         events for each sample, or with `freq` samples a second
    clockid        None: perf's own clock (sched_clock, as ftrace's `perf`)
    """

    type: int
    config: int
    period: int
    sample_type: int
    read_format: int
    freq: bool
    sample_id_all: bool
    clockid: int | None

    @property
    def is_tracepoint(self) -> bool:
        """Whether its samples carry tracepoint records."""
        return self.type == _TRACEPOINT and bool(self.sample_type & SampleType.RAW)


def read_attr(data: bytes, order: ByteOrder) -> PerfAttr:
    """A perf_event_attr of whatever length its writer knew; the rest is ignored.

    Raises TraceFormatError where it is shorter than the first version of the ABI.
    Source: include/uapi/linux/perf_event.h, struct perf_event_attr.
    """
    if not _ATTR_VER0_BYTES <= len(data) <= _MAX_ATTR_BYTES:
        raise TraceFormatError(
            f"perf_event_attr of {len(data)} bytes;"
            f" {_ATTR_VER0_BYTES} to {_MAX_ATTR_BYTES} were expected"
        )
    mark = "<" if order == "little" else ">"
    kind, _, config, period, sample_type, read_format = struct.unpack_from(
        mark + "IIQQQQ", data
    )
    flags_bytes = data[40:48]
    if order == "big":
        # A big-endian compiler lays bit fields out from the top of each byte.
        flags_bytes = flags_bytes.translate(_BIT_REVERSED)
    flags = int.from_bytes(flags_bytes, "little")
    clockid = None
    if flags >> _USE_CLOCKID & 1 and len(data) >= 96:
        (clockid,) = struct.unpack_from(mark + "i", data, 92)
    return PerfAttr(
        type=kind,
        config=config,
        period=period,
        sample_type=sample_type,
        read_format=read_format,
        freq=bool(flags >> _FREQ & 1),
        sample_id_all=bool(flags >> _SAMPLE_ID_ALL & 1),
        clockid=clockid,
    )
