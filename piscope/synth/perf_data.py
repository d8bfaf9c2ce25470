"""A capture written as a perf.data, batch by batch: each one is a round.

Source: include/uapi/linux/perf_event.h, PERF_RECORD_SAMPLE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from piscope.synth.events import E
from piscope.synth.kernels import KernelEvent
from piscope.synth.perf_data_file import PLAIN, SAMPLE, PerfForm
from piscope.synth.records import Records, Tasks
from piscope.synth.sub_buffers import PAGE_BYTES
from piscope.synth.trace_dat_file import HEADER_EVENT, header_page

__all__ = ("PerfDataWriter",)

_KERNEL = 1  # PERF_RECORD_MISC_KERNEL
_IP = 0xFFFFFFFF81000000
# header, id, ip, pid and tid, time, cpu, period, and the raw part's size
_BEFORE_RAW_BYTES = 60
_TRACING_DATA = 1  # HEADER_TRACING_DATA


@dataclass(frozen=True)
class _Event:
    """A tracepoint as an attr has it."""

    known: KernelEvent
    sample_type: int = PLAIN
    read_format: int = 0
    period: int = 1
    freq: bool = False
    clockid: int | None = None
    tracepoint: bool = True

    @property
    def system(self) -> str:
        return self.known.format.system

    @property
    def name(self) -> str:
        return self.known.format.name

    @property
    def id(self) -> int:
        return self.known.format.id

    def format_text(self) -> str:
        return self.known.text.decode()


class PerfDataWriter:
    """Takes records, and completes the file at the end."""

    def __init__(
        self,
        file: BinaryIO,
        kernel: Mapping[E, KernelEvent],
        tgids: Mapping[int, int],
        *,
        release: str,
        pcpus: int,
    ) -> None:
        self.file, self.tgids, self.release = file, tgids, release
        self.index = {event: i for i, event in enumerate(kernel)}
        self.form = PerfForm([_Event(one) for one in kernel.values()], cpus=pcpus)
        self._lost: dict[tuple[int, int], int] = {}
        self._named: set[int] = set()
        self.at = file.write(self.form.head({}, 0))
        self._first = self.at

    def lose(self, cpu: int, until_ns: int, count: int) -> None:
        """Events of a pCPU were lost before an instant."""
        if count:
            key = until_ns, cpu
            self._lost[key] = self._lost.get(key, 0) + count

    def name(self, comms: Mapping[int, str]) -> None:
        """Say what tasks are called, before their first sample."""
        for tid, comm in comms.items():
            if tid and tid not in self._named:
                self._named.add(tid)
                self._write(self.form.comm(self.tgids.get(tid, tid), tid, comm))

    def add(self, records: Sequence[Records]) -> None:
        """Records that are later than all before."""
        last_ns = max(
            (int(one.ts_ns[-1]) for one in records if len(one.ts_ns)), default=0
        )
        parts = list(records)
        for until_ns, cpu in sorted(self._lost):
            if until_ns <= last_ns:
                early = [one[one.ts_ns < until_ns] for one in parts]
                parts = [one[one.ts_ns >= until_ns] for one in parts]
                self._write(self._samples(early))
                count = self._lost.pop((until_ns, cpu))
                self._write(self.form.lost(count, until_ns, cpu))
        self._write(self._samples(parts))
        self._write(self.form.round())

    def finish(self, tasks: Tasks) -> None:
        """Write what stands around the records."""
        features = self.form.features(self.release, ["perf", "record", "-a"])
        features[_TRACING_DATA] = self.form.tracing_data(
            tasks.comms, header_page(PAGE_BYTES), HEADER_EVENT
        )
        self.file.write(self.form.tail(features, self.at))
        self.file.seek(0)
        self.file.write(self.form.head(features, self.at - self._first))

    def close(self) -> None:
        """Nothing waits."""

    def _write(self, data: bytes) -> None:
        self.at += self.file.write(data)

    def _samples(self, records: Sequence[Records]) -> bytes:
        some = [one for one in records if len(one.ts_ns)]
        if not some:
            return b""
        made = [self._sample_records(one) for one in some]
        ts = np.concatenate([one.ts_ns for one in some])
        words = np.concatenate(
            [np.full(len(one), one.shape[1] // 8, np.int64) for one in made]
        )
        order = np.argsort(ts, kind="stable")
        place = np.empty(len(ts), np.int64)
        place[order] = np.cumsum(words[order]) - words[order]
        out = np.zeros(int(words.sum()), np.uint64)
        done = 0
        for one in made:
            n, width = len(one), one.shape[1] // 8
            to = place[done : done + n, None] + np.arange(width)
            out[to] = one.view(np.uint64)
            done += n
        return out.tobytes()

    def _sample_records(self, one: Records) -> npt.NDArray[np.uint8]:
        n = len(one.ts_ns)
        size = -(-(_BEFORE_RAW_BYTES + one.bytes) // 8) * 8
        made = np.zeros((n, size), np.uint8)
        wide, narrow = made.view(np.uint64), made.view(np.uint32)
        narrow[:, 0], narrow[:, 1] = SAMPLE, size << 16 | _KERNEL
        first_id = self.form.ids(self.index[one.event])[0]
        wide[:, 1] = first_id + one.cpu
        wide[:, 2] = _IP
        tids, inverse = np.unique(one.tid, return_inverse=True)
        pids = np.array([self.tgids.get(t, t) for t in tids.tolist()], np.uint32)
        narrow[:, 6], narrow[:, 7] = pids[inverse], one.tid
        wide[:, 4] = one.ts_ns
        narrow[:, 10] = one.cpu
        wide[:, 6] = 1
        narrow[:, 14] = size - _BEFORE_RAW_BYTES
        made[:, _BEFORE_RAW_BYTES : _BEFORE_RAW_BYTES + one.bytes] = one.data[
            :, : one.bytes
        ]
        return made
