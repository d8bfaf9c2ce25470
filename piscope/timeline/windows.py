"""Each put and what it begins: the windows in which a vCPU is not loaded.

    pi_put            unloaded             pi_load
      |-----------------------------------------|
      ON, PIR at return              ON, PIR at entry

Where probes read the descriptor, a window tells by itself whether hardware posted
into it: ON went from 0 to 1 (SN=0), or PIR gained a bit (SN=1), and no post by KVM
explains it. A window without probes keeps that open.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.tables import Events, PutReason, Windows
from piscope.timeline.lanes import Lanes
from piscope.timeline.lifecycle import Act, Life, Mark
from piscope.timeline.probes import (
    POSTED_INTR_WAKEUP_VECTOR,
    Probe,
    ProbeColumns,
    probe_columns,
)
from piscope.whole import Scope

__all__ = ("find_windows",)


_REASON_OF_MARK = {
    Mark.OUT_RUNNABLE: PutReason.PREEMPTED,
    Mark.OUT_RUNNABLE_HALT: PutReason.PREEMPTED,
    Mark.OUT_SLEEP: PutReason.ASLEEP,
    Mark.OUT_BLOCK: PutReason.BLOCKING,
    Mark.FPU_UNLOAD: PutReason.USERSPACE,
    Mark.USERSPACE_EXIT: PutReason.USERSPACE,
}
_SHOWS_GUEST = np.zeros(len(Mark), np.bool_)
_SHOWS_GUEST[[Mark.ENTRY, Mark.EXIT, Mark.EXIT_HALT]] = True
_REASON_OF_LIFE = {
    Life.USERSPACE: PutReason.USERSPACE,
    Life.LEAVING: PutReason.USERSPACE,
    Life.USERSPACE_OFF: PutReason.USERSPACE,
    Life.IOCTL: PutReason.IOCTL,
    Life.HOST: PutReason.USERSPACE,
    Life.HALT: PutReason.BLOCKING,
    Life.PREEMPTED: PutReason.PREEMPTED,
    Life.PREEMPTED_HALT: PutReason.PREEMPTED,
    Life.BLOCKED: PutReason.BLOCKING,
    Life.ASLEEP: PutReason.ASLEEP,
    Life.DEAD: PutReason.IOCTL,  # by the thread that destroys the VM
}


def find_windows(
    events: Events,
    lanes: Lanes,
    before: npt.NDArray[np.uint8],
    life: npt.NDArray[np.uint8],
    act: npt.NDArray[np.uint8],
    probes: list[Probe],
    end_ns: int,
    userspace_visible: bool,
) -> Windows:
    """Every put, why it was, the window it began, and what probes say of that window.

    `before` and `life` are the state before and after each mark, `act` is what the mark
    did. Without `userspace_visible` a switch-out that is no halt may have happened in
    userspace, and its reason is not certain.
    """
    loads = (act & Act.LOAD) != 0
    puts = np.flatnonzero((act & Act.PUT) != 0)
    n = len(puts)
    stop = _next_in_lane(lanes, puts, _ends_window(lanes, before, life, act))
    load = np.maximum(stop, 0)
    stopped = stop >= 0
    ended = stopped & loads[load]

    reason = np.zeros(n, np.uint8)
    for mark, why in _REASON_OF_MARK.items():
        reason[lanes.mark[puts] == mark] = why
    certain = (act[puts] & Act.UNSURE) == 0
    if not userspace_visible:
        certain &= lanes.mark[puts] == Mark.OUT_BLOCK
    certain &= ~_may_wait_for_sipi(lanes, puts)

    windows = Windows(
        vcpu=lanes.lane[puts],
        reason=reason,
        put_row=lanes.row[puts],
        put_ns=lanes.ts_ns[puts],
        put_cpu=lanes.cpu[puts],
        load_row=np.where(ended, lanes.row[load], -1),
        load_ns=np.where(stopped, lanes.ts_ns[load], _last_ns(lanes, puts, end_ns)),
        load_cpu=np.where(ended, lanes.cpu[load], -1).astype(np.int32),
        end_row=np.where(stopped, lanes.row[load], len(events)),
        certain=certain,
        probed=np.zeros(n, np.bool_),
        on_put=np.full(n, -1, np.int8),
        on_before=np.full(n, -1, np.int8),
        pir_before=np.full(n, -1, np.int8),
        on_load=np.full(n, -1, np.int8),
        pir_load=np.full(n, -1, np.int8),
        sn_put=np.full(n, -1, np.int8),
        nv_put=np.full(n, -1, np.int16),
        new_pir=np.zeros((n, 4), np.uint64),
    )
    if probes and n:
        _read_probes(events, windows, probes, before[puts])
    return windows


def _ends_window(
    lanes: Lanes,
    before: npt.NDArray[np.uint8],
    life: npt.NDArray[np.uint8],
    act: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    """Which marks end a window: a load, or whatever makes it unknown when that was.

    Those are lost events that may be the vCPU's, and a mark that shows it in its guest,
    or put once more, though no load was seen.
    """
    ends: npt.NDArray[np.bool_] = lanes.mark == Mark.LOST
    ends |= (life == Life.UNKNOWN) & (before != Life.UNKNOWN)
    ends |= (act & (Act.LOAD | Act.PUT)) != 0
    ends |= _SHOWS_GUEST[lanes.mark]
    return ends


def _next_in_lane(
    lanes: Lanes, at: npt.NDArray[np.int64], which: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The first such mark behind each mark, in its own lane; -1: there is none."""
    marks = np.flatnonzero(which)
    if not len(marks):
        return np.full(len(at), -1, np.int64)
    following = np.searchsorted(marks, at, side="right")
    found = marks[np.minimum(following, len(marks) - 1)]
    inside = (following < len(marks)) & (lanes.lane[found] == lanes.lane[at])
    result: npt.NDArray[np.int64] = np.where(inside, found, -1)
    return result


