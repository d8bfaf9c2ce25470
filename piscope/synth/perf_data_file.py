"""Writes perf.data files: everything but the samples.

Written from tools/perf/Documentation/perf.data-file-format.txt and
include/uapi/linux/perf_event.h, independently of the reader; the tests make their
malformed files with it, too.

    | header 104 | ids | attrs | records ... | {offset, size} of each feature | ... |
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

__all__ = ("PLAIN", "PerfEvent", "PerfForm")

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD = (1 << n for n in range(9))
STREAM_ID, RAW, BRANCH_STACK, IDENTIFIER = 1 << 9, 1 << 10, 1 << 11, 1 << 16
PLAIN = IP | TID | TIME | CPU | PERIOD | RAW | IDENTIFIER  # what perf 6 asks for

LOST, COMM, SAMPLE, FINISHED_ROUND = 2, 3, 9, 68


class PerfEvent(Protocol):
    """What a file says of an event."""

    @property
    def system(self) -> str:
        """Of a tracepoint."""
        ...

    @property
    def name(self) -> str:
        """Of a tracepoint."""
        ...

    @property
    def id(self) -> int:
        """The kernel's number of it."""
        ...

    @property
    def sample_type(self) -> int:
        """What its samples hold."""
        ...

    @property
    def read_format(self) -> int:
        """What their READ part holds."""
        ...

    @property
    def period(self) -> int:
        """Of sampling; with `freq` a frequency."""
        ...

    @property
    def freq(self) -> bool:
        """See `period`."""
        ...

    @property
    def clockid(self) -> int | None:
        """Another clock than perf's own."""
        ...

    @property
    def tracepoint(self) -> bool:
        """Or an event of another kind."""
        ...

    def format_text(self) -> str:
        """As tracefs prints it."""
        ...


