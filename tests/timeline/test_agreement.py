"""What stock events tell of loads and puts, compared with the probes of one trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from timeline.scene import HLT, PREEMPTED, SLEEPS, Scene, Vcpu
from timeline.streams import scenes

from piscope.commands.agreement import (
    MOST_WRONG,
    MOST_WRONG_REASONS,
    Compared,
    as_lines,
)
from piscope.commands.agreement import agreement as command
from piscope.timeline.agreement import Agreement, Difference, agreement, stock_events


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def a(scene: Scene) -> Vcpu:
    return scene.vcpu(0, cpu=1)


def run(a: Vcpu) -> None:
    """KVM_RUN, as the kernel does it: the load comes before kvm_fpu."""
    a.pi_load()
    a.run()
    a.enter()


def leave(a: Vcpu) -> None:
    a.exit()
    a.unload()
    a.pi_put()
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)


def compared(scene: Scene) -> Agreement:
    scene.tick()
    result = agreement(scene.events())
    assert result is not None
    return result


def hows(result: Agreement) -> list[tuple[str, str, bool]]:
    return [(d.how, d.what, d.marked) for d in result.differences]


def test_a_visit_a_preemption_and_a_halt_agree(scene: Scene, a: Vcpu) -> None:
    run(a)
    leave(a)
    run(a)
    a.exit()
    a.out(PREEMPTED)
    a.pi_put(preempted=1)
    a.into(cpu=0)
    a.pi_load()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.pi_put(blocking=1)
    a.into()
    a.pi_load()
    a.wakeup()
    a.enter()
    result = compared(scene)
    assert (result.seen, result.agree, result.flags) == (7, 7, 3)
    assert result.differences == ()


def test_an_ioctl_s_load_and_put_are_missing(scene: Scene, a: Vcpu) -> None:
    run(a)
    leave(a)
    a.pi_load()
    a.pi_put()
    run(a)
    result = compared(scene)
    assert (result.seen, result.agree) == (5, 3)
    assert hows(result) == [("missing", "load", False), ("missing", "put", False)]


def test_the_load_of_another_vcpu_is_not_the_thread_s(scene: Scene, a: Vcpu) -> None:
    run(a)
    leave(a)
    scene.vcpu(1, cpu=1, tid=a.tid).pi_load()
    scene.vcpu(2, cpu=0, tid=7).pi_load()
    run(a)
    result = compared(scene)
    assert (result.seen, result.agree, result.other_threads) == (3, 3, 2)


def test_a_put_that_no_probe_saw_is_extra(scene: Scene, a: Vcpu) -> None:
    run(a)
    leave(a)
    run(a)
    a.exit()
    a.out(PREEMPTED)  # no probe's event: the put did not happen
    a.into()
    a.enter()
    result = compared(scene)
    assert hows(result) == [("extra", "put", False), ("extra", "load", False)]


def test_a_put_on_another_pcpu(scene: Scene, a: Vcpu) -> None:
    run(a)
    a.exit()
    a.unload()
    a.cpu = 0
    a.pi_put()
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    run(a)
    assert ("wrong-cpu", "put", False) in hows(compared(scene))


def test_flags_that_mean_another_reason(scene: Scene, a: Vcpu) -> None:
    # since 6.11: runnable, yet not `preempted` for KVM, which no stock event tells
    run(a)
    a.exit()
    a.out(PREEMPTED)
    a.pi_put(preempted=0)
    a.into()
    a.pi_load()
    a.enter()
    result = compared(scene)
    assert result.flags == 1
    assert hows(result) == [("wrong-flags", "put", False)]


def test_what_the_timeline_is_not_sure_of_is_marked(scene: Scene, a: Vcpu) -> None:
    # R+ inside a halt: polling, or blocking as well
    run(a)
    a.exit(HLT)
    a.out(PREEMPTED)
    a.pi_put(preempted=1, blocking=1)
    a.into()
    a.pi_load()
    a.wakeup()
    a.enter()
    assert hows(compared(scene)) == [("wrong-flags", "put", True)]


def test_what_is_missing_in_a_gap_is_marked(scene: Scene, a: Vcpu) -> None:
    run(a)
    a.exit()
    scene.lose(1, scene.now_ns + 500, scene.now_ns + 6500)
    a.pi_put()
    a.pi_load()
    scene.tick()
    a.enter()
    result = compared(scene)
    assert hows(result) == [("missing", "put", True), ("missing", "load", True)]


def test_no_probes_no_agreement(scene: Scene, a: Vcpu) -> None:
    a.enter()
    assert agreement(scene.events()) is None


def test_stock_events_are_what_a_host_without_probes_would_have(
    scene: Scene, a: Vcpu
) -> None:
    run(a)
    leave(a)
    stock = stock_events(scene.events(), ignore=("kvm:kvm_fpu",))
    held = {name for i, (_, name) in enumerate(stock.names) if i in set(stock.event)}
    assert held == {"kvm_entry", "kvm_exit", "kvm_userspace_exit"}
    assert set(stock.counts) == {f"kvm:{name}" for name in held}
    for index, payload in stock.payload.items():
        assert (stock.event[payload.rows] == index).all()


@settings(max_examples=150, deadline=None)
@given(scenes(probes=True))
def test_every_load_and_put_is_counted_once(scene: Scene) -> None:
    result = agreement(scene.events())
    if result is None:
        return
    missing = result.count("missing")
    wrong_cpu = result.count("wrong-cpu")
    assert result.agree + wrong_cpu + missing == result.seen
    assert result.flags <= result.seen
    assert result.count("wrong-flags") <= result.flags
    for how in ("missing", "extra", "wrong-cpu", "wrong-flags"):
        both = [result.count(how, marked=m) for m in (False, True)]
        assert sum(both) == result.count(how)


def difference(how: str, marked: bool) -> Difference:
    return Difference(how, "put", "vm0/vcpu0", 0, 5, marked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "number", "marked", "within"),
    [
        ("missing", 10, False, True),
        ("missing", 11, False, False),
        ("missing", 500, True, True),
        ("wrong-flags", 20, False, True),
        ("wrong-flags", 21, False, False),
        ("extra", 11, False, False),
        ("wrong-cpu", 11, False, False),
    ],
)
def test_the_limits(how: str, number: int, marked: bool, within: bool) -> None:
    assert (MOST_WRONG, MOST_WRONG_REASONS) == (0.01, 0.05)
    differences = (difference(how, marked),) * number
    result = Agreement(1000, 0, 1000 - number, 400, differences)
    assert Compared("name", "path", result).within is within


def test_the_table_is_80_columns_wide_and_cuts_no_name() -> None:
    long = "a-capture-with-a-name-that-leaves-no-room-for-any-number-behind-it"
    result = Agreement(123456, 72, 123000, 61000, (difference("missing", True),) * 99)
    lines = as_lines(
        [
            Compared(long, long, result),
            Compared("short", "short", result),
            Compared("none", "none", instead="no probes; 3 puts inferred"),
            Compared(long, long, instead="an AMD (SVM) host: " + "word " * 20),
        ]
    )
    assert max(map(len, lines)) <= 80
    assert lines.count(long) == 2
    assert any("0+99?" in line for line in lines)


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.return_value, result.output

    @pytest.fixture
    def probed(self, samples: Path) -> str:
        return str(samples / "vmx-6.12.117-ipiv.f_2vm.trace.dat")

    def test_a_sample_with_probes(self, probed: str) -> None:
        status, output = self.run(probed, "--format", "json")
        (told,) = json.loads(output)
        assert status == 0
        assert told["within_limits"] is True
        assert told["agreement"]["seen"] == 1740
        # the last thread destroys the VM, and loads its own vCPU twice for it
        assert told["agreement"]["missing"] == {"sure": 4, "uncertain": 0}
        assert told["agreement"]["extra"] == {"sure": 0, "uncertain": 0}
        assert told["agreement"]["wrong_flags"] == {"sure": 0, "uncertain": 3}

    def test_each_difference_by_name(self, probed: str) -> None:
        _, output = self.run(probed, "--list")
        named = [line for line in output.splitlines() if ": 308.129" in line]
        assert len(named) == 4
        assert all("pCPU 1: missing" in line for line in named)

    def test_a_poor_capture_says_what_it_can_t_know(self, probed: str) -> None:
        # kvm_entry, kvm_exit, sched_switch: visits to userspace leave no event
        only = [f"--only={n}" for n in ("kvm_entry", "kvm_exit", "sched_switch")]
        _, output = self.run(probed, "--format", "json", *only)
        told = json.loads(output)[0]["agreement"]
        assert told["missing"]["uncertain"] > 100
        assert told["missing"]["sure"] <= 4
        assert told["wrong_flags"]["sure"] <= 1

    def test_captures_without_probes_and_of_other_hosts(self, samples: Path) -> None:
        paths = [
            str(samples / f"{name}.trace.dat")
            for name in ("vmx-6.17.13-ipiv.e_min", "svm-6.17.13.c_svm_min")
        ]
        status, output = self.run(*paths)
        assert status == 3
        assert "no probes; 375 puts inferred" in output
        assert "an AMD (SVM) host" in output

    def test_markdown(self, probed: str) -> None:
        _, output = self.run(probed, "--format", "md")
        rows = output.splitlines()
        assert len(rows) == 3
        assert {row.count("|") for row in rows} == {9}
