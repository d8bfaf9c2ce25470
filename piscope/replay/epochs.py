"""The letters of one policy with their epochs: since when no earlier post matters.

Read beside `first_post`, which says what an epoch is and which letters end one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.policy import Platform
from piscope.replay.findings import Replayed
from piscope.replay.first_post import FirstPost
from piscope.replay.openings import Int64
from piscope.replay.pcpus import Occupancy
from piscope.replay.pre_block import with_pre_block
from piscope.replay.scan import scan
from piscope.replay.software_posts import classify_software_posts
from piscope.replay.stimuli import Stimuli
from piscope.tables import Timeline

__all__ = ("Stream", "epochs_of")


@dataclass(slots=True)
class Stream:
    """All letters of a policy, those included that STIMULI lack, with their epochs.

    place     int64[m]  where each letter of STIMULI is in this
    after     uint16[n] set of states behind each letter
    start     int64[n]  the letter that began the epoch in which the letter finds it
    start_most  likewise, if each letter that may have begun one did
    begin_ns, end_ns  from each letter to the next of the vCPU
    """

    letter: npt.NDArray[np.uint8]
    vcpu: npt.NDArray[np.int32]
    row: Int64
    begin_ns: Int64
    end_ns: Int64
    place: Int64
    after: npt.NDArray[np.uint16]
    start: Int64
    start_most: Int64


def epochs_of(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    platform: Platform,
    places: Occupancy,
) -> Stream:
    """All letters as one policy meets them, and the epochs that they part."""
    letter, vcpu, row, starts = (
        replayed.letters,
        stimuli.vcpu,
        stimuli.row,
        stimuli.starts,
    )
    own = np.ones(len(letter), np.bool_)
    after = replayed.walk.after
    if not replayed.policy.block_in_put:
        added = with_pre_block(timeline, stimuli)
        own = ~added.extra
        starts = added.starts
        letter, walked = classify_software_posts(
            added.letters, np.maximum(added.vector, 0), starts, replayed.automaton
        )
        after = walked.after
        vcpu, row = np.empty(len(own), np.int32), np.empty(len(own), np.int64)
        vcpu[own], row[own] = stimuli.vcpu, stimuli.row
        vcpu[~own], row[~own] = added.vcpu, added.row
    pairs = FirstPost.for_policy(replayed.policy, platform)
    walk = scan(pairs, letter, starts)
    ts_ns = places.events.ts_ns[row]
    ts_ns[own] = stimuli.ts_ns
    end_ns = np.full(len(letter), timeline.span_ns[1], np.int64)
    same = vcpu[1:] == vcpu[:-1]
    end_ns[:-1][same] = ts_ns[1:][same]
    first = np.ones(len(letter), np.bool_)
    first[1:] = ~same
    index = np.arange(len(letter))
    forgets = pairs.forgets[walk.before, letter] | first
    maybe = pairs.may_forget[walk.before, letter] | first
    return Stream(
        letter=letter,
        vcpu=vcpu,
        row=row,
        begin_ns=ts_ns,
        end_ns=end_ns,
        place=np.flatnonzero(own),
        after=after,
        start=np.maximum.accumulate(np.where(forgets, index, 0)),
        start_most=np.maximum.accumulate(np.where(maybe, index, 0)),
    )
