"""Notification interrupts that a trace shows, beside the windows that probes betray.

0xF2 in the host is traced by nothing (a system vector's handler, and no tracepoint),
and in guest mode it is no exit at all. What is left:

    kvm_exit EXTERNAL_INTERRUPT 0xF2    L2 ran, or APICv was inhibited
    kvm_exit EXTERNAL_INTERRUPT 0xF1    a wakeup that interrupted a guest
    pi_wakeup_handler                   a probe
    sched_waking of a vCPU, hardirq,    0xF1: other interrupts that wake have events,
      in no handler that has events     irq_handler_entry or one of irq_vectors

Source: arch/x86/kernel/irq.c (sysvec_kvm_posted_intr_wakeup_ipi).
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from piscope.events.vmx_exits import BASIC_REASON_MASK, VmxExit
from piscope.observed import ObservedIrqs, Sign
from piscope.sources.raw import Array
from piscope.tables import Events, Timeline, Windows
from piscope.timeline.origins_chains import (
    HARDIRQ,
    contexts,
    last_before,
    open_handler,
    over_between,
)
from piscope.timeline.origins_targets import wakings

__all__ = ("HANDLERS", "find_observed")

_F2, _F1 = 0xF2, 0xF1  # arch/x86/include/asm/irq_vectors.h

HANDLERS = tuple(
    (f"{name}_entry", f"{name}_exit")
    for name in (
        "irq_handler",
        "local_timer",
        "reschedule",
        "call_function",
        "call_function_single",
        "irq_work",
    )
)
"""Interrupt handlers that may wake a thread and have events, entry and exit."""

_PROBE = re.compile(r"(?:^|_)pi_wakeup(?:_handler)?$")


def find_observed(events: Events, timeline: Timeline) -> ObservedIrqs:
    """Every sign of a notification interrupt, in the order of events."""
    exits, vectors, vectors_told = _exits(events)
    probes = [
        events.rows(name)
        for system, name in events.names
        if _PROBE.search(name) and events.counts.get(f"{system}:{name}")
    ]
    handlers = np.sort(np.concatenate(probes)) if probes else exits[:0]
    woken, vcpu, wakings_told = _wakings(events, timeline)
    row = np.concatenate([exits, handlers, woken])
    n = len(exits), len(handlers), len(woken)
    none = np.full(n[0] + n[1], -1)
    order = np.argsort(row, kind="stable")
    sign = np.repeat(np.array([Sign.VM_EXIT, Sign.HANDLER, Sign.WAKING]), n)
    vector = np.concatenate([vectors, np.full(n[1] + n[2], _F1)])
    window = _window_of(timeline.windows, vcpu, woken)
    return ObservedIrqs(
        row=row[order],
        sign=sign.astype(np.uint8)[order],
        vector=vector.astype(np.uint8)[order],
        vcpu=np.concatenate([none, vcpu]).astype(np.int32)[order],
        window=np.concatenate([none, window]).astype(np.int64)[order],
        again=_again(events, row[order], sign[order]),
        wakings_told=wakings_told,
        vectors_told=vectors_told,
        probed=bool(probes),
    )


def _exits(events: Events) -> tuple[Array, Array, bool]:
    rows = events.rows("kvm_exit")
    info = events.column("kvm_exit", "intr_info", np.int64)
    reason = events.column("kvm_exit", "exit_reason", np.int64)
    if info is None or reason is None:
        return rows[:0], rows[:0], False
    vector = info & 0xFF
    which = (reason & BASIC_REASON_MASK) == VmxExit.EXTERNAL_INTERRUPT
    which &= events.valid("kvm_exit", "intr_info") & np.isin(vector, (_F2, _F1))
    return rows[which], vector[which], True


def _wakings(events: Events, timeline: Timeline) -> tuple[Array, Array, bool]:
    """Wakings of vCPUs in interrupts without another cause; whether that is told."""
    # of sched_wakeup alone, one that was queued is traced within an IPI's handler
    name = "sched_waking" if events.has("sched_waking") else "sched_wakeup"
    rows, vcpu = wakings(events, timeline.vcpus, (name,))
    told = events.info.events_flags and events.has(name)
    told &= events.has("local_timer_entry") and events.has("reschedule_entry")
    told &= any(
        events.has(name)
        for name in ("irq_handler_entry", "softirq_entry", "softirq_raise")
    )
    if not told:
        return rows[:0], vcpu[:0], False
    in_irq = (events.flags[rows] & HARDIRQ) != 0
    rows, vcpu = rows[in_irq], vcpu[in_irq]
    alone = open_handler(events, rows, HANDLERS) < 0
    return rows[alone], vcpu[alone], True


def _again(events: Events, row: Array, sign: Array) -> npt.NDArray[np.bool_]:
    """Which signs are of an interrupt that left another before.

    The handler runs right behind its VM-exit, and wakes whom it finds on the list.
    """
    result = np.zeros(len(row), np.bool_)
    for later, earlier in (
        (Sign.WAKING, Sign.HANDLER),
        (Sign.HANDLER, Sign.VM_EXIT),
        (Sign.WAKING, Sign.VM_EXIT),
    ):
        at, other = np.flatnonzero(sign == later), np.flatnonzero(sign == earlier)
        if not len(at) or not len(other):
            continue
        if earlier == Sign.HANDLER:
            keys, other_keys = contexts(events, row[at]), contexts(events, row[other])
        else:
            keys, other_keys = events.cpu[row[at]], events.cpu[row[other]]
        found = last_before(keys, row[at], other_keys, row[other])
        at, found = at[found >= 0], found[found >= 0]
        same = ~over_between(events, row[other[found]], row[at])
        result[at[same]] = True
    return result


def _window_of(w: Windows, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
    """The window that each vCPU was in at that row, or -1."""
    if not len(w) or not len(row):
        return np.full(len(row), -1, np.int64)
    span = int(max(w.put_row.max(), row.max())) + 2
    key = w.vcpu.astype(np.int64) * span + w.put_row
    at = np.searchsorted(key, vcpu.astype(np.int64) * span + row, side="right") - 1
    found = np.maximum(at, 0)
    inside = (at >= 0) & (w.vcpu[found] == vcpu) & (row < w.end_row[found])
    result: npt.NDArray[np.int64] = np.where(inside, at, -1)
    return result
