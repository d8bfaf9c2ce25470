"""Why a vCPU was put, where the probes did not read it.

    sched_switch prev=vCPU -> pi_put      kvm_sched_out: any kind
    pi_put, the vCPU's thread still runs  vcpu_put: neither preempted nor blocking

kvm_sched_in clears vcpu->preempted, and only kvm_vcpu_block makes a vCPU blocking, so
the second is certain; of the first the trace tells too little.

Source: virt/kvm/kvm_main.c, kvm_sched_out, kvm_sched_in, vcpu_put.
"""

from __future__ import annotations

import numpy as np

from piscope.tables import Events
from piscope.verify.observations import UNREAD, Hits
from piscope.verify.probe_names import Point

__all__ = ("tell_puts_of_running_threads",)


def tell_puts_of_running_threads(events: Events, hits: Hits) -> int:
    """Fill in the flags of puts by threads that run on; how many those are."""
    switches = events.rows("sched_switch")
    next_tid = events.column("sched_switch", "next_pid", np.int32)
    if next_tid is None or not len(switches):
        return 0
    open_ = np.flatnonzero(
        (hits.point == Point.PUT)
        & (hits.preempted == UNREAD)
        & (hits.blocking == UNREAD)
    )
    cpu = events.cpu[switches].astype(np.int64)
    order = np.lexsort((switches, cpu))
    span = len(events) + 1
    key = (cpu * span + switches)[order]
    wanted = hits.cpu[open_].astype(np.int64) * span + hits.row[open_]
    at = np.searchsorted(key, wanted) - 1
    last = order[np.maximum(at, 0)]
    runs = (at >= 0) & (cpu[last] == hits.cpu[open_])
    runs &= next_tid[last] == events.tid[hits.row[open_]]
    told = open_[runs]
    hits.preempted[told] = 0
    hits.blocking[told] = 0
    return len(told)
