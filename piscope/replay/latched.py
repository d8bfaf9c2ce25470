"""Which notifications found their vector latched already: one interrupt for both.

A local APIC has one IRR bit a vector, so what reaches a pCPU between two instants at
which it takes interrupts is one IRQ, whatever number of vCPUs it was meant for.

    IRQs     on ..|  off                  |.. on
    0xF2          A        B (coalesced)     one PIN

That IRQs were off shows in the flags of events; that they went on in between shows in
one without the flag, in another interrupt that was taken, in a switch to another task
and in a VM-entry. Where neither shows, the answer stays open.

Source: Intel SDM vol. 3, local APIC, IRR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.replay.pcpus import Occupancy
from piscope.sources.raw import Array

__all__ = ("Sent", "coalesced")


@dataclass(slots=True)
class Sent:
    """Notifications that the host may take as IRQs, one vector.

    cpu       int32[n]
    row       int64[n]  of EVENTS, of those at a known instant
    start_ns  int64[n]  the instants, or where the stretch begins that holds them
    end_ns    int64[n]  the same instants, or where it ends
    exact     bool[n]   the instant is known
    """

    cpu: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]


def coalesced(sent: Sent, places: Occupancy) -> npt.NDArray[np.int8]:
    """int8[n]: 1: beside one that is latched, 0: alone, -1: the trace does not tell."""
    result = np.zeros(len(sent.cpu), np.int8)
    if len(sent.cpu) < 2:
        return result
    exact = np.flatnonzero(sent.exact)
    exact = exact[np.lexsort((sent.row[exact], sent.cpu[exact]))]
    same = sent.cpu[exact[1:]] == sent.cpu[exact[:-1]]
    first, second = exact[:-1][same], exact[1:][same]
    if len(first):
        result[second] = _beside(sent, places, first, second)
    return _with_unknown_instants(sent, result)


def _beside(
    sent: Sent, places: Occupancy, first: Array, second: Array
) -> npt.NDArray[np.int8]:
    cpu, begin, end = sent.cpu[first], sent.row[first], sent.row[second]
    # the second's own event may be one of that pCPU
    taken = places.accepting.some_between(cpu, begin, end + 1)
    taken |= places.guest.at(cpu, sent.start_ns[first]) >= 0
    taken |= places.guest.at(cpu, sent.start_ns[second]) >= 0
    stretch = places.irqs_off.index_at(cpu, sent.start_ns[first])
    off = stretch >= 0
    off &= stretch == places.irqs_off.index_at(cpu, sent.start_ns[second])
    # not proven, but the last that was seen of the pCPU is that IRQs were off
    result = np.zeros(len(first), np.int8)
    open_ = np.flatnonzero(~taken)
    if len(open_):
        result[open_[places.seen_irqs_off(cpu[open_], begin[open_])]] = -1
    result[~taken & off] = 1
    return result


def _with_unknown_instants(
    sent: Sent, result: npt.NDArray[np.int8]
) -> npt.NDArray[np.int8]:
    """Where one's stretch overlaps another's on the same pCPU, nothing is excluded."""
    if sent.exact.all():
        return result
    order = np.lexsort((sent.start_ns, sent.cpu))
    base = int(sent.start_ns.min())
    span = int(sent.end_ns.max()) - base + 2
    # pCPU after pCPU on one line, so that the running maximum stays within each
    shift = sent.cpu[order].astype(np.int64) * span - base
    start, end = sent.start_ns[order] + shift, sent.end_ns[order] + shift
    reach = np.maximum.accumulate(end)
    meets = np.zeros(len(order), np.bool_)
    meets[1:] = start[1:] <= reach[:-1]
    meets[:-1] |= start[1:] <= end[:-1]
    some = np.zeros(len(order), np.bool_)
    some[order] = meets
    result[some & ~sent.exact] = -1
    return result
