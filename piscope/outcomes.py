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
    "Row",
    "hit_bits",
    "row_bits",
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
    GUEST_EXIT = 11  # row 2: taken in guest mode, but as a VM-exit and a host IRQ

    @property
    def label(self) -> str:
        """The name as users read it: `wrong-vcpu`."""
        return self.name.lower().replace("_", "-")


class Row(IntEnum):
    """What the target vCPU was doing: the numbers are those of the state table.

    Source: `pi_semantics`, section 8.1; its row 6' (halt-polling up to 5.16, where the
    notification is a wakeup already) is 0 here.
    """

    POLL_ARMED = 0
    GUEST = 1
    GUEST_INHIBITED = 2  # L2 runs, or APICv is inhibited
    AFTER_EXIT = 3  # IRQs off, the slow path follows
    FASTPATH = 4  # IRQs off from VM-exit to re-entry
    HOST = 5
    POLL = 6
    BEFORE_SYNC = 7  # IRQs off for an entry
    AFTER_SYNC = 8
    ENTRY_ABORTED = 9
    IOCTL = 10
    PUT_RUNNING = 11
    USERSPACE = 12
    PREEMPTED = 13
    VOLUNTARY = 14  # switched out runnable by schedule(), not by a preemption
    ASLEEP = 15
    BLOCKED = 16
    BLOCKED_IF0 = 17
    BLOCKED_PREEMPTED = 18
    BLOCKED_IF0_PREEMPTED = 19
    NOT_WANTED_TO_RUN = 20
    SWITCHED_IN = 21  # the thread runs, pi_load does not yet
    LOAD_GAP = 22  # inside pi_load: SN cleared, PIR not scanned
    NEVER_LOADED = 23
    ON_AT_PUT = 24
    ON_BY_KVM = 25

    @property
    def label(self) -> str:
        """The number as the state table prints it: `12`, or `6'`."""
        return "6'" if self is Row.POLL_ARMED else str(int(self))


@dataclass(slots=True)
class Findings:
    """One policy's findings, one a post, in the order of the stimuli.

    stimulus  int64[n]  index into STIMULI
    possible  uint16[n] the outcomes that the trace allows, bit 1 << Hit each.
              Stretches that leave no event and last some instructions only (rows 7 to
              9 and 22) count as of no length here
    row       uint32[n] the rows of the state table that the trace allows, bit
              1 << Row each; those stretches included
    certain   bool[n]   one outcome is possible, and all rows that are have that one
    coalesced int8[n]   1: 0xF2 was latched on that pCPU already, so that both are one
              IRQ; 0: it was not; -1: the trace does not tell
    straight  bool[n]   the vCPU was in KVM, behind a VM-exit that went straight back
              to the guest: a fast path would have sheltered it
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
    row: npt.NDArray[np.uint32]
    certain: npt.NDArray[np.bool_]
    coalesced: npt.NDArray[np.int8]
    straight: npt.NDArray[np.bool_]
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


def row_bits(*rows: Row) -> np.uint32:
    """The rows as bits of `Findings.row`."""
    return np.uint32(sum(1 << row for row in rows))


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
    lost         windows, at the most, that lie in what the trace lost, and are open
    """

    exposed: npt.NDArray[np.bool_]
    maybe: npt.NDArray[np.bool_]
    on_at_put: npt.NDArray[np.bool_]
    unseen: npt.NDArray[np.bool_]
    unseen_wrong: npt.NDArray[np.bool_]
    invisible: npt.NDArray[np.int64]
    lost: int


@dataclass(slots=True)
class Residual:
    """Notifications to loaded vCPUs in the host that no event shows, one a row.

    vcpu     int32[n]
    cpu      int32[n]  the pCPU it ran on
    surely   bool[n]   ON at a put that no known post explains (probes)
    seen     bool[n]   the same, or not excluded by what the probes read; the other rows
                       are stretches in the host that leave room for one
    lost     such stretches, at the most, that lie in what the trace lost
    """

    vcpu: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    surely: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]
    lost: int


@dataclass(slots=True)
class Costs:
    """What the policy's own code costs each vCPU, int64[vCPUs, 2]: least, most.

    `pir_scans` includes `empty_scans`, which found nothing. A policy that scans at
    entries, or moves NV at them, pays there too; how often a polling loop looks is not
    traced, and counts once.

    Source: `pi_semantics`, section 9; counted by the reference, model.descriptor.
    """

    pir_scans: npt.NDArray[np.int64]
    empty_scans: npt.NDArray[np.int64]
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
