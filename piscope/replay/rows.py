"""What the target of each post was doing, as rows of the state table (FINDINGS.row).

Rows that the trace can't tell apart are given together. Some last a few instructions
and leave no event: 7 and 8 (IRQs off for an entry), 9 (the entry was given up), 22 (in
pi_load). They are named wherever they are possible:

    exit            last event of the thread        entry
      | 3  ....  5, 9         |  5, 9  ............7, 8 |  1

Source: `pi_semantics`, section 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.outcomes import Row, row_bits
from piscope.replay.automaton import Ranges
from piscope.replay.fastpath import ActIndex, straight_back
from piscope.replay.pcpus import Occupancy
from piscope.replay.row_index import last_place
from piscope.replay.stimuli import Stimuli
from piscope.replay.voluntary import switched_out_runnable
from piscope.sources.raw import Array
from piscope.tables import Events, Kind, PutReason, Timeline

__all__ = ("Targets", "one_outcome", "rows_of", "silent_by_on", "taken_as_exit")

# piscope.timeline.lifecycle.Act: the bits are part of the ACTS table
_LOAD, _PUT, _EXIT = 1, 2, 8

_EXTERNAL_INTERRUPT = 1  # EXIT_REASON_EXTERNAL_INTERRUPT
_POSTED_INTR_VECTOR = 0xF2

_BY_KVM = (Letter.POST_SW_NEW, Letter.POST_SW_AGAIN, Letter.POST_SW_EITHER)

Bits = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]

_ROWS_OF_REASON = {
    PutReason.USERSPACE: (Row.USERSPACE,),
    PutReason.IOCTL: (Row.USERSPACE,),
    PutReason.PREEMPTED: (Row.PREEMPTED, Row.VOLUNTARY),
    PutReason.RUNNABLE: (Row.NOT_WANTED_TO_RUN,),
    PutReason.ASLEEP: (Row.ASLEEP,),
    PutReason.BLOCKING: (Row.BLOCKED,),
    PutReason.BLOCKING_IRQS_BLOCKED: (Row.BLOCKED_IF0,),
    PutReason.BLOCKING_PREEMPTED: (Row.BLOCKED_PREEMPTED, Row.BLOCKED_IF0_PREEMPTED),
}
_UNLOADED = tuple(Row(n) for n in range(Row.USERSPACE, Row.NOT_WANTED_TO_RUN + 1))
_ANY = tuple(Row)[1:]  # but for the row of old kernels

# Rows whose notification comes to the same thing, under every policy.
_ALIKE = (
    (
        Row.AFTER_EXIT,
        Row.HOST,
        Row.POLL,
        Row.ENTRY_ABORTED,
        Row.IOCTL,
        Row.PUT_RUNNING,
    ),
    (Row.FASTPATH, Row.BEFORE_SYNC, Row.AFTER_SYNC),
    (Row.USERSPACE, Row.ASLEEP, Row.BLOCKED_IF0, Row.NOT_WANTED_TO_RUN),
    (Row.PREEMPTED, Row.VOLUNTARY, Row.BLOCKED_PREEMPTED, Row.BLOCKED_IF0_PREEMPTED),
    (Row.ON_AT_PUT, Row.ON_BY_KVM),
    *((row,) for row in (Row.POLL_ARMED, Row.GUEST, Row.GUEST_INHIBITED)),
    *((row,) for row in (Row.BLOCKED, Row.SWITCHED_IN, Row.LOAD_GAP)),
    (Row.NEVER_LOADED,),
)


@dataclass(slots=True)
class Targets:
    """The targets of the posts, one a post.

    post      int64[n]  index into STIMULI
    row       int64[n]  the post's row of EVENTS
    vcpu      int32[n]
    window    int64[n]  the window it fell into, -1: the vCPU was loaded
    kind      uint8[n]  Kind: what the vCPU's thread was doing
    hidden    bool[n]   by probes; the instant is only known to lie in the window
    last_act, next_act  int64[n]  index into ACTS of the act before and behind, or -1
    straight  bool[n]   in KVM, behind a VM-exit that goes straight back to the guest
    """

    post: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]
    window: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    hidden: Bools
    last_act: npt.NDArray[np.int64]
    next_act: npt.NDArray[np.int64]
    straight: Bools

    @staticmethod
    def of(
        timeline: Timeline,
        stimuli: Stimuli,
        post: npt.NDArray[np.int64],
        window: npt.NDArray[np.int64],
        kind: npt.NDArray[np.uint8],
        events: int,
    ) -> Targets:
        """The targets of those stimuli; `events` is the number of rows of EVENTS."""
        row, vcpu = stimuli.row[post], stimuli.vcpu[post]
        index = ActIndex(timeline.acts, events)
        last = index.last(vcpu, row)
        straight = np.zeros(len(post), np.bool_)
        at = np.flatnonzero(
            (last >= 0) & (window < 0) & np.isin(kind, (Kind.HOST, Kind.HOST_IRQS_OFF))
        )
        if len(at):
            straight[at] = straight_back(timeline.acts)[last[at]]
        return Targets(
            post=post,
            row=row,
            vcpu=vcpu,
            window=window,
            kind=kind,
            hidden=stimuli.post[post] < 0,
            last_act=last,
            next_act=index.following(vcpu, row),
            straight=straight,
        )


def rows_of(timeline: Timeline, targets: Targets, places: Occupancy) -> Bits:
    """uint32[n]: the rows that the timeline allows, whatever the policy."""
    result = np.zeros(len(targets.post), np.uint32)
    loaded = targets.window < 0
    result[~loaded] = _unloaded_rows(timeline, targets, places, ~loaded)
    at = np.flatnonzero(loaded)
    kind = targets.kind[at]
    bits = np.full(len(at), row_bits(Row.PUT_RUNNING), np.uint32)
    for of, rows in (
        (Kind.GUEST, (Row.GUEST,)),
        (Kind.HOST_IRQS_OFF, (Row.AFTER_EXIT,)),
        (Kind.HOST, (Row.HOST, Row.ENTRY_ABORTED)),
        (Kind.POLL, (Row.POLL,)),
        (Kind.UNKNOWN, _ANY),
    ):
        bits[kind == of] = row_bits(*rows)
    before_first = (kind == Kind.UNKNOWN) & (targets.last_act[at] >= 0)
    bits[before_first] &= ~row_bits(Row.NEVER_LOADED)
    result[at] = bits
    host = at[kind == Kind.HOST]
    if len(host):
        _next_to_guest(timeline, targets, places, host, result)
    return result


def _next_to_guest(
    timeline: Timeline,
    targets: Targets,
    places: Occupancy,
    host: Array,
    result: Bits,
) -> None:
    """What the events around a stretch in the host leave possible besides it."""
    acts, w = timeline.acts, timeline.windows
    row, vcpu = targets.row[host], targets.vcpu[host]
    before = places.own.last_up_to(vcpu, np.maximum(row - 1, 0))
    behind = places.own.next_after(vcpu, row)
    last = targets.last_act[host]
    # a switch to the vCPU's thread is traced by the one that leaves
    right_behind = (last >= 0) & (acts.row[np.maximum(last, 0)] >= before)
    what = np.where(right_behind, acts.act[np.maximum(last, 0)], 0)
    result[host[(what & _EXIT) != 0]] |= row_bits(Row.AFTER_EXIT)
    entries = places.events.rows("kvm_entry")
    at = np.minimum(np.searchsorted(entries, behind), max(len(entries) - 1, 0))
    if len(entries):
        enters = (behind >= 0) & (entries[at] == behind)
        result[host[enters]] |= row_bits(Row.BEFORE_SYNC, Row.AFTER_SYNC)

    # loaded by an ioctl other than KVM_RUN: put again before any entry
    nxt = np.maximum(targets.next_act[host], 0)
    loaded_last = (last >= 0) & ((acts.act[np.maximum(last, 0)] & _LOAD) != 0)
    put = loaded_last & (targets.next_act[host] >= 0) & ((acts.act[nxt] & _PUT) != 0)
    by_ioctl = w.put_row[w.reason == PutReason.IOCTL]
    result[host[put & np.isin(acts.row[nxt], by_ioctl)]] = row_bits(Row.IOCTL)
    result[host[(what & _LOAD) != 0]] |= row_bits(Row.LOAD_GAP)


def _unloaded_rows(
    timeline: Timeline, targets: Targets, places: Occupancy, which: Bools
) -> Bits:
    w = timeline.windows
    window, kind = targets.window[which], targets.kind[which]
    reason = w.reason[window]
    bits = np.full(len(window), row_bits(*_UNLOADED), np.uint32)
    for of, rows in _ROWS_OF_REASON.items():
        bits[reason == of] = row_bits(*rows)
    preempted = np.flatnonzero(reason == PutReason.PREEMPTED)
    if len(preempted):
        voluntary, known = switched_out_runnable(
            places.events, timeline, window[preempted]
        )
        bits[preempted[known & voluntary]] = row_bits(Row.VOLUNTARY)
        bits[preempted[known & ~voluntary]] = row_bits(Row.PREEMPTED)
    # before 6.17 the wakeup vector is armed for IF=1 even in a preempted vCPU
    both = reason == PutReason.BLOCKING_PREEMPTED
    armed = w.nv_put == 0xF1
    scope = places.events.scope
    if scope is None:
        some = (armed & (w.reason == PutReason.BLOCKING_PREEMPTED)).any()
    else:
        some = scope.learned.armed_preempted
    if some:
        bits[both & armed[window]] = row_bits(Row.BLOCKED_PREEMPTED)
        unarmed = both & ~armed[window] & (w.nv_put[window] >= 0)
        bits[unarmed] = row_bits(Row.BLOCKED_IF0_PREEMPTED)
    bits[~w.certain[window]] |= row_bits(*_UNLOADED)
    running = np.isin(kind, (Kind.HOST, Kind.HOST_IRQS_OFF, Kind.POLL, Kind.GUEST))
    bits[running & ~targets.hidden[which]] = row_bits(Row.SWITCHED_IN)
    return bits


def taken_as_exit(
    timeline: Timeline, events: Events, targets: Targets
) -> tuple[Bools, Bools]:
    """Posts to a guest whose notification ended its run: bool[n] for sure, and maybe.

    L2, or a guest whose APICv is inhibited, exits on vector 0xF2, and kvm_exit tells
    the vector; without that field an exit on any interrupt may be it.
    """
    acts = timeline.acts
    nxt = np.maximum(targets.next_act, 0)
    none = np.zeros(len(targets.post), np.bool_)
    if not len(acts.act):
        return none, none
    exits = (targets.window < 0) & (targets.kind == Kind.GUEST)
    exits &= (targets.next_act >= 0) & ((acts.act[nxt] & _EXIT) != 0)
    exits &= acts.reason[nxt] == _EXTERNAL_INTERRUPT
    info = events.column("kvm_exit", "intr_info", np.int64)
    if info is None or not exits.any():
        return none, exits
    at = np.searchsorted(events.rows("kvm_exit"), acts.row[nxt[exits]])
    at = np.minimum(at, len(info) - 1)
    known = events.valid("kvm_exit", "intr_info")[at]
    surely, maybe = none.copy(), none.copy()
    surely[exits] = known & ((info[at] & 0xFF) == _POSTED_INTR_VECTOR)
    maybe[exits] = surely[exits] | ~known
    return surely, maybe


def silent_by_on(
    on: Ranges,
    after: npt.NDArray[np.uint16],
    letters: npt.NDArray[np.uint8],
    post: npt.NDArray[np.int64],
    bits: Bits,
) -> Bits:
    """The rows of posts to unloaded vCPUs that ON silenced: 24, 25, or their own.

    `on` is ON by set, `after` the set after each letter. ON was set at the put, or
    since by KVM, or by a post of hardware; the last letter that surely set it tells.
    """
    is_put = (letters >= Letter.PUT_RUN_PREEMPTED) & (
        letters <= Letter.PUT_BLOCK_IF0_NOT
    )
    put = last_place(is_put, post)
    # across a vCPU's first letter this is wrong, but no put comes before that
    set_here = (on.min == 1)[after]
    set_here[1:] &= (on.max == 0)[after[:-1]]
    set_here[:1] = False
    setter = last_place(set_here, post - 1)
    known = setter > put
    by_kvm = known & np.isin(letters[setter], _BY_KVM)
    at_put = ~known & (put >= 0) & (on.min[after[np.maximum(put, 0)]] == 1)
    result = bits | row_bits(Row.ON_AT_PUT, Row.ON_BY_KVM)
    by_hardware = known & (letters[setter] == Letter.POST_HW)
    result[by_hardware] = bits[by_hardware]
    result[by_kvm] = row_bits(Row.ON_BY_KVM)
    result[at_put] = row_bits(Row.ON_AT_PUT)
    return result


def one_outcome(bits: Bits) -> Bools:
    """bool[n]: all rows of each set have the same outcome under any policy."""
    groups = np.zeros(len(bits), np.int64)
    for rows in _ALIKE:
        groups += (bits & row_bits(*rows)) != 0
    result: Bools = groups == 1
    return result
