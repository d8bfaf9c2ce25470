"""Each vCPU's life tiled into intervals, without gap or overlap (INTERVALS).

    kvm_exit      IRQs on            kvm_entry
       |..............|..................|
       host-irqs-off         host         guest

The instant at which KVM enables IRQs again after a VM-exit leaves no event; it is
later than the last event that says they were off. What is not proven off counts as
on, which changes no outcome: an IRQ latched there fires when they go on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Intervals, Kind, Vcpus
from piscope.timeline.lifecycle import Act, Life, Mark
from piscope.timeline.marks import Lanes

__all__ = ("tile",)

_IRQS_OFF = 0x01  # TRACE_FLAG_IRQS_OFF, include/linux/trace_events.h


_KIND_OF = np.array(
    [
        {
            Life.UNKNOWN: Kind.UNKNOWN,
            Life.USERSPACE: Kind.USERSPACE,
            Life.USERSPACE_OFF: Kind.USERSPACE,
            Life.LEAVING: Kind.USERSPACE,
            Life.IOCTL: Kind.HOST,
            Life.HOST: Kind.HOST,
            Life.GUEST: Kind.GUEST,
            Life.HALT: Kind.POLL,
            Life.PREEMPTED: Kind.PREEMPTED,
            Life.PREEMPTED_HALT: Kind.PREEMPTED,
            Life.BLOCKED: Kind.BLOCKED,
            Life.ASLEEP: Kind.ASLEEP,
            Life.DEAD: Kind.UNKNOWN,
        }[life]
        for life in Life
    ],
    np.uint8,
)
_ON_CPU = np.array(
    [
        life
        in (Life.GUEST, Life.HOST, Life.HALT, Life.IOCTL, Life.USERSPACE, Life.LEAVING)
        for life in Life
    ]
)


def tile(
    events: Events,
    vcpus: Vcpus,
    lanes: Lanes,
    life: npt.NDArray[np.uint8],
    act: npt.NDArray[np.uint8],
    span_ns: tuple[int, int],
    userspace_visible: bool,
) -> Intervals:
    """Tile each vCPU's life over the whole span of the trace.

    `life` is the state after each mark. Before a vCPU's first event it is unknown,
    or in the guest where that event is a VM-exit. Without `userspace_visible`
    (neither kvm_fpu nor kvm_userspace_exit) a stretch in KVM may hide a visit to
    userspace, and is not certain unless its exit reason never leads there.
    """
    begin_ns, finish_ns = span_ns
    n = len(lanes.mark)
    kind = _KIND_OF[life]
    cpu = np.where(_ON_CPU[life], lanes.cpu, np.int32(-1))
    certain = (act & Act.UNSURE) == 0
    reason = _carried_reason(lanes, kind)
    if not userspace_visible:
        certain &= ~((kind == Kind.HOST) & ~np.isin(reason, _NEVER_TO_USERSPACE))
        certain &= ~np.isin(kind, (Kind.ASLEEP, Kind.PREEMPTED))

    # one more row at the head of each lane, for the time before its first event
    heads = np.arange(len(vcpus))
    first = np.minimum(lanes.starts, max(n - 1, 0))
    lengths = np.diff(np.append(lanes.starts, n))
    from_guest = np.zeros(len(vcpus), np.bool_)
    if n:
        from_guest = (lengths > 0) & np.isin(
            lanes.mark[first], (Mark.EXIT, Mark.EXIT_HALT)
        )
    head_kind = np.where(from_guest, Kind.GUEST, Kind.UNKNOWN).astype(np.uint8)
    head_cpu = np.full(len(vcpus), -1, np.int32)
    if n:
        head_cpu = np.where(from_guest, lanes.cpu[first], np.int32(-1))
    at = lanes.starts

    def spliced(values: Array, head: Array | int) -> Array:
        return np.insert(values, at, head)

    vcpu = spliced(lanes.lane, heads.astype(np.int32))
    start = spliced(np.clip(lanes.ts_ns, begin_ns, finish_ns), begin_ns)
    kind_all = spliced(kind, head_kind)
    cpu_all = spliced(cpu, head_cpu)
    reason_all = spliced(reason, -1)
    certain_all = spliced(certain, from_guest)
    row_all = spliced(lanes.row, -1)

    # an interval goes on while neither its kind nor its pCPU changes
    keep = np.ones(len(vcpu), np.bool_)
    keep[1:] = (
        (vcpu[1:] != vcpu[:-1])
        | (kind_all[1:] != kind_all[:-1])
        | (cpu_all[1:] != cpu_all[:-1])
        | (certain_all[1:] != certain_all[:-1])
        | (reason_all[1:] != reason_all[:-1])
    )
    picked = np.flatnonzero(keep)
    end = np.full(len(picked), finish_ns, np.int64)
    same = vcpu[picked[1:]] == vcpu[picked[:-1]]
    end[:-1][same] = start[picked[1:]][same]
    result = Intervals(
        vcpu=vcpu[picked].astype(np.int32),
        kind=kind_all[picked].astype(np.uint8),
        start_ns=start[picked].astype(np.int64),
        end_ns=end,
        cpu=cpu_all[picked].astype(np.int32),
        reason=reason_all[picked].astype(np.int32),
        certain=certain_all[picked].astype(np.bool_),
        row=row_all[picked].astype(np.int64),
    )
    return _split_irqs_off(events, vcpus, _without_empty(result))


# EXTERNAL_INTERRUPT, INTERRUPT_WINDOW, CPUID, HLT, PREEMPTION_TIMER, WBINVD, PML_FULL:
# handled in the kernel, with an in-kernel local APIC. A pending signal can still send
# any exit to userspace; it then shows as KVM_EXIT_INTR where that is traced.
_NEVER_TO_USERSPACE = (1, 7, 10, 12, 52, 54, 62)


def _carried_reason(lanes: Lanes, kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The reason of the last VM-exit, over all that follows it in KVM."""
    n = len(lanes.mark)
    reason = np.full(n, -1, np.int32)
    if n == 0:
        return reason
    is_exit = np.isin(lanes.mark, (Mark.EXIT, Mark.EXIT_HALT))
    last = np.maximum.accumulate(np.where(is_exit, np.arange(n), -1))
    ok = (last >= 0) & (lanes.lane[np.maximum(last, 0)] == lanes.lane)
    ok &= np.isin(
        kind, (Kind.HOST, Kind.POLL, Kind.PREEMPTED, Kind.ASLEEP, Kind.BLOCKED)
    )
    reason[ok] = lanes.reason[last[ok]]
    return reason


