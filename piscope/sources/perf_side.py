"""The records beside the samples: names of tasks, and events that were lost.

To be read beside include/uapi/linux/perf_event.h, enum perf_event_type.
"""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np

from piscope.sources.perf_abi import Record, SampleType
from piscope.sources.perf_header import PerfHeader
from piscope.sources.perf_layout import trailer_offsets
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_samples import Samples
from piscope.sources.perf_stream import Window
from piscope.sources.raw import TraceInfo

__all__ = ("SideRecords",)

_READ = (
    Record.LOST,
    Record.COMM,
    Record.THROTTLE,
    Record.UNTHROTTLE,
    Record.FORK,
    Record.LOST_SAMPLES,
)
_TASK_COMM_LEN = 16
# PERF_RECORD_MISC_LOST_SAMPLES_BPF: the samples were dropped by a filter, on purpose.
_MISC_LOST_BY_FILTER = 1 << 15
_TOTALS_SHOWN = 5
_MAX_TASKS = 1 << 22  # PID_MAX_LIMIT


class SideRecords:
    """Keeps `info.comms` and `info.tgids`, and turns lost events into losses."""

    def __init__(self, header: PerfHeader, info: TraceInfo, losses: LossLog) -> None:
        self._mark = header.mark
        self._info = info
        self._losses = losses
        self._attr_names = header.attr_names
        self._attr_of_id = header.attr_of_id
        self._last_ns: dict[int, int] = {}  # pCPU -> its latest sample
        self._told = 0  # lost events, by LOST records
        self._totals: Counter[str] = Counter()  # event -> lost, by perf's totals
        self._throttled: dict[int | None, int | None] = {}  # pCPU -> since when
        # Which attr's trailer a record has is told by an id inside that trailer. perf
        # sees to it that all attrs agree, but for the ids themselves.
        trailers = [
            trailer_offsets(a.sample_type) for a in header.attrs if a.sample_id_all
        ]
        self._trailer = max(trailers, key=len, default={})
        if any(len(t) != len(self._trailer) for t in trailers):
            tail = SampleType.IDENTIFIER
            same = all(t.get(tail) == self._trailer.get(tail) for t in trailers)
            self._trailer = {tail: 8} if same and tail in self._trailer else {}

    def take(self, window: Window, samples: Samples | None) -> None:
        """The window's records; `samples` are those of it that are wanted."""
        for i in np.flatnonzero(np.isin(window.types, _READ)).tolist():
            at, size = int(window.offsets[i]), int(window.sizes[i])
            record = window.data[at : at + size].tobytes()
            kind = int(window.types[i])
            if kind == Record.COMM:
                self._comm(record)
            elif kind == Record.FORK:
                self._fork(record)
            elif kind == Record.LOST:
                self._lost(record, samples, at)
            elif kind == Record.LOST_SAMPLES:
                self._lost_samples(record, int(window.misc[i]), samples, at)
            else:
                self._throttle(record, throttled=kind == Record.THROTTLE)
        if samples is not None and len(samples):
            # In file order, so that the last sample of each pCPU remains.
            cpus = samples.cpu.astype(np.int64)
            last = np.full(int(cpus.max()) + 2, -1, np.int64)
            last[cpus] = np.arange(len(cpus))
            for row in last[last >= 0].tolist():
                self._last_ns[int(cpus[row])] = int(samples.ts_ns[row])

    def finish(self) -> None:
        """What is still open when the recording ends."""
        for cpu, since in self._throttled.items():
            self._add_throttled(cpu, since, None)
        self._report_totals()

    # COMM { u32 pid, u32 tid, char comm[] }
    def _comm(self, record: bytes) -> None:
        if len(record) < 17:
            return
        pid, tid = struct.unpack_from(self._mark + "II", record, 8)
        comm = record[16 : 16 + _TASK_COMM_LEN].split(b"\0", 1)[0]
        self._name(tid, pid, comm.decode("utf-8", "replace"))

    # FORK { u32 pid, u32 ppid, u32 tid, u32 ptid, u64 time }
    def _fork(self, record: bytes) -> None:
        if len(record) < 24:
            return
        pid, _, tid, ptid = struct.unpack_from(self._mark + "4I", record, 8)
        # A new task has its parent's name until it says otherwise (COMM).
        self._name(tid, pid, self._info.comms.get(ptid))

    def _name(self, tid: int, pid: int, comm: str | None) -> None:
        if tid > _MAX_TASKS or pid > _MAX_TASKS:
            return
        self._info.tgids[tid] = pid
        if comm:
            self._info.comms[tid] = comm

    # LOST { u64 id, u64 lost }: written in front of the first event that found room
    # again, with that event's time.
    def _lost(self, record: bytes, samples: Samples | None, at: int) -> None:
        if len(record) < 24:
            return
        _, count = struct.unpack_from(self._mark + "QQ", record, 8)
        cpu, end_ns = self._where(record)
        self._told += int(count)
        self._losses.add(
            "lost-record",
            "the ring buffer was full (PERF_RECORD_LOST)",
            cpu=cpu,
            start_ns=self._before(cpu, samples, at),
            end_ns=end_ns,
            count=int(count),
        )

    # LOST_SAMPLES { u64 lost }: at once by the kernel where the hardware drops samples;
    # and without a time, for each event at the end, by perf since "perf record: Read
    # and inject LOST_SAMPLES events" (v6.1).
    def _lost_samples(
        self, record: bytes, misc: int, samples: Samples | None, at: int
    ) -> None:
        if len(record) < 16 or misc & _MISC_LOST_BY_FILTER:
            return
        (count,) = struct.unpack_from(self._mark + "Q", record, 8)
        cpu, end_ns = self._where(record)
        if end_ns:
            self._losses.add(
                "lost-samples",
                "samples were dropped (PERF_RECORD_LOST_SAMPLES)",
                cpu=cpu,
                start_ns=self._before(cpu, samples, at),
                end_ns=end_ns,
                count=int(count),
            )
        elif count:
            number = self._from_end(record, SampleType.IDENTIFIER)
            name = self._attr_names.get(self._attr_of_id.get(number or 0, -1), "?")
            self._totals[name] += int(count)

    # The totals at the end count again what LOST records told when it happened, but
    # also what was lost last, when no event came any more to be written behind it.
    def _report_totals(self) -> None:
        if not self._totals:
            return
        ranked = self._totals.most_common(_TOTALS_SHOWN)
        shown = ", ".join(f"{count} of {name}" for name, count in ranked)
        more = ", ..." if len(self._totals) > _TOTALS_SHOWN else ""
        note = f"lost events by perf's own count: {shown}{more}"
        if note not in self._info.notes:
            self._info.notes.append(note)
        untold = self._totals.total() - self._told
        if untold > 0:
            self._losses.add(
                "lost-samples",
                "events that perf counted as lost without telling when"
                " (PERF_RECORD_LOST_SAMPLES)",
                count=untold,
            )

    # THROTTLE, UNTHROTTLE { u64 time, u64 id, u64 stream_id }
    def _throttle(self, record: bytes, *, throttled: bool) -> None:
        if len(record) < 32:
            return
        (ts_ns,) = struct.unpack_from(self._mark + "Q", record, 8)
        time = int(ts_ns) if ts_ns < 1 << 63 else None
        cpu, _ = self._where(record)
        if throttled:
            self._throttled.setdefault(cpu, time)
        elif cpu in self._throttled:
            self._add_throttled(cpu, self._throttled.pop(cpu), time)
        else:
            self._add_throttled(cpu, None, time)

    def _add_throttled(
        self, cpu: int | None, start_ns: int | None, end_ns: int | None
    ) -> None:
        self._losses.add(
            "lost-samples",
            "the kernel throttled an event (PERF_RECORD_THROTTLE;"
            " sysctl kernel.perf_event_max_sample_rate)",
            cpu=cpu,
            start_ns=start_ns,
            end_ns=end_ns,
        )

    # The pCPU and the time of the trailer, None where it has none.
    def _where(self, record: bytes) -> tuple[int | None, int | None]:
        cpu = self._from_end(record, SampleType.CPU, "I")
        ts_ns = self._from_end(record, SampleType.TIME)
        if ts_ns is not None and ts_ns >= 1 << 63:
            ts_ns = None
        return None if cpu is None or cpu >= 1 << 16 else cpu, ts_ns

    def _from_end(self, record: bytes, bit: SampleType, form: str = "Q") -> int | None:
        back = self._trailer.get(bit)
        if back is None or len(record) < 16 + back:
            return None
        (value,) = struct.unpack_from(self._mark + form, record, len(record) - back)
        return int(value)

    # The latest sample of the pCPU in front of a byte of the window.
    def _before(self, cpu: int | None, samples: Samples | None, at: int) -> int | None:
        if cpu is None:
            return None
        if samples is not None:
            rows = np.flatnonzero((samples.cpu == cpu) & (samples.start < at))
            if len(rows):
                return int(samples.ts_ns[rows[-1]])
        return self._last_ns.get(cpu)
