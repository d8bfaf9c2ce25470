"""Which vCPUs and pCPUs a report is about, and the masks that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.sources.raw import Array
from piscope.tables import Vcpus

__all__ = ("Selection",)


@dataclass(frozen=True, slots=True)
class Selection:
    """What `--vm`, `--vcpu` and `--cpu` narrow a report to; None: everything.

    vms    numbers of VMs
    vcpus  labels (`vm0/vcpu1`), vcpu_ids (`1`) or threads (`tid:1234`)
    cpus   pCPUs that were notified, or would have been
    """

    vms: frozenset[int] | None = None
    vcpus: tuple[str, ...] = ()
    cpus: frozenset[int] | None = None

    def of_vcpus(self, vcpus: Vcpus) -> npt.NDArray[np.bool_]:
        """bool[vCPUs]: those that are selected.

        Raises UsageError for a VM or vCPU that the trace does not hold.
        """
        mask = np.ones(len(vcpus), np.bool_)
        if self.vms is not None:
            present = {row.vm for row in vcpus.rows}
            for vm in sorted(self.vms - present):
                raise UsageError(f"--vm {vm}: this trace has {_listed(present)}")
            mask &= np.array([row.vm in self.vms for row in vcpus.rows], np.bool_)
        if self.vcpus:
            chosen = np.zeros(len(vcpus), np.bool_)
            for name in self.vcpus:
                found = [
                    row.vcpu
                    for row in vcpus.rows
                    if name in (row.label, str(row.vcpu_id), f"tid:{row.tid}")
                ]
                if not found:
                    labels = ", ".join(row.label for row in vcpus.rows[:8])
                    more = " ..." if len(vcpus) > 8 else ""
                    raise UsageError(f"--vcpu {name}: this trace has {labels}{more}")
                chosen[found] = True
            mask &= chosen
        return mask

    def of_cpus(self, cpu: Array) -> npt.NDArray[np.bool_]:
        """bool[n]: rows on a selected pCPU."""
        if self.cpus is None:
            return np.ones(len(cpu), np.bool_)
        return np.isin(cpu, sorted(self.cpus))

    def as_text(self) -> dict[str, str]:
        """The options that narrowed the report, for people."""
        text: dict[str, str] = {}
        if self.vms is not None:
            text["vm"] = ", ".join(map(str, sorted(self.vms)))
        if self.vcpus:
            text["vcpu"] = ", ".join(self.vcpus)
        if self.cpus is not None:
            text["cpu"] = ", ".join(map(str, sorted(self.cpus)))
        return text


def _listed(vms: set[int | None]) -> str:
    known = sorted(vm for vm in vms if vm is not None)
    return f"VM {', '.join(map(str, known))}" if known else "no VM that is known"
