"""Where vCPUs' time went: INTERVALS by the part of the budget they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piscope.report.exit_report import BUDGET_PARTS, ExitBudget
from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind, Vcpu

__all__ = ("BudgetsTally", "by_part", "spent")

_PART_OF = {
    Kind.UNKNOWN: "unknown",
    Kind.GUEST: "guest",
    Kind.HOST_IRQS_OFF: "host",
    Kind.HOST: "host",
    Kind.POLL: "halt",
    Kind.USERSPACE: "userspace",
    Kind.PREEMPTED: "steal",
    Kind.BLOCKED: "halt",
    Kind.ASLEEP: "asleep",
}
_PARTS = list(BUDGET_PARTS)
_PART_INDEX = np.array([_PARTS.index(_PART_OF[kind]) for kind in Kind], np.uint8)


class BudgetsTally:
    """Budgets of all vCPUs, added up part by part."""

    def __init__(self, vcpus: int) -> None:
        self._time_ns = np.zeros((vcpus, len(_PARTS)), np.int64)
        self._uncertain_ns = np.zeros(vcpus, np.int64)

    def add(self, i: Intervals, own: npt.NDArray[np.bool_]) -> None:
        """Add a part's own intervals, bool[intervals]."""
        vcpus = len(self._uncertain_ns)
        length_ns = (i.end_ns - i.start_ns) * own
        key = i.vcpu.astype(np.int64) * len(_PARTS) + _PART_INDEX[i.kind]
        # float64 holds whole ns up to 104 days
        sums = np.bincount(key, length_ns, minlength=self._time_ns.size)
        self._time_ns += sums.astype(np.int64).reshape(self._time_ns.shape)
        doubt = np.bincount(i.vcpu, length_ns * ~i.certain, minlength=vcpus)
        self._uncertain_ns += doubt.astype(np.int64)

    def finish(
        self, span_ns: tuple[int, int], vcpus: Sequence[Vcpu]
    ) -> list[ExitBudget]:
        """The budget of each of these vCPUs over the trace's span."""
        begin_ns, end_ns = span_ns
        return [
            ExitBudget(
                label=v.label,
                vm=v.vm,
                vcpu_id=v.vcpu_id,
                tid=v.tid,
                wall_ns=end_ns - begin_ns,
                time_ns=dict(zip(_PARTS, self._time_ns[v.vcpu].tolist(), strict=True)),
                uncertain_ns=int(self._uncertain_ns[v.vcpu]),
            )
            for v in vcpus
        ]


def spent(
    i: Intervals, vcpu: Array, start_ns: Array, end_ns: Array
) -> npt.NDArray[np.int64]:
    """What vCPUs did from one instant to another: int64[n, BUDGET_PARTS], ns."""
    first, last = np.empty(len(vcpu), np.int64), np.empty(len(vcpu), np.int64)
    for one in np.unique(vcpu).tolist():
        mine = np.flatnonzero(vcpu == one)
        begin, end = np.searchsorted(i.vcpu, (one, one + 1))
        here = slice(begin, end)
        first[mine] = np.searchsorted(i.end_ns[here], start_ns[mine], side="right")
        last[mine] = np.searchsorted(i.start_ns[here], end_ns[mine], side="left")
        first[mine] += begin
        last[mine] += begin
    count = np.maximum(last - first, 0)
    of = np.repeat(np.arange(len(vcpu)), count)
    at = np.arange(len(of)) + np.repeat(first - (np.cumsum(count) - count), count)
    inside_ns = np.minimum(i.end_ns[at], end_ns[of])
    inside_ns -= np.maximum(i.start_ns[at], start_ns[of])
    result = np.zeros((len(vcpu), len(_PARTS)), np.int64)
    np.add.at(result, (of, _PART_INDEX[i.kind[at]]), inside_ns)
    return result


def by_part(spent_ns: npt.NDArray[np.int64]) -> dict[str, int]:
    """What `spent` says of one stretch by part of the budget, without parts of 0."""
    return {p: ns for p, ns in zip(_PARTS, spent_ns.tolist(), strict=True) if ns}
