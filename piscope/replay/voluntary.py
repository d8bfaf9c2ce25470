"""Which vCPUs that were switched out runnable were preempted, and which yielded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.replay.row_index import index_rows
from piscope.sources.raw import Array
from piscope.tables import Events, Timeline

__all__ = ("switched_out_runnable",)

_TASK_STATES = 0xFF  # TASK_REPORT, include/linux/sched.h
_PREEMPTED = 0x100  # TASK_REPORT_MAX: printed as "R+"


def switched_out_runnable(
    events: Events, timeline: Timeline, window: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each window: whether the task called schedule() itself; whether that is known.

    KVM marks both as `preempted`; sched_switch prints "R+" for the preempted one. With
    probes the put follows the sched_switch on the same pCPU.

    Source: include/trace/events/sched.h, __trace_sched_switch_state.
    """
    w = timeline.windows
    rows = events.rows("sched_switch")
    state = events.column("sched_switch", "prev_state", np.int64)
    prev = events.column("sched_switch", "prev_pid", np.int32)
    if state is None or prev is None or not len(rows):
        none = np.zeros(len(window), np.bool_)
        return none, none
    index = index_rows(events.cpu[rows], rows, len(events))
    last = index.last_up_to(w.put_cpu[window], w.put_row[window])
    at = np.minimum(np.searchsorted(rows, np.maximum(last, 0)), len(rows) - 1)
    known = (last >= 0) & (timeline.vcpus.of_tid(prev[at]) == w.vcpu[window])
    voluntary = (state[at] & (_TASK_STATES | _PREEMPTED)) == 0
    # prints without the mark (no state bits at all) tell nothing of it
    scope = events.scope
    told = (state & _PREEMPTED).any() if scope is None else scope.whole.preempted_told
    known &= bool(told)
    return voluntary, known
