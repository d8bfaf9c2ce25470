"""`piscope timeline` over real traces: pages, selection, streams, exit status."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from piscope import api
from piscope.commands.timeline import timeline
from piscope.errors import UsageError
from piscope.report.marks import Mark, marks
from piscope.report.strips import strips
from piscope.report.tally import KnownTime
from piscope.tables import Kind

Run = Callable[..., tuple[int, str, str]]

SLOW = "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
TWO_VMS = "vmx-6.17.13-ipiv.f_2vm.trace.dat"
LOST = "vmx-6.12.117-ipiv.g_lost.trace.dat"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command; gives exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        words = [str(argument) for argument in arguments]
        with timeline.make_context("piscope timeline", words) as context:
            status = timeline.invoke(context)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return status, out, err

    return command


def line_of(out: str, label: str) -> str:
    """The states of a vCPU, page after page."""
    return "".join(re.findall(rf"^  {re.escape(label)} +(\S.*)$", out, re.MULTILINE))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_plain_text_as_wide_as_asked(run: Run, samples: Path, width: int) -> None:
    status, out, err = run(samples / SLOW, "--cpus", "--width", width)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if not line.startswith("piscope ")]
    picture = [line for line in lines if re.match(r"  (vm0|cpu)\S+ +\S", line)]
    assert max(map(len, picture)) == width
    assert all(line == line.rstrip() for line in lines)


def test_userspace_with_its_spurious_interrupts(run: Run, samples: Path) -> None:
    _, out, _ = run(samples / SLOW)
    states = line_of(out.partition("percent of time")[0], "vm0/vcpu0")
    assert states.count("u") > len(states) * 0.8
    notified = next(x for x in out.splitlines() if x.startswith("    notified"))
    assert notified.count("S") > 40
    assert "250 of them left no event" in " ".join(out.split())
    _, out, _ = run(samples / SLOW, "--policy", "suppress-on-put")
    assert "notified" not in out
    assert "none is known" in out


def test_pages_follow_one_another(run: Run, samples: Path) -> None:
    _, out, _ = run(samples / TWO_VMS, "--window", "100ms", "--vcpu", "tid:384", "-q")
    pages = re.findall(r"^From (\S+) to (\S+)$", out, re.MULTILINE)
    edges = [[int(text.replace(".", "")) for text in page] for page in pages]
    begin_ns, end_ns = api.analyze(samples / TWO_VMS).analysis.timeline.span_ns
    assert edges[0][0] == begin_ns
    assert edges[-1][1] == end_ns + 1
    assert len(edges) == -(-(end_ns + 1 - begin_ns) // 100_000_000)
    for before, after in pairwise(edges):
        assert before[1] == after[0] == before[0] + 100_000_000
    assert out.count("percent of time") == len(pages)
    assert len(set(re.findall(r"vcpu\d\[\d+\]", out))) == 1


def test_a_page_shows_what_a_narrower_view_shows(run: Run, samples: Path) -> None:
    _, paged, _ = run(samples / TWO_VMS, "--window", "50ms")
    third = re.split(r"^From .*\n", paged, flags=re.MULTILINE)[3]
    first_ns, last_ns = (
        text.replace(".", "")
        for text in re.findall(r"^From (\S+) to (\S+)$", paged, re.MULTILINE)[2]
    )
    _, alone, _ = run(
        samples / TWO_VMS,
        "--from",
        f"{first_ns[:-9]}.{first_ns[-9:]}",
        "--to",
        f"{last_ns[:-9]}.{last_ns[-9:]}",
    )
    picture, rest = (text.partition("\n\n")[::2] for text in (third, alone))
    assert picture[0] == rest[1].partition("\n\n")[0]


def test_a_cut_leaves_the_state_at_its_edge_known(run: Run, samples: Path) -> None:
    _, out, _ = run(samples / TWO_VMS, "--from", "50%", "--to", "51%")
    picture = out.split("\n\n")[1]
    rows = [x for x in picture.splitlines() if re.match(r"  vcpu\d\[", x)]
    assert len(rows) == 4
    assert not any("?" in row for row in rows)
    assert re.search(r"shows +\S+ ms of \S+ ms, from", out)


def test_numbers_are_those_of_the_summary(samples: Path) -> None:
    for name in (SLOW, TWO_VMS, LOST):
        result = api.analyze(samples / name)
        t = result.analysis.timeline
        whole = strips(t, t.span_ns[0], t.span_ns[1] + 1, 1)
        for line, vcpu in enumerate(result.summary.vcpus):
            found = {k.label: int(whole.time_ns[line, 0, k]) for k in Kind}
            assert found == vcpu.time_ns
        for policy, said in result.summary.policies.items():
            counted = marks(result.analysis, whole, policy)
            for mark, hit in (
                (Mark.UNLOADED_HOST, "unloaded-host"),
                (Mark.WRONG_VCPU, "wrong-vcpu"),
                (Mark.WAKEUP, "wakeup"),
                (Mark.RESIDUAL, "host"),
            ):
                assert counted.certain[:, :, mark].sum() == said.outcomes[hit].min
                assert counted.possible[:, :, mark].sum() == said.outcomes[hit].max


def test_lost_events_are_drawn(run: Run, samples: Path) -> None:
    _, out, _ = run(samples / LOST)
    assert re.search(r"^  lost +!+$", out, re.MULTILINE)
    assert "overwritten: 4,312" in out


def test_an_unknown_timeline_is_an_exit_status(
    run: Run, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def unknown(known_time: object, labels: set[str]) -> bool:
        asked.append(labels)
        return True

    monkeypatch.setattr(KnownTime, "timeline_unknown", unknown)
    assert run(samples / SLOW, "--vcpu", "1")[0] == 3
    assert asked == [{"vm0/vcpu1"}]


def test_the_end_of_a_trace_is_no_end_of_the_world(run: Run, samples: Path) -> None:
    status, out, _ = run(samples / SLOW, "--from", "-1ns")
    assert status == 0
    assert "1 ns of 1.028 s" in out
    status, out, _ = run(samples / SLOW, "--from", "0.0", "--to", "99999999999")
    assert "of 1.028 s" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "99999"], "the trace goes from 54.94"),
        (["--from", "60%", "--to", "40%"], "nothing lies between --from and --to"),
        (["--window", "-5ms"], "expected a length of time"),
        (["--window", "0.1ns"], "expected 1 ns or more"),
        (["--window", "soon"], "'soon' is not an instant"),
        (["--vcpu", "vm3/vcpu9"], "--vcpu vm3/vcpu9: this trace has"),
        (["--vm", "7"], "--vm 7"),
    ],
)
def test_a_view_that_makes_no_sense(
    run: Run, samples: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        run(samples / SLOW, *arguments)
