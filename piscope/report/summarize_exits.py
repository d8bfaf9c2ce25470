"""VM-exits counted and timed: by reason, for each vCPU, each VM and all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from piscope import __version__
from piscope.parts import Own
from piscope.report.exit_budget import BudgetsTally
from piscope.report.exit_names import ExitNames
from piscope.report.exit_outliers import OutliersTally
from piscope.report.exit_report import (
    EXITS_SCHEMA_VERSION,
    ExitGroup,
    ExitLine,
    ExitReport,
    ExitTrace,
)
from piscope.report.exit_times import ExitTimes, Times, TimesOf, class_keys
from piscope.report.selection import Selection
from piscope.report.summarize import summarize_losses as loss_lines
from piscope.tables import Events, Intervals, Vcpu, Vcpus

__all__ = ("SORTS", "ExitsTally", "Sort", "summarize_exits")

Sort = Literal["count", "time", "max"]
SORTS: tuple[Sort, ...] = ("count", "time", "max")
"""Orders of reasons: most exits, most time, or the longest exit first."""


class _Exits(Protocol):
    """What is read of timeline.exits.Exits."""

    row: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int64]
    isa: npt.NDArray[np.int8]
    dur_ns: npt.NDArray[np.int64]

    @property
    def paired(self) -> npt.NDArray[np.bool_]: ...
    def left_out(
        self, rows: npt.NDArray[np.bool_], vcpus: int
    ) -> dict[str, npt.NDArray[np.int64]]: ...


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
    tally = ExitsTally(timeline.vcpus, names, selection, sort=sort, outliers=outliers)
    tally.add(events, timeline, Own(0, len(events)))
    return tally.finish()


class ExitsTally:
    """The exits of the parts of one trace, added in its order.

    It takes 4 bytes an exit, and besides as much as there are vCPUs and reasons.
    """

    def __init__(
        self,
        vcpus: Vcpus,
        names: ExitNames,
        selection: Selection | None = None,
        *,
        sort: Sort = "time",
        outliers: int = 5,
    ) -> None:
        """Raises UsageError where the selection names what the trace does not hold."""
        self._vcpus, self._names, self._sort = vcpus, names, sort
        self._selection = selection or Selection()
        self._chosen = self._selection.of_vcpus(vcpus)
        self._times = ExitTimes()
        self._left_out: dict[str, npt.NDArray[np.int64]] = {}
        self._unattributed = 0
        self._budgets = BudgetsTally(len(vcpus))
        self._outliers = OutliersTally(outliers)
        self._said: _Said | None = None

    def add(self, events: Events, timeline: _ExitsTimeline, own: Own) -> None:
        """Count what is a part's own."""
        if self._said is None:
            self._said = _Said(events, timeline)
        exits, intervals = timeline.exits, timeline.intervals
        mine = own.rows(exits.row)
        self._unattributed += int(own.rows(events.rows("kvm_exit")).sum())
        self._unattributed -= int(mine.sum())
        for why, count in exits.left_out(mine, len(self._vcpus)).items():
            self._left_out[why] = self._left_out.get(why, 0) + count
        at = np.flatnonzero(mine & exits.paired)
        key = class_keys(exits.reason[at], exits.isa[at])
        vcpu, ts_ns, dur_ns = exits.vcpu[at], exits.ts_ns[at], exits.dur_ns[at]
        self._times.add(key, vcpu, ts_ns, dur_ns)
        self._budgets.add(intervals, own.intervals(intervals))
        some = np.flatnonzero(self._chosen[vcpu])
        self._outliers.add(
            intervals,
            key[some],
            vcpu[some],
            ts_ns[some],
            exits.cpu[at[some]],
            dur_ns[some],
        )

    def finish(self) -> ExitReport:
        """The report on what was added, once.

        Raises ValueError where nothing was.
        """
        said = self._said
        if said is None:
            raise ValueError("a report on exits needs at least one part")
        times = self._times.finish(len(self._vcpus))
        names = [self._names.name(*reason) for reason in times.classes]
        vcpus = [row for row in self._vcpus.rows if self._chosen[row.vcpu]]
        lines = self._lines(times, names, self._chosen)
        everything = self._group("all", vcpus, lines)

        def group(label: str, some: Sequence[Vcpu]) -> ExitGroup:
            return self._group(label, some, self._lines(times, names, self._of(some)))

        def reason_of(key: int) -> tuple[str, int]:
            number = times.class_of(key)
            return names[number], lines[number].p50_ns

        vms = sorted({v.vm for v in vcpus if v.vm is not None})
        return ExitReport(
            schema_version=EXITS_SCHEMA_VERSION,
            piscope_version=__version__,
            trace=said.trace,
            all=everything,
            vms=[group(f"vm{n}", [v for v in vcpus if v.vm == n]) for n in vms],
            vcpus=[group(v.label, [v]) for v in vcpus],
            budgets=self._budgets.finish(said.span_ns, vcpus),
            outliers=self._outliers.finish(self._vcpus, reason_of),
            narrowed=self._selection.as_text(),
            cannot_tell=list(_cannot_tell(said, self._unattributed, everything)),
        )

    def _of(self, vcpus: Sequence[Vcpu]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._vcpus), np.bool_)
        mask[[v.vcpu for v in vcpus]] = True
        return mask

    def _lines(
        self, times: Times, names: Sequence[str], chosen: npt.NDArray[np.bool_]
    ) -> dict[int, ExitLine]:
        """By class, what exits of the chosen vCPUs took; none where there are none."""
        found = {n: times.of(n, chosen) for n in range(len(names))}
        return {
            n: _line(names[n], *times.classes[n], took)
            for n, took in found.items()
            if took is not None
        }

    def _group(
        self, label: str, vcpus: Sequence[Vcpu], lines: dict[int, ExitLine]
    ) -> ExitGroup:
        one = vcpus[0] if len(vcpus) == 1 and label == vcpus[0].label else None
        vms = {v.vm for v in vcpus}
        mine = self._of(vcpus)
        left_out = {why: int(n[mine].sum()) for why, n in self._left_out.items()}
        return ExitGroup(
            label=label,
            vm=vms.pop() if len(vms) == 1 and label != "all" else None,
            vcpu_id=one.vcpu_id if one else None,
            tid=one.tid if one else None,
            count=sum(line.count for line in lines.values()),
            total_ns=sum(line.total_ns for line in lines.values()),
            left_out={why: count for why, count in left_out.items() if count},
            reasons=sorted(lines.values(), key=self._order),
        )

    def _order(self, line: ExitLine) -> tuple[int, str]:
        by = {"count": line.count, "time": line.total_ns, "max": line.max_ns}
        return -by[self._sort], line.reason


