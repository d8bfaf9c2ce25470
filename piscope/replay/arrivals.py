"""When posts that nobody saw may arrive: a device's at any time, IPIs while one runs.

IPI virtualization posts an IPI while its sender is in guest mode, and only then; so do
the arrivals at its target stop while the sender handles a VM-exit, and that is often
the very tick for which the target exits, too.

    sender   | guest    |exit| guest        |
    clock    ------------    ----------------    what exp(-rate * clock) is taken of
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Kind, Timeline

__all__ = ("Arrivals",)

Int64 = npt.NDArray[np.int64]

# piscope.timeline.lifecycle.Act: the bits are part of the ACTS table
_ENTER, _EXIT = 4, 8
# EXIT_DEAD, EXIT_ZOMBIE, include/linux/sched.h
_TASK_DEAD = 0x10 | 0x20


@dataclass(frozen=True, slots=True)
class Arrivals:
    """From when on, and in what stretches, posts may arrive at each vCPU.

    from_ns  int64[vCPUs]  none before
    until_ns int64[vCPUs]  none from then on: its thread is dead
    sending  of each vCPU: start and end of the stretches in which one of its senders
             is in guest mode, int64[m] each, ascending and apart; None: at any time
    """

    from_ns: Int64
    until_ns: Int64
    sending: tuple[tuple[Int64, Int64], ...] | None = None

    @staticmethod
    def of_devices(timeline: Timeline, events: Events) -> Arrivals:
        """Posts by devices: at any time."""
        return Arrivals(_first_run_ns(timeline), _dead_ns(timeline, events))

    @staticmethod
    def of_ipis(
        timeline: Timeline, events: Events, senders: npt.NDArray[np.bool_]
    ) -> Arrivals:
        """IPIs by these vCPUs (bool[vCPUs]), as IPI virtualization posts them.

        A sender reaches the vCPUs of its own VM. Where several are in guest mode at a
        time the rate is still the same.
        """
        i, rows = timeline.intervals, timeline.vcpus.rows
        guest = (i.kind == Kind.GUEST) & senders[i.vcpu]
        vm = np.array([-1 if v.vm is None else v.vm for v in rows], np.int64)
        sending = []
        for target in rows:
            mine = guest & (i.vcpu != target.vcpu)
            mine &= vm[i.vcpu] == vm[target.vcpu]
            sending.append(_united(i.start_ns[mine], i.end_ns[mine]))
        return replace(Arrivals.of_devices(timeline, events), sending=tuple(sending))

    def clock_ns(self, vcpu: Array, ts_ns: Array) -> Int64:
        """int64[n]: how long posts could arrive at each vCPU up to an instant."""
        ts_ns = np.minimum(ts_ns, self.until_ns[vcpu])
        if self.sending is None:
            return np.maximum(ts_ns - self.from_ns[vcpu], 0)
        clock = np.zeros(len(ts_ns), np.int64)
        for target in np.unique(vcpu).tolist():
            mine = vcpu == target
            start, end = self.sending[target]
            done = np.concatenate([[0], np.cumsum(end - start)])
            at = np.searchsorted(start, ts_ns[mine], side="right") - 1
            got = np.maximum(at, 0)
            last = np.minimum(ts_ns[mine], end[got]) - start[got] if len(start) else 0
            clock[mine] = np.where(at >= 0, done[got] + last, 0)
        return clock


def _united(start_ns: Array, end_ns: Array) -> tuple[Int64, Int64]:
    """Stretches that overlap or touch as one."""
    order = np.argsort(start_ns, kind="stable")
    start_ns, end_ns = start_ns[order], end_ns[order]
    reach = np.maximum.accumulate(end_ns)
    apart = np.ones(len(order), np.bool_)
    apart[1:] = start_ns[1:] > reach[:-1]
    last = np.append(apart[1:], True)[: len(order)]
    return start_ns[apart], reach[last]


def _dead_ns(timeline: Timeline, events: Events) -> Int64:
    """int64[vCPUs]: when each thread died; the greatest number if the trace tells not.

    Its vCPU has been destroyed by then, or will be: nothing posts to it any more.
    """
    dead = np.full(len(timeline.vcpus), np.iinfo(np.int64).max)
    tid = events.column("sched_switch", "prev_pid", np.int64)
    state = events.column("sched_switch", "prev_state", np.int64)
    if tid is None or state is None:
        return dead
    last = (state & _TASK_DEAD) != 0
    last &= events.valid("sched_switch", "prev_state")
    rows = events.rows("sched_switch")[last]
    vcpu = timeline.vcpus.of_tid(tid[last].astype(np.int32))
    dead[vcpu[vcpu >= 0]] = events.ts_ns[rows[vcpu >= 0]]
    return dead


def _first_run_ns(timeline: Timeline) -> Int64:
    """int64[vCPUs], ns: from when on posts may reach each vCPU.

    A VM's devices and IPIs are programmed by its guest, so none comes before the VM's
    first VM-entry; a first VM-exit says that it has run before. Where the trace does
    not tell VMs apart all count as one; a VM without either never has any.
    """
    acts, vcpus = timeline.acts, timeline.vcpus.rows
    ran = np.flatnonzero(acts.act & (_ENTER | _EXIT))
    first = np.full(len(vcpus), np.iinfo(np.int64).max)
    leaves = (acts.act[ran] & _EXIT) != 0
    vcpu, at = np.unique(acts.vcpu[ran], return_index=True)
    first[vcpu] = np.where(leaves[at], timeline.span_ns[0], acts.ts_ns[ran[at]])
    vm = np.array([-1 if v.vm is None else v.vm for v in vcpus], np.int64)
    for one in np.unique(vm).tolist():
        first[vm == one] = first[vm == one].min()
    return first
