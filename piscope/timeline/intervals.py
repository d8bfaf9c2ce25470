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
from piscope.tables import Intervals, Kind, Vcpus
from piscope.timeline.lifecycle import Act, Life, Mark
from piscope.timeline.marks import Lanes

__all__ = ("tile",)


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

    # an interval goes on while nothing of it changes
    keep = np.ones(n, np.bool_)
    keep[1:] = kind[1:] != kind[:-1]
    for column in (lanes.lane, cpu, certain, reason):
        keep[1:] |= column[1:] != column[:-1]
    picked = np.flatnonzero(keep)
    off_until_ns = np.where(
        _IS_EXIT[lanes.mark[picked]], lanes.off_until_ns[picked], np.int64(begin_ns)
    )

    # one more row at the head of each lane, for the time before its first event
    lengths = np.diff(np.append(lanes.starts, n))
    from_guest = lengths > 0
    from_guest[from_guest] = _IS_EXIT[lanes.mark[lanes.starts[from_guest]]]
    head_cpu = np.full(len(vcpus), -1, np.int32)
    head_cpu[from_guest] = lanes.cpu[lanes.starts[from_guest]]
    at = np.searchsorted(picked, lanes.starts)

    def spliced(values: Array, head: Array | int) -> Array:
        return np.insert(values, at, head)

    vcpu = spliced(lanes.lane[picked], np.arange(len(vcpus), dtype=np.int32))
    start = spliced(np.clip(lanes.ts_ns[picked], begin_ns, finish_ns), begin_ns)
    end = np.full(len(vcpu), finish_ns, np.int64)
    same = vcpu[1:] == vcpu[:-1]
    end[:-1][same] = start[1:][same]
    head_kind = np.where(from_guest, Kind.GUEST, Kind.UNKNOWN).astype(np.uint8)
    result = Intervals(
        vcpu=vcpu,
        kind=spliced(kind[picked], head_kind),
        start_ns=start,
        end_ns=end,
        cpu=spliced(cpu[picked], head_cpu),
        reason=spliced(reason[picked], -1),
        certain=spliced(certain[picked], from_guest),
        row=spliced(lanes.row[picked], -1),
    )
    return _split_irqs_off(result, spliced(off_until_ns, begin_ns))


_IS_EXIT = np.zeros(len(Mark), np.bool_)
_IS_EXIT[[Mark.EXIT, Mark.EXIT_HALT]] = True

# EXTERNAL_INTERRUPT, INTERRUPT_WINDOW, CPUID, HLT, PREEMPTION_TIMER, WBINVD, PML_FULL:
# handled in the kernel, with an in-kernel local APIC. A pending signal can still send
# any exit to userspace; it then shows as KVM_EXIT_INTR where that is traced.
_NEVER_TO_USERSPACE = (1, 7, 10, 12, 52, 54, 62)


_AFTER_EXIT = np.zeros(len(Kind), np.bool_)
_AFTER_EXIT[[Kind.HOST, Kind.POLL, Kind.PREEMPTED, Kind.ASLEEP, Kind.BLOCKED]] = True


def _carried_reason(lanes: Lanes, kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The reason of the last VM-exit, over all that follows it in KVM."""
    n = len(lanes.mark)
    reason = np.full(n, -1, np.int32)
    if n == 0:
        return reason
    here = np.arange(n, dtype=np.int32)
    last = np.maximum.accumulate(np.where(_IS_EXIT[lanes.mark], here, np.int32(-1)))
    ok = (last >= 0) & _AFTER_EXIT[kind]
    ok &= lanes.lane[np.maximum(last, 0)] == lanes.lane
    reason[ok] = lanes.reason[last[ok]]
    return reason


def _picked(intervals: Intervals, at: npt.NDArray[np.int64]) -> Intervals:
    return Intervals(
        *(getattr(intervals, name)[at] for name in Intervals.__dataclass_fields__)
    )


def _split_irqs_off(
    intervals: Intervals, off_until_ns: npt.NDArray[np.int64]
) -> Intervals:
    """Part each stretch in KVM after a VM-exit where IRQs are proven to be off.

    What has no length is dropped, but each vCPU keeps at least one interval.
    """
    off_until_ns = np.minimum(off_until_ns, intervals.end_ns)
    in_kvm = (intervals.kind == Kind.HOST) | (intervals.kind == Kind.POLL)
    parted = in_kvm & (off_until_ns > intervals.start_ns)
    some = intervals.end_ns > intervals.start_ns
    lone = np.ones(len(intervals), np.bool_)
    lone[1:] = intervals.vcpu[1:] != intervals.vcpu[:-1]
    any_left = np.zeros(int(intervals.vcpu.max(initial=-1)) + 1, np.bool_)
    any_left[intervals.vcpu[some]] = True
    some |= lone & ~any_left[intervals.vcpu]
    # a parted interval twice, if IRQs may be on at its end
    times = some.astype(np.int8)
    times += parted & (off_until_ns < intervals.end_ns)
    result = _picked(intervals, np.repeat(np.arange(len(intervals)), times))
    first = np.cumsum(times, dtype=np.int64)[parted] - times[parted]
    until = off_until_ns[parted]
    result.kind[first] = Kind.HOST_IRQS_OFF
    result.end_ns[first] = until
    second = times[parted] == 2
    result.start_ns[first[second] + 1] = until[second]
    return result
