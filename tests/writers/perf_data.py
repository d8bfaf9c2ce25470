"""Writes perf.data files of every form from one list of events.

A malformed file is a well-formed one with one argument changed, or with its bytes
changed afterwards. Written from tools/perf/Documentation/perf.data-file-format.txt
and include/uapi/linux/perf_event.h, independently of the reader; what is around the
records is piscope.synth.perf_data_file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from piscope.synth.perf_data_file import (
    ADDR,
    BRANCH_STACK,
    CALLCHAIN,
    COMM,
    CPU,
    FINISHED_ROUND,
    ID,
    IDENTIFIER,
    IP,
    LOST,
    PERIOD,
    PLAIN,
    RAW,
    READ,
    SAMPLE,
    STREAM_ID,
    TID,
    TIME,
    PerfForm,
)

__all__ = (
    "ADDR",
    "ATTR",
    "AUXTRACE",
    "BRANCH_STACK",
    "CALLCHAIN",
    "COMM",
    "COMPRESSED",
    "COMPRESSED2",
    "CPU",
    "FEATURE",
    "FINISHED_ROUND",
    "FORK",
    "ID",
    "IDENTIFIER",
    "IP",
    "LOST",
    "LOST_SAMPLES",
    "PERIOD",
    "PLAIN",
    "RAW",
    "READ",
    "SAMPLE",
    "STREAM_ID",
    "THROTTLE",
    "TID",
    "TIME",
    "TRACING_DATA",
    "UNTHROTTLE",
    "Event",
    "Sample",
    "Writer",
)

THROTTLE, UNTHROTTLE, FORK, LOST_SAMPLES = 5, 6, 7, 13
ATTR, TRACING_DATA, AUXTRACE, FEATURE = 64, 66, 71, 80
COMPRESSED, COMPRESSED2 = 81, 83

COMMON = (
    ("unsigned short", "common_type", 2, False),
    ("unsigned char", "common_flags", 1, False),
    ("unsigned char", "common_preempt_count", 1, False),
    ("int", "common_pid", 4, True),
)


@dataclass(frozen=True)
class Event:
    """A tracepoint: `fields` are (C type, name, bytes, signed), laid out in order.

    `__data_loc char[]` as the type makes a string of any length.
    """

    system: str
    name: str
    id: int
    fields: tuple[tuple[str, str, int, bool], ...]
    sample_type: int = PLAIN
    read_format: int = 0
    period: int = 1
    freq: bool = False
    clockid: int | None = None
    tracepoint: bool = True
    """False: an attr of another kind, such as cycles."""

    def layout(self) -> list[tuple[str, str, int, bool, int]]:
        """The fields with their offsets, each aligned to its size as gcc does."""
        result = []
        at = 0
        for c_type, name, size, signed in (*COMMON, *self.fields):
            align = size if size in (1, 2, 4, 8) and "[" not in name else 1
            at = -(-at // align) * align
            result.append((c_type, name, size, signed, at))
            at += size
        return result

    def format_text(self) -> str:
        """As tracefs prints it."""
        lines = [f"name: {self.name}", f"ID: {self.id}", "format:"]
        for i, (c_type, name, size, signed, at) in enumerate(self.layout()):
            lines.append(
                f"\tfield:{c_type} {name};\toffset:{at};\tsize:{size};"
                f"\tsigned:{int(signed)};"
            )
            if i == len(COMMON) - 1:
                lines.append("")
        return "\n".join([*lines, "", 'print fmt: ""', ""])


@dataclass(frozen=True)
class Sample:
    """One hit. `tail` bytes are cut off the tracepoint record (a short one)."""

    event: str
    ts_ns: int
    cpu: int
    tid: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    flags: int = 0
    pid: int | None = None
    period: int = 1
    callchain: tuple[int, ...] = ()
    read_members: int = 1
    tail: int = 0


class Writer(PerfForm):
    """Makes records and files in one byte order.

    events      the tracepoints; each is one attr, with one id for each pCPU
    cpus        how many ids each attr has
    """

    def __init__(
        self,
        events: Sequence[Event],
        order: Literal["little", "big"] = "little",
        cpus: int = 4,
    ) -> None:
        super().__init__(events, order, cpus)
        self.events: list[Event] = list(events)  # type: ignore[assignment]

    def raw(self, event: Event, sample: Sample) -> bytes:
        """The tracepoint record."""
        values = {
            "common_type": event.id,
            "common_flags": sample.flags,
            "common_pid": sample.tid,
            **sample.fields,
        }
        layout = event.layout()
        record = bytearray(max(at + size for *_, size, _, at in layout))
        for c_type, name, size, signed, at in layout:
            value = values.get(name.split("[")[0], 0)
            if c_type.startswith("__data_loc"):
                text = (value or "").encode() + b"\0"
                place = (len(text) << 16) | len(record)
                record[at : at + 4] = self.pack("I", place)
                record += text
            elif isinstance(value, bytes):
                record[at : at + size] = value.ljust(size, b"\0")[:size]
            else:
                order = "little" if self.mark == "<" else "big"
                record[at : at + size] = int(value).to_bytes(
                    size, order, signed=signed and value < 0
                )
        return bytes(record[: len(record) - sample.tail])

    def sample(self, sample: Sample) -> bytes:
        """A SAMPLE record."""
        index = [f"{e.system}:{e.name}" for e in self.events].index(sample.event)
        event = self.events[index]
        number = self.ids(index)[sample.cpu % self.cpus]
        pid = sample.tid if sample.pid is None else sample.pid
        mask = 0xFFFFFFFF
        words: list[tuple[int, bytes]] = [
            (IDENTIFIER, self.pack("Q", number)),
            (IP, self.pack("Q", 0xFFFFFFFF81000000)),
            (TID, self.pack("II", pid & mask, sample.tid & mask)),
            (TIME, self.pack("Q", sample.ts_ns)),
            (ADDR, self.pack("Q", 0xABCD)),
            (ID, self.pack("Q", number)),
            (STREAM_ID, self.pack("Q", number)),
            (CPU, self.pack("II", sample.cpu, 0)),
            (PERIOD, self.pack("Q", sample.period)),
            (READ, self._read(event, sample, number)),
            (
                CALLCHAIN,
                self.pack(
                    f"{1 + len(sample.callchain)}Q",
                    len(sample.callchain),
                    *sample.callchain,
                ),
            ),
            (RAW, self._raw_part(event, sample)),
            (BRANCH_STACK, self.pack("Q", 0)),
        ]
        body = b"".join(part for bit, part in words if event.sample_type & bit)
        return self.record(SAMPLE, body, misc=1)

    def _raw_part(self, event: Event, sample: Sample) -> bytes:
        raw = self.raw(event, sample)
        size = -(-(4 + len(raw)) // 8) * 8 - 4
        return self.pack("I", size) + raw.ljust(size, b"\0")

    def _read(self, event: Event, sample: Sample, number: int) -> bytes:
        form = event.read_format
        times = [7] * (bool(form & 1) + bool(form & 2))
        member = [42, *([number] if form & 4 else []), *([0] if form & 16 else [])]
        if form & 8:
            values = [sample.read_members, *times, *member * sample.read_members]
        else:
            values = [member[0], *times, *member[1:]]
        return self.pack(f"{len(values)}Q", *values)

    def fork(self, pid: int, ppid: int, tid: int, ptid: int) -> bytes:
        body = self.pack("4IQ", pid, ppid, tid, ptid, 1)
        return self.record(FORK, body + self.trailer(tid, 1, 0))

    def lost_samples(self, count: int, ts_ns: int = 0, cpu: int = 0) -> bytes:
        return self.record(
            LOST_SAMPLES, self.pack("Q", count) + self.trailer(0, ts_ns, cpu)
        )

    def throttle(self, ts_ns: int, cpu: int, *, end: bool = False) -> bytes:
        body = self.pack("QQQ", ts_ns, self.ids(0)[0], 0)
        kind = UNTHROTTLE if end else THROTTLE
        return self.record(kind, body + self.trailer(0, ts_ns, cpu))

    def auxtrace(self, data: bytes) -> bytes:
        body = self.pack("QQQIIII", len(data), 0, 0, 0, 0, 0, 0)
        return self.record(AUXTRACE, body) + data

    def records(self, samples: Sequence[Sample], rounds_every: int = 0) -> bytes:
        """SAMPLE records, with the end of a round after so many of them (0: none)."""
        parts: list[bytes] = []
        for i, sample in enumerate(samples, 1):
            parts.append(self.sample(sample))
            if rounds_every and i % rounds_every == 0:
                parts.append(self.round())
        return b"".join(parts)

    def compressed(
        self, records: bytes, piece_bytes: int = 1000, kind: int = COMPRESSED2
    ) -> bytes:
        """The same records as one zstd stream, cut anywhere, flushed at each cut."""
        import zstandard

        stream = zstandard.ZstdCompressor().compressobj()
        result: list[bytes] = []
        for at in range(0, len(records), piece_bytes):
            piece = stream.compress(records[at : at + piece_bytes])
            piece += stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            for begin in range(0, len(piece), 60000):
                part = piece[begin : begin + 60000]
                if kind == COMPRESSED:
                    result.append(self.record(kind, part))
                else:
                    pad = bytes(-len(part) % 8)
                    body = self.pack("Q", len(part)) + part + pad
                    result.append(self.record(kind, body))
        return b"".join(result)

    def file(
        self,
        records: bytes,
        *,
        interrupted: bool = False,
        with_formats: bool = True,
        comms: Mapping[int, str] | None = None,
        release: str = "6.12.0",
        command: Sequence[str] = ("perf", "record"),
    ) -> bytes:
        """The file form; `interrupted`: as perf leaves it when it is killed."""
        features = self.features(release, command)
        if with_formats:
            features[1] = self.tracing_data(comms)
        if interrupted:
            return self.head(None, 0) + records
        result = self.head(features, len(records)) + records
        return result + self.tail(features, len(result))

    def pipe(
        self,
        records: bytes,
        *,
        comms: Mapping[int, str] | None = None,
        release: str = "6.12.0",
        command: Sequence[str] = ("perf", "record"),
    ) -> bytes:
        """The pipe form."""
        parts = [b"PERFILE2" if self.mark == "<" else b"2ELIFREP", self.pack("Q", 16)]
        for i, event in enumerate(self.events):
            ids = self.pack(f"{self.cpus}Q", *self.ids(i))
            parts.append(self.record(ATTR, self.attr(event) + ids))
        for number, data in self.features(release, command).items():
            padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
            parts.append(self.record(FEATURE, self.pack("Q", number) + padded))
        blob = self.tracing_data(comms)
        blob = blob.ljust(-(-len(blob) // 8) * 8, b"\0")
        parts += [self.record(TRACING_DATA, self.pack("I", len(blob))), blob]
        return b"".join([*parts, records])

    def directory(self, path: Path, main: bytes, streams: Sequence[bytes]) -> None:
        """The form of `perf record --threads`."""
        path.mkdir()
        (path / "data").write_bytes(self.file(main))
        for i, records in enumerate(streams):
            (path / f"data.{i}").write_bytes(records)
