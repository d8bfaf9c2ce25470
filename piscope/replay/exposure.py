"""How long and how often each vCPU was open to notifications that nobody needs.

A window is exposed under a policy if it begins with SN=0 and NV=0xF2: the first post
by hardware into it sends an IRQ to a pCPU that has no use for it. One IRQ at the most:
ON stays set until the next sync. Where no probe looks into a window, a post that left
no event can't be excluded, and the window counts as one possible notification.

While a vCPU is loaded, each stretch in the host from one sync to the next can see one
more (rows 3, 5, 6 of pi_semantics 8.1), under any policy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.model.descriptor import POSTED_INTR_WAKEUP_VECTOR
from piscope.model.letters import Letter
from piscope.outcomes import Costs, Exposure, Findings, Hit, Residual
from piscope.parts import Own
from piscope.replay.automaton import Ranges
from piscope.replay.findings import Replayed
from piscope.replay.hidden_posts import WindowPosts, window_posts
from piscope.replay.pcpus import Occupancy
from piscope.replay.recognize import learned_of, posting_by_hardware
from piscope.replay.stimuli import Stimuli
from piscope.tables import Kind, Timeline

__all__ = ("expose",)


def expose(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    findings: Findings,
    places: Occupancy,
    what_if: bool,
    posted: WindowPosts | None = None,
    own: Own | None = None,
) -> tuple[Exposure, Residual, Costs]:
    """One policy's exposure, what may have gone unseen, and its costs.

    `what_if`: some posts by KVM are replayed as posts by hardware, so that what the
    trace lost may hide such posts even where the captured hardware did not post.
    `posted` is what `window_posts` gives, for callers that replay several policies.
    `own`: of a part of a trace its own rows; what has no row in the end (hidden visits,
    Residual, Costs) is counted of those only. None: all.
    """
    w = timeline.windows
    if posted is None:
        posted = window_posts(timeline)
    if own is None:
        own = Own(0, len(places.events))
    a, walk, letters = replayed.automaton, replayed.walk, replayed.letters
    put = np.flatnonzero(
        (letters >= Letter.PUT_RUN_PREEMPTED) & (letters <= Letter.PUT_BLOCK_IF0_NOT)
    )
    window = stimuli.window[put]
    state = walk.after[put]
    n = len(w)
    exposed, maybe = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    on_at_put = np.zeros(n, np.bool_)
    exposed[window] = (a.sn.max[state] == 0) & (a.nv_f1.max[state] == 0)
    maybe[window] = (a.sn.min[state] == 0) & (a.nv_f1.min[state] == 0)
    on_at_put[window] = a.on.min[state] == 1
    exposed &= w.certain
    # an uncertain reason: exposed unless every reason that is possible prevents it
    maybe |= ~w.certain & _some_reason_exposes(replayed)

    hardware = posting_by_hardware(learned_of(w, places.events.scope))
    unseen = maybe & ~on_at_put & ~w.probed
    told = findings.window[findings.maybe(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)]
    unseen[told[told >= 0]] = False
    invisible = _invisible_visits(timeline, own)
    if hardware is False:
        unseen[:] = False
        invisible[:] = 0
    lost = timeline.lost_windows if what_if or hardware is not False else 0
    if not _some_reason_exposes(replayed):
        invisible[:] = lost = 0
    at = np.flatnonzero(unseen)
    guest_ns = places.guest_in_windows(w, at)
    unseen_wrong = np.zeros(n, np.bool_)
    unseen_wrong[at] = guest_ns > 0
    return (
        Exposure(exposed, maybe, on_at_put, unseen, unseen_wrong, invisible, lost),
        _residual(timeline, stimuli, replayed, hardware, posted, what_if, own),
        _costs(stimuli, replayed, len(timeline.vcpus), own),
    )


def _invisible_visits(timeline: Timeline, own: Own) -> npt.NDArray[np.int64]:
    """Stretches in KVM that may hide a visit to userspace, by vCPU."""
    i = timeline.intervals
    hidden = (i.kind == Kind.HOST) & (i.row >= 0) & ~i.certain & own.intervals(i)
    if timeline.userspace_visible:
        hidden[:] = False
    return np.bincount(i.vcpu[hidden], minlength=len(timeline.vcpus))


def _some_reason_exposes(replayed: Replayed) -> bool:
    """Whether any put that is not a preemption leaves SN=0 and NV=0xF2."""
    table = replayed.automaton.table
    for state, row in zip(table.states, table.cells, strict=True):
        for letter in (Letter.PUT_RUN_NOT, Letter.PUT_BLOCK_IF0_NOT):
            for cell in row[letter]:
                after = table.states[cell.next_state]
                if state.loaded and not after.sn and not after.nv_f1:
                    return True
    return False


def _residual(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    hardware: bool | None,
    posted: WindowPosts,
    what_if: bool,
    own: Own,
) -> Residual:
    a, walk, letters = replayed.automaton, replayed.walk, replayed.letters
    w = timeline.windows
    lost = timeline.lost_windows if what_if or hardware is not False else 0
    if replayed.policy.suppress_at_exit:
        lost = 0
    if hardware is False:
        none = np.empty(0, np.int64)
        return _rows(timeline, none, none > 0, none > 0, stimuli, lost)
    # ON at a put, where the replay of all known posts says that it should be 0
    at = np.flatnonzero(
        np.isin(letters, (Letter.OBSERVE_ON1_PIR0, Letter.OBSERVE_ON1_PIR1))
    )
    mine = own.windows(w)
    at = at[stimuli.row[at] == w.put_row[stimuli.window[at]]]
    at = at[mine[stimuli.window[at]]]
    # (what they read is ON of the captured kernel, which SN did not silence)
    at = at[(a.on.min[walk.before[at]] == 0) & (a.sn.min[walk.before[at]] == 0)]
    surely = a.on.max[walk.before[at]] == 0
    # and ON that was set while the put ran (row 11), unless KVM did that, or the put
    # had armed the wakeup vector by then: that was a wakeup
    within = np.flatnonzero((w.on_before == 0) & (w.on_put == 1) & mine)
    if replayed.policy.suppress_at_exit:
        within = within[:0]
    in_put = w.nv_put[within] != POSTED_INTR_WAKEUP_VECTOR
    in_put &= ~posted.by_kvm[within]
    # Each stretch in the host ends with an entry or a put. One that begins with ON
    # known to be set has no room for another, nor has one whose end a probe saw.
    put = (letters >= Letter.PUT_RUN_PREEMPTED) & (letters <= Letter.PUT_BLOCK_IF0_NOT)
    ends = np.flatnonzero((letters == Letter.ENTER) | put)
    ends = ends[own.rows(stimuli.row[ends])]
    ends = ends[a.on.min[walk.before[ends]] == 0]
    # nor has one with SN set, or one that an entry takes what is latched in
    ends = ends[a.sn.min[walk.before[ends]] == 0]
    if len(replayed.sheltered):
        ends = ends[~np.isin(stimuli.row[ends], replayed.sheltered)]
    probed = put[ends]
    probed[probed] = w.on_before[stimuli.window[ends[probed]]] >= 0
    ends = ends[~probed]
    return _rows(
        timeline,
        np.concatenate([stimuli.window[at], within, -1 - ends]),
        np.concatenate([surely, in_put, np.zeros(len(ends), np.bool_)]),
        np.arange(len(at) + len(within) + len(ends)) < len(at) + len(within),
        stimuli,
        lost,
    )


def _rows(
    timeline: Timeline,
    where: npt.NDArray[np.int64],
    surely: npt.NDArray[np.bool_],
    seen: npt.NDArray[np.bool_],
    stimuli: Stimuli,
    lost: int,
) -> Residual:
    """Rows of RESIDUAL; `where` is a window, or -1 - the stimulus ending a stretch."""
    w = timeline.windows
    vcpu = np.full(len(where), -1, np.int32)
    cpu = np.full(len(where), -1, np.int32)
    window = where >= 0
    vcpu[window], cpu[window] = w.vcpu[where[window]], w.put_cpu[where[window]]
    at = -1 - where[~window]
    vcpu[~window], cpu[~window] = stimuli.vcpu[at], stimuli.cpu[at]
    return Residual(vcpu, cpu, surely, seen, lost)


def _costs(stimuli: Stimuli, replayed: Replayed, vcpus: int, own: Own) -> Costs:
    a = replayed.automaton
    # counted by what they met: few different pairs of set and letter
    policy = replayed.policy
    last = Letter.PUT_BLOCK_IF0_NOT
    if policy.suppress_at_exit or not policy.block_in_put:  # entries and exits, too
        last = max(Letter)
    mine = np.flatnonzero(replayed.letters <= last)
    mine = mine[own.rows(stimuli.row[mine])]
    more = own.rows(replayed.more_row)
    shape = (vcpus, *a.next_set.shape)
    met = (stimuli.vcpu[mine], replayed.walk.before[mine], replayed.letters[mine])
    flat = np.concatenate(
        [
            np.ravel_multi_index(met, shape),
            np.ravel_multi_index(tuple(c[more] for c in replayed.more), shape),
        ]
    )
    times = np.bincount(flat, minlength=int(np.prod(shape))).reshape(vcpus, -1)

    def total(ranges: Ranges) -> npt.NDArray[np.int64]:
        sums = [
            times @ side.ravel().astype(np.int64) for side in (ranges.min, ranges.max)
        ]
        return np.stack(sums, axis=1)

    nothing = Ranges(
        a.pir_scans.min * (a.pir.max == 0)[:, None],
        a.pir_scans.max * (a.pir.min == 0)[:, None],
    )
    return Costs(
        total(a.pir_scans), total(nothing), total(a.locked_ops), total(a.list_locks)
    )
