"""The openings of a policy: where a post at an unseen instant would notify the host.

`open_pieces` fills the table from a replay, `rates` says what follows at a rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.outcomes import Hit, hit_bits
from piscope.replay.stimuli import Stimuli
from piscope.tables import Events

__all__ = ("SPURIOUS", "Openings", "bare")

SPURIOUS = (Hit.HOST, Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
"""Outcomes of a notification that nobody needs, wherever it is taken."""

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_OBSERVED = (
    Letter.OBSERVE_ON0_PIR0,
    Letter.OBSERVE_ON0_PIR1,
    Letter.OBSERVE_ON1_PIR0,
    Letter.OBSERVE_ON1_PIR1,
)


@dataclass(slots=True)
class Openings:
    """Pieces of time, or known posts, that may notify the host under one policy.

    vcpu      int32[n]
    cpu       int32[n]   the pCPU that is notified, -1: not known
    ts_ns     int64[n]   when it begins
    possible  uint16[n]  what becomes of the notification, bit 1 << Hit each
    settled   bool[n]    stretches that leave no event (rows 7 to 9 of the state table)
                         can't make it anything else
    unknown   bool[n]    what the vCPU did there is unknown, so that there may have been
                         any number of epochs
    window    int64[n]   the window it lies in, -1: the vCPU is loaded
    epoch     int64[n]   the epoch: not more than one notification each
    after_s   float64[n] seconds from the epoch's start to the piece's, in which posts
                         could arrive
    until_s   float64[n] and to its end; inf for a known post, which is at `after_s`
    epoch_most, after_most_s, until_most_s   the same, if what may have forgotten
                         earlier posts did: as many epochs as the trace allows
    vcpus     how many vCPUs the trace has
    """

    vcpu: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    ts_ns: Int64
    possible: npt.NDArray[np.uint16]
    settled: Bools
    unknown: Bools
    window: Int64
    epoch: Int64
    after_s: npt.NDArray[np.float64]
    until_s: npt.NDArray[np.float64]
    epoch_most: Int64
    after_most_s: npt.NDArray[np.float64]
    until_most_s: npt.NDArray[np.float64]
    vcpus: int

    def __len__(self) -> int:
        return len(self.vcpu)

    def surely(self, *hits: Hit) -> Bools:
        """bool[n]: a notification there can only have one of these outcomes."""
        result: Bools = (self.possible & ~hit_bits(*hits)) == 0
        return result

    def maybe(self, *hits: Hit) -> Bools:
        """bool[n]: it may have one of them."""
        result: Bools = (self.possible & hit_bits(*hits)) != 0
        return result


def bare(stimuli: Stimuli, events: Events) -> Stimuli:
    """The stimuli without what probes betrayed of posts by hardware.

    A rate stands for those; what the probes read of ON and PIR is theirs, too. Each
    vCPU's letters begin with the trace, since posts may.
    """
    letter = stimuli.letter.copy()
    letter[np.isin(letter, _OBSERVED)] = Letter.NOP
    letter[(letter == Letter.POST_HW) & (stimuli.post < 0)] = Letter.NOP
    at, vcpus = stimuli.starts, np.arange(len(stimuli.starts))
    return Stimuli(
        letter=np.insert(letter, at, Letter.NOP),
        vcpu=np.insert(stimuli.vcpu, at, vcpus),
        starts=at + vcpus,
        ts_ns=np.insert(stimuli.ts_ns, at, events.ts_ns[0]),
        row=np.insert(stimuli.row, at, 0),
        cpu=np.insert(stimuli.cpu, at, events.cpu[0]),
        window=np.insert(stimuli.window, at, -1),
        post=np.insert(stimuli.post, at, -1),
        vector=np.insert(stimuli.vector, at, -1),
    )
