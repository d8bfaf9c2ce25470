"""From one reading of a descriptor to the next: what happened, and what changed.

    pi_load entered --load--> returns --loaded--> pi_put entered --put--> returns
          ^                                                                 |
          +-------------------------------- away ---------------------------+

Two readings that follow each other make one transition; where a point is not probed
it spans several of these steps. Everything that the model needs to judge it is a
handful of small numbers, so that a million transitions are a few hundred cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.verify.apic_ids import ApicIds
from piscope.verify.kvm_posts import KvmIn, KvmPosts, kvm_in
from piscope.verify.observations import UNREAD, Hits
from piscope.verify.probe_names import Point

__all__ = (
    "KVM_MUST",
    "KVM_NONE",
    "KVM_POSSIBLE",
    "NDST_HERE",
    "NDST_LAST",
    "NDST_OTHER",
    "NDST_THIRD",
    "NDST_UNREAD",
    "NV_ODD",
    "NV_ODDER",
    "OBSERVED",
    "Case",
    "StepName",
    "Transitions",
    "build_transitions",
    "path",
)

StepName = Literal["load", "loaded", "put", "away"]

# What NDST names, seen from the transition's end.
NDST_HERE = 0  # the pCPU on which the vCPU is loaded, or was last
NDST_LAST = 1  # of a transition with a load: the pCPU of the load before
NDST_OTHER = 2  # none of these; at the end: what it was at the beginning
NDST_THIRD = 3  # at the end only: something else again
NDST_UNREAD = 4

NV_ODD, NV_ODDER = 1, 2
"""Any NV that KVM never writes; at the end, one that is not that of the beginning."""

_NVS = (0, 0xF1, 0xF2)  # before the vCPU is created, POSTED_INTR_(WAKEUP_)VECTOR

KVM_NONE, KVM_POSSIBLE, KVM_MUST = 0, 1, 2
"""KVM's own posts in a transition: none, maybe some, surely one of a new vector."""

_STEPS: tuple[StepName, ...] = ("load", "loaded", "put", "away")
_PLACE = {
    Point.LOAD: 0,
    Point.LOAD_DONE: 1,
    Point.SYNC: 1,
    Point.PUT: 2,
    Point.PUT_DONE: 3,
}


def path(begin: Point, end: Point) -> tuple[StepName, ...]:
    """The steps from one point to the next reading at another, at least one."""
    here, there = _PLACE[begin], _PLACE[end]
    if end is Point.SYNC:
        steps = path(begin, Point.LOAD_DONE) if here != there else ()
        return (*steps, "loaded")
    length = (there - here) % len(_STEPS) or len(_STEPS)
    return tuple(_STEPS[(here + i) % len(_STEPS)] for i in range(length))


class Case(NamedTuple):
    """A transition as far as the model is concerned.

    begin, end  Point
    preempted, blocking  of the put in it: 0, 1, or UNREAD
    same_cpu    of the load in it: 1 the pCPU of the load before, 0 another, UNREAD
    fresh       the vCPU may have been created in between: NV was 0
    kvm         KVM_NONE, KVM_POSSIBLE or KVM_MUST
    pir_read    at both ends
    on, sn, nv, ndst, pir  at the beginning; pir: not empty
    to_on, to_sn, to_nv, to_ndst  at the end
    lost        a bit of PIR is gone
    gained      a bit is new that no post by KVM explains
    gained_kvm  one is new that KVM posted
    missed      a vector that KVM surely posted is not in PIR
    """

    begin: int
    end: int
    preempted: int
    blocking: int
    same_cpu: int
    fresh: int
    kvm: int
    pir_read: int
    on: int
    sn: int
    nv: int
    ndst: int
    pir: int
    to_on: int
    to_sn: int
    to_nv: int
    to_ndst: int
    lost: int
    gained: int
    gained_kvm: int
    missed: int

    @property
    def steps(self) -> tuple[StepName, ...]:
        """What happened between the two readings."""
        return path(Point(self.begin), Point(self.end))


OBSERVED = (
    "to_on",
    "to_sn",
    "to_nv",
    "to_ndst",
    "lost",
    "gained",
    "gained_kvm",
    "missed",
)
"""The fields of a Case that say how it ended."""


