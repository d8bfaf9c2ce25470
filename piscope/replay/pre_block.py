"""Up to 5.16 a halt arms the wakeup vector before it polls: letters for that.

    EXIT (HLT)   halt-polling          woken           ENTER
       PRE_BLOCK [ NV=0xF1            ] POST_BLOCK

Later kernels arm it in the put, so that their stimuli need no such letters; a legacy
policy is replayed as if its kernel had met the same trace.

Source: arch/x86/kvm/x86.c up to 5.16, vcpu_block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.replay.stimuli import Stimuli
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason, Timeline

__all__ = ("Inserted", "with_pre_block")

_POSTS = (
    Letter.POST_HW,
    Letter.POST_SW_NEW,
    Letter.POST_SW_AGAIN,
    Letter.POST_SW_EITHER,
    Letter.MAYBE_POST_SW,
)
_IN_A_HALT = (Kind.POLL, Kind.BLOCKED, Kind.PREEMPTED)


@dataclass(frozen=True, slots=True)
class Inserted:
    """A stream with more letters in it than STIMULI have.

    letters  uint8[n + m]
    vector   int16[n + m]  of posts, -1: not known
    starts   int64[v]      first index of each vCPU's letters
    extra    bool[n + m]   letters that STIMULI lack
    vcpu     int32[m]      of those
    row      int64[m]      the event each rests on
    """

    letters: npt.NDArray[np.uint8]
    vector: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    extra: npt.NDArray[np.bool_]
    vcpu: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]


def with_pre_block(timeline: Timeline, stimuli: Stimuli) -> Inserted:
    """The stimuli with PRE_BLOCK where a halt begins to poll, POST_BLOCK at its end."""
    i = timeline.intervals
    before = np.full(len(i), -1, np.int64)
    same = i.vcpu[1:] == i.vcpu[:-1]
    before[1:][same] = i.kind[:-1][same]
    begins = np.flatnonzero(
        (i.kind == Kind.POLL) & ~np.isin(before, _IN_A_HALT) & (i.row >= 0)
    )
    ends = np.flatnonzero(
        (i.kind == Kind.HOST)
        & np.isin(before, (Kind.POLL, Kind.BLOCKED))
        & (i.row >= 0)
    )
    vcpu = np.concatenate([i.vcpu[begins], i.vcpu[ends]])
    row = np.concatenate([i.row[begins], i.row[ends]])
    armed = np.where(
        _irqs_blocked(timeline, i.vcpu[begins], i.row[begins]),
        Letter.PRE_BLOCK_IF0,
        Letter.PRE_BLOCK_IF1,
    )
    letter = np.concatenate([armed, np.full(len(ends), Letter.POST_BLOCK)])

    span = int(max(stimuli.row.max(initial=0), row.max(initial=0))) + 2
    # before posts at the same row: a user's lie behind the event, not at it
    key = 2 * (stimuli.vcpu.astype(np.int64) * span + stimuli.row)
    key += np.isin(stimuli.letter, _POSTS)
    key = np.maximum.accumulate(key)
    at = np.searchsorted(key, 2 * (vcpu.astype(np.int64) * span + row), side="right")
    order = np.lexsort((row, vcpu, at))
    at, vcpu, row, letter = at[order], vcpu[order], row[order], letter[order]
    extra = np.insert(np.zeros(len(stimuli), np.bool_), at, True)
    shift = np.searchsorted(vcpu, np.arange(len(stimuli.starts)), side="left")
    return Inserted(
        letters=np.insert(stimuli.letter, at, letter.astype(np.uint8)),
        vector=np.insert(stimuli.vector, at, np.int16(-1)),
        starts=stimuli.starts + shift,
        extra=extra,
        vcpu=vcpu.astype(np.int32),
        row=row,
    )


def _irqs_blocked(timeline: Timeline, vcpu: Array, row: Array) -> npt.NDArray[np.bool_]:
    """Whether the halt that begins to poll there blocked with the guest's IF=0."""
    w = timeline.windows
    if not len(w):
        return np.zeros(len(vcpu), np.bool_)
    span = int(max(w.put_row.max(initial=0), row.max(initial=0))) + 2
    key = w.vcpu.astype(np.int64) * span + w.put_row
    at = np.searchsorted(key, vcpu.astype(np.int64) * span + row, side="right")
    found = np.minimum(at, len(w) - 1)
    result: npt.NDArray[np.bool_] = (
        (at < len(w))
        & (w.vcpu[found] == vcpu)
        & (w.reason[found] == PutReason.BLOCKING_IRQS_BLOCKED)
    )
    return result
