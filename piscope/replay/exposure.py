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

from piscope.model.letters import Letter
from piscope.outcomes import Costs, Exposure, Findings, Hit, Residual
from piscope.replay.findings import Replayed
from piscope.replay.pcpus import Occupancy
from piscope.replay.stimuli import Stimuli
from piscope.tables import Kind, PutReason, Timeline

__all__ = ("expose", "posting_by_hardware")


def posting_by_hardware(timeline: Timeline) -> bool | None:
    """Whether the captured host posts by hardware into these vCPUs; None: not told.

    Probes tell: a kernel whose puts never touch SN or NV, though a vCPU was preempted
    or blocked, has found that the VM needs no PI wakeup (no assigned device, no IPI
    virtualization), so that nothing but KVM posts.
    """
    w = timeline.windows
    read = w.sn_put >= 0
    telling = read & np.isin(w.reason, (PutReason.PREEMPTED, PutReason.BLOCKING))
    acted = read & ((w.sn_put == 1) | (w.nv_put == 0xF1))
    # the first puts of a vCPU find SN=1 from its creation
    acted &= w.put_row != _first_put_rows(timeline)
    if acted.any():
        return True
    return False if telling.sum() > 1 else None


def _first_put_rows(timeline: Timeline) -> npt.NDArray[np.int64]:
    w = timeline.windows
    first = np.ones(len(w), np.bool_)
    first[1:] = w.vcpu[1:] != w.vcpu[:-1]
    return np.where(first, w.put_row, -1)


def expose(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    findings: Findings,
    places: Occupancy,
) -> tuple[Exposure, Residual, Costs]:
    """One policy's exposure, what may have gone unseen, and its costs."""
    w = timeline.windows
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

    hardware = posting_by_hardware(timeline)
    unseen = maybe & ~on_at_put & ~w.probed
    told = findings.window[findings.maybe(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)]
    unseen[told[told >= 0]] = False
    invisible = _invisible_visits(timeline)
    if hardware is False:
        unseen[:] = False
        invisible = 0
    elif not _some_reason_exposes(replayed):
        invisible = 0
    guest_ns = places.guest.covered_ns(w.put_cpu, w.put_ns, w.load_ns)
    return (
        Exposure(exposed, maybe, on_at_put, unseen, unseen & (guest_ns > 0), invisible),
        _residual(timeline, stimuli, replayed, hardware),
        _costs(replayed),
    )


def _invisible_visits(timeline: Timeline) -> int:
    """Stretches in KVM that may hide a visit to userspace, where none leaves an event."""
    if timeline.userspace_visible:
        return 0
    i = timeline.intervals
    return int(((i.kind == Kind.HOST) & (i.row >= 0) & ~i.certain).sum())


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
    timeline: Timeline, stimuli: Stimuli, replayed: Replayed, hardware: bool | None
) -> Residual:
    a, walk, letters = replayed.automaton, replayed.walk, replayed.letters
    w = timeline.windows
    # ON at a put, where the replay of all known posts says that it should be 0
    seen = np.flatnonzero(
        np.isin(letters, (Letter.OBSERVE_ON1_PIR0, Letter.OBSERVE_ON1_PIR1))
    )
    at_put = seen[stimuli.row[seen] == w.put_row[stimuli.window[seen]]]
    before = walk.before[at_put]
    least = int((a.on.max[before] == 0).sum())
    most = int((a.on.min[before] == 0).sum())
    if hardware is False:
        return Residual((0, 0), 0)
    # and ON that was set while the put ran (row 11)
    within = int(((w.on_before == 0) & (w.on_put == 1)).sum())
    least, most = least + within, most + within
    # Each stretch in the host ends with an entry or a put. One that begins or ends
    # with ON known to be set, or ends with ON seen clear, has no room for another.
    ends = np.flatnonzero(
        (letters == Letter.ENTER)
        | (
            (letters >= Letter.PUT_RUN_PREEMPTED)
            & (letters <= Letter.PUT_BLOCK_IF0_NOT)
        )
    )
    ends = ends[a.on.min[walk.before[ends]] == 0]
    put = stimuli.window[ends] >= 0
    closed = np.zeros(len(ends), np.bool_)
    closed[put] = w.on_before[stimuli.window[ends[put]]] >= 0
    return Residual((least, most), int((~closed).sum()))


def _costs(replayed: Replayed) -> Costs:
    a = replayed.automaton
    mine = replayed.letters <= Letter.PUT_BLOCK_IF0_NOT  # loads and puts

    def total(name: str) -> tuple[int, int]:
        ranges = getattr(a, name)
        least = replayed.least(ranges)[mine].sum(dtype=np.int64)
        return int(least), int(replayed.most(ranges)[mine].sum(dtype=np.int64))

    return Costs(total("pir_scans"), total("locked_ops"), total("list_locks"))