def _line(name: str, reason: int, isa: int, took: TimesOf) -> ExitLine:
    p50_ns, p90_ns, p99_ns = took.percentiles_ns
    return ExitLine(
        reason=name,
        code=None if reason < 0 else reason,
        isa=isa,
        count=took.count,
        total_ns=took.total_ns,
        min_ns=took.min_ns,
        mean_ns=took.total_ns / took.count,
        p50_ns=p50_ns,
        p90_ns=p90_ns,
        p99_ns=p99_ns,
        max_ns=took.max_ns,
        max_at_ns=took.max_at_ns,
    )


class _Said:
    """What every part says of the whole trace."""

    def __init__(self, events: Events, timeline: _ExitsTimeline) -> None:
        self.trace = _trace(events, timeline)
        self.span_ns = timeline.span_ns
        self.unplaced_losses = timeline.unplaced_losses
        self.userspace_visible = timeline.userspace_visible
        self.switches = events.has("sched_switch")


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
    said: _Said, unattributed: int, everything: ExitGroup
) -> Iterator[str]:
    if unattributed:
        yield f"{_exits_are(unattributed)} left out: of threads that it does not tell."
    for why, count in everything.left_out.items():
        yield f"{_exits_are(count)} left out: {_LEFT_OUT[why]}."
    if said.unplaced_losses is None:
        yield "An unknown number of events is missing, nobody knows where."
    elif said.unplaced_losses:
        yield (
            f"{said.unplaced_losses:,} events are missing, nobody knows where: any "
            "of these times may be that of several exits."
        )
    if not said.switches:
        yield (
            "Without sched:sched_switch halt and steal can't be told from the host's "
            "time. Record sched:sched_switch."
        )
    if not said.userspace_visible:
        yield (
            "Visits to userspace leave no event here: they count as the host's time. "
            "Record kvm:kvm_userspace_exit."
        )
    if said.trace.ts_resolution_ns > 1:
        yield (
            f"This text rounds times to {said.trace.ts_resolution_ns // 1000} us, and "
            "so does every duration."
        )
    if any(line.code is None for line in everything.reasons):
        yield "Some exit reasons have no number in this text, so they count as one."


def _exits_are(count: int) -> str:
    return "1 VM-exit is" if count == 1 else f"{count:,} VM-exits are"
