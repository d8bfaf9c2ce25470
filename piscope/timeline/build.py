"""The timeline stage as one function: events in, vCPUs' lives and posts out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.errors import UnanswerableError
from piscope.tables import Acts, Events, Timeline
from piscope.timeline.intervals import tile
from piscope.timeline.lanes import Lanes
from piscope.timeline.lifecycle import Act, Mark, tables, walk
from piscope.timeline.losses import (
    blind_rows,
    hidden_windows,
    loss_gaps,
    unplaced_losses,
)
from piscope.timeline.marks import build_lanes
from piscope.timeline.posts import find_posts
from piscope.timeline.probes import find_probes
from piscope.timeline.vcpus import find_vcpus
from piscope.timeline.windows import find_windows

__all__ = ("build_timeline", "refuse")

_ISA_SVM = 2  # KVM_ISA_SVM, arch/x86/kvm/trace.h


def build_timeline(events: Events) -> Timeline:
    """Reconstruct each vCPU's life, its loads and puts, and the posts to it.

    Raises UnanswerableError for a trace that holds no vCPU of an Intel host: the
    message says what it holds instead, and what to record.
    """
    scope = events.scope
    if scope is None:
        refuse(events)
    vcpus = find_vcpus(events) if scope is None else scope.whole.vcpus
    if not len(vcpus):
        raise UnanswerableError(
            "no vCPU in this trace (no kvm_entry or kvm_exit): record with "
            "`trace-cmd record -e kvm -e sched:sched_switch -e sched:sched_waking`",
            path=events.info.path,
        )
    probes = find_probes(events)
    # both ends are needed: with one alone the other would be guessed
    entry = {p.what for p in probes if not p.at_return}
    used = probes if entry == {"load", "put"} else []
    if scope is None:
        span_ns = (int(events.ts_ns[0]), int(events.ts_ns[-1]))
    else:
        span_ns = scope.whole.span_ns
    userspace_visible = events.has("kvm_userspace_exit") or events.has("kvm_fpu")

    gaps = loss_gaps(events)
    lanes = build_lanes(events, vcpus, used, gaps)
    after, acts = tables(bool(used))
    before = walk(lanes.mark, lanes.starts, after)
    life = after[before, lanes.mark]
    act = acts[before, lanes.mark]
    act[lanes.unsure] |= np.uint8(Act.UNSURE)
    unplaced = unplaced_losses(events)
    if unplaced is None:
        act = act | np.uint8(Act.UNSURE)
    windows = find_windows(
        events,
        lanes,
        before,
        life,
        act,
        used,
        span_ns[1],
        userspace_visible or bool(used),
    )
    if unplaced is None:  # even what probes read: a load and a put may be missing
        windows.certain[:] = False
    del before
    picked = _acts(lanes, act)
    intervals = tile(vcpus, lanes, life, act, span_ns, userspace_visible)
    del lanes, life, act
    return Timeline(
        vcpus=vcpus,
        intervals=intervals,
        windows=windows,
        acts=picked,
        posts=find_posts(events, vcpus, windows, used),
        span_ns=span_ns,
        probes=tuple(p.event for p in used),
        userspace_visible=userspace_visible,
        blind=blind_rows(gaps),
        unplaced_losses=unplaced or 0,
        lost_windows=hidden_windows(events),
    )


def refuse(events: Events) -> None:
    """Raise UnanswerableError for a trace that can have no timeline."""
    info = events.info
    if not len(events):
        held = ", ".join(sorted(events.counts)[:4]) or "none at all"
        damage = [x for x in events.losses if x.cause in ("damaged", "truncated")]
        why = (
            f"; {len(damage)} damaged parts, first {damage[0].detail}" if damage else ""
        )
        raise UnanswerableError(
            f"the trace holds no event that piscope reads ({held}){why}",
            path=info.path,
        )
    if info.is_guest:
        raise UnanswerableError(
            "this trace was recorded inside a guest; piscope reads the host's",
            path=info.path,
        )
    isa = events.column("kvm_exit", "isa", np.int64)
    if isa is not None and len(isa) and (isa == _ISA_SVM).all():
        raise UnanswerableError(
            "an AMD (SVM) host: it has no VMX posted-interrupt descriptors",
            path=info.path,
        )
    if any(loss.cause == "sub-sampled" for loss in events.losses):
        raise UnanswerableError(
            "sub-sampled (perf record -F or -c): events are missing on purpose, so "
            "entries and exits can't be paired; record without -F and -c",
            path=info.path,
        )
    if info.ts_unit != "ns":
        raise UnanswerableError(
            f"timestamps are {info.ts_unit} of clock {info.clock}, not nanoseconds, "
            "and the file has no TSC2NSEC option; record with `trace-cmd record -C "
            "mono` or give --tsc-khz",
            path=info.path,
        )


def _acts(lanes: Lanes, act: npt.NDArray[np.uint8]) -> Acts:
    picked = np.flatnonzero(act & ~np.uint8(Act.UNSURE))
    # an exit with the entry right behind: nothing that the thread did was traced
    direct = np.zeros(len(act), np.bool_)
    direct[:-1] = (lanes.mark[1:] == Mark.ENTRY) & (lanes.lane[1:] == lanes.lane[:-1])
    direct &= lanes.quiet
    direct &= (lanes.mark == Mark.EXIT) | (lanes.mark == Mark.EXIT_HALT)
    return Acts(
        vcpu=lanes.lane[picked],
        row=lanes.row[picked],
        ts_ns=lanes.ts_ns[picked],
        cpu=lanes.cpu[picked],
        act=act[picked],
        direct=direct[picked],
        reason=lanes.reason[picked],
    )