class PerfForm:
    """Files of one byte order.

    events  each is one attr, with one id for each pCPU
    cpus    how many ids each attr has
    """

    def __init__(
        self,
        events: Sequence[PerfEvent],
        order: Literal["little", "big"] = "little",
        cpus: int = 4,
    ) -> None:
        self.events = list(events)
        self.mark = "<" if order == "little" else ">"
        self.cpus = cpus

    def pack(self, form: str, *values: int) -> bytes:
        """Numbers in the byte order of the file."""
        return struct.pack(self.mark + form, *values)

    def record(self, kind: int, body: bytes, misc: int = 0) -> bytes:
        """A record: its header and its body."""
        return self.pack("IHH", kind, misc, 8 + len(body)) + body

    def ids(self, index: int) -> list[int]:
        """An event's ids, one for each pCPU."""
        return [100 + index * self.cpus + cpu for cpu in range(self.cpus)]

    def trailer(self, tid: int, ts_ns: int, cpu: int) -> bytes:
        """sample_id_all, as the first attr has it."""
        kind = self.events[0].sample_type
        number = self.ids(0)[cpu % self.cpus]
        words = [
            (TID, self.pack("II", tid, tid)),
            (TIME, self.pack("Q", ts_ns)),
            (ID, self.pack("Q", number)),
            (STREAM_ID, self.pack("Q", number)),
            (CPU, self.pack("II", cpu, 0)),
            (IDENTIFIER, self.pack("Q", number)),
        ]
        return b"".join(part for bit, part in words if kind & bit)

    def comm(self, pid: int, tid: int, comm: str) -> bytes:
        """A COMM record."""
        text = comm.encode().ljust(16, b"\0")
        body = self.pack("II", pid, tid) + text
        return self.record(COMM, body + self.trailer(tid, 0, 0))

    def lost(self, count: int, ts_ns: int, cpu: int) -> bytes:
        """A LOST record."""
        body = self.pack("QQ", self.ids(0)[0], count)
        return self.record(LOST, body + self.trailer(0, ts_ns, cpu))

    def round(self) -> bytes:
        """The end of a round."""
        return self.record(FINISHED_ROUND, b"")

    def attr(self, event: PerfEvent) -> bytes:
        """An event's attr, 128 bytes."""
        flags = (1 << 18) | (bool(event.freq) << 10)
        flags |= (event.clockid is not None) << 25
        raw_flags = flags.to_bytes(8, "little")
        if self.mark == ">":  # bit fields begin at the top of each byte
            raw_flags = bytes(int(f"{b:08b}"[::-1], 2) for b in raw_flags)
        kind = 2 if event.tracepoint else 0
        head = self.pack(
            "IIQQQQ", kind, 128, event.id if event.tracepoint else 0, event.period,
            event.sample_type, event.read_format,
        )  # fmt: skip
        tail = bytearray(128 - len(head) - 8)
        tail[92 - 48 : 96 - 48] = self.pack("i", event.clockid or 0)
        return head + raw_flags + bytes(tail)

    def tracing_data(
        self,
        comms: Mapping[int, str] | None = None,
        header_page: bytes = b"...",
        header_event: bytes = b"...",
    ) -> bytes:
        """The formats of all tracepoints, as trace-event-info.c writes them."""
        endian = bytes([self.mark == ">"])
        parts = [b"\x17\x08\x44tracing0.6\0", endian, b"\x08", self.pack("I", 4096)]
        for title, text in (
            (b"header_page\0", header_page),
            (b"header_event\0", header_event),
        ):
            parts += [title, self.pack("Q", len(text)), text]
        parts.append(self.pack("I", 0))
        recorded = [e for e in self.events if e.tracepoint]
        systems = sorted({e.system for e in recorded})
        parts.append(self.pack("I", len(systems)))
        for system in systems:
            texts = [e.format_text().encode() for e in recorded if e.system == system]
            parts += [system.encode() + b"\0", self.pack("I", len(texts))]
            for text in texts:
                parts += [self.pack("Q", len(text)), text]
        saved = "".join(f"{t} {c}\n" for t, c in (comms or {}).items()).encode()
        parts += [self.pack("II", 0, 0), self.pack("Q", len(saved)), saved]
        return b"".join(parts)

    def string(self, text: str) -> bytes:
        """A text of a feature section."""
        raw = text.encode() + b"\0"
        size = -(-len(raw) // 64) * 64
        return self.pack("I", size) + raw.ljust(size, b"\0")

    def features(self, release: str, command: Sequence[str]) -> dict[int, bytes]:
        """Sections about the host and the recording, by number."""
        desc = self.pack("II", len(self.events), 128)
        for i, event in enumerate(self.events):
            name = f"{event.system}:{event.name}"
            ids = self.ids(i)
            desc += self.attr(event) + self.pack("I", len(ids)) + self.string(name)
            desc += self.pack(f"{len(ids)}Q", *ids)
        words = b"".join(self.string(word) for word in command)
        return {
            3: self.string("host"),
            4: self.string(release),
            7: self.pack("II", 2 * self.cpus, self.cpus),
            11: self.pack("I", len(command)) + words,
            12: desc,
        }

    def head(self, features: Mapping[int, bytes] | None, data_size: int) -> bytes:
        """Header, ids and attrs; None: as perf leaves them when it is killed."""
        ids = b"".join(
            self.pack(f"{self.cpus}Q", *self.ids(i)) for i in range(len(self.events))
        )
        attrs = b""
        for i, event in enumerate(self.events):
            attrs += self.attr(event)
            attrs += self.pack("QQ", 104 + 8 * self.cpus * i, 8 * self.cpus)
        attrs_at = 104 + len(ids)
        bits = sum(1 << number for number in features or ())
        header = (b"PERFILE2" if self.mark == "<" else b"2ELIFREP") + self.pack(
            "12Q", 104, 144, attrs_at, len(attrs), attrs_at + len(attrs),
            data_size, 0, 0, bits, 0, 0, 0,
        )  # fmt: skip
        return header + ids + attrs

    def tail(self, features: Mapping[int, bytes], at: int) -> bytes:
        """The feature sections, for a file that has `at` bytes before them."""
        at += 16 * len(features)
        table = b""
        for number in sorted(features):
            table += self.pack("QQ", at, len(features[number]))
            at += len(features[number])
        return table + b"".join(features[n] for n in sorted(features))
