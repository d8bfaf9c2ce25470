"""What each notification hit, under each policy (FINDINGS), and what each window risks.

A post gives one finding a policy: sent and to what effect, or silent and why. A window
that hardware posted into (probes tell) gives one too; its instant is only known to lie
in the window.

    sent to 0xF2, vCPU in guest mode       guest         useful
    sent to 0xF2, vCPU loaded, in KVM      host          residual: no policy avoids it
       ... IRQs off until the next entry   latched       useful
    sent to 0xF2, vCPU not loaded          unloaded      what SN=1 at the put removes
       ... pCPU in the host                   an IRQ for nothing
       ... pCPU in another vCPU's guest       processing for the wrong vCPU
    sent to 0xF1                           wakeup        useful
    not sent                               silent-on, silent-sn, silent-pir

Source: `pi_semantics`, section 8.1; numbers of its rows are given below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy
from piscope.outcomes import Findings, Hit, Row, hit_bits, row_bits
from piscope.replay.automaton import Automaton, Ranges
from piscope.replay.fastpath import DEFAULT_FASTPATH, sheltered_entries
from piscope.replay.latched import Sent, coalesced
from piscope.replay.met import Met, what_posts_met
from piscope.replay.open_order import OpenPosts, widen_open_orders
from piscope.replay.pcpus import Occupancy
from piscope.replay.pre_block import with_pre_block
from piscope.replay.rows import Targets, one_outcome, silent_by_on
from piscope.replay.scan import Walk
from piscope.replay.software_posts import classify_software_posts
from piscope.replay.stimuli import Stimuli
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason, Timeline

__all__ = ("ONE_VECTOR", "Replayed", "find", "replay")

_FASTPATH_REASONS = (12, 32, 52)  # HLT, MSR_WRITE, PREEMPTION_TIMER


@dataclass(slots=True)
class Replayed:
    """One policy's walk over all stimuli.

    letters    uint8[n] the letters as walked (KVM's posts made new or again)
    fastpath   exit reasons that more-fastpath shelters; empty for other policies
    sheltered  int64[m] rows of the entries that end a stretch so sheltered
    more       letters that stimuli lack, as (vCPU, set before, letter) columns: what
               kernels up to 5.16 did around a halt
    more_row   int64[m] the event that each of those rests on
    """

    policy: Policy
    automaton: Automaton
    letters: npt.NDArray[np.uint8]
    walk: Walk
    fastpath: frozenset[int]
    sheltered: npt.NDArray[np.int64]
    more: tuple[Array, Array, Array]
    more_row: npt.NDArray[np.int64]

    def least(self, ranges: Ranges) -> npt.NDArray[np.uint8]:
        """uint8[n]: the least a quantity is, for each letter."""
        return ranges.min[self.walk.before, self.letters]

    def most(self, ranges: Ranges) -> npt.NDArray[np.uint8]:
        """uint8[n]: the greatest it is."""
        return ranges.max[self.walk.before, self.letters]


def replay(
    timeline: Timeline,
    stimuli: Stimuli,
    policy: Policy,
    platform: Platform = DEFAULT_PLATFORM,
    fastpath: frozenset[int] = DEFAULT_FASTPATH,
) -> Replayed:
    """Walk all stimuli under one policy, from any legal state."""
    automaton = Automaton.for_policy(policy, platform)
    stimuli = _with_preempted(timeline, stimuli, platform)
    letters, vector, starts = stimuli.letter, stimuli.vector, stimuli.starts
    added = None
    if not policy.block_in_put:
        added = with_pre_block(timeline, stimuli)
        letters, vector, starts = added.letters, added.vector, added.starts
    letters, walk = classify_software_posts(
        letters, np.maximum(vector, 0), starts, automaton
    )
    more: tuple[Array, Array, Array] = (letters[:0], letters[:0], letters[:0])
    more_row = np.empty(0, np.int64)
    if added is not None:
        extra, own = added.extra, ~added.extra
        more = (added.vcpu, walk.before[extra], letters[extra])
        more_row = added.row
        letters = letters[own]
        walk = Walk(walk.before[own], walk.after[own], walk.last)
    reasons = fastpath if policy.more_fastpath else frozenset()
    return Replayed(
        policy,
        automaton,
        letters,
        walk,
        fastpath=reasons,
        sheltered=sheltered_entries(timeline.acts, reasons),
        more=more,
        more_row=more_row,
    )


def _with_preempted(
    timeline: Timeline, stimuli: Stimuli, platform: Platform
) -> Stimuli:
    """The stimuli as a kernel would meet them whose `preempted` has another condition.

    Up to 6.10 a vCPU that is switched out runnable is preempted, also in an ioctl other
    than KVM_RUN.
    """
    if platform.preempted_rule not in ("5.10", "5.14"):
        return stimuli
    put = np.flatnonzero(stimuli.letter == Letter.PUT_RUN_NOT)
    put = put[stimuli.window[put] >= 0]
    runnable = timeline.windows.reason[stimuli.window[put]] == PutReason.RUNNABLE
    letter = stimuli.letter.copy()
    letter[put[runnable]] = Letter.PUT_RUN_PREEMPTED
    return replace(stimuli, letter=letter)


def find(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    places: Occupancy,
    met: Met | None = None,
) -> Findings:
    """Classify every post of a replayed policy by what its notification hit.

    `met` is what `what_posts_met` gives, for callers that replay several policies.
    """
    if met is None:
        met = what_posts_met(timeline, stimuli, places)
    targets, reason, ts_ns, cpu = met.targets, met.reason, met.ts_ns, met.cpu
    post, vcpu, hidden = targets.post, targets.vcpu, targets.hidden
    window, kind = targets.window, targets.kind
    n = len(post)
    w = timeline.windows
    unloaded = window >= 0
    at = np.maximum(window, 0)

    possible = _outcomes(replayed, post, ~unloaded)
    victim = np.full(n, -1, np.int32)
    idle = np.zeros(n, np.bool_)
    wrong_share = np.zeros(n, np.float64)

    # --- sent to 0xF2 while not loaded: the pCPU decides
    sent = unloaded & ((possible & hit_bits(Hit.UNLOADED_HOST)) != 0)
    exact = np.flatnonzero(sent & ~hidden)
    taker = places.guest.at(cpu[exact], ts_ns[exact])
    victim[exact] = taker
    wrong_share[exact] = taker >= 0
    # behind an exit that may be a fast path the next entry may take it
    fast = (taker < 0) & (places.maybe.at(cpu[exact], ts_ns[exact]) >= 0)
    wrong_share[exact[fast]] = 0.5
    idle[exact] = places.idle.at(cpu[exact], ts_ns[exact]) >= 0
    # at an unknown instant: what the pCPU did over all of the window
    spread = np.flatnonzero(sent & hidden)
    start_ns, end_ns = w.put_ns[at[spread]], w.load_ns[at[spread]]
    covered = places.guest_in_windows(w, at[spread])
    wrong_share[spread] = covered / np.maximum(end_ns - start_ns, 1)
    _swap(possible, sent & (wrong_share > 0), Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
    both = sent & (wrong_share > 0) & (wrong_share < 1)
    possible[both] |= hit_bits(Hit.UNLOADED_HOST)

    # --- sent to 0xF2 while loaded, right behind an exit that may be a fast path
    direct = np.flatnonzero(~unloaded & np.isin(reason, _FASTPATH_REASONS))
    direct = direct[places.maybe.at(cpu[direct], ts_ns[direct]) == vcpu[direct]]
    notified = direct[(possible[direct] & hit_bits(Hit.HOST)) != 0]
    possible[notified] |= hit_bits(Hit.LATCHED)

    # --- the rows of the state table, and what follows from them
    bits = met.rows.copy()
    bits[direct] |= row_bits(Row.FASTPATH)
    _in_guest(met, possible, bits)
    _of_policy(replayed, targets, reason, possible, bits)

    # --- which of two came first
    open_ = OpenPosts(
        hidden=hidden,
        by_kvm=replayed.letters[post] != Letter.POST_HW,
        straddling=met.straddling,
        over=met.over,
        together=met.first >= 0,
        if_first=_if_first(replayed, met, ~unloaded),
        if_before=_if_before(replayed, met),
    )
    widen_open_orders(met.windows.open_order, open_, window, possible)

    # --- what the timeline itself is not sure of
    possible[~met.sure & ~hidden] |= hit_bits(Hit.UNKNOWN)
    nowhere = (
        ~unloaded & (kind == Kind.UNKNOWN) & ((possible & hit_bits(Hit.HOST)) != 0)
    )
    possible[nowhere] |= hit_bits(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
    sent = (possible & hit_bits(*_SENT)) != 0
    known = one_outcome(bits) & ((possible & (possible - 1)) == 0)
    return Findings(
        stimulus=post,
        possible=possible,
        row=bits,
        certain=known,
        coalesced=_coalesced(met, timeline, places, possible, replayed.policy.name),
        straight=targets.straight,
        wrong_share=wrong_share,
        kind=kind,
        reason=reason,
        window=window,
        cpu=np.where(sent, cpu, -1).astype(np.int32),
        victim=victim,
        idle=idle,
    )


ONE_VECTOR = ((Hit.HOST, Hit.UNLOADED_HOST), (Hit.WAKEUP,))
"""Outcomes whose interrupts share a bit of IRR."""

_SENT = (
    Hit.GUEST,
    Hit.HOST,
    Hit.UNLOADED_HOST,
    Hit.WRONG_VCPU,
    Hit.WAKEUP,
    Hit.LATCHED,
    Hit.GUEST_EXIT,
)


def _in_guest(
    met: Met, possible: npt.NDArray[np.uint16], bits: npt.NDArray[np.uint32]
) -> None:
    """A notification that ended the guest's run: an exit and a host IRQ (row 2)."""
    _swap(possible, met.exits, Hit.GUEST, Hit.GUEST_EXIT)
    maybe = met.maybe_exits & ((possible & hit_bits(Hit.GUEST)) != 0)
    possible[maybe] |= hit_bits(Hit.GUEST_EXIT)
    bits[met.exits] = row_bits(Row.GUEST_INHIBITED)
    bits[maybe] |= row_bits(Row.GUEST_INHIBITED)


def _of_policy(
    replayed: Replayed,
    targets: Targets,
    reason: Array,
    possible: npt.NDArray[np.uint16],
    bits: npt.NDArray[np.uint32],
) -> None:
    """Outcomes and rows that a policy has in the same state of the timeline."""
    # more-fastpath: IRQs stay off until the entry, which takes what is latched
    sheltered = targets.straight & np.isin(reason, list(replayed.fastpath))
    _swap(possible, sheltered, Hit.HOST, Hit.LATCHED)
    bits[sheltered] = row_bits(Row.FASTPATH)
    # inside pi_load there is nothing to be late for unless a bit is waiting
    pir = replayed.automaton.pir.max[replayed.walk.before[targets.post]]
    bits[(pir == 0) & (bits != row_bits(Row.LOAD_GAP))] &= ~row_bits(Row.LOAD_GAP)
    # up to 5.16 a polling vCPU's vector is the wakeup vector already
    armed = (targets.window < 0) & (targets.kind == Kind.POLL)
    armed &= (possible & hit_bits(Hit.WAKEUP)) != 0
    bits[armed] |= row_bits(Row.POLL_ARMED)
    bits[armed & ((possible & hit_bits(Hit.HOST)) == 0)] = row_bits(Row.POLL_ARMED)
    silent = np.flatnonzero(
        (targets.window >= 0) & ((possible & hit_bits(Hit.SILENT_ON)) != 0)
    )
    if len(silent):
        bits[silent] = silent_by_on(
            replayed.automaton.on,
            replayed.walk.after,
            replayed.letters,
            targets.post[silent],
            bits[silent],
        )


def _coalesced(
    met: Met,
    timeline: Timeline,
    places: Occupancy,
    possible: npt.NDArray[np.uint16],
    policy: str,
) -> npt.NDArray[np.int8]:
    """Which notifications met one of their vector, latched on the same pCPU."""
    w, targets, cpu = timeline.windows, met.targets, met.cpu
    result = np.zeros(len(possible), np.int8)
    for hits in ONE_VECTOR:
        at = np.flatnonzero(((possible & hit_bits(*hits)) != 0) & (cpu >= 0))
        start_ns = met.ts_ns[at]
        end_ns = start_ns.copy()
        hidden = targets.hidden[at]
        end_ns[hidden] = w.load_ns[targets.window[at[hidden]]]
        sent = Sent(cpu[at], targets.row[at], start_ns, end_ns, ~hidden)
        result[at] = coalesced(sent, places)
        reached_ns = places.reached_ns.get((policy, hits[0]))
        if reached_ns:  # what was sent before this part of the trace is not in `sent`
            never = np.iinfo(np.int64).min
            until_ns = [reached_ns.get(c, never) for c in sent.cpu.tolist()]
            result[at[hidden & (np.array(until_ns, np.int64) >= start_ns)]] = -1
    return result


def _swap(possible: Array, at: Array, old: Hit, new: Hit) -> None:
    """Make the outcome `old` the outcome `new`, where it is possible at all."""
    which = at & ((possible & hit_bits(old)) != 0)
    possible[which] = (possible[which] & ~hit_bits(old)) | hit_bits(new)


def _if_first(replayed: Replayed, met: Met, loaded: Array) -> npt.NDArray[np.uint16]:
    """The outcomes of posts under way at once, if each came before the others."""
    result = np.zeros(len(met.first), np.uint16)
    at = np.flatnonzero(met.first >= 0)
    post = met.targets.post
    result[at] = _outcomes(replayed, post[at], loaded[at], post[met.first[at]])
    return result


def _if_before(replayed: Replayed, met: Met) -> npt.NDArray[np.uint16]:
    """The outcomes of posts at a loose edge, if each came before the put or load."""
    result = np.zeros(len(met.before), np.uint16)
    at = np.flatnonzero(met.before >= 0)
    post, loaded = met.targets.post[at], met.from_window[at] < 0
    result[at] = _outcomes(replayed, post, loaded, met.before[at])
    # the pCPU of the put may run anything by then
    away = (result & hit_bits(Hit.UNLOADED_HOST)) != 0
    result[away] |= hit_bits(Hit.WRONG_VCPU)
    return result


def _outcomes(
    replayed: Replayed, post: Array, loaded: Array, when: Array | None = None
) -> npt.NDArray[np.uint16]:
    """The outcomes of each post that the possible states allow, as bits.

    `when`: in the states before these letters, if not before the posts' own.
    """
    a = replayed.automaton
    before = replayed.walk.before[post if when is None else when]
    letters = replayed.letters[post]
    possible = np.zeros(len(post), np.uint16)
    surely = np.zeros(len(post), np.bool_)
    for ranges, hit in (
        (a.absorbed, Hit.GUEST),
        (a.notify_f2, Hit.UNLOADED_HOST),
        (a.notify_f1, Hit.WAKEUP),
        (a.silenced_on, Hit.SILENT_ON),
        (a.silenced_sn, Hit.SILENT_SN),
        (a.silenced_pir, Hit.SILENT_PIR),
    ):
        most = ranges.max[before, letters] > 0
        least = ranges.min[before, letters] > 0
        if hit == Hit.UNLOADED_HOST:  # in guest mode it is the notification absorbed
            most &= a.absorbed.min[before, letters] == 0
            least &= a.absorbed.max[before, letters] == 0
        possible[most] |= hit_bits(hit)
        surely |= least
    software = letters != Letter.POST_HW
    possible[software & ~surely] |= hit_bits(Hit.SOFTWARE)
    _swap(possible, loaded, Hit.UNLOADED_HOST, Hit.HOST)
    return possible
