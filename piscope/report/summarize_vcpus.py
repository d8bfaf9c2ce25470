"""The vCPUs: what each did for how long, and how often it was put and entered."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from piscope.parts import Own
from piscope.report.own_part import ChosenPart, runs
from piscope.report.summary import VcpuSummary
from piscope.tables import Kind, PutReason, Timeline, Vcpu

__all__ = ("KnownTime", "VcpusTally")

_ENTER = 4  # timeline.lifecycle.Act.ENTER, a bit of ACTS.act


class VcpusTally:
    """Times, puts and entries by vCPU.

    time_ns  int64[vCPUs, kinds]
    puts     int64[vCPUs, put reasons]
    unsure   int64[vCPUs]  puts that are not certain
    entries  int64[vCPUs]
    """

    def __init__(self, vcpus: int) -> None:
        self.time_ns = np.zeros((vcpus, len(Kind)), np.int64)
        self.puts = np.zeros((vcpus, len(PutReason)), np.int64)
        self.unsure = np.zeros(vcpus, np.int64)
        self.entries = np.zeros(vcpus, np.int64)

    def add(self, part: ChosenPart) -> None:
        """Add a part's own intervals, windows and acts."""
        timeline = part.analysis.timeline
        i, w, acts = timeline.intervals, timeline.windows, timeline.acts
        n = len(self.unsure)
        mine = part.own.intervals(i)
        for vcpu, run in enumerate(runs(i.vcpu, n)):
            # float64 holds whole ns up to 104 days
            length = (i.end_ns[run] - i.start_ns[run]).astype(np.float64)
            length *= mine[run]
            time_ns = np.bincount(i.kind[run], length, minlength=len(Kind))
            self.time_ns[vcpu] += time_ns.astype(np.int64)
        key = w.vcpu[part.windows] * len(PutReason) + w.reason[part.windows]
        self.puts += np.bincount(key, minlength=self.puts.size).reshape(n, -1)
        self.unsure += np.bincount(w.vcpu[part.windows & ~w.certain], minlength=n)
        mine = part.own.acts(acts)
        for vcpu, run in enumerate(runs(acts.vcpu, n)):
            enters = (acts.act[run] & _ENTER) != 0
            self.entries[vcpu] += np.count_nonzero(enters & mine[run])

    def finish(self, vcpus: Sequence[Vcpu]) -> list[VcpuSummary]:
        """These vCPUs."""
        return [
            VcpuSummary(
                label=row.label,
                vm=row.vm,
                vcpu_id=row.vcpu_id,
                tid=row.tid,
                tgid=row.tgid,
                comm=row.comm,
                evidence=row.evidence,
                time_ns={k.label: int(self.time_ns[row.vcpu, k]) for k in Kind},
                puts={
                    r.label: int(self.puts[row.vcpu, r])
                    for r in PutReason
                    if self.puts[row.vcpu, r]
                },
                entries=int(self.entries[row.vcpu]),
                uncertain_puts=int(self.unsure[row.vcpu]),
            )
            for row in vcpus
        ]


class KnownTime:
    """Each vCPU's time from its first interval of known kind to its last.

    What lies outside says nothing of the trace: the vCPU did not run yet, or not any
    more. Parts are added in the order of the trace.
    """

    def __init__(self) -> None:
        self._vcpus: dict[str, _Span] = {}

    def add(self, timeline: Timeline, own: Own) -> None:
        """Add a part's own intervals, of all vCPUs."""
        i, vcpus = timeline.intervals, timeline.vcpus
        mine = own.intervals(i)
        for row, run in zip(vcpus.rows, runs(i.vcpu, len(vcpus)), strict=True):
            span = self._vcpus.setdefault(row.label, _Span())
            length_ns = (i.end_ns[run] - i.start_ns[run]) * mine[run]
            unknown = i.kind[run] == Kind.UNKNOWN
            told = np.flatnonzero(~unknown & mine[run])
            if not len(told):
                span.pending_ns += int(length_ns.sum())
                continue
            first, end = int(told[0]), int(told[-1]) + 1
            if span.begun:
                between_ns = span.pending_ns + int(length_ns[:first].sum())
                span.seen_ns += between_ns
                span.unknown_ns += between_ns
            span.begun = True
            span.seen_ns += int(length_ns[first:end].sum())
            span.unknown_ns += int(length_ns[first:end][unknown[first:end]].sum())
            span.pending_ns = int(length_ns[end:].sum())

    def timeline_unknown(self, labels: Collection[str]) -> bool:
        """Whether what these vCPUs did is unknown for more than half of that time.

        True where none of them has any.
        """
        spans = [span for label, span in self._vcpus.items() if label in labels]
        seen_ns = sum(span.seen_ns for span in spans)
        return seen_ns == 0 or 2 * sum(span.unknown_ns for span in spans) > seen_ns


class _Span:
    """A vCPU's time: up to its last known interval so far, and unknown behind it."""

    def __init__(self) -> None:
        self.begun = False
        self.seen_ns = self.unknown_ns = self.pending_ns = 0