@dataclass(slots=True)
class Transitions:
    """All transitions, vCPU after vCPU, in order.

    before, after  int64[n]  of HITS
    case           int64[n]  index into `cases`
    cases          each that occurs
    kvm_possible   bool[n]   KVM may have posted in it
    kvm_posts      int64[n]  how many traced posts of KVM's may have been in it
    """

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    case: npt.NDArray[np.int64]
    cases: list[Case]
    kvm_possible: npt.NDArray[np.bool_]
    kvm_posts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.before)


def build_transitions(hits: Hits, apic_ids: ApicIds, kvm: KvmPosts) -> Transitions:
    """Pair the readings that follow each other, and code what each pair shows."""
    before, after = _pairs(hits)
    posts = kvm_in(kvm, hits, before, after)
    cases: list[Case] = []
    case = np.empty(0, np.int64)
    if len(before):
        columns = _columns(hits, apic_ids, posts, before, after)
        number = _numbered(columns)
        _, first, case = np.unique(number, return_index=True, return_inverse=True)
        cases = [
            Case(*(int(columns[name][i]) for name in Case._fields))
            for i in first.tolist()
        ]
    return Transitions(
        before, after, case.reshape(-1), cases, posts.possible, posts.number
    )


def _numbered(columns: dict[str, Array]) -> npt.NDArray[np.int64]:
    """One number for each combination of values; there are at most about 2**43."""
    number = np.zeros(len(columns["begin"]), np.int64)
    for name in Case._fields:
        values = columns[name].astype(np.int64)
        least = int(values.min())
        number *= int(values.max()) - least + 1
        number += values - least
    return number


def _pairs(hits: Hits) -> tuple[Array, Array]:
    read = np.flatnonzero(hits.read)
    if len(read) < 2:
        return read[:0], read[:0]
    # hits that read nothing lie between: they must be joined as well
    broken = np.cumsum(~hits.joined)
    whole = broken[read[1:]] == broken[read[:-1]]
    return read[:-1][whole], read[1:][whole]


def _columns(
    hits: Hits, apic_ids: ApicIds, kvm: KvmIn, before: Array, after: Array
) -> dict[str, Array]:
    begin, end = hits.point[before], hits.point[after]
    with_load = _has_step("load", begin, end)
    with_put = _has_step("put", begin, end) & (begin == Point.PUT)
    last = _last_cpu(hits)
    here = hits.cpu[after]
    # a load that ends the transition has not begun: its pCPU is not the vCPU's yet
    here = np.where(end == Point.LOAD, hits.cpu[before], here)
    starts_at_load = begin == Point.LOAD
    before_cpu = np.where(starts_at_load, last[before], hits.cpu[before])
    same_cpu = np.where(
        ~with_load,
        1,
        np.where(before_cpu == _CPU_UNKNOWN, UNREAD, before_cpu == here),
    )
    # in a whole cycle from one load's entry to the next, the first load's pCPU
    whole = starts_at_load & (end == Point.LOAD)
    here = np.where(whole, hits.cpu[before], here)
    pir_read = hits.pir_read[before] & hits.pir_read[after]
    was, became = hits.pir[before], hits.pir[after]
    gained = became & ~was
    nv, to_nv = hits.nv[before], hits.nv[after]
    explained = kvm.explained
    new_must = pir_read & (kvm.must & ~was).any(axis=1)
    kvm_kind = np.where(kvm.possible, KVM_POSSIBLE, KVM_NONE)
    kvm_kind[new_must] = KVM_MUST
    # behind a sync PIR tells nothing of what was posted before it
    free = _has_step("loaded", begin, end)
    compared = pir_read & ~free
    return {
        "begin": begin,
        "end": end,
        "preempted": np.where(with_put, hits.preempted[before], UNREAD),
        "blocking": np.where(with_put, hits.blocking[before], UNREAD),
        "same_cpu": same_cpu,
        "fresh": _fresh(hits)[before],
        "kvm": np.where(free, KVM_POSSIBLE, kvm_kind),
        "pir_read": compared,
        "on": hits.on[before],
        "sn": hits.sn[before],
        "nv": np.where(np.isin(nv, _NVS), nv, NV_ODD),
        "ndst": _ndst_before(hits, apic_ids, before, before_cpu, here),
        "pir": was.any(axis=1) & hits.pir_read[before],
        "to_on": hits.on[after],
        "to_sn": hits.sn[after],
        "to_nv": np.where(
            np.isin(to_nv, _NVS), to_nv, np.where(nv == to_nv, NV_ODD, NV_ODDER)
        ),
        "to_ndst": _ndst_after(hits, apic_ids, before, after, before_cpu, here),
        "lost": compared & (was & ~became).any(axis=1),
        "gained": compared & (gained & ~explained).any(axis=1),
        "gained_kvm": compared & (gained & explained).any(axis=1),
        "missed": compared & (kvm.must & ~became).any(axis=1),
    }


