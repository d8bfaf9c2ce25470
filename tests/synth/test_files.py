"""Synthetic captures as the reference readers see them: the events that were made."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from synth.emitted import Emitted, emitted
from trace_cmd_report import by_cpu, number, report

from piscope.errors import UsageError
from piscope.events.normalize import collect
from piscope.sources.detect import open_trace
from piscope.sources.raw import Wanted
from piscope.synth.capture import synthesize
from piscope.synth.keys import key_documentation
from piscope.synth.scenario import (
    Capture,
    Device,
    Exit,
    Gaps,
    Halt,
    Hog,
    Host,
    Ipi,
    Lose,
    Replay,
    Scenario,
    Vm,
    named_scenarios,
    read_scenario,
    scenario_from,
)

RELEASES = ("6.17.13", "6.12.117", "5.15.1")


def scenario(name: str = "mixed", **capture: object) -> Scenario:
    asked = read_scenario(name)
    return replace(asked, capture=replace(asked.capture, **capture), replay=())


def assert_shown(one: Emitted, text: str) -> None:
    """trace-cmd's raw text of an event has the fields that were set."""
    shown = dict(word.split("=", 1) for word in text.split() if "=" in word)
    for name, value in one.fields.items():
        if name in shown and name != "icr_low" and number(shown[name]):
            signed = {value, value % (1 << 32), value - (1 << 32)}
            assert number(shown[name]) & signed, (one, text)


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("release", RELEASES)
def test_trace_cmd_reads_the_events_that_were_made(
    release: str, tmp_path: Path
) -> None:
    asked = scenario(release=release, syscalls=True)
    path = tmp_path / "made.trace.dat"
    synthesize(asked, path)
    told = by_cpu(report(path))
    made: dict[int, list[Emitted]] = {}
    for one in emitted(asked):
        made.setdefault(one.cpu, []).append(one)
    assert told.keys() == made.keys()
    for cpu, rows in told.items():
        own = made[cpu]
        assert [(r.ts, r.tid, r.event) for r in rows] == [
            (e.ts_ns, e.tid, e.event) for e in own
        ]
        for row, one in zip(rows, own, strict=True):
            assert_shown(one, row.fields)


PERF_LINE = re.compile(
    r"^\s*.*?\s(?P<tid>\d+) \[(?P<cpu>\d+)\]\s+(?P<s>\d+)\.(?P<ns>\d{9}):"
    r"\s+\w+:(?P<event>\w+):(?P<text>.*)$"
)


