"""An analysis that lets go of events says the same, and owns up to what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from piscope.model.policy import POLICIES
from piscope.pipeline import Analysis, analyze
from piscope.report.json_form import as_json
from piscope.report.summarize import summarize
from piscope.sources.detect import open_trace
from piscope.timeline import intervals

_SAMPLES = Path(__file__).parent.parent / "sample_traces"
_NAMES = [
    "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
    "vmx-6.17.13-ipiv-tools.p_min.perf.data",
]


def _analysis(name: str, *, keep_events: bool) -> Analysis:
    source = open_trace(str(_SAMPLES / name))
    try:
        return analyze(source, policies=tuple(POLICIES), keep_events=keep_events)
    finally:
        source.close()


@pytest.mark.parametrize("name", _NAMES)
def test_the_summary_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_json(summarize(_analysis(name, keep_events=True)))
    # and vCPUs whose lanes are tiled one by one have the same intervals
    monkeypatch.setattr(intervals, "_MARKS_AT_ONCE", 1)
    assert as_json(summarize(_analysis(name, keep_events=False))) == whole


def test_what_was_let_go_of_is_no_empty_answer() -> None:
    events = _analysis(_NAMES[0], keep_events=False).events
    assert len(events.rows("kvm_exit"))
    for ask in (
        lambda: events.rows("kvm_msi_set_irq"),
        lambda: events.column("kvm_fpu", "load", int),
        lambda: events.valid("kvm_fpu", "load"),
    ):
        with pytest.raises(LookupError, match="let go of"):
            ask()
