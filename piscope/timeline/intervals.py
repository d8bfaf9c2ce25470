"""Each vCPU's life tiled into intervals, without gap or overlap (INTERVALS).

    kvm_exit      IRQs on            kvm_entry
       |..............|..................|
       host-irqs-off         host         guest

The instant at which KVM enables IRQs again after a VM-exit leaves no event; it is
later than the last event that says they were off. What is not proven off counts as
on, which changes no outcome: an IRQ latched there fires when they go on.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind, Vcpus
from piscope.timeline.lanes import Lanes
from piscope.timeline.lifecycle import Act, Life, Mark

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


# Lanes that are tiled together have no more marks than this, if several are: what it
# takes besides the result is bounded so for traces of many vCPUs.
_MARKS_AT_ONCE = 1 << 20


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
    if not len(vcpus):
        return _tile(0, lanes, life, act, span_ns, userspace_visible)
    parts = []
    n = len(lanes.mark)
    bounds = np.append(lanes.starts, n).tolist()
    first = 0
    while first < len(vcpus):
        last = first + 1
        while last < len(vcpus) and bounds[last + 1] - bounds[first] <= _MARKS_AT_ONCE:
            last += 1
        here = slice(bounds[first], bounds[last])
        own = _lanes_between(lanes, first, last, here)
        part = _tile(
            last - first, own, life[here], act[here], span_ns, userspace_visible
        )
        part.vcpu += np.int32(first)
        parts.append(part)
        first = last
    return _joined(parts)


def _lanes_between(lanes: Lanes, first: int, last: int, here: slice) -> Lanes:
    """The lanes from `first` to before `last`, whose marks are those of `here`."""
    columns = {f.name: getattr(lanes, f.name)[here] for f in fields(lanes)}
    columns["lane"] = columns["lane"] - np.int32(first)
    columns["starts"] = lanes.starts[first:last] - here.start
    return Lanes(**columns)


def _joined(parts: list[Intervals]) -> Intervals:
    """One table of all; the parts are used up."""
    columns = {}
    for f in fields(Intervals):
        values = [getattr(part, f.name) for part in parts]
        for part in parts:
            delattr(part, f.name)
        columns[f.name] = np.concatenate(values) if len(values) != 1 else values[0]
    return Intervals(**columns)


def _tile(
    vcpus: int,
    lanes: Lanes,
    life: npt.NDArray[np.uint8],
    act: npt.NDArray[np.uint8],
    span_ns: tuple[int, int],
    userspace_visible: bool,
) -> Intervals:
    begin_ns, finish_ns = span_ns
    n = len(lanes.mark)
    kind = _KIND_OF[life]
    cpu = np.where(_ON_CPU[life], lanes.cpu, np.int32(-1))
    certain = ((act & Act.UNSURE) == 0)[_deciding(lanes, life)]
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
    del keep

    # one more row at the head of each lane, for the time before its first event
    lengths = np.diff(np.append(lanes.starts, n))
    from_guest = lengths > 0
    from_guest[from_guest] = _IS_EXIT[lanes.mark[lanes.starts[from_guest]]]
    head_cpu = np.full(vcpus, -1, np.int32)
    head_cpu[from_guest] = lanes.cpu[lanes.starts[from_guest]]
    at = np.searchsorted(picked, lanes.starts)
    mark = np.insert(picked, at, _HEAD)
    heads = at + np.arange(vcpus)
    del picked

    def of_marks(values: Array, head: Array | int) -> Array:
        if not n:
            return np.full(len(mark), head, values.dtype)
        found: Array = values[mark]
        found[heads] = head
        return found

    start_ns = of_marks(lanes.ts_ns, begin_ns)
    np.clip(start_ns, begin_ns, finish_ns, out=start_ns)
    end_ns = np.empty_like(start_ns)
    end_ns[:-1] = start_ns[1:]
    end_ns[heads[1:] - 1] = finish_ns
    end_ns[-1:] = finish_ns
    head_kind = np.where(from_guest, Kind.GUEST, Kind.UNKNOWN).astype(np.uint8)
    kind = of_marks(kind, head_kind)
    off_until_ns = of_marks(lanes.off_until_ns, begin_ns)
    off_until_ns[~of_marks(_IS_EXIT[lanes.mark], False)] = begin_ns
    np.minimum(off_until_ns, end_ns, out=off_until_ns)
    parted, times = _parts(kind, start_ns, end_ns, off_until_ns, heads)

    first = np.cumsum(times, dtype=np.int64)[parted] - times[parted]
    second = first[times[parted] == 2] + 1
    until_ns = off_until_ns[parted]
    del off_until_ns
    kind, start_ns, end_ns = (np.repeat(c, times) for c in (kind, start_ns, end_ns))
    kind[first] = Kind.HOST_IRQS_OFF
    end_ns[first] = until_ns
    start_ns[second] = end_ns[second - 1]
    heads = np.flatnonzero(np.repeat(mark == _HEAD, times))
    mark = np.repeat(mark, times)
    left = np.flatnonzero(times[at + np.arange(vcpus)])
    return Intervals(
        vcpu=of_marks(lanes.lane, left),
        kind=kind,
        start_ns=start_ns,
        end_ns=end_ns,
        cpu=of_marks(cpu, head_cpu[left]),
        reason=of_marks(reason, -1),
        certain=of_marks(certain, from_guest[left]),
        row=of_marks(lanes.row, -1),
    )


# In place of a mark's index, where no mark begins the interval.
_HEAD = -1

_IS_EXIT = np.zeros(len(Mark), np.bool_)
_IS_EXIT[[Mark.EXIT, Mark.EXIT_HALT]] = True

# EXTERNAL_INTERRUPT, INTERRUPT_WINDOW, CPUID, HLT, PREEMPTION_TIMER, WBINVD, PML_FULL:
# handled in the kernel, with an in-kernel local APIC. A pending signal can still send
# any exit to userspace; it then shows as KVM_EXIT_INTR where that is traced.
_NEVER_TO_USERSPACE = (1, 7, 10, 12, 52, 54, 62)


_TELLS_NO_MORE = np.zeros(len(Mark), np.bool_)
_TELLS_NO_MORE[[Mark.PI_PUT, Mark.IN_KVM]] = True


def _deciding(lanes: Lanes, life: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The mark that each mark's state rests on: itself, unless it changed nothing.

    pi_put follows a switch-out; the switch told where the thread went. What was open
    of a preemption is its put's reason, which is the window's.
    """
    same = np.zeros(len(life), np.bool_)
    same[1:] = (life[1:] == life[:-1]) & (lanes.lane[1:] == lanes.lane[:-1])
    same &= _TELLS_NO_MORE[lanes.mark]
    same &= (life != Life.PREEMPTED) & (life != Life.PREEMPTED_HALT)
    result: npt.NDArray[np.int64] = np.maximum.accumulate(
        np.where(same, 0, np.arange(len(life)))
    )
    return result


