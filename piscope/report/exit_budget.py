"""Where vCPUs' time went: INTERVALS by the part of the budget they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piscope.report.exit_report import BUDGET_PARTS, ExitBudget
from piscope.tables import Intervals, Kind, Vcpu

__all__ = ("budgets", "spent")

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


def budgets(
    i: Intervals, span_ns: tuple[int, int], vcpus: Sequence[Vcpu]
) -> list[ExitBudget]:
    """The budget of each of these vCPUs over the trace's span.

    `i` are the intervals of all vCPUs; each one's tile the span.
    """
    length_ns = i.end_ns - i.start_ns
    key = i.vcpu.astype(np.int64) * len(_PARTS) + _PART_INDEX[i.kind]
    shape = (int(i.vcpu.max(initial=-1)) + 1, len(_PARTS))
    # float64 holds whole ns up to 104 days
    sums = np.bincount(key, length_ns, minlength=shape[0] * shape[1]).reshape(shape)
    doubt = np.bincount(i.vcpu, length_ns * ~i.certain, minlength=shape[0])
    begin_ns, end_ns = span_ns
    return [
        ExitBudget(
            label=v.label,
            vm=v.vm,
            vcpu_id=v.vcpu_id,
            tid=v.tid,
            wall_ns=end_ns - begin_ns,
            time_ns={p: int(sums[v.vcpu, n]) for n, p in enumerate(_PARTS)},
            uncertain_ns=int(doubt[v.vcpu]),
        )
        for v in vcpus
    ]


def spent(i: Intervals, vcpu: int, start_ns: int, end_ns: int) -> dict[str, int]:
    """What the vCPU did from one instant to another, by part of the budget."""
    first, last = np.searchsorted(i.vcpu, (vcpu, vcpu + 1))
    first += np.searchsorted(i.end_ns[first:last], start_ns, side="right")
    spent_ns: dict[str, int] = {}
    for n in range(first, last):
        if i.start_ns[n] >= end_ns:
            break
        part = _PARTS[_PART_INDEX[i.kind[n]]]
        inside_ns = min(int(i.end_ns[n]), end_ns) - max(int(i.start_ns[n]), start_ns)
        spent_ns[part] = spent_ns.get(part, 0) + inside_ns
    return spent_ns
