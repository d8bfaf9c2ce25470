"""`--posts`, `--rate`, `--rate-curve`, `--interrupts` and markers, as users see."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piscope.commands.analyze import analyze as command
from piscope.commands.check_questions import INTERRUPTS_COMMANDS
from piscope.commands.rate_options import parse_curve, parse_rates
from piscope.errors import TraceFormatError, UsageError
from piscope.interrupts import read_marker, read_tables

Run = Callable[..., tuple[int, str]]

SLOW = "vmx-6.17.13-ipiv-us.n_userspace_slow"
BOTH = "CPU0 CPU1\nPIN: {} {} x\nNPI: 0 0 x\nPIW: {} {} x\n"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], samples: Path) -> Run:
    def of(*arguments: object, trace: str = f"{SLOW}.trace.dat") -> tuple[int, str]:
        path = samples / trace if (samples / trace).exists() else Path(trace)
        words = [str(a) for a in (path, *arguments)]
        capfd.readouterr()
        with command.make_context("piscope analyze", words) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        return status, capfd.readouterr().out

    return of


def interrupts(
    folder: Path, before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[Path, Path]:
    paths = folder / "before", folder / "after"
    for path, counts in zip(paths, (before, after), strict=True):
        path.write_text(BOTH.format(*counts))
    return paths


def document(run: Run, *arguments: object) -> dict[str, Any]:
    status, out = run("--json", *arguments)
    assert status == 0
    value: dict[str, Any] = json.loads(out)
    return value


def test_keys_are_there_only_when_asked_for(run: Run) -> None:
    assert not {"rates", "counters"} & document(run).keys()


def test_a_rate_and_a_curve(run: Run) -> None:
    found = document(run, "--rate", "0=1k", "--rate-curve", "10:100k:9")["rates"]
    assert found["rate_hz"] == {"vm0/vcpu0": 1000.0, "vm0/vcpu1": 0.0}
    old, new = (found["policies"][p] for p in ("preempt-only", "suppress-on-put"))
    assert old["unloaded_notifications"]["min"] > 230
    assert new["unloaded_notifications"]["max"] < 1
    gone = found["removed"]["host_irqs"]
    assert gone["min"] == pytest.approx(
        old["host_irqs"]["min"] - new["host_irqs"]["min"], abs=0.01
    )
    curve = found["curve"]
    assert len(curve["rates_hz"]) == 9
    assert (curve["rates_hz"][0], curve["rates_hz"][-1]) == (10, 100000)
    for line in curve["host_irqs"].values():
        assert len(line["min"]) == len(line["max"]) == len(line["sd"]) == 9
        assert line["min"] == sorted(line["min"])


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits(run: Run, tmp_path: Path, width: int) -> None:
    files = interrupts(tmp_path, (0, 0, 0, 0), (14, 0, 0, 0))
    status, out = run(
        *("--rate", 1000, "--rate-curve", "10:100k", "--interrupts", *files),
        *("--sender", 1, "--vcpu", 0, "--width", width),
    )
    assert status == 0
    assert max(map(len, out.splitlines())) <= width
    for heading in (
        "If posts arrived at a rate, as IPIs of 1 in guest mode",
        "What the kernel counted",
        "The rate of unseen posts that PIN tells, as IPIs of 1 in guest mode",
    ):
        assert heading in out
    assert "* preempt-only" in out


def test_counters_and_what_follows(run: Run, tmp_path: Path) -> None:
    files = interrupts(tmp_path, (3, 0, 0, 0), (17, 0, 0, 0))
    found = document(run, "--interrupts", *files, "--sender", 1, "--vcpu", 0)[
        "counters"
    ]
    assert (found["source"], found["policy"]) == ("files", "suppress-on-put")
    (interval,) = found["intervals"]
    lines = {(x["counter"], x["cpu"]): x for x in interval["lines"]}
    assert lines["PIN", 0]["counted"] == 14
    assert lines["PIN", 0]["min"] <= 14 <= lines["PIN", 0]["max"]
    assert lines["NPI", 0]["min"] is None
    (estimate,) = [x for x in found["estimates"] if x["cpu"] == 0]
    assert estimate["low_hz"] < 1000 < estimate["high_hz"]
    told = estimate["predicted"]["preempt-only"]
    assert told["low"] < 261 < told["high"]  # what 6.12 counted for the same work


def test_nothing_is_estimated_where_only_kvm_posted(run: Run, tmp_path: Path) -> None:
    files = interrupts(tmp_path, (0, 0, 0, 0), (10, 0, 0, 0))
    status, out = run(
        "--interrupts",
        *files,
        trace="vmx-6.12.117-noipiv-us.k_userspace_ipi.trace.dat",
    )
    assert status == 0
    assert "nothing but KVM posted: no rate is estimated" in out


def test_posts_of_ones_own(run: Run, tmp_path: Path) -> None:
    before = document(run)
    start = before["trace"]["start_ns"]
    window = [w for w in before["removed"]["windows"] if w["reason"] == "userspace"]
    assert window
    path = tmp_path / "posts.csv"
    rows = "".join(f"{start + 300_000_000 + i * 997},1,65\n" for i in range(100))
    path.write_text(f"ts_ns,vcpu,vector\n{rows}")
    after = document(run, "--posts", path)
    assert after["question"]["replayed_with"]["posts"] == str(path)

    def known(value: dict[str, Any]) -> int:
        of = value["policies"]["preempt-only"]["outcomes"]
        return sum(bounds["max"] for bounds in of.values())

    assert known(after) - known(before) >= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "fast"), "--rate 'fast': expected posts a second, as in 1500"),
        (("--rate", "0=5,0=6"), "--rate '0': given twice"),
        (("--rate", "nic=5"), "--rate 'nic': this trace has vm0/vcpu0, vm0/vcpu1;"),
        (("--rate-curve", "10"), "expected LOW:HIGH"),
        (("--rate-curve", "10:5"), "LOW is not between 0 and HIGH"),
        (("--rate-curve", "1:10:1"), "expected 2 to 1000 points"),
        (("--sender", "1"), "--sender is for posts at a rate"),
        (("--rate", "5", "--sender", "9"), "--sender 9: this trace has"),
        (("--interrupts", "a", "b", "--from", "1s"), "leave out --from and --to"),
    ],
)
def test_options_that_make_no_sense(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        run(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_file_for_one_trace(samples: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("ts_ns,vcpu,vector\n")
    with pytest.raises(UsageError, match="--posts belongs to one trace, not to 2"):
        run(samples / f"{SLOW}.trace.dat", "--posts", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 tables with PIN or PIW, expected one"),
        ("CPU0 CPU1\nPIN: 5\n", "line 2: PIN: expected a count for each of 2 pCPUs"),
        ("CPU0\nPIN: x y\n", "line 2: PIN: expected a count"),
        (BOTH.format(0, 0, 0, 0), "PIN falls from the first table to the second"),
    ],
)
def test_snapshots_that_can_t_be_read(
    run: Run, tmp_path: Path, text: str, message: str
) -> None:
    before, after = interrupts(tmp_path, (5, 0, 0, 0), (9, 0, 0, 0))
    after.write_text(text)
    with pytest.raises(TraceFormatError, match=message) as error:
        run("--interrupts", before, after)
    assert error.value.path == str(after)


def test_the_words_of_rates() -> None:
    assert parse_rates("20k") == {"": 20000}
    assert parse_rates("vm0=1.5M, 0000:3b:00.0=7") == {"vm0": 1.5e6, "0000:3b:00.0": 7}
    assert parse_curve("1:100:3") == (1, 10, 100)
    assert len(parse_curve("10:100k")) == 41


# --- markers


def test_the_shell_function_writes_markers(tmp_path: Path) -> None:
    if shutil.which("bash") is None or shutil.which("awk") is None:
        pytest.skip("no bash, or no awk")
    cpus = 70  # more than one marker holds
    counts = range(cpus)
    table = tmp_path / "interrupts"
    table.write_text(
        " " * 10
        + " ".join(f"CPU{i}" for i in counts)
        + "\n  0: "
        + " ".join("9" for _ in counts)
        + "  IO-APIC timer\nPIN: "
        + " ".join(str(7 * i) for i in counts)
        + "   Posted-interrupt notification event\n"
    )
    out = tmp_path / "marker"
    script = "\n".join([*INTERRUPTS_COMMANDS, f"interrupts {table} {out}"])
    subprocess.run(["bash", "-c", script], check=True)
    found: dict[int, int] = {}
    for line in out.read_text().splitlines():
        assert len(line) < 1000
        read = read_marker(line)
        assert read is not None
        assert read[0] == "PIN"
        found.update(read[1])
    assert found == read_tables(table.read_text(), "x")[0]["PIN"]


def with_markers(samples: Path, folder: Path) -> Path:
    """A tracefs text with snapshots before its first event, within, and at its end."""
    text = gzip.decompress(
        (samples / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz").read_bytes()
    ).decode()
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    at = (first, (first + len(lines)) // 2, len(lines) - 1)

    def marks(line: str, pin: int, cpu1: int) -> list[str]:
        stamp = next(
            word for word in line.split() if word.endswith(":") and "." in word
        )
        head = f"             vmm-238     [001] .....  {stamp} tracing_mark_write: "
        return [
            f"{head}piscope-interrupts PIN 0={pin} 1={cpu1}",
            f"{head}piscope-interrupts PIW 0=3 1=4",
            f"{head}piscope-interrupts PIN 0=",  # cut off: none of ours
        ]

    for i, (pin, cpu1) in sorted(zip(at, ((5, 0), (7, 0), (7, 1)), strict=True))[::-1]:
        lines[i:i] = marks(lines[i], pin, cpu1)
    path = folder / "marked.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_markers_in_the_trace(samples: Path, run: Run, tmp_path: Path) -> None:
    path = with_markers(samples, tmp_path)
    status, out = run("--json", trace=str(path))
    assert status in (0, 3)
    value = json.loads(out)
    found = value["counters"]
    assert found["source"] == "trace"
    growth = [
        {
            (x["counter"], x["cpu"]): x["counted"]
            for x in interval["lines"]
            if x["counter"] in ("PIN", "PIW")
        }
        for interval in found["intervals"]
    ]
    pin0, pin1, piw0, piw1 = ("PIN", 0), ("PIN", 1), ("PIW", 0), ("PIW", 1)
    assert growth == [
        {pin0: 2, pin1: 0, piw0: 0, piw1: 0},
        {pin0: 0, pin1: 1, piw0: 0, piw1: 0},
    ]
    first, second = found["intervals"]
    assert first["end_ns"] == second["start_ns"]
    # a marker is no event of the host
    _, plain = run("--json", trace="vmx-6.12.117-ipiv.e_min.ftrace.txt.gz")
    assert value["trace"]["events_used"] == json.loads(plain)["trace"]["events_used"]
    assert value["trace"]["start_ns"] == json.loads(plain)["trace"]["start_ns"]


def test_a_marker_of_trace_dat_has_its_text(samples: Path) -> None:
    from piscope.sources.detect import open_trace
    from piscope.sources.raw import Wanted

    source = open_trace(str(samples / f"{SLOW}.trace.dat"))
    texts = [
        text
        for chunk in source.chunks(Wanted({"ftrace:print": ("buf",)}))
        for payload in chunk.payload.values()
        for text in payload.columns["buf"].tolist()
    ]
    source.close()
    assert texts == ["piscope-l2: start\n", "piscope-l2: stop\n"]
