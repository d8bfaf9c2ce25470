"""KVM's own posts, and into which transitions each of them may have fallen.

    kvm_apic_accept_irq -> PIR, ON, a wakeup -> kvm_apicv_accept_irq
    ^ earliest                                  ^ latest

The descriptor changes between the two events; where the first was not recorded, after
the last thing that the posting thread traced before.

Source: arch/x86/kvm/lapic.c, __apic_accept_irq; vmx.c, vmx_deliver_interrupt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Posts, Vcpus
from piscope.verify.observations import Hits

__all__ = ("KvmIn", "KvmPosts", "earliest_rows", "kvm_in", "kvm_posts")

_NESTED_NOTIFICATION = 0xF2  # an L1 KVM's vector for L2; need not touch this PIR

# The poster wakes the vCPU behind the change of PIR, and traces that as well.
_WAKE = ("sched_waking", "sched_wakeup")


@dataclass(slots=True)
class KvmPosts:
    """KVM's posts to each vCPU that it may have meant, by vCPU, then by row.

    vcpu      int64[n]
    earliest  int64[n]  of EVENTS: PIR changed at or after this row
    latest    int64[n]  and before this one, that of kvm_apicv_accept_irq
    vector    int64[n]
    sure      bool[n]   it was this vCPU, and through PIR
    recorded  the trace holds the tracepoint: there are no others
    """

    vcpu: npt.NDArray[np.int64]
    earliest: npt.NDArray[np.int64]
    latest: npt.NDArray[np.int64]
    vector: npt.NDArray[np.int64]
    sure: npt.NDArray[np.bool_]
    recorded: bool


def earliest_rows(events: Events, posts: Posts) -> npt.NDArray[np.int64]:
    """int64[posts]: the row of EVENTS at or behind which each post changed PIR."""
    earliest = posts.at.astype(np.int64)
    alone = np.flatnonzero(posts.at >= posts.row)
    if not len(alone):
        return earliest
    wakes = [i for i, (_, name) in enumerate(events.names) if name in _WAKE]
    other = np.flatnonzero(~np.isin(events.event, wakes))
    order = np.lexsort((other, events.tid[other]))
    other = other[order]
    span = len(events) + 1
    key = events.tid[other].astype(np.int64) * span + other
    wanted = posts.tid[alone].astype(np.int64) * span + posts.row[alone]
    before = np.searchsorted(key, wanted, side="left") - 1
    last = other[np.maximum(before, 0)]
    same = (before >= 0) & (events.tid[last] == posts.tid[alone])
    earliest[alone] = np.where(same, last, 0)
    return earliest


def kvm_posts(
    posts: Posts | None, vcpus: Vcpus, earliest: Array | None, recorded: bool
) -> KvmPosts:
    """POSTS by the vCPU that each may have meant; `earliest` as in KvmPosts."""
    vcpu: list[Array] = [np.empty(0, np.int64)]
    index: list[Array] = [np.empty(0, np.int64)]
    sure: list[Array] = [np.empty(0, np.bool_)]
    if posts is not None and earliest is not None:
        known = np.flatnonzero(posts.posted & (posts.vcpu >= 0) & posts.certain)
        index.append(known)
        vcpu.append(posts.vcpu[known].astype(np.int64))
        sure.append(posts.vector[known] != _NESTED_NOTIFICATION)
        open_ = posts.posted & ((posts.vcpu < 0) | ~posts.certain)
        for row in vcpus.rows:
            mine = np.flatnonzero(open_ & (posts.vcpu_id == row.vcpu_id))
            index.append(mine)
            vcpu.append(np.full(len(mine), row.vcpu))
            sure.append(np.zeros(len(mine), np.bool_))
    which, to = np.concatenate(index), np.concatenate(vcpu)
    certain = np.concatenate(sure)
    if posts is None or earliest is None:
        none = np.empty(0, np.int64)
        return KvmPosts(to, none, none, none, certain, recorded)
    order = np.lexsort((posts.row[which], to))
    which = which[order]
    return KvmPosts(
        vcpu=to[order],
        earliest=np.minimum(earliest[which], posts.row[which]),
        latest=posts.row[which],
        vector=posts.vector[which].astype(np.int64),
        sure=certain[order],
        recorded=recorded,
    )


@dataclass(slots=True)
class KvmIn:
    """KVM's posts in each transition.

    possible   bool[n]       any may have been
    number     int64[n]      how many of those traced
    explained  uint64[n, 4]  their vectors, as bits of PIR
    must       uint64[n, 4]  those that surely were posted in it
    """

    possible: npt.NDArray[np.bool_]
    number: npt.NDArray[np.int64]
    explained: npt.NDArray[np.uint64]
    must: npt.NDArray[np.uint64]


def kvm_in(kvm: KvmPosts, hits: Hits, before: Array, after: Array) -> KvmIn:
    """KVM's posts by transition, each from one hit to another (indices of HITS)."""
    n = len(before)
    result = KvmIn(
        possible=np.full(n, not kvm.recorded),
        number=np.zeros(n, np.int64),
        explained=np.zeros((n, 4), np.uint64),
        must=np.zeros((n, 4), np.uint64),
    )
    if not kvm.recorded:
        result.explained[:] = ~np.uint64(0)
    if not n or not len(kvm.vcpu):
        return result
    first_row, last_row = hits.row[before], hits.row[after]
    vcpu = hits.vcpu[before].astype(np.int64)
    span = int(max(last_row.max(), kvm.latest.max())) + 2
    # a post may touch the transition in which it began, the one in which it was
    # traced, and those between: [low, high)
    low = np.searchsorted(
        vcpu * span + last_row, kvm.vcpu * span + kvm.earliest, side="right"
    )
    high = np.searchsorted(
        vcpu * span + first_row, kvm.vcpu * span + kvm.latest, side="left"
    )
    bit = np.uint64(1) << (kvm.vector & 63).astype(np.uint64)
    word = np.clip(kvm.vector >> 6, 0, 3)
    some = np.flatnonzero(low < high)
    result.number = _covered(low[some], high[some], n)
    result.possible |= result.number > 0
    for at in (low, high - 1):
        np.bitwise_or.at(result.explained, (at[some], word[some]), bit[some])
    # one that spans more than two is of a poster that traced nothing for long
    long = some[high[some] - low[some] > 2]
    result.explained[_covered(low[long], high[long], n) > 0] = ~np.uint64(0)
    sure = some[(high[some] - low[some] == 1) & kvm.sure[some]]
    at = low[sure]
    inside = first_row[at] < kvm.earliest[sure]
    inside &= kvm.latest[sure] < last_row[at]
    sure = sure[inside]
    np.bitwise_or.at(result.must, (low[sure], word[sure]), bit[sure])
    return result


def _covered(low: Array, high: Array, n: int) -> npt.NDArray[np.int64]:
    """int64[n]: how many of the half-open index ranges hold each index."""
    steps = np.zeros(n + 1, np.int64)
    np.add.at(steps, low, 1)
    np.add.at(steps, high, -1)
    result: npt.NDArray[np.int64] = np.cumsum(steps[:-1])
    return result
