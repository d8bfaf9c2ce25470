"""Tracepoint samples of a window: which event each is, and its common columns.

A sample's event is told by the common_type of its tracepoint record, as in a ring
buffer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_abi import Record, SampleType
from piscope.sources.perf_attribution import NO_TRACEPOINT, UNKNOWN, Attribution
from piscope.sources.perf_header import PerfHeader
from piscope.sources.perf_layout import Gather, SampleLayout
from piscope.sources.perf_stream import Window
from piscope.sources.raw import EventFormat, Wanted

__all__ = ("NO_EVENT", "SampleReader", "Samples", "Selection", "Tally")

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NO_EVENT = 0xFFFF
"""Where a common_type has no format."""

_MAX_CPU = 1 << 16  # x86 has at most 8192 (CONFIG_NR_CPUS)
_MAX_TID = 1 << 22  # PID_MAX_LIMIT
_COMMON_BYTES = 8
_COMMON_SIZES = {"common_type": 2, "common_flags": 1, "common_pid": 4}
_NO_TASK = 0xFFFFFFFF  # the TID of a task that has been reaped already


class Selection:
    """What a caller wants, by event index.

    fields   names to decode of each event; None: all, False: none
    rows     bool[events]: which give a row
    ignored  bool[events]: which are treated as absent
    """

    def __init__(self, wanted: Wanted, events: Sequence[tuple[str, str]]) -> None:
        self.fields = [wanted.fields_of(*event) for event in events]
        ignored = [wanted.ignored(*event) for event in events]
        self.ignored = np.array(ignored, np.bool_)
        chosen = [wanted.others or names is not False for names in self.fields]
        self.rows = np.array(chosen, np.bool_) & ~self.ignored
        self._wanted = wanted
        self._cpus = None
        if wanted.cpus is not None:
            self._cpus = np.array(sorted(wanted.cpus), np.int64)

    def inside(self, ts_ns: Index, cpu: Array) -> Mask | None:
        """Which samples are of the wanted times and pCPUs; None: all are."""
        mask: Mask | None = None
        start_ns, end_ns = self._wanted.start_ns, self._wanted.end_ns
        if start_ns is not None or end_ns is not None:
            mask = np.ones(len(ts_ns), np.bool_)
            if start_ns is not None:
                mask &= ts_ns >= start_ns
            if end_ns is not None:
                mask &= ts_ns < end_ns
        if self._cpus is not None:
            on = np.isin(cpu, self._cpus)
            mask = on if mask is None else mask & on
        return mask


@dataclass(slots=True)
class Samples:
    """Tracepoint samples in file order.

    start    int64[n]: where each sample begins in the window's data
    at       int64[n]: where its tracepoint record does
    length   int64[n]: the bytes of that
    common   uint64[n]: its first 8 bytes, with common_type, _flags and _pid in them
    ts_ns int64[n], cpu int32[n], seq int64[n], event uint16[n]: as in raw.RawChunk
    """

    start: Index
    at: Index
    length: Index
    common: npt.NDArray[np.uint64]
    ts_ns: Index
    cpu: npt.NDArray[np.int32]
    seq: Index
    event: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.start)

    def chosen(self, which: Mask | Index) -> Samples:
        """Those of a mask, or at some positions."""
        if which.dtype == np.bool_:
            which = np.flatnonzero(which)
        return Samples(*(getattr(self, f.name)[which] for f in fields(self)))


@dataclass(slots=True)
class Tally:
    """What a pass has seen, beside the samples that it gives.

    counts         event -> samples, of the wanted times and pCPUs
    seen, weight   event -> all samples, and the sum of their PERIODs
    cpus           pCPU -> whether it has samples (the last one stands for unknown)
    other          samples that are not of a tracepoint
    damaged        samples whose values can't be right or do not fit into them
    unattributed   samples whose layout can't be told
    no_time, no_cpu   tracepoint samples that lack the value
    foreign_tids   samples whose TID is another number than their common_pid
    unknown_ids    common_type without a format -> samples
    tgid_of        tid -> tgid, 0: unknown; nothing above highest_tid
    """

    counts: Index
    seen: Index
    weight: npt.NDArray[np.float64]
    cpus: Mask = field(default_factory=lambda: np.zeros(_MAX_CPU + 1, np.bool_))
    other: int = 0
    damaged: int = 0
    unattributed: int = 0
    no_time: int = 0
    no_cpu: int = 0
    foreign_tids: int = 0
    highest_tid: int = 0
    unknown_ids: Counter[int] = field(default_factory=Counter)
    tgid_of: npt.NDArray[np.int32] = field(
        default_factory=lambda: np.zeros(_MAX_TID + 1, np.int32)
    )

    @classmethod
    def of_events(cls, count: int) -> Tally:
        """An empty tally for that many events."""
        return cls(
            np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
        )


class SampleReader:
    """Reads the tracepoint samples of a recording's windows.

    `event_of_type` is uint16[65536]: common_type -> event index, or NO_EVENT.
    """

    def __init__(
        self,
        header: PerfHeader,
        formats: Sequence[EventFormat],
        event_of_type: npt.NDArray[np.uint16],
    ) -> None:
        self._mark = header.mark
        self._event_of_type = event_of_type
        self.attribution = Attribution(header)
        # The common fields are the same in all events of one kernel, and those that
        # are read have been in the first 8 bytes of all kernels with this ABI.
        self._shifts: dict[str, int] = {}
        for common in formats[0].common if formats else ():
            end = common.offset + common.size
            if _COMMON_SIZES.get(common.name) == common.size and end <= _COMMON_BYTES:
                little = header.order == "little"
                low_byte = common.offset if little else _COMMON_BYTES - end
                self._shifts[common.name] = 8 * low_byte

    def has(self, bit: SampleType) -> bool:
        """Whether any tracepoint of the recording carries the value."""
        return any(x.offset(bit) is not None for x in self.attribution.layouts)

    def read(
        self, window: Window, first_seq: int, selection: Selection, tally: Tally
    ) -> Samples | None:
        """The samples that `selection` wants; None where a window has none.

        `first_seq` is the number of the window's first record.
        """
        rows = np.flatnonzero(window.types == Record.SAMPLE)
        if len(rows) == 0:
            return None
        gather = Gather(window.data, self._mark)
        starts, sizes = window.offsets[rows], window.sizes[rows]
        rows += first_seq
        of = self.attribution.layouts_of(gather, starts, sizes)
        if of is not None:
            tally.other += int(np.count_nonzero(of == NO_TRACEPOINT))
            tally.unattributed += int(np.count_nonzero(of == UNKNOWN))
        parts: list[Samples] = []
        for number, layout in enumerate(self.attribution.layouts):
            if of is None:
                mine = (starts, sizes, rows)
            else:
                which = np.flatnonzero(of == number)
                mine = (starts, sizes, rows)
                if len(which) < len(starts):
                    mine = (starts[which], sizes[which], rows[which])
            part = self._read_layout(gather, layout, mine, tally, selection)
            if part is not None and len(part):
                parts.append(part)
        if len(parts) < 2:
            return parts[0] if parts else None
        names = [f.name for f in fields(Samples)]
        joined = Samples(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
        )
        return joined.chosen(np.argsort(joined.seq, kind="stable"))

    def times(self, window: Window) -> Index:
        """The times of all tracepoint samples of a window, int64[n], in no order."""
        rows = np.flatnonzero(window.types == Record.SAMPLE)
        gather = Gather(window.data, self._mark)
        starts, sizes = window.offsets[rows], window.sizes[rows]
        of = self.attribution.layouts_of(gather, starts, sizes)
        times: list[Index] = [np.zeros(0, np.int64)]
        for number, layout in enumerate(self.attribution.layouts):
            place = layout.offset(SampleType.TIME)
            if place is None:
                continue
            mine = sizes >= layout.fixed_end
            if of is not None:
                mine &= of == number
            times.append(gather("u8", starts[mine] + place).view(np.int64))
        return np.concatenate(times)

    def _read_layout(
        self,
        gather: Gather,
        layout: SampleLayout,
        records: tuple[Index, Index, Index],
        tally: Tally,
        selection: Selection,
    ) -> Samples | None:
        starts, sizes, seq = records
        at, lengths, inside = layout.raw_places(gather, starts, sizes)
        inside &= lengths >= _COMMON_BYTES
        tally.damaged += len(starts) - int(np.count_nonzero(inside))
        time_at, cpu_at = layout.offset(SampleType.TIME), layout.offset(SampleType.CPU)
        if time_at is None:
            tally.no_time += len(starts)
            return None
        # Values before RAW are inside wherever RAW is.
        begin = starts
        if not inside.all():
            begin, seq = starts[inside], seq[inside]
            at, lengths = at[inside], lengths[inside]
        if cpu_at is None:
            tally.no_cpu += len(begin)
            cpu = np.full(len(begin), -1, np.int32)
        else:
            cpu = gather("u4", begin + cpu_at).view(np.int32)
        samples = Samples(
            start=begin,
            at=at,
            length=lengths,
            common=gather("u8", at),
            ts_ns=gather("u8", begin + time_at).view(np.int64),
            cpu=cpu,
            seq=seq,
            event=np.zeros(len(begin), np.uint16),
        )
        samples = self._with_events(samples, tally)
        self._weigh(gather, layout, samples, tally)
        return self._select(samples, selection, tally)

    # Drops what can't be right, and events without a format.
    def _with_events(self, samples: Samples, tally: Tally) -> Samples:
        right = (samples.ts_ns >= 0) & (samples.cpu < _MAX_CPU) & (samples.cpu >= -1)
        if not right.all():
            tally.damaged += len(samples) - int(np.count_nonzero(right))
            samples = samples.chosen(right)
        types = self._common(samples, "common_type", np.uint16)
        samples.event = self._event_of_type[types]
        known = samples.event != NO_EVENT
        if not known.all():
            tally.unknown_ids.update(types[~known].tolist())
            samples = samples.chosen(known)
        return samples

    def _weigh(
        self, gather: Gather, layout: SampleLayout, samples: Samples, tally: Tally
    ) -> None:
        size = len(tally.seen)
        seen = np.bincount(samples.event, minlength=size)
        tally.seen += seen
        period_at = layout.offset(SampleType.PERIOD)
        if period_at is None:
            tally.weight += seen
            return
        period = gather("u8", samples.start + period_at)
        if (period == 1).all():
            tally.weight += seen
        else:
            tally.weight += np.bincount(samples.event, period, minlength=size)

    def _select(self, samples: Samples, selection: Selection, tally: Tally) -> Samples:
        if selection.ignored.any():
            samples = samples.chosen(~selection.ignored[samples.event])
        inside = selection.inside(samples.ts_ns, samples.cpu)
        if inside is not None:
            samples = samples.chosen(inside)
        tally.counts += np.bincount(samples.event, minlength=len(tally.counts))
        tally.cpus[samples.cpu] = True
        if not selection.rows.all():
            samples = samples.chosen(selection.rows[samples.event])
        return samples

    # A common field of each sample's record; 0 where the formats lack it.
    def _common(
        self, samples: Samples, name: str, dtype: type[np.integer[Any]]
    ) -> npt.NDArray[Any]:
        if name not in self._shifts:
            return np.zeros(len(samples), dtype)
        return (samples.common >> np.uint64(self._shifts[name])).astype(dtype)

    def tasks(
        self, window: Window, samples: Samples, tally: Tally
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """tid int32[n] and common_flags uint8[n] of samples that have been read.

        The tid is common_pid, the number that the other fields use too. perf's own
        TID is that of perf's PID namespace, and -1 for a task that is gone; it is
        taken where the formats have no common_pid.
        """
        flags = self._common(samples, "common_flags", np.uint8)
        tid = self._common(samples, "common_pid", np.int32)
        places = {x.offset(SampleType.TID) for x in self.attribution.layouts}
        place = places.pop() if len(places) == 1 else None
        if place is None:
            return tid, flags
        # u32 pid, u32 tid
        both = Gather(window.data, self._mark)("u8", samples.start + place)
        first, second = (
            both.astype(np.uint32),
            (both >> np.uint64(32)).astype(np.uint32),
        )
        pid_perf, tid_perf = (first, second) if self._mark == "<" else (second, first)
        if "common_pid" not in self._shifts:
            tid = tid_perf.view(np.int32)
        same = tid_perf == tid.view(np.uint32)
        if not same.all():
            tally.foreign_tids += int(np.count_nonzero(~same & (tid_perf != _NO_TASK)))
        same &= (tid_perf <= _MAX_TID) & (pid_perf <= _MAX_TID)
        if not same.all():
            tid_perf, pid_perf = tid_perf[same], pid_perf[same]
        tally.tgid_of[tid_perf] = pid_perf
        tally.highest_tid = max(tally.highest_tid, int(tid_perf.max(initial=0)))
        return tid, flags