def _last_ns(
    lanes: Lanes, puts: npt.NDArray[np.int64], end_ns: int
) -> npt.NDArray[np.int64]:
    """The end of a window that no load ends: the thread's death, or the trace's end."""
    lane_end = np.full(len(lanes.starts), end_ns, np.int64)
    dead = np.flatnonzero(lanes.mark == Mark.OUT_DEAD)
    lane_end[lanes.lane[dead]] = lanes.ts_ns[dead]
    result: npt.NDArray[np.int64] = np.maximum(
        lane_end[lanes.lane[puts]], lanes.ts_ns[puts]
    )
    return result


def _may_wait_for_sipi(
    lanes: Lanes, puts: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """A block of a vCPU that never entered its guest may be a wait for SIPI.

    Its guest has interrupts disabled then, and no wakeup vector is armed.
    """
    in_guest = np.append(np.flatnonzero(_SHOWS_GUEST[lanes.mark]), len(lanes.mark))
    first = in_guest[np.searchsorted(in_guest, lanes.starts)]  # maybe of a later lane
    none_yet = puts < first[lanes.lane[puts]]
    result: npt.NDArray[np.bool_] = none_yet & (lanes.mark[puts] == Mark.OUT_BLOCK)
    return result


def _read_probes(
    events: Events,
    windows: Windows,
    probes: list[Probe],
    life: npt.NDArray[np.uint8],
) -> None:
    """Put into the windows what the probes at both of their ends read."""
    put = probe_columns(events, probes, "put", at_return=False)
    put_done = probe_columns(events, probes, "put", at_return=True)
    load = probe_columns(events, probes, "load", at_return=False)
    if put is None or load is None:
        return
    tid = events.tid[windows.put_row]
    # a put by another mark than a probe keeps the reason that the mark gave it
    at_put = np.searchsorted(put.rows, windows.put_row)
    at_put = np.minimum(at_put, max(len(put.rows) - 1, 0))
    by_probe = np.zeros(len(windows), np.bool_)
    if len(put.rows):
        by_probe = put.rows[at_put] == windows.put_row
    for state, why in _REASON_OF_LIFE.items():
        windows.reason[by_probe & (life == state)] = why
    windows.certain &= ~by_probe | (windows.reason != PutReason.UNKNOWN)
    if put.preempted is not None and put.blocking is not None and len(put.rows):
        _reasons_by_flags(windows, put, at_put, by_probe)

    if put.ctl is not None and len(put.rows):
        windows.on_before[by_probe] = _bit(put.ctl, 0)[at_put][by_probe]
    if put.pir is not None and len(put.rows):
        windows.pir_before[by_probe] = _any(put.pir)[at_put][by_probe]

    # the return of the same put, by the same thread, before the window ends
    done = put if put_done is None else put_done
    first = _first_of_thread(events, done.rows, windows.put_row, tid)
    ok = by_probe & (first >= 0)
    if done.ctl is None or not len(done.rows):
        return
    ok &= (done.rows[first] < windows.load_row) | (windows.load_row < 0)
    windows.on_put[ok] = _bit(done.ctl, 0)[first][ok]
    if put_done is not None:
        windows.sn_put[ok] = _bit(done.ctl, 1)[first][ok]
        nv = ((done.ctl >> np.uint64(16)) & np.uint64(0xFF)).astype(np.int16)
        windows.nv_put[ok] = nv[first][ok]
        _irqs_blocked(windows, events.scope)

    if load.ctl is None or not len(load.rows):
        return
    at_load = np.searchsorted(load.rows, windows.load_row)
    at_load = np.minimum(at_load, len(load.rows) - 1)
    seen = load.rows[at_load] == windows.load_row
    windows.on_load[seen] = _bit(load.ctl, 0)[at_load][seen]
    windows.probed = (windows.on_put >= 0) & (windows.on_load >= 0)
    if load.pir is not None:
        windows.pir_load[seen] = _any(load.pir)[at_load][seen]
        if done.pir is not None:
            gained = load.pir[at_load] & ~done.pir[first]
            windows.new_pir[windows.probed] = gained[windows.probed]


def _any(pir: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
    result: npt.NDArray[np.int8] = np.any(pir != 0, axis=1).astype(np.int8)
    return result


def _bit(ctl: npt.NDArray[np.uint64], bit: int) -> npt.NDArray[np.int8]:
    return ((ctl >> np.uint64(bit)) & np.uint64(1)).astype(np.int8)


def _reasons_by_flags(
    windows: Windows,
    put: ProbeColumns,
    at_put: npt.NDArray[np.int64],
    by_probe: npt.NDArray[np.bool_],
) -> None:
    """vcpu->preempted and the rcuwait, as the kernel itself saw them at the put."""
    assert put.preempted is not None
    assert put.blocking is not None
    preempted = (put.preempted[at_put] != 0) & by_probe
    blocking = (put.blocking[at_put] != 0) & by_probe
    was_out = windows.reason == PutReason.PREEMPTED
    windows.reason[preempted & ~blocking] = PutReason.PREEMPTED
    windows.reason[preempted & blocking] = PutReason.BLOCKING_PREEMPTED
    windows.reason[~preempted & blocking] = PutReason.BLOCKING
    neither = by_probe & ~preempted & ~blocking
    # Since 6.11 a runnable vCPU that does not want to run is not `preempted`.
    windows.reason[neither & was_out] = PutReason.RUNNABLE
    was_block = windows.reason == PutReason.BLOCKING
    windows.reason[neither & was_block] = PutReason.ASLEEP
    windows.certain |= by_probe


def _irqs_blocked(windows: Windows, scope: Scope | None) -> None:
    """A blocking put that did not arm the wakeup vector: guest interrupts blocked.

    That holds where the kernel arms it at all: on this VM, at some put.
    """
    armed = windows.nv_put == POSTED_INTR_WAKEUP_VECTOR
    if not (armed.any() if scope is None else scope.learned.armed):
        return
    plain = (windows.reason == PutReason.BLOCKING) & (windows.nv_put >= 0)
    windows.reason[plain & ~armed] = PutReason.BLOCKING_IRQS_BLOCKED


def _first_of_thread(
    events: Events,
    rows: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    tid: npt.NDArray[np.int32],
) -> npt.NDArray[np.int64]:
    """The first of `rows` at or after each of `after` that the thread traced, or -1."""
    if not len(rows):
        return np.full(len(after), -1, np.int64)
    span = len(events) + 1
    order = np.lexsort((rows, events.tid[rows]))
    key = events.tid[rows[order]].astype(np.int64) * span + rows[order]
    at = np.searchsorted(key, tid.astype(np.int64) * span + after, side="left")
    found = order[np.minimum(at, len(order) - 1)]
    same = (at < len(order)) & (events.tid[rows[found]] == tid)
    result: npt.NDArray[np.int64] = np.where(same, found, -1)
    return result
