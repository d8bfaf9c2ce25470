"""VM-exits counted and timed: by reason, for each vCPU, each VM and all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from piscope import __version__
from piscope.report.exit_budget import budgets, spent
from piscope.report.exit_names import OTHER, ExitNames
from piscope.report.exit_report import (
    EXITS_SCHEMA_VERSION,
    ExitGroup,
    ExitLine,
    ExitReport,
    ExitTrace,
    Outlier,
)
from piscope.report.selection import Selection
from piscope.report.summarize import summarize_losses as loss_lines
from piscope.sources.raw import Array
from piscope.tables import Events, Intervals, Vcpu, Vcpus

__all__ = ("SORTS", "Sort", "summarize_exits")

Sort = Literal["count", "time", "max"]
SORTS: tuple[Sort, ...] = ("count", "time", "max")
"""Orders of reasons: most exits, most time, or the longest exit first."""

_PERCENTILES = (50, 90, 99)


class _Exits(Protocol):
    """What is read of timeline.exits.Exits."""

    vcpu: npt.NDArray[np.int32]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int64]
    isa: npt.NDArray[np.int8]
    dur_ns: npt.NDArray[np.int64]

    def __len__(self) -> int: ...
    @property
    def paired(self) -> npt.NDArray[np.bool_]: ...
    def left_out(self, rows: npt.NDArray[np.bool_]) -> dict[str, int]: ...


class _ExitsTimeline(Protocol):
    """What is read of timeline.exits.ExitsTimeline."""

    vcpus: Vcpus
    intervals: Intervals
    span_ns: tuple[int, int]
    unplaced_losses: int | None
    userspace_visible: bool

    @property
    def exits(self) -> _Exits: ...


def summarize_exits(
    events: Events,
    timeline: _ExitsTimeline,
    names: ExitNames,
    *,
    selection: Selection | None = None,
    sort: Sort = "time",
    outliers: int = 5,
) -> ExitReport:
    """Count and time the exits of the selected vCPUs, and tell each one's budget.

    Raises UsageError where the selection names what the trace does not hold.
    """
    selection = selection or Selection()
    chosen = selection.of_vcpus(timeline.vcpus)
    vcpus = [row for row in timeline.vcpus.rows if chosen[row.vcpu]]
    grouped = _grouped(timeline.exits, len(timeline.vcpus), names, sort)
    everything = grouped.group("all", vcpus)
    vms = sorted({v.vm for v in vcpus if v.vm is not None})
    result = ExitReport(
        schema_version=EXITS_SCHEMA_VERSION,
        piscope_version=__version__,
        trace=_trace(events, timeline),
        all=everything,
        vms=[grouped.group(f"vm{n}", [v for v in vcpus if v.vm == n]) for n in vms],
        vcpus=[grouped.group(v.label, [v]) for v in vcpus],
        budgets=budgets(timeline.intervals, timeline.span_ns, vcpus),
        outliers=_outliers(timeline, names, chosen, outliers),
        narrowed=selection.as_text(),
        cannot_tell=[],
    )
    result.cannot_tell = list(_cannot_tell(events, timeline, everything))
    return result


@dataclass(slots=True)
class _Grouped:
    """The exits by (reason, isa), each class's rows by vCPU.

    classes  (reason, isa) of each class
    rows     int64[m] of each class: its paired exits, vCPU after vCPU
    starts   int64[v + 1] of each class: where each vCPU's begin in them
    """

    exits: _Exits
    names: ExitNames
    order: Callable[[ExitLine], tuple[int, str]]
    classes: list[tuple[int, int]]
    rows: list[npt.NDArray[np.int64]]
    starts: list[npt.NDArray[np.int64]]

    def group(self, label: str, vcpus: Sequence[Vcpu]) -> ExitGroup:
        lines = [
            line for i in range(len(self.classes)) if (line := self._line(i, vcpus))
        ]
        lines.sort(key=self.order)
        one = vcpus[0] if len(vcpus) == 1 and label == vcpus[0].label else None
        vms = {v.vm for v in vcpus}
        mine = np.zeros(int(self.exits.vcpu.max(initial=-1)) + 1, np.bool_)
        mine[[v.vcpu for v in vcpus if v.vcpu < len(mine)]] = True
        return ExitGroup(
            label=label,
            vm=vms.pop() if len(vms) == 1 and label != "all" else None,
            vcpu_id=one.vcpu_id if one else None,
            tid=one.tid if one else None,
            count=sum(line.count for line in lines),
            total_ns=sum(line.total_ns for line in lines),
            left_out=self.exits.left_out(mine[self.exits.vcpu]),
            reasons=lines,
        )

    def _line(self, index: int, vcpus: Sequence[Vcpu]) -> ExitLine | None:
        starts = self.starts[index]
        parts = [
            self.rows[index][starts[v.vcpu] : starts[v.vcpu + 1]]
            for v in vcpus
            if starts[v.vcpu] < starts[v.vcpu + 1]
        ]
        if not parts:
            return None
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        durations_ns = self.exits.dur_ns[rows]
        longest = rows[int(durations_ns.argmax())]
        n, total_ns = len(rows), int(durations_ns.sum())
        # nearest rank: the least that so many percent do not exceed
        ranks = [max(-(-n * p // 100) - 1, 0) for p in _PERCENTILES]
        durations_ns.partition([0, *ranks, n - 1])
        reason, isa = self.classes[index]
        return ExitLine(
            reason=self.names.name(reason, isa),
            code=None if reason < 0 else reason,
            isa=isa,
            count=n,
            total_ns=total_ns,
            min_ns=int(durations_ns[0]),
            mean_ns=total_ns / n,
            p50_ns=int(durations_ns[ranks[0]]),
            p90_ns=int(durations_ns[ranks[1]]),
            p99_ns=int(durations_ns[ranks[2]]),
            max_ns=int(durations_ns[-1]),
            max_at_ns=int(self.exits.ts_ns[longest]),
        )


def _grouped(exits: _Exits, vcpus: int, names: ExitNames, sort: Sort) -> _Grouped:
    def order(line: ExitLine) -> tuple[int, str]:
        key = {"count": line.count, "time": line.total_ns, "max": line.max_ns}[sort]
        return -key, line.reason

    paired = np.flatnonzero(exits.paired)
    code, classes = _classes(exits, paired)
    by_class = paired[np.argsort(code, kind="stable")]
    bounds = np.append(0, np.cumsum(np.bincount(code, minlength=len(classes))))
    # a stable sort of 16 bits is by radix
    narrow = np.uint16 if vcpus <= 1 << 16 else np.uint32
    result = _Grouped(exits, names, order, classes, [], [])
    for begin, end in pairwise(bounds):
        rows = by_class[begin:end]
        vcpu = exits.vcpu[rows]
        result.rows.append(rows[np.argsort(vcpu.astype(narrow), kind="stable")])
        counts = np.bincount(vcpu, minlength=vcpus)
        result.starts.append(np.append(0, np.cumsum(counts)))
    return result


_MOST_REASONS = 512
# VMX has 80 reasons, SVM 160; a damaged trace may claim millions.


def _classes(
    exits: _Exits, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint16], list[tuple[int, int]]]:
    """The number of each exit's (reason, isa), and those by number.

    Beyond the 512 most frequent ones all are one class, OTHER.
    """
    key = (exits.reason[rows] + 1) * 4 + (exits.isa[rows] & 3)
    if not len(key):
        return np.empty(0, np.uint16), []
    if int(key.max()) < 1 << 16:
        seen = np.flatnonzero(np.bincount(key))
        number = np.zeros(1 << 16, np.int64)
        number[seen] = np.arange(len(seen))
        code = number[key]
    else:
        seen, code = np.unique(key, return_inverse=True)
    classes = [(k // 4 - 1, k % 4) for k in seen.tolist()]
    if len(classes) > _MOST_REASONS:
        often = np.argsort(-np.bincount(code), kind="stable")
        number = np.full(len(classes), _MOST_REASONS, np.int64)
        number[often[:_MOST_REASONS]] = np.arange(_MOST_REASONS)
        code = number[code]
        classes = [*(classes[n] for n in often[:_MOST_REASONS]), (OTHER, 0)]
    return code.astype(np.uint16), classes


def _outliers(
    timeline: _ExitsTimeline,
    names: ExitNames,
    chosen: npt.NDArray[np.bool_],
    most: int,
) -> list[Outlier]:
    exits = timeline.exits
    rows = np.flatnonzero(exits.paired & chosen[exits.vcpu])
    if not most or not len(rows):
        return []
    code, classes = _classes(exits, rows)
    dur_ns = exits.dur_ns[rows]
    medians = np.array(
        [_median(dur_ns[code == n]) for n in range(len(classes))], np.float64
    )
    times = dur_ns / np.maximum(medians[code], 1)
    # of equals the earliest
    at = np.argpartition(-times, min(most, len(times)) - 1)[:most]
    at = at[np.lexsort((at, -times[at]))]
    return [
        Outlier(
            label=timeline.vcpus.rows[exits.vcpu[row]].label,
            reason=names.name(*classes[int(code[n])]),
            ts_ns=int(exits.ts_ns[row]),
            cpu=int(exits.cpu[row]),
            dur_ns=int(dur_ns[n]),
            times_median=float(times[n]),
            time_ns=spent(
                timeline.intervals,
                int(exits.vcpu[row]),
                int(exits.ts_ns[row]),
                int(exits.ts_ns[row] + dur_ns[n]),
            ),
        )
        for n, row in zip(at.tolist(), rows[at].tolist(), strict=True)
    ]


def _median(values: Array) -> float:
    rank = max(-(-len(values) // 2) - 1, 0)
    return float(np.partition(values, rank)[rank]) if len(values) else 0.0


def _trace(events: Events, timeline: _ExitsTimeline) -> ExitTrace:
    info = events.info
    begin_ns, end_ns = timeline.span_ns
    return ExitTrace(
        path=info.path,
        format=info.format,
        kernel_release=info.kernel_release,
        clock=info.clock,
        ts_resolution_ns=info.ts_resolution_ns,
        start_ns=begin_ns,
        end_ns=end_ns,
        duration_ns=end_ns - begin_ns,
        events=sum(events.counts.values()),
        losses=loss_lines(events.losses),
    )


_LEFT_OUT = {
    "before-first-entry": "before the first VM-entry of their thread",
    "no-entry": "followed by another exit, without an entry between",
    "open": "still open at the trace's end",
    "lost": "with lost events before their entry",
}


def _cannot_tell(
    events: Events, timeline: _ExitsTimeline, everything: ExitGroup
) -> Iterator[str]:
    unattributed = len(events.rows("kvm_exit")) - len(timeline.exits)
    if unattributed:
        yield f"{_exits_are(unattributed)} left out: of threads that it does not tell."
    for why, count in everything.left_out.items():
        yield f"{_exits_are(count)} left out: {_LEFT_OUT[why]}."
    if timeline.unplaced_losses is None:
        yield "An unknown number of events is missing, nobody knows where."
    elif timeline.unplaced_losses:
        yield (
            f"{timeline.unplaced_losses:,} events are missing, nobody knows where: any "
            "of these times may be that of several exits."
        )
    if not events.has("sched_switch"):
        yield (
            "Without sched:sched_switch halt and steal can't be told from the host's "
            "time. Record sched:sched_switch."
        )
    if not timeline.userspace_visible:
        yield (
            "Visits to userspace leave no event here: they count as the host's time. "
            "Record kvm:kvm_userspace_exit."
        )
    if events.info.ts_resolution_ns > 1:
        yield (
            f"This text rounds times to {events.info.ts_resolution_ns // 1000} us, and "
            "so does every duration."
        )
    if any(line.code is None for line in everything.reasons):
        yield "Some exit reasons have no number in this text, so they count as one."


def _exits_are(count: int) -> str:
    return "1 VM-exit is" if count == 1 else f"{count:,} VM-exits are"
