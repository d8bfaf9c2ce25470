"""`piscope analyze` over real traces: its options, its streams, its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piscope.commands.analyze import analyze
from piscope.errors import PiscopeError, UsageError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command; gives exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        words = [str(argument) for argument in arguments]
        with analyze.make_context("piscope analyze", words) as context:
            status = analyze.invoke(context)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return status, out, err

    return command


@pytest.fixture
def sparse(samples: Path) -> Path:
    return samples / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"


@pytest.fixture
def rich_trace(samples: Path) -> Path:
    return samples / "vmx-6.17.13-ipiv-tools.p_rich.perf.data"


def test_report_is_80_columns_of_plain_text(run: Run, rich_trace: Path) -> None:
    status, out, err = run(rich_trace)
    assert (status, err) == (0, "")
    assert out.startswith("piscope ")
    # The path alone may fill lines; the question stands in the first paragraph.
    assert "--posted msi" in " ".join(out.partition("\n\n")[0].split())
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_width_is_used(run: Run, rich_trace: Path) -> None:
    _, out, _ = run("--width", 120, rich_trace)
    assert 80 < max(map(len, out.splitlines())) <= 120


def test_json_is_the_report(run: Run, rich_trace: Path) -> None:
    _, out, _ = run("--json", rich_trace)
    values = json.loads(out)
    assert values["trace"]["path"] == str(rich_trace)
    _, text, _ = run(rich_trace)
    for policy in values["policies"].values():
        low, high = policy["unloaded_notifications"].values()
        assert f"{low:,} to {high:,}" in text if low < high else f"{low:,}" in text
    assert " ".join(values["verdict"]).split() == _verdict(text)


def _verdict(text: str) -> list[str]:
    _, _, rest = text.partition("  verdict ")
    return rest.partition("\n\n")[0].split()


def test_one_broken_trace_does_not_stop_the_others(
    run: Run, sparse: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.dat"
    broken.write_bytes(b"\x17\x08\x44tracing" + bytes(100))
    missing = tmp_path / "missing.dat"
    status, out, err = run(broken, sparse, missing, sparse)
    assert status == 2
    assert out.count("What this trace could not show") == 2
    lines = err.splitlines()
    assert [line.startswith("piscope: error: ") for line in lines] == [True, True]
    assert str(broken) in lines[0]
    assert str(missing) in lines[1]


def test_json_of_several_is_a_list_of_those_that_could_be(
    run: Run, sparse: Path, tmp_path: Path
) -> None:
    status, out, _ = run("--json", sparse, tmp_path / "missing.dat")
    assert status == 2
    assert [v["trace"]["path"] for v in json.loads(out)] == [str(sparse)]


def test_the_only_trace_fails_with_its_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(PiscopeError, match="missing"):
        run(tmp_path / "missing.dat")


@pytest.mark.parametrize(
    "options",
    [
        ("--from", "soon"),
        ("--vm", "x"),
        ("--cpu", "3-1"),
        ("--vm", "77"),
        ("--vcpu", "vm9/vcpu9"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, sparse: Path, options: tuple[str, str]
) -> None:
    with pytest.raises(UsageError):
        run(*options, sparse)


def test_policies_are_those_asked_for_in_order(run: Run, sparse: Path) -> None:
    names = ("no-suppression", "preempt-only", "no-suppression", "suppress-at-exit")
    words = [word for name in names for word in ("--policy", name)]
    _, out, _ = run("--json", *words, sparse)
    values = json.loads(out)
    assert list(values["policies"]) == [names[0], names[1], names[3]]
    assert values["removed"] is None


def test_selection_narrows(run: Run, rich_trace: Path) -> None:
    def values(*options: str) -> Any:
        return json.loads(run("--json", *options, rich_trace)[1])

    whole = values()
    one = values("--vcpu", "1")
    assert [v["vcpu_id"] for v in one["vcpus"]] == [1]
    assert one["narrowed"] == {"vcpu": "1"}
    half = values("--from", "50%", "--to", "75%")
    assert half["narrowed"] == {"from": "50%", "to": "75%"}
    assert 0 < half["trace"]["events"] < whole["trace"]["events"]
    assert half["trace"]["duration_ns"] <= whole["trace"]["duration_ns"] // 4
    thread = values("--vcpu", f"tid:{whole['vcpus'][0]['tid']}")
    assert len(thread["vcpus"]) == 1


def test_posted_none_leaves_kvms_posts_alone(run: Run, rich_trace: Path) -> None:
    _, out, _ = run("--json", "--posted", "none", rich_trace)
    question = json.loads(out)["question"]
    assert question["posted"] == "none"
    assert question["as_hardware"] == 0


def test_ignored_events_were_never_there(run: Run, sparse: Path) -> None:
    whole = json.loads(run("--json", sparse)[1])["trace"]["events"]
    rest = json.loads(run("--json", "--ignore", "sched_*", sparse)[1])["trace"]
    assert rest["events"] < whole


def test_no_bar_where_stderr_is_no_terminal(run: Run, rich_trace: Path) -> None:
    assert run(rich_trace)[2] == run("-q", rich_trace)[2] == ""


def test_an_unknown_timeline_is_an_exit_status(
    run: Run, sparse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "piscope.report.tally.KnownTime.timeline_unknown", lambda known, labels: True
    )
    assert run(sparse)[0] == 3


def test_half_of_the_time_unknown_is_too_much() -> None:
    from types import SimpleNamespace

    import numpy as np

    from piscope.parts import Own
    from piscope.report.tally import KnownTime
    from piscope.tables import Kind, Vcpu, Vcpus

    vcpu = Vcpu(0, 7, None, None, 0, None, "kvm_entry", "v")

    def timeline(kinds: list[Kind], lengths: list[int]) -> Any:
        ends = np.cumsum(lengths)
        return SimpleNamespace(
            vcpus=Vcpus([vcpu], False, np.full(9, -1, np.int32)),
            intervals=SimpleNamespace(
                vcpu=np.zeros(len(kinds), int),
                kind=np.array(kinds),
                start_ns=ends - lengths,
                end_ns=ends,
                row=np.arange(len(kinds)),
            ),
        )

    def timeline_unknown(timeline: Any, labels: set[str]) -> bool:
        known_time = KnownTime()
        known_time.add(timeline, Own(0, 0))
        return known_time.timeline_unknown(labels)

    around = [Kind.UNKNOWN, Kind.GUEST, Kind.UNKNOWN, Kind.HOST, Kind.UNKNOWN]
    # what lies before the first and after the last event does not count
    assert not timeline_unknown(timeline(around, [900, 5, 10, 5, 900]), {"v"})
    assert timeline_unknown(timeline(around, [0, 5, 11, 5, 0]), {"v"})
    assert timeline_unknown(timeline(around, [0, 50, 1, 50, 0]), set())
    assert timeline_unknown(timeline([Kind.UNKNOWN], [10]), {"v"})
