"""Whatever a trace lost: what is certain of the rest was so."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from timeline.lives import Host

from piscope.errors import UnanswerableError
from piscope.tables import Kind, PutReason


class Lived:
    """A host, and the timeline of a trace of it that lost some events."""

    def __init__(self, host: Host, gaps: list[tuple[int | None, int, int]]) -> None:
        self.host, self.seen = host, host.lose(gaps)
        try:
            self.timeline = self.seen.timeline()
        except UnanswerableError:  # no vCPU is left
            reject()
        if bool(self.timeline.probes) != host.probes:  # none at one of both ends is
            reject()

    def __repr__(self) -> str:
        kept = {row[0] for row in self.seen.rows}
        lines = [f"{'' if r[0] in kept else '-'}{r}" for r in self.host.scene.rows]
        return "\n".join(["", *lines, *map(str, self.seen.losses)])


@st.composite
def lives(draw: st.DrawFn) -> Lived:
    """A host, and the timeline of a trace of it that lost some events."""
    cpus = draw(st.integers(1, 4))
    random, vcpus = Random(draw(st.integers(0, 2**32))), draw(st.integers(1, 4))
    host = Host(random, vcpus, cpus, probes=draw(st.booleans()))
    host.live(draw(st.integers(1, 120)))
    # events that a timeline can do without
    host.not_recorded = draw(
        st.sampled_from(((), ("kvm_userspace_exit",), ("sched_waking",)))
    )
    row = st.integers(0, len(host.scene.rows))
    gaps = [
        (cpu, min(a, b), max(a, b))
        for cpu, a, b in draw(
            st.lists(
                st.tuples(st.one_of(st.none(), st.integers(0, cpus - 1)), row, row),
                max_size=4,
            )
        )
    ]
    return Lived(host, gaps)


@settings(max_examples=200)
@given(lives())
def test_what_is_certain_was_so(lived: Lived) -> None:
    host, t = lived.host, lived.timeline
    i = t.intervals
    names = [v.vcpu_id for v in t.vcpus.rows]
    for at in np.flatnonzero(i.certain & (i.kind != Kind.UNKNOWN)).tolist():
        vcpu, said = names[i.vcpu[at]], Kind(int(i.kind[at])).label
        for row, truth in enumerate(host.after):
            instant_ns = host.scene.rows[row][0]
            if not i.start_ns[at] <= instant_ns < i.end_ns[at]:
                continue
            was = truth[vcpu]
            text = f"row {row}, vCPU {vcpu}: {said} on {i.cpu[at]}, was {was}"
            kinds = [was.kind]
            if was.irqs_off:
                kinds.append("host-irqs-off")
            if host.probes and was.kind == "poll":  # loaded: a probe tells no more
                kinds.append("host")
            assert said in kinds, text
            assert i.cpu[at] == was.cpu, text
            assert i.reason[at] in (-1, was.reason), text


@settings(max_examples=200)
@given(lives())
def test_a_certain_window_was_one(lived: Lived) -> None:
    host, t = lived.host, lived.timeline
    w = t.windows
    truth = {(p.vcpu, p.put_ns): p for p in host.puts}
    for at in np.flatnonzero(w.certain).tolist():
        vcpu = t.vcpus.rows[w.vcpu[at]].vcpu_id
        p = truth.get((vcpu, int(w.put_ns[at])))
        assert p is not None, f"vCPU {vcpu} was not put at {w.put_ns[at]}"
        if w.reason[at] == PutReason.UNKNOWN:
            assert p.reason not in ("preempted", "blocking")
        else:
            assert PutReason(w.reason[at]).label == p.reason
        assert w.put_cpu[at] == p.cpu
        if w.load_row[at] >= 0:
            assert (w.load_ns[at], w.load_cpu[at]) == (p.load_ns, p.load_cpu)
        elif p.load_ns is not None:
            assert w.load_ns[at] <= p.load_ns
