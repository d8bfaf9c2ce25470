"""What holds of the intervals and windows of every timeline."""

from __future__ import annotations

import numpy as np

from piscope.tables import Kind, PutReason, Timeline


def assert_tiled(t: Timeline) -> None:
    """Every vCPU's intervals cover the whole span once, in order."""
    i = t.intervals
    begin_ns, end_ns = t.span_ns
    for vcpu in range(len(t.vcpus)):
        mine = np.flatnonzero(i.vcpu == vcpu)
        assert len(mine), f"vCPU {vcpu} has no interval"
        assert (np.diff(mine) == 1).all(), "vCPU after vCPU"
        assert i.start_ns[mine[0]] == begin_ns
        assert i.end_ns[mine[-1]] == end_ns
        assert (i.end_ns[mine[:-1]] == i.start_ns[mine[1:]]).all()
        assert (i.end_ns[mine] > i.start_ns[mine]).all() or begin_ns == end_ns
    assert i.kind.max(initial=0) < len(Kind)


def assert_windows_fit(t: Timeline, n_events: int) -> None:
    """Windows of a vCPU follow one another, and end at a load or where it is lost."""
    w = t.windows
    assert (w.load_ns >= w.put_ns).all()
    assert (w.end_row >= w.put_row).all()
    assert (w.end_row <= n_events).all()
    ended = w.load_row >= 0
    assert (w.load_row[ended] == w.end_row[ended]).all()
    assert (w.load_cpu[~ended] == -1).all()
    same = w.vcpu[1:] == w.vcpu[:-1]
    assert (w.end_row[:-1][same] <= w.put_row[1:][same]).all()
    assert (w.load_ns[:-1][same] <= w.put_ns[1:][same]).all()
    assert w.reason.max(initial=0) < len(PutReason)
