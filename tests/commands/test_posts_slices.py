"""piscope posts over a trace in slices says what it says of the same trace at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES
from split_analysis import even_cuts, split

from piscope import sliced_pipeline
from piscope.cli import run
from piscope.origins import Evidence, Origin
from piscope.pipeline import Analysis, Part, analyze
from piscope.posts_pipeline import find_trace_posts
from piscope.report.posts_tally import PostsTally
from piscope.sources.detect import open_trace

PLAIN = SAMPLES / "proof" / "vmx-6.12.117-noipiv.a_plain.trace.dat"
POOR = SAMPLES / "vmx-6.17.13-ipiv.e_min.trace.dat"

Sliced = Callable[[], None]
Output = Callable[..., str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """Run `piscope posts`; gives what it prints, and the exit status."""

    def printed(*words: str | Path) -> str:
        capsys.readouterr()
        status = run(["posts", *map(str, words)])
        out, err = capsys.readouterr()
        return f"{out}{err}{status}"

    return printed


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """The parts that were taken of traces that are not one part; but for tables."""
    parts: list[Part] = []
    real = sliced_pipeline.Parts.__iter__

    def counting(self: sliced_pipeline.Parts) -> Iterator[Part]:
        for part in real(self):
            if not part.own.is_whole:
                parts.append(replace(part, analysis=None))  # type: ignore[arg-type]
            yield part

    monkeypatch.setattr(sliced_pipeline.Parts, "__iter__", counting)
    return parts


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch, taken: list[Part]) -> Iterator[Sliced]:
    """Make every trace a long one; at the end some must have been in parts."""

    def begin() -> None:
        assert not taken
        monkeypatch.setattr(sliced_pipeline, "SLICE_ROWS", 1009)
        monkeypatch.setattr(sliced_pipeline, "WHOLE_ROWS", 0)

    yield begin
    assert taken


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace with devices, and with windows into which hardware posted."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.dat"
    assert run(["synth", "mixed", "--events", "5000", "-q", "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    "words",
    [
        "PLAIN MIXED",
        "PLAIN MIXED --format md --origin ipi,vfio --vcpu 1",
        "PLAIN --json --ignore kvm_apic_ipi --ignore local_timer*",
        "MIXED --json --from +10ms --to 60%",
        "PLAIN MIXED --coverage",
        "MIXED --coverage --json --vcpu 0",
        "MIXED --list",
        "PLAIN --list --json --from 30% --origin ipi",
        "PLAIN --list --vcpu 1 -n 40",
        "PLAIN MIXED --list -n 0",
        "MIXED --vcpu none-such",
    ],
)
def test_what_is_printed(
    words: str, mixed: Path, output: Output, sliced: Sliced
) -> None:
    paths: dict[str, str | Path] = {"PLAIN": PLAIN, "MIXED": mixed}
    asked = [paths.get(word, word) for word in words.split()]
    whole = output(*asked)
    sliced()
    assert output(*asked) == whole


@pytest.mark.parametrize("narrow", [(), ("--origin", "ipi", "--from", "30%")], ids=len)
def test_files(
    narrow: tuple[str, ...],
    mixed: Path,
    output: Output,
    sliced: Sliced,
    tmp_path: Path,
) -> None:
    suffixes = ("parquet", "csv", "jsonl")
    for suffix in suffixes:
        assert output(mixed, "-o", tmp_path / f"whole.{suffix}", *narrow) == "0"
    sliced()
    for suffix in suffixes:
        assert output(mixed, "-o", tmp_path / f"parts.{suffix}", *narrow) == "0"
    for suffix in suffixes[1:]:
        parts, whole = (tmp_path / f"{word}.{suffix}" for word in ("parts", "whole"))
        assert parts.read_bytes() == whole.read_bytes()
    tables = [pq.read_table(tmp_path / f"{w}.parquet") for w in ("parts", "whole")]
    assert tables[0].equals(tables[1], check_metadata=True)
    assert len(tables[0]) > 50
    lines = (tmp_path / "parts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == tables[0].to_pylist()


def test_a_file_of_no_posts(output: Output, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        assert output(POOR, "-o", tmp_path / f"none.{suffix}") == "3"
    assert (tmp_path / "none.jsonl").read_bytes() == b""
    (head,) = (tmp_path / "none.csv").read_text().splitlines()
    table = pq.read_table(tmp_path / "none.parquet")
    assert len(table) == 0
    assert head == ",".join(f'"{name}"' for name in table.column_names)


def test_a_limit_ends_it_early(
    output: Output, sliced: Sliced, taken: list[Part]
) -> None:
    whole = output(PLAIN, "--list", "-n", "3")
    sliced()
    assert output(PLAIN, "--list", "-n", "3") == whole
    few = len(taken)
    output(PLAIN, "--list")
    assert few < len(taken) - few


def test_an_unwritable_file_is_told(output: Output, tmp_path: Path) -> None:
    assert output(PLAIN, "-o", tmp_path / "nowhere" / "p.csv").endswith("2")
    (tmp_path / "p.csv").write_text("old")
    assert output(PLAIN, "--vcpu", "none", "-o", tmp_path / "p.csv").endswith("2")
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]
    assert (tmp_path / "p.csv").read_text() == "old"


@pytest.fixture(scope="module", params=["plain", "mixed"])
def analysis(request: pytest.FixtureRequest, mixed: Path) -> Analysis:
    path = PLAIN if request.param == "plain" else mixed
    with closing(open_trace(str(path))) as source:
        return analyze(source, policies=(), posted="none")


@pytest.mark.parametrize("parts", [1, 2, 13])
def test_counts_of_any_split_add_up(analysis: Analysis, parts: int) -> None:
    timeline, cuts = analysis.timeline, even_cuts(analysis, parts)
    tally, whole = PostsTally(), PostsTally()
    for part in split(analysis, cuts):
        mine = np.flatnonzero(part.own.posts(timeline.posts))
        tally.add(analysis.events, timeline, mine)
    whole.add(analysis.events, timeline, np.arange(len(timeline.posts)))
    found, expected = (t.finish(1, None).as_dict() for t in (tally, whole))
    assert json.dumps(found) == json.dumps(expected)  # and so is the order of keys
    assert found["posts"] == len(timeline.posts) > 0


def test_the_order_of_equally_many(analysis: Analysis) -> None:
    """Interrupts by first post, then threads by number, whatever comes first."""
    posts, n = analysis.timeline.posts, 14
    rows = {
        "origin": np.full(n, Origin.TIMER, np.uint8),
        "evidence": np.full(n, Evidence.PENDING_TIMER, np.uint8),
        "host_irq": np.tile([-1, 31, -1, 30, -1, 31, 30], 2).astype(np.int32),
        "tid": np.tile([9, 9, 8, 9, 0, 9, 9], 2).astype(np.int32),
        "device": np.full(n, -1, np.int32),
    }
    columns = {
        name: rows.get(name, getattr(posts, name)[:n])
        for name in posts.__dataclass_fields__
        if name != "devices"
    }
    timeline = replace(analysis.timeline, posts=replace(posts, **columns))
    events = replace(analysis.events, info=replace(analysis.events.info, comms={}))
    tally = PostsTally()
    for at in np.array_split(np.arange(n), 5):
        tally.add(events, timeline, at)
    (line,) = tally.finish(1, None).origins
    assert list(line.posters.items()) == [
        ("IRQ 31", 4),
        ("IRQ 30", 4),
        ("in interrupts", 2),
        ("?[8]", 2),
        ("?[9]", 2),
    ]


def test_a_report_of_no_part() -> None:
    with pytest.raises(ValueError, match="no part"):
        PostsTally().finish(0, None)


def test_gone_through_again_it_is_counted_anew() -> None:
    with closing(open_trace(str(PLAIN))) as source:
        posts = find_trace_posts(source, slice_rows=1 << 14, whole_rows=0)
        first, second = posts.report_of_all(), posts.report_of_all()
    assert first == second
