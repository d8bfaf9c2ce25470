"""The stories of real notifications agree with the tables that they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache

import numpy as np
import pytest
from conftest import SAMPLES

from piscope import pipeline
from piscope.cli import run as run_piscope
from piscope.explain.account import Account
from piscope.explain.build import account_of
from piscope.explain.pick import Picked
from piscope.origins import ORIGINS, Origin
from piscope.outcomes import Hit
from piscope.sources.detect import open_trace

TRACES = (
    "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    "vmx-6.12.117-noipiv-us.k_userspace_ipi.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
    "vmx-6.17.13-ipiv-tools.p_rich.perf.data",
)
POLICIES = ("preempt-only", "suppress-on-put", "legacy-5.15")
Run = Callable[..., tuple[int, str, str]]


@cache
def _analysis(name: str, posted: str) -> pipeline.Analysis:
    with closing(open_trace(str(SAMPLES / name))) as source:
        return pipeline.analyze(source, policies=POLICIES, posted=posted)


def _accounts(name: str, posted: str) -> Iterator[tuple[int, Account]]:
    analysis = _analysis(name, posted)
    count = len(analysis.results[POLICIES[0]].findings)
    for index in np.unique(np.linspace(0, count - 1, 16).astype(int)).tolist():
        yield index, account_of(analysis, Picked(index, "a test"))


@pytest.mark.parametrize("posted", ["msi", "none"])
@pytest.mark.parametrize("name", TRACES)
def test_verdicts_are_those_of_findings(name: str, posted: str) -> None:
    analysis = _analysis(name, posted)
    seen = 0
    for index, account in _accounts(name, posted):
        seen += 1
        for verdict in account.verdicts:
            f = analysis.results[verdict.policy].findings
            possible = [h.label for h in Hit if int(f.possible[index]) >> h & 1]
            assert verdict.possible == possible
            assert verdict.certain == bool(f.certain[index])
            assert bool(verdict.doubts) is not verdict.certain
            assert verdict.rows
    assert seen >= 10


@pytest.mark.parametrize("posted", ["msi", "none"])
@pytest.mark.parametrize("name", TRACES)
def test_steps_follow_one_another(name: str, posted: str) -> None:
    for _, account in _accounts(name, posted):
        posts = [step for step in account.steps if step.is_post]
        assert [p.stimulus for p in posts] == [account.notification.stimulus]
        assert posts[0].offset_ns == 0
        for before, after in zip(account.steps, account.steps[1:], strict=False):
            assert after.stimulus == before.stimulus + after.skipped + 1
            if after.skipped:
                continue
            for policy in ("preempt-only", "suppress-on-put"):
                left, met = before.policies[policy].after, after.policies[policy].before
                assert left == met, "what a step leaves is what the next one meets"


def test_origins_are_those_of_posts() -> None:
    analysis = _analysis(TRACES[2], "none")
    posts = analysis.timeline.posts
    seen = set()
    for _, account in _accounts(TRACES[2], "none"):
        post = int(analysis.stimuli.post[account.notification.stimulus])
        if post >= 0:
            origin = Origin(int(posts.origin[post]))
            assert account.notification.origin == origin.label
            assert account.notification.origin_text.startswith(ORIGINS[origin])
            seen.add(origin)
    assert Origin.IPI in seen


@pytest.mark.parametrize("name", TRACES)
def test_what_decided_points_at_a_step_that_is_told(name: str) -> None:
    for _, account in _accounts(name, "msi"):
        numbers = {step.number for step in account.steps}
        assert {line.policy for line in account.deciding} == set(POLICIES)
        for line in account.deciding:
            assert line.step is None or line.step in numbers
        assert account.rules
        assert len({rule.name for rule in account.rules}) == len(account.rules)


def test_a_suppressed_post_names_the_patch() -> None:
    name = "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat"
    analysis = _analysis(name, "msi")
    f = analysis.results["preempt-only"].findings
    index = int(np.flatnonzero(f.surely(Hit.UNLOADED_HOST))[0])
    account = account_of(analysis, Picked(index, "a test"))
    old, new, _ = account.verdicts
    assert (old.hit, new.hit) == ("unloaded-host", "silent-sn")
    text = {line.policy: line.text for line in account.deciding}
    assert text["preempt-only"].endswith("sn_on_every_put is off")
    assert text["suppress-on-put"].endswith("sn_on_every_put is on")
    sources = " ".join(rule.source for rule in account.rules)
    assert "6737557442e5" in sources
    put = next(step for step in account.steps if step.letter == "PUT_RUN_NOT")
    change = put.policies["suppress-on-put"]
    assert [s.sn for s in change.before.states] == [False]
    assert [s.sn for s in change.after.states] == [True]
    assert put.policies["preempt-only"].before == put.policies["preempt-only"].after
    post = next(step for step in account.steps if step.is_post)
    vector = account.notification.vector
    assert post.policies["preempt-only"].effects == ["sends 0xf2 to pCPU 0"]
    assert post.policies["suppress-on-put"].effects == ["silent: SN"]
    assert vector in post.policies["suppress-on-put"].after.vectors


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run piscope; gives exit status, stdout and stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run_piscope(words)
        out, err = capfd.readouterr()
        return status, out, err

    return command


MSI = str(SAMPLES / TRACES[0])


@pytest.mark.parametrize("name", TRACES)
def test_the_text_is_80_columns(run: Run, name: str) -> None:
    status, out, err = run("explain", str(SAMPLES / name), "--finding", "3")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_the_same_by_row_by_instant_and_by_kind(run: Run) -> None:
    _, out, _ = run("explain", MSI, "--hit", "unloaded", "--nth", "5", "--json")
    first = json.loads(out)
    it = first["notification"]
    seconds = f"{it['ts_ns'] // 10**9}.{it['ts_ns'] % 10**9:09d}"
    row = it["findings"]["suppress-on-put"]
    for words in (
        ("--at", seconds, "--vcpu", it["vcpu"]),
        ("--finding", str(it["findings"]["preempt-only"])),
        ("--finding", str(row)),
        (
            *("--finding", str(it["findings"]["preempt-only"])),
            *("--policy", "preempt-only"),
        ),
    ):
        status, out, err = run("explain", MSI, *words, "--json")
        assert (status, err) == (0, "")
        other = json.loads(out)
        assert other["notification"]["stimulus"] == it["stimulus"]
        assert other["steps"] == first["steps"]
        assert other["events"] == first["events"]


def test_rows_of_findings_are_those_of_the_report(run: Run) -> None:
    import piscope

    findings = piscope.analyze(MSI).findings.to_pylist()
    row = next(i for i, f in enumerate(findings) if f["hit"] == "silent-sn") + 3
    _, out, _ = run("explain", MSI, "--finding", str(row), "--json")
    told = json.loads(out)
    assert told["notification"]["stimulus"] == findings[row]["stimulus"]
    verdict = {v["policy"]: v for v in told["verdicts"]}[findings[row]["policy"]]
    assert verdict["hit"] == findings[row]["hit"]
    assert [r["row"] for r in verdict["rows"]] == findings[row]["rows"]


def test_events_are_in_order_with_the_steps_that_rest_on_them(run: Run) -> None:
    for name in TRACES:
        _, out, _ = run("explain", str(SAMPLES / name), "--finding", "7", "--json")
        told = json.loads(out)
        times = [event["ts_ns"] for event in told["events"]]
        assert times == sorted(times)
        assert 0 < len(times) <= 24
        at = told["notification"]["ts_ns"]
        assert all(e["offset_ns"] == e["ts_ns"] - at for e in told["events"])
        told_steps = {n for event in told["events"] for n in event["steps"]}
        assert told_steps == {step["number"] for step in told["steps"]}
        assert all(event["position"] for event in told["events"])
        by_number = {step["number"]: step for step in told["steps"]}
        for event in told["events"]:
            for number in event["steps"]:
                assert by_number[number]["ts_ns"] == event["ts_ns"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which notification?"),
        (("--at", "1s", "--hit", "host"), "--at and --hit: only one of them"),
        (("--at", "5s"), "nothing posted within 1.0 ms; the nearest: 102."),
        (("--at", "noon"), "'noon' is not an instant"),
        (("--finding", "100000"), "FINDINGS has rows 0 to 1665"),
        (("--finding", "900", "--policy", "preempt-only"), "rows 0 to 832"),
        (("--hit", "guest"), "no post under preempt-only; there are unloaded-host"),
        (("--hit", "unloaded", "--nth", "244"), "only 243 may be unloaded"),
        (("--hit", "host", "--vcpu", "7"), "--vcpu 7: this trace has vm0/vcpu0"),
        (("--finding", "1", "--vcpu", "0"), "--finding names one row"),
        (("--at", "45%", "--nth", "2"), "--nth is for --hit, not for --at"),
    ],
)
def test_what_there_is_not_is_one_line(
    run: Run, words: tuple[str, ...], said: str
) -> None:
    status, out, err = run("explain", MSI, *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_trace_without_posts_says_so(run: Run) -> None:
    trace = str(SAMPLES / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz")
    for words in (("--at", "1s"), ("--hit", "host"), ("--finding", "0")):
        status, out, err = run("explain", trace, *words)
        assert (status, out) == (2, "")
        assert "posted" in err


def test_a_single_policy_is_told_beside_the_default_ones(run: Run) -> None:
    words = ("--hit", "silent-on", "--policy", "legacy-5.15", "--json")
    _, out, _ = run("explain", MSI, *words)
    told = json.loads(out)
    policies = [verdict["policy"] for verdict in told["verdicts"]]
    assert policies == ["legacy-5.15", "preempt-only", "suppress-on-put"]
    assert told["verdicts"][0]["hit"] == "silent-on"
    assert told["notes"]