_AFTER_EXIT = np.zeros(len(Kind), np.bool_)
_AFTER_EXIT[[Kind.HOST, Kind.POLL, Kind.PREEMPTED, Kind.ASLEEP, Kind.BLOCKED]] = True


def _carried_reason(lanes: Lanes, kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The reason of the last VM-exit, over all that follows it in KVM.

    Behind a loss another exit may have been the last.
    """
    reason = np.full(len(lanes.mark), -1, np.int32)
    is_exit = _IS_EXIT[lanes.mark] | (lanes.mark == Mark.LOST)
    exits = np.flatnonzero(is_exit)
    if not len(exits):
        return reason
    at = np.flatnonzero(_AFTER_EXIT[kind])
    up_to = np.cumsum(is_exit, dtype=np.int32)[at]
    last = exits[np.maximum(up_to - 1, 0)]
    ok = (up_to > 0) & (lanes.lane[last] == lanes.lane[at])
    reason[at[ok]] = lanes.reason[last[ok]]
    return reason


def _parts(
    kind: Array, start_ns: Array, end_ns: Array, off_until_ns: Array, heads: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int8]]:
    """Which stretches in KVM begin with IRQs proven to be off, and how many rows each
    interval becomes.

    Two, if IRQs may be on at its end; none, if it has no length, but each vCPU keeps
    at least one interval.
    """
    parted = (kind == Kind.HOST) | (kind == Kind.POLL)
    parted &= off_until_ns > start_ns
    some = end_ns > start_ns
    if len(heads):
        some[heads[~np.logical_or.reduceat(some, heads)]] = True
    times = some.astype(np.int8)
    times += parted & (off_until_ns < end_ns)
    return parted, times
