"""The tables that the replay gives: what each notification hit, what is at risk, costs.

Read beside `tables`: the same rules hold. A range is (least, most) of what the trace
allows; where both are equal the number is certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = (
    "Costs",
    "Exposure",
    "Findings",
    "Hit",
    "PolicyResult",
    "Range",
    "Residual",
    "hit_bits",
)

Range = tuple[int, int]
"""(least, most)."""


class Hit(IntEnum):
    """What became of a post; the names are those of FINDINGS.hit."""

    GUEST = 0  # rows 1, 8: taken in guest mode by the right vCPU
    HOST = 1  # rows 3, 5, 6, 10: an IRQ in the host, the vCPU loaded
    UNLOADED_HOST = 2  # rows 12, 15, 17, 20: an IRQ in the host, the vCPU not loaded
    WRONG_VCPU = 3  # the same rows: taken in another vCPU's guest mode
    WAKEUP = 4  # row 16: wakes the blocked vCPU
    SILENT_ON = 5  # rows 24, 25
    SILENT_SN = 6  # rows 12 to 15, 17 to 20
    SILENT_PIR = 7  # KVM's post of a vector that is in PIR already
    SOFTWARE = 8  # KVM's post that needs no notification: wakes, or waits for the entry
    LATCHED = 9  # rows 4, 7, 8: latched with IRQs off, taken by the next VM-entry
    UNKNOWN = 10

    @property
    def label(self) -> str:
        """The name as users read it: `wrong-vcpu`."""
        return self.name.lower().replace("_", "-")


@dataclass(slots=True)
class Findings:
    """One policy's findings, one a post, in the order of the stimuli.

    stimulus  int64[n]  index into STIMULI
    possible  uint16[n] the outcomes that the trace allows, bit 1 << Hit each
    wrong_share  float64[n]  of a notification sent while the vCPU was not loaded: the
              chance that another vCPU's guest mode took it. 0 or 1 where the instant
              is known, else the share of the window that the pCPU was in guest mode
    kind      uint8[n]  Kind: what the target vCPU was doing
    reason    int32[n]  the VM-exit reason it was handling, -1: none
    window    int64[n]  the window it fell into, -1: the vCPU was loaded
    cpu       int32[n]  the pCPU that was notified, -1: none
    victim    int32[n]  the vCPU in whose guest mode it was taken, -1
    idle      bool[n]   the pCPU ran its idle task
    """

    stimulus: npt.NDArray[np.int64]
    possible: npt.NDArray[np.uint16]
    wrong_share: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.int32]
    window: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    victim: npt.NDArray[np.int32]
    idle: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.stimulus)

    def surely(self, *hits: Hit) -> npt.NDArray[np.bool_]:
        """bool[n]: each finding that can only be one of these outcomes."""
        result: npt.NDArray[np.bool_] = (self.possible & ~hit_bits(*hits)) == 0
        return result

    def maybe(self, *hits: Hit) -> npt.NDArray[np.bool_]:
        """bool[n]: each finding that may be one of these outcomes."""
        result: npt.NDArray[np.bool_] = (self.possible & hit_bits(*hits)) != 0
        return result

    def count(self, *hits: Hit) -> tuple[int, int]:
        """The least and the greatest number of findings with one of these outcomes."""
        return int(self.surely(*hits).sum()), int(self.maybe(*hits).sum())


def hit_bits(*hits: Hit) -> np.uint16:
    """The outcomes as bits of `Findings.possible`."""
    return np.uint16(sum(1 << hit for hit in hits))


@dataclass(slots=True)
class Exposure:
    """One policy's view of all windows, in the order of WINDOWS.

    exposed      bool[n]  SN=0 and NV=0xF2 for sure, maybe: not excluded
    maybe        bool[n]
    on_at_put    bool[n]  ON was set for sure: whatever is posted stays silent
    unseen       bool[n]  a notification that left no trace can't be excluded
    unseen_wrong bool[n]  and might have been taken in another vCPU's guest mode
    invisible    int64[vCPUs]  visits to userspace that the trace may hide, each one
                 more window
    """

    exposed: npt.NDArray[np.bool_]
    maybe: npt.NDArray[np.bool_]
    on_at_put: npt.NDArray[np.bool_]
    unseen: npt.NDArray[np.bool_]
    unseen_wrong: npt.NDArray[np.bool_]
    invisible: npt.NDArray[np.int64]


@dataclass(slots=True)
class Residual:
    """Notifications to loaded vCPUs in the host that no event shows, one a row.

    vcpu     int32[n]
    cpu      int32[n]  the pCPU it ran on
    surely   bool[n]   ON at a put that no known post explains (probes)
    seen     bool[n]   the same, or not excluded by what the probes read; the other rows
                       are stretches in the host that leave room for one
    """

    vcpu: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    surely: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Costs:
    """What the policy's loads and puts cost each vCPU, int64[vCPUs, 2]: least, most.

    Source: `pi_semantics`, section 9; counted by the reference, model.descriptor.
    """

    pir_scans: npt.NDArray[np.int64]
    locked_ops: npt.NDArray[np.int64]
    list_locks: npt.NDArray[np.int64]


@dataclass(slots=True)
class PolicyResult:
    """Everything that the replay says of one policy.

    `contradictions`: letters that no state allowed, i.e. places where the trace misses
    something that no loss accounts for.
    """

    policy: str
    title: str
    findings: Findings
    exposure: Exposure
    residual: Residual
    costs: Costs
    contradictions: int
