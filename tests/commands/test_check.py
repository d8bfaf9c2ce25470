"""`piscope check`: what a trace can answer, and what to record for the rest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from fake_source import FakeSource, Row

from piscope.events.catalog import CATALOG, QUESTIONS
from piscope.sources.raw import Loss

Run = Callable[..., tuple[int, str, str]]


def _exit(ts_ns: int, isa: int = 1) -> Row:
    return (ts_ns, 0, 11, "kvm:kvm_exit", {"vcpu_id": 0, "isa": isa})


MINIMAL: list[Row] = [
    (1_000, 0, 11, "kvm:kvm_entry", {"vcpu_id": 0}),
    _exit(2_000),
    (3_000, 1, 11, "sched:sched_switch", {"prev_pid": 11, "next_pid": 0}),
]
EVERYTHING: list[Row] = [
    *MINIMAL,
    *((9_000, 0, 11, t.key, {}) for t in CATALOG if t.needed_for),
    (9_500, 0, 11, "pi:pi_put", {"ctl": 1}),
]


def _verdicts(piscope: Run, *options: str) -> tuple[int, dict[str, str]]:
    status, out, _ = piscope("check", "t", "--json", *options)
    report = json.loads(out)
    return status, {a["question"]: a["verdict"] for a in report["questions"]}


def test_everything_is_answered(traces: dict[str, FakeSource], piscope: Run) -> None:
    traces["t"] = FakeSource(EVERYTHING)
    status, verdicts = _verdicts(piscope)
    assert status == 0
    assert set(verdicts.values()) == {"yes"}
    assert list(verdicts) == list(QUESTIONS)
    _, out, err = piscope("check", "t")
    assert "trace-cmd record" not in out
    assert err == ""


def test_a_minimal_recording(traces: dict[str, FakeSource], piscope: Run) -> None:
    traces["t"] = FakeSource(MINIMAL)
    status, verdicts = _verdicts(piscope)
    assert status == 0
    assert verdicts["pcpu"] == verdicts["exits"] == "yes"
    assert verdicts["timeline"] == verdicts["put-reason"] == "partly"
    for question in ("userspace", "posts", "msi", "origin", "descriptor"):
        assert verdicts[question] == "no", question


def test_missing_events_come_with_both_commands(
    traces: dict[str, FakeSource], piscope: Run
) -> None:
    traces["t"] = FakeSource(MINIMAL)
    _, out, _ = piscope("check", "t", "--json")
    report = json.loads(out)
    posts = next(a for a in report["questions"] if a["question"] == "posts")
    assert "kvm:kvm_apicv_accept_irq" in posts["missing"]
    assert "-e kvm:kvm_apicv_accept_irq" in posts["trace_cmd"]
    assert posts["trace_cmd"].startswith("trace-cmd record -e ")
    assert posts["perf"].startswith("perf record -a -e ")
    recorded = set(shlex.split(report["record"]["trace_cmd"])[2:]) - {"-e"}
    assert recorded == {t.key for t in CATALOG if t.needed_for}


def test_the_commands_of_the_report_can_be_pasted(
    traces: dict[str, FakeSource], piscope: Run
) -> None:
    traces["t"] = FakeSource(MINIMAL)
    _, out, _ = piscope("check", "t")
    assert max(map(len, out.splitlines())) <= 80
    start = out.index("    trace-cmd record")
    pasted = shlex.split(out[start : out.index("\n\n", start)].replace("\\\n", ""))
    assert pasted[:2] == ["trace-cmd", "record"]
    assert pasted[2::2] == ["-e"] * (len(pasted) // 2 - 1)


def test_the_accept_before_5_15_stands_in_for_the_post(
    traces: dict[str, FakeSource], piscope: Run
) -> None:
    traces["t"] = FakeSource([*MINIMAL, (4_000, 0, 11, "kvm:kvm_apic_accept_irq", {})])
    assert _verdicts(piscope)[1]["posts"] == "partly"


@pytest.mark.parametrize(
    ("rows", "info", "losses", "said"),
    [
        ([], {}, [], "the trace holds no events"),
        ([_exit(1, isa=2)], {}, [], "an SVM host"),
        (EVERYTHING, {"is_guest": True}, [], "recorded inside a guest"),
        (EVERYTHING, {}, [Loss("sub-sampled")], "not every event was recorded"),
    ],
)
def test_what_no_event_can_mend(
    traces: dict[str, FakeSource],
    piscope: Run,
    rows: list[Row],
    info: dict[str, Any],
    losses: list[Loss],
    said: str,
) -> None:
    traces["t"] = FakeSource(rows, losses=losses, **info)
    status, verdicts = _verdicts(piscope)
    assert status == 3
    assert set(verdicts.values()) == {"no"}
    assert said in piscope("check", "t")[1]


@pytest.mark.parametrize(
    ("info", "losses"),
    [({}, [Loss("lost-record", count=3)]), ({"ts_unit": "cycles"}, [])],
)
def test_doubts_make_no_answer_certain(
    traces: dict[str, FakeSource],
    piscope: Run,
    info: dict[str, Any],
    losses: list[Loss],
) -> None:
    traces["t"] = FakeSource(EVERYTHING, losses=losses, **info)
    status, verdicts = _verdicts(piscope)
    assert status == 0
    assert set(verdicts.values()) == {"partly"}


def test_bare_probes_read_nothing(traces: dict[str, FakeSource], piscope: Run) -> None:
    traces["t"] = FakeSource([*MINIMAL, (4_000, 0, 11, "kprobes:p_pi_put", {"ip": 1})])
    assert _verdicts(piscope)[1]["descriptor"] == "partly"


def test_needs_and_ignored_events_set_the_status(
    traces: dict[str, FakeSource], piscope: Run
) -> None:
    traces["t"] = FakeSource(EVERYTHING)
    assert _verdicts(piscope, "--ignore", "kvm_entry")[0] == 3
    assert _verdicts(piscope, "--ignore", "pi_*")[0] == 0
    assert _verdicts(piscope, "--ignore", "pi_*", "--need", "descriptor")[0] == 3
    status, _, err = piscope("check", "t", "--need", "weather")
    assert status == 2
    assert "'weather' is not a question: expected one of timeline," in err


def test_the_facts(traces: dict[str, FakeSource], piscope: Run) -> None:
    traces["t"] = FakeSource(
        EVERYTHING,
        comms={11: "CPU 0/KVM"},
        kernel_release="6.17.13",
        clock="local",
        host_cpus=4,
        command="perf \x1b[31m",
        losses=[Loss("overwritten", 0, count=7, detail="at the start")],
    )
    _, out, _ = piscope("check", "t")
    for fact in (
        "kernel      6.17.13\n",
        "host        VMX (Intel)\n",
        "clock       local, in nanoseconds\n",
        "time        0.000008500 s, from 0.000001000 to 0.000009500\n",
        "command     perf \\x1b[31m\n",
        "pCPUs       2 of 4 with events\n",
        "vCPUs       vcpu_id 0 is thread 11 (CPU 0/KVM)\n",
        "2  kvm:kvm_entry\n",
        "lost        the ring buffer wrapped, the older events are gone: 7, CPU 0",
    ):
        assert fact in out, fact
    report = json.loads(piscope("check", "t", "--json")[1])
    assert report["host"] == "vmx"
    assert report["cpus"]["1"] == {"events": 1, "first_ns": 3000, "last_ns": 3000}
    assert report["counts"]["kvm:kvm_entry"] == 2
    assert report["vcpu_threads"][0]["vcpu_ids"] == [0]
    assert report["losses"][0]["cause"] == "overwritten"
