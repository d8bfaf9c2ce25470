"""Which NDST names which pCPU: learned from the loads, or given.

    xAPIC    NDST = (APIC id << 8) & 0xFF00
    x2APIC   NDST = APIC id

KVM writes NDST when it loads a vCPU, so what most loads on a pCPU leave there is that
pCPU's. Two pCPUs can't have the same one: then it is the one's with more loads, and
the other has none, so that its loads disagree.

Source: arch/x86/kvm/vmx/posted_intr.c, vmx_vcpu_pi_load (cpu_physical_id, x2apic_mode).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.sources.raw import Array
from piscope.verify.observations import Hits
from piscope.verify.probe_names import Point

__all__ = ("ApicIds", "learn_apic_ids", "parse_apic_ids")

Form = Literal["xAPIC", "x2APIC", "not told"]

_F2 = 0xF2  # POSTED_INTR_VECTOR
_MOST_CPUS = 1 << 16
_UNKNOWN, _SHARED = -1, -2


@dataclass(frozen=True, slots=True)
class ApicIds:
    """NDST by pCPU.

    ndst    pCPU -> NDST as the descriptor holds it
    form    how NDST holds an APIC id; "not told" where every value is 0
    given   by the user, not learned
    shared  pCPUs whose loads mostly leave another pCPU's NDST
    """

    ndst: Mapping[int, int]
    form: Form
    given: bool
    shared: tuple[int, ...] = ()

    def of_cpu(self, cpu: Array) -> npt.NDArray[np.int64]:
        """int64[n]: the NDST of each pCPU; -1: not known, -2: another pCPU has it."""
        most = max((*self.ndst, *self.shared), default=0)
        table = np.full(most + 2, _UNKNOWN, np.int64)
        table[list(self.shared)] = _SHARED
        for number, value in self.ndst.items():
            table[number] = value
        return table.take(cpu, mode="clip")

    def name(self, ndst: int) -> str:
        """An NDST for people: `0x100 (pCPU 1)`."""
        cpus = [cpu for cpu, value in self.ndst.items() if value == ndst]
        return f"{ndst:#x} ({f'pCPU {cpus[0]}' if cpus else 'no pCPU known'})"


def parse_apic_ids(text: str, xapic: bool) -> ApicIds:
    """`0=0,1=2`: the APIC id of each pCPU, decimal or 0x...

    Raises UsageError for anything else, and for an id that two pCPUs share.
    """
    ndst: dict[int, int] = {}
    for pair in text.split(","):
        cpu, _, apic_id = pair.partition("=")
        try:
            number, value = int(cpu, 0), int(apic_id, 0)
        except ValueError:
            number = value = -1
        if not 0 <= number < _MOST_CPUS or not 0 <= value < 1 << 32:
            raise UsageError(f"--apic-ids {pair!r}: expected CPU=ID, as in 0=0,1=2")
        ndst[number] = (value << 8) & 0xFF00 if xapic else value
    if len(set(ndst.values())) < len(ndst):
        raise UsageError(f"--apic-ids {text!r}: two pCPUs have the same APIC id")
    return ApicIds(ndst, "xAPIC" if xapic else "x2APIC", given=True)


def learn_apic_ids(hits: Hits) -> ApicIds:
    """Each pCPU's NDST, from the descriptors of vCPUs loaded or put on it."""
    loaded = hits.point != Point.LOAD
    # an NV of 0xf1 up to 5.16: NDST still names the pCPU of the wakeup list
    told = loaded & hits.read & hits.ndst_read & (hits.nv == _F2)
    pairs, count = np.unique(
        np.stack([hits.cpu[told].astype(np.int64), hits.ndst[told]]),
        axis=1,
        return_counts=True,
    )
    votes = sorted(
        zip(count.tolist(), *pairs.tolist(), strict=True), key=lambda v: (-v[0], v[1:])
    )
    ndst: dict[int, int] = {}
    taken: set[int] = set()
    decided: set[int] = set()
    shared = []
    for _, cpu, value in votes:
        if cpu in decided or not 0 <= cpu < _MOST_CPUS:
            continue
        decided.add(cpu)
        if value in taken:
            shared.append(cpu)
        else:
            ndst[cpu] = value
            taken.add(value)
    return ApicIds(
        dict(sorted(ndst.items())), _form(list(taken)), False, tuple(sorted(shared))
    )


def _form(values: Sequence[int]) -> Form:
    if not any(values):
        return "not told"
    # x2APIC ids that are all multiples of 256 would be one thread a package
    xapic = all(value & ~0xFF00 == 0 for value in values)
    return "xAPIC" if xapic else "x2APIC"
