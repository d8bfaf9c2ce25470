"""One pass over a text: blocks of lines to chunks of raw events, and what was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Loss, Payload, RawChunk, TraceInfo, Wanted
from piscope.sources.text_judge import Judgement
from piscope.sources.text_lines import Block
from piscope.sources.text_losses import LossLog
from piscope.sources.text_payload import PayloadReader
from piscope.sources.text_rows import EventNames, LineCounts, Rows, read_rows
from piscope.sources.text_shapes import UNKNOWN

__all__ = ("TextPass",)

Int64 = npt.NDArray[np.int64]

_MAX_TASKS = 1 << 20  # tids remembered; PID_MAX_LIMIT is four times that
_NOT_A_NAME = (b"", b"<...>")  # no saved comm
_NEVER_NS = -(1 << 63)
_IGNORED, _COUNTED, _ROW, _FIELDS = range(4)

PLUGIN_NOTE = (
    "libtraceevent's plugins reworded the events: kvm_exit without vcpu_id and"
    " intr_info, R+ printed as R; rerun `trace-cmd report -N -t`, or give the .dat"
)

RAW_NOTE = (
    "raw report (-R): numbers without 0x in apicid, dest_id, dst and ecx are taken for"
    " hexadecimal, and icr_low holds only the vector"
)
DISORDER_NOTE = "lines of one pCPU were out of time order, and were sorted"


class TextPass:
    """Reads blocks in the order of the text, with one `Wanted`.

    lines   how many lines were what, so far
    """

    def __init__(
        self, judged: Judgement, info: TraceInfo, names: EventNames, wanted: Wanted
    ) -> None:
        self.lines = LineCounts()
        self._judged, self._info, self._names = judged, info, names
        self._wanted = wanted
        self._actions: list[int] = []
        self._fields: list[tuple[str, ...] | None] = []
        self._readers: dict[int, PayloadReader] = {}
        self._counts: Counter[int] = Counter()
        self._log = LossLog()
        self._last_ns: dict[int, int] = {}  # cpu -> its latest event
        self._first_ns: dict[int, int] = {}  # cpu -> its first event
        self._latest_ns: int | None = None
        self._unfit: dict[int, tuple[int, int]] = {}  # event -> lines, first of them
        self._late: dict[int, tuple[int, int]] = {}  # cpu -> events, first line
        self._sub_sampled = 0
        self._buffers: set[bytes] = set()

    def read(self, block: Block) -> RawChunk | None:
        """The wanted events of a block; None where there are none."""
        rows = read_rows(block, self._judged, self._names, self.lines)
        self._sub_sampled += rows.period_above_one
        if len(self._buffers) < 256:
            self._buffers |= rows.buffers
        self._note_losses(rows, block)
        self._sort(rows)
        self._note_tasks(rows)
        return self._chunk(rows)

    def _chunk(self, rows: Rows) -> RawChunk | None:
        self._learn_actions()
        actions = np.array(self._actions, np.int64)[rows.event]
        keep = actions > _IGNORED
        wanted = self._wanted
        if wanted.cpus is not None:
            keep &= np.isin(rows.cpu, list(wanted.cpus))
        if wanted.start_ns is not None:
            keep &= rows.ts_ns >= wanted.start_ns
        if wanted.end_ns is not None:
            keep &= rows.ts_ns < wanted.end_ns
        numbers, counts = np.unique(rows.event[keep], return_counts=True)
        self._counts.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        chosen = np.flatnonzero(keep & (actions >= _ROW))
        if not len(chosen):
            return None
        event = rows.event[chosen]
        return RawChunk(
            ts_ns=rows.ts_ns[chosen],
            cpu=rows.cpu[chosen],
            seq=rows.line[chosen],
            tid=rows.tid[chosen],
            flags=rows.flags[chosen],
            event=event.astype(np.uint16),
            payload=self._payload(rows, chosen, event),
        )

    def _payload(self, rows: Rows, chosen: Int64, event: Int64) -> dict[int, Payload]:
        payload: dict[int, Payload] = {}
        order = np.argsort(event, kind="stable")
        groups = np.flatnonzero(np.diff(event[order], prepend=-1))
        for places in np.split(order, groups)[1:]:
            number = int(event[places[0]])
            if self._actions[number] < _FIELDS:
                continue
            reader = self._readers.get(number)
            if reader is None:
                reader = self._readers[number] = PayloadReader(
                    self._names.known[number],
                    self._fields[number],
                    self._judged.whens,
                )
            read = reader.read(rows.payloads(chosen[places]))
            payload[number] = Payload(places.astype(np.int64), read.columns, read.valid)
            if len(read.unfit):
                lines, first = self._unfit.get(number, (0, 0))
                first = first or int(rows.line[chosen[places[read.unfit[0]]]])
                self._unfit[number] = (lines + len(read.unfit), first)
            if read.plugin:
                self._info_note(PLUGIN_NOTE)
            if read.raw:
                self._info_note(RAW_NOTE)
        return payload

    def _learn_actions(self) -> None:
        """What is wanted of the events that are new since the last block."""
        for system, name in self._names.events[len(self._actions) :]:
            fields: tuple[str, ...] | bool | None = False
            if self._wanted.ignored(system, name):
                action = _IGNORED
            else:
                fields = self._wanted.fields_of(system, name)
                action = _FIELDS
                if fields is False:
                    action = _ROW if self._wanted.others else _COUNTED
            self._actions.append(action)
            self._fields.append(None if isinstance(fields, bool) else fields)

    def _note_losses(self, rows: Rows, block: Block) -> None:
        """Gaps of lost and of unparsed lines, between the events around them."""

        def first_ns(cpu: int | None, at: int = 0) -> int | None:
            """The first event from row `at` on, of a pCPU or of any."""
            later = rows.ts_ns[at:]
            if cpu is not None:
                later = later[rows.cpu[at:] == cpu]
            return int(later[0]) if len(later) else None

        def last_ns(cpu: int | None, at: int) -> int | None:
            earlier = rows.ts_ns[:at]
            if cpu is not None:
                earlier = earlier[rows.cpu[:at] == cpu]
            if len(earlier):
                return int(earlier[-1])
            return self._latest_ns if cpu is None else self._last_ns.get(cpu)

        unparsed = np.array(rows.unparsed, np.int64)
        places, firsts, lines = np.unique(
            np.searchsorted(rows.line, unparsed), return_index=True, return_counts=True
        )
        runs = list(zip(places.tolist(), firsts.tolist(), lines.tolist(), strict=True))
        if not runs or runs[0][0] > 0:
            self._log.close(first_ns)
        for at, first, count in runs:
            end_ns = first_ns(None, at)
            detail = f"no known shape fits, from line {unparsed[first]} on"
            start_ns = last_ns(None, at)
            loss = Loss("unparsed-line", None, start_ns, end_ns, count, detail)
            # Lines before the first event may go on where the last block ended.
            self._log.add_unparsed(loss, goes_on=at == 0)
            if at == 0:
                self._log.close(first_ns)
        for line, found in rows.lost:
            at = int(np.searchsorted(rows.line, line))
            cpu, end_ns = found.cpu, first_ns(found.cpu, at)
            detail = f"line {line} says so"
            start_ns = last_ns(cpu, at)
            loss = Loss("lost-record", cpu, start_ns, end_ns, found.count, detail)
            self._log.add(loss, open_ended=end_ns is None)
        if block.unended:
            last_line = block.first_line + block.text.count(b"\n") - 1
            detail = f"line {last_line}, the last, has no newline: it may be cut"
            start_ns = last_ns(None, len(rows))
            self._log.add(Loss("truncated", start_ns=start_ns, detail=detail))

    def _sort(self, rows: Rows) -> None:
        """Time order within the block, and never back behind an earlier block."""
        if not len(rows):
            return
        ts_ns = rows.ts_ns
        latest = ts_ns[0] if self._latest_ns is None else self._latest_ns
        if ts_ns[0] < latest or (np.diff(ts_ns) < 0).any():
            self._sort_by_pcpu(rows)
        # Rows are in time order now: the last of a pCPU is its latest.
        cpus, firsts = np.unique(rows.cpu, return_index=True)
        _, lasts = np.unique(rows.cpu[::-1], return_index=True)
        for cpu, first, last in zip(
            cpus.tolist(), firsts.tolist(), lasts.tolist(), strict=True
        ):
            self._first_ns.setdefault(cpu, int(rows.ts_ns[first]))
            self._last_ns[cpu] = int(rows.ts_ns[len(rows) - 1 - last])
        if len(rows):
            self._latest_ns = max(int(latest), int(rows.ts_ns[-1]))

    def _sort_by_pcpu(self, rows: Rows) -> None:
        cpus, of_cpu = np.unique(rows.cpu, return_inverse=True)
        # Far below any instant, for a pCPU that is new.
        given = [self._last_ns.get(cpu, _NEVER_NS) for cpu in cpus.tolist()]
        late = rows.ts_ns < np.array(given, np.int64)[of_cpu]
        for cpu in np.unique(rows.cpu[late]).tolist():
            events, first = self._late.get(cpu, (0, 0))
            mine = rows.line[late & (rows.cpu == cpu)]
            self._late[cpu] = (events + len(mine), first or int(mine[0]))
        if late.any():
            rows.in_order(np.flatnonzero(~late))
        by_cpu = np.argsort(rows.cpu, kind="stable")
        back = np.diff(rows.ts_ns[by_cpu]) < 0
        if (back & (np.diff(rows.cpu[by_cpu]) == 0)).any():
            self._info_note(DISORDER_NOTE)
        rows.in_order(np.argsort(rows.ts_ns, kind="stable"))

    def _note_tasks(self, rows: Rows) -> None:
        """Names and thread groups, the last ones known."""
        tids, last = np.unique(rows.tid[::-1], return_index=True)
        comms, tgids = self._info.comms, self._info.tgids
        for tid, back in zip(tids.tolist(), last.tolist(), strict=True):
            row = len(rows) - 1 - back
            if tid == UNKNOWN or (tid not in comms and len(comms) >= _MAX_TASKS):
                continue
            comm = rows.comm(row)
            if comm not in _NOT_A_NAME:
                comms[tid] = comm.decode("utf-8", "replace")
            if rows.tgid[row] != UNKNOWN:
                tgids[tid] = int(rows.tgid[row])

    def _info_note(self, note: str) -> None:
        if note not in self._info.notes:
            self._info.notes.append(note)

    def finish(self, stream_losses: list[Loss]) -> None:
        """What can be said only at the end of the text."""
        info = self._info
        info.cpus = tuple(sorted(cpu for cpu in self._first_ns if cpu != UNKNOWN))
        info.buffers = tuple(sorted(b.decode("ascii") for b in self._buffers))
        if self._buffers:
            names = ", ".join(info.buffers)
            self._info_note(f"lines of several buffers are mixed: {names}")
        for loss in stream_losses:
            self._log.add(replace(loss, start_ns=self._latest_ns))
        self._overwritten()
        for cpu, (events, line) in sorted(self._late.items()):
            self._log.add(
                Loss(
                    "damaged",
                    None if cpu == UNKNOWN else cpu,
                    count=events,
                    detail=f"time goes back at line {line}: older lines left out",
                )
            )
        for number, (lines, first) in sorted(self._unfit.items()):
            name = self._names.events[number][1]
            detail = f"{name}: the fields of some lines are unknown, first line {first}"
            self._log.add(Loss("unparsed-line", count=lines, detail=detail))
        if self._sub_sampled:
            detail = f"{self._sub_sampled} events with a period above 1 (perf -F or -c)"
            self._log.add(Loss("sub-sampled", detail=detail))

    def _overwritten(self) -> None:
        """An overwrite-mode buffer that wrapped, as the head of the text tells.

        Each pCPU's buffer wraps for itself: what is gone from one lies before that
        pCPU's own first event, which may be long after the others'.
        """
        entries = self._judged.overwritten
        if entries is None or entries[1] <= entries[0]:
            return
        kept, written = entries
        start_ns = min(self._first_ns.values(), default=None)
        detail = f"{kept} of {written} events were still in the buffer"
        count = written - kept
        self._log.add(Loss("overwritten", None, None, start_ns, count, detail))
        for cpu, first_ns in sorted(self._first_ns.items()):
            if start_ns is not None and first_ns > start_ns and cpu != UNKNOWN:
                detail = "its buffer may have wrapped as late as this"
                self._log.add(
                    Loss("overwritten", cpu, start_ns, first_ns, None, detail)
                )

    def counts(self) -> dict[str, int]:
        """`system:name` -> events over the wanted pCPUs and times."""
        counts: dict[str, int] = {}
        for number, count in sorted(self._counts.items()):
            system, name = self._names.events[number]
            key = f"{system}:{name}"
            counts[key] = counts.get(key, 0) + count
        return counts

    def losses(self) -> list[Loss]:
        """All losses, those of the lines first."""
        return self._log.losses()