@pytest.mark.tool("perf")
@pytest.mark.parametrize("release", RELEASES)
def test_perf_reads_the_events_that_were_made(release: str, tmp_path: Path) -> None:
    asked = scenario(release=release, syscalls=True)
    path = tmp_path / "made.perf.data"
    synthesize(asked, path)
    shown = subprocess.run(
        ["perf", "script", "--ns", "-i", path, "-F", "comm,tid,cpu,time,event,trace"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rows = [PERF_LINE.match(line) for line in shown]
    told = [
        (int(m["s"]) * 10**9 + int(m["ns"]), int(m["cpu"]), int(m["tid"]), m["event"])
        for m in rows
        if m is not None
    ]
    made = emitted(asked)
    assert told == [(e.ts_ns, e.cpu, e.tid, e.event) for e in made]
    for match, one in zip(rows, made, strict=True):
        assert match is not None
        if one.event in ("sched_waking", "kvm_apic_accept_irq"):
            name, value = (
                ("pid", one.fields["pid"])
                if one.event == "sched_waking"
                else ("vec", one.fields["vec"])
            )
            assert re.search(rf"\b{name}[= ]{value}\b", match["text"])


def test_both_forms_hold_the_same(tmp_path: Path) -> None:
    lose = (Lose(0, 10.0, 12.0), Lose(1, 20.0, 21.0))
    asked = scenario(lose=lose, duration_ms=30.0)
    found = []
    for name in ("made.trace.dat", "made.perf.data"):
        synthesize(asked, tmp_path / name)
        source = open_trace(str(tmp_path / name))
        events = collect(source, Wanted({"*": None}))
        names = [events.names[i][1] for i in events.event.tolist()]
        columns = (events.ts_ns, events.cpu, events.tid, events.flags)
        rows = zip(*(c.tolist() for c in columns), names, strict=True)
        lost = sorted((x.cpu or 0, x.count or 0) for x in source.losses)
        found.append((list(rows), lost))
    assert found[0] == found[1]
    assert len(found[0][1]) == len(lose)


@pytest.mark.parametrize("name", named_scenarios())
def test_each_shipped_scenario_is_read_whole(name: str, tmp_path: Path) -> None:
    asked = read_scenario(name)
    asked = replace(
        asked, capture=replace(asked.capture, events=3000, duration_ms=0.0, lose=())
    )
    path = tmp_path / f"made.{asked.capture.format or 'trace.dat'}"
    made = synthesize(asked, path)
    source = open_trace(str(path))
    rows = sum(len(chunk) for chunk in source.chunks(Wanted({}, others=True)))
    assert rows == made.events == sum(source.counts.values())
    assert source.losses == []
    assert source.info.kernel_release == asked.capture.release


def test_the_same_seed_makes_the_same_capture(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.trace.dat", "b.trace.dat", "c.trace.dat")]
    for path, seed in zip(files, (7, 7, 8), strict=True):
        synthesize(scenario(seed=seed, duration_ms=5.0), path)
    a, b, c = (path.read_bytes() for path in files)
    assert a == b
    assert a != c


def test_lost_stretches_are_counted_and_placed(tmp_path: Path) -> None:
    lose = (Lose(0, 10.0, 12.0), Lose(1, 20.0, 21.0), Lose(0, 30.0, 31.5))
    asked = scenario(lose=lose, start_s=5.0)
    path = tmp_path / "made.trace.dat"
    made = synthesize(asked, path)
    whole = emitted(replace(asked, capture=replace(asked.capture, lose=())))

    def gone(one: Emitted, stretch: Lose) -> bool:
        start_ns, end_ns = 5e9 + stretch.start_ms * 1e6, 5e9 + stretch.end_ms * 1e6
        return one.cpu == stretch.cpu and start_ns <= one.ts_ns < end_ns

    counts = [sum(gone(one, stretch) for one in whole) for stretch in lose]
    assert min(counts) > 0
    assert made.lost == sum(counts)
    source = open_trace(str(path))
    times = [chunk.ts_ns for chunk in source.chunks(Wanted({}, others=True))]
    kept = [one.ts_ns for one in whole if not any(gone(one, s) for s in lose)]
    assert sorted(np.concatenate(times).tolist()) == kept
    missed = [loss for loss in source.losses if loss.cause == "missed-events"]
    assert Counter((m.cpu, m.count) for m in missed) == Counter(
        (stretch.cpu, count) for stretch, count in zip(lose, counts, strict=True)
    )


def test_dropped_events_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "made.trace.dat"
    synthesize(scenario(drop=("kvm_fpu", "sched_wak*"), duration_ms=5.0), path)
    source = open_trace(str(path))
    assert sum(len(chunk) for chunk in source.chunks(Wanted({}, others=True)))
    names = {key.partition(":")[2] for key, count in source.counts.items() if count}
    assert "sched_switch" in names
    assert not names & {"kvm_fpu", "sched_waking", "sched_wakeup"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vm]\n", "vm: expected a list"),
        ("[[vm]]\nvcpus = 0\n", "line 2: vm[0].vcpus: 0 is out of range"),
        (
            "[[vm]]\n\n[[vm.device]]\nmode='x'\n",
            "line 4: vm[0].device[0].mode: 'x': expected one of posted, remapped",
        ),
        (
            "[host]\npcpus = 2\npcps = 3\n[[vm]]\n",
            "line 3: host.pcps: not known: expected one of pcpus",
        ),
        ("[[vm]]\nvcpus = 'a'\n", "line 2: vm[0].vcpus: expected an integer"),
        ("[capture]\nseed = 1\n", "vm is missing"),
        ("[[vm]]\n[[vm]]\n[vm.halt]\nevery_us = -1\n", "line 4: vm[1].halt.every_us"),
        ("[[vm]\n", "line 1: no TOML"),
        ("[host]\npcpus=1\n[[vm]]\npcpus=[1]\n", "the host has 1 pCPUs"),
        ("[capture]\ndrop=['nothing']\n[[vm]]\n", "'nothing' is none of kvm_entry"),
        ("[capture]\nrelease='six'\n[[vm]]\n", "does not begin with MAJOR.MINOR"),
        (
            "[[vm]]\n[[vm.exit]]\nfastpath=true\nasleep_us=1\n",
            "expected one of fastpath, userspace_us, asleep_us",
        ),
    ],
)
def test_a_wrong_scenario_is_refused_with_key_and_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        scenario_from(text, "some.toml")
    assert message in str(error.value)
    assert "some.toml" in str(error.value) or "MAJOR" in message


def test_the_command_writes_capture_and_truth(tmp_path: Path) -> None:
    path = tmp_path / "made.trace.dat"
    asked = ("synth", "mixed", "--seed", "3", "--events", "2000", "-o", str(path))
    done = subprocess.run(
        [sys.executable, "-m", "piscope", *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "posts under suppress-on-put" in done.stdout
    assert done.stderr == ""
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "made.trace.dat",
        "made.trace.dat.posts.parquet",
        "made.trace.dat.truth.json",
        "made.trace.dat.windows.parquet",
    ]


def test_every_key_is_documented() -> None:
    told = key_documentation()
    for table in (Capture, Device, Exit, Gaps, Halt, Hog, Host, Ipi, Lose, Replay, Vm):
        own = told[told.index(inspect.cleandoc(table.__doc__ or "").split("\n")[0]) :]
        for one in fields(table):
            if not str(one.type).startswith(("tuple[E", "tuple[I", "tuple[D", "Halt")):
                assert re.search(rf"^  {one.name}\b", own, re.MULTILINE), one.name
    assert max(map(len, told.split("\n"))) <= 88


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    for asked in (("no-such", "-o", str(tmp_path / "x")), ("mixed",)):
        done = subprocess.run(
            [sys.executable, "-m", "piscope", "synth", *asked],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