def _has_step(step: StepName, begin: Array, end: Array) -> npt.NDArray[np.bool_]:
    table = np.zeros((len(Point), len(Point)), np.bool_)
    for a in Point:
        for b in Point:
            table[a, b] = step in path(a, b)
    result: npt.NDArray[np.bool_] = table[begin, end]
    return result


_CPU_UNKNOWN = -2


def _last_cpu(hits: Hits) -> npt.NDArray[np.int64]:
    """vcpu->cpu as each LOAD hit finds it: -1 before the first load, -2 not known.

    A vCPU does not move while it is loaded, so the hit before tells where it was.
    """
    last = hits.vcpu_cpu.astype(np.int64)
    told_by_previous = np.zeros(len(hits), np.bool_)
    told_by_previous[1:] = hits.joined[1:] & (hits.point[:-1] != Point.LOAD)
    told_by_previous &= last == _CPU_UNKNOWN
    at = np.flatnonzero(told_by_previous)
    last[at] = hits.cpu[at - 1]
    return last


def _fresh(hits: Hits) -> npt.NDArray[np.bool_]:
    """Whether creation may write NV and SN behind each hit.

    NV is 0 only until then: from 5.17 on the first load sets it and __vmx_vcpu_reset
    follows while loaded; up to 5.16 vmx_create_vcpu sets both after the first put.
    Where the first load's entry was not read, it may have been that one.
    """
    zero = hits.read & (hits.nv == 0)
    index = np.arange(len(hits))
    first_of_chain = np.maximum.accumulate(np.where(hits.joined, 0, index))
    load = (hits.point == Point.LOAD) & hits.read
    since_load = np.maximum.accumulate(np.where(load, index, -1))
    loaded = np.isin(hits.point, (Point.LOAD_DONE, Point.SYNC))
    unread = since_load < first_of_chain
    # behind the first put a vCPU is one that exists
    put = np.isin(hits.point, (Point.PUT, Point.PUT_DONE))
    number = np.append(0, np.cumsum(put))
    puts = number[1:] - number[first_of_chain]
    in_first = np.where(unread, puts == 0, zero[np.maximum(since_load, 0)])
    result: npt.NDArray[np.bool_] = zero | (loaded & in_first)
    return result


def _ndst_before(
    hits: Hits, apic_ids: ApicIds, before: Array, before_cpu: Array, here: Array
) -> Array:
    ndst = hits.ndst[before]
    code = np.full(len(before), NDST_OTHER)
    code[_names(apic_ids, before_cpu, ndst)] = NDST_LAST
    code[_names(apic_ids, here, ndst)] = NDST_HERE
    code[~hits.ndst_read[before]] = NDST_UNREAD
    return code


def _ndst_after(
    hits: Hits,
    apic_ids: ApicIds,
    before: Array,
    after: Array,
    before_cpu: Array,
    here: Array,
) -> Array:
    ndst = hits.ndst[after]
    code = np.full(len(before), NDST_THIRD)
    code[ndst == hits.ndst[before]] = NDST_OTHER
    code[_names(apic_ids, before_cpu, ndst)] = NDST_LAST
    code[_names(apic_ids, here, ndst)] = NDST_HERE
    code[~hits.ndst_read[after] | ~hits.ndst_read[before]] = NDST_UNREAD
    # what an unknown pCPU's NDST should be can't be told; that it stayed can
    untold = (apic_ids.of_cpu(np.maximum(here, 0)) == -1) & (code == NDST_THIRD)
    code[untold] = NDST_UNREAD
    return code


def _names(apic_ids: ApicIds, cpu: Array, ndst: Array) -> npt.NDArray[np.bool_]:
    known = apic_ids.of_cpu(np.maximum(cpu, 0))
    result: npt.NDArray[np.bool_] = (cpu >= 0) & (known >= 0) & (known == ndst)
    return result