def _without_empty(intervals: Intervals) -> Intervals:
    """Drop intervals of no length, but keep at least one of each vCPU."""
    keep = intervals.end_ns > intervals.start_ns
    lone = np.ones(len(intervals), np.bool_)
    lone[1:] = intervals.vcpu[1:] != intervals.vcpu[:-1]
    some = np.zeros(int(intervals.vcpu.max(initial=-1)) + 1, np.bool_)
    some[intervals.vcpu[keep]] = True
    keep |= lone & ~some[intervals.vcpu]
    return _picked(intervals, np.flatnonzero(keep))


def _picked(intervals: Intervals, at: npt.NDArray[np.int64]) -> Intervals:
    return Intervals(
        *(getattr(intervals, name)[at] for name in Intervals.__dataclass_fields__)
    )


def _split_irqs_off(events: Events, vcpus: Vcpus, intervals: Intervals) -> Intervals:
    """Part each stretch in KVM after a VM-exit where IRQs are proven to be off."""
    if not events.info.events_flags or not len(intervals):
        return intervals
    exits = np.flatnonzero(
        np.isin(intervals.kind, (Kind.HOST, Kind.POLL)) & (intervals.reason >= 0)
    )
    is_exit = np.zeros(len(events), np.bool_)
    is_exit[events.rows("kvm_exit")] = True
    exits = exits[
        is_exit[np.maximum(intervals.row[exits], 0)] & (intervals.row[exits] >= 0)
    ]
    if not len(exits):
        return intervals
    off_until = _irqs_off_until(events, vcpus, intervals.row[exits])
    off_until = np.minimum(off_until, intervals.end_ns[exits])
    parted = off_until > intervals.start_ns[exits]
    exits, off_until = exits[parted], off_until[parted]
    if not len(exits):
        return intervals
    # each parted interval twice: the second copy begins where IRQs may be on
    order = np.sort(np.concatenate([np.arange(len(intervals)), exits]))
    result = _picked(intervals, order)
    first = np.searchsorted(order, exits)
    result.kind[first] = Kind.HOST_IRQS_OFF
    result.end_ns[first] = off_until
    result.start_ns[first + 1] = off_until
    return _without_empty(result)


def _irqs_off_until(
    events: Events, vcpus: Vcpus, exit_rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The last instant after each kvm_exit at which an event shows IRQs still off."""
    own = np.flatnonzero(vcpus.of_tid(events.tid) >= 0)
    own = own[
        np.argsort(vcpus.of_tid(events.tid[own]).astype(np.uint16), kind="stable")
    ]
    stop = (events.flags[own] & _IRQS_OFF) == 0
    entry = np.zeros(len(events), np.bool_)
    entry[events.rows("kvm_entry")] = True
    entry[events.rows("sched_switch")] = True
    stop |= entry[own]
    place = np.full(len(events), -1, np.int64)
    place[own] = np.arange(len(own))
    at = place[exit_rows]
    stops = np.flatnonzero(stop)
    following = np.searchsorted(stops, at, side="right")
    nxt = np.where(
        following < len(stops), stops[np.minimum(following, len(stops) - 1)], len(own)
    )
    last = np.maximum(nxt - 1, at)
    same = events.tid[own[last]] == events.tid[exit_rows]
    result: npt.NDArray[np.int64] = np.where(
        same, events.ts_ns[own[last]], events.ts_ns[exit_rows]
    )
    return result
