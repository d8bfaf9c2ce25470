"""The picture: a character for each column, the worst mark of each, a line for each."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.report.cpu_lanes import CpuLanes
from piscope.report.marks import Mark, Marks
from piscope.report.render_layout import as_text
from piscope.report.render_timeline import (
    Page,
    Shown,
    label_cells,
    opening,
    page_section,
)
from piscope.report.render_timeline_cells import (
    KIND_CELLS,
    MARK_CELLS,
    TAGS,
    axis,
    instant_text,
    offset_text,
)
from piscope.report.strips import Strips, column_edges
from piscope.tables import Kind, Vcpu

COLUMNS = 12
WIDTH = 80


def vcpu(number: int, vm: int | None = 0, label: str | None = None) -> Vcpu:
    label = label or f"vm{vm}/vcpu{number}"
    return Vcpu(number, 100 + number, 99, vm, number, "CPU", "kvm_entry", label)


def shown(*vcpus: Vcpu, **changes: object) -> Shown:
    values: dict[str, object] = {
        "path": "x.dat",
        "version": "0",
        "vcpus": vcpus,
        "policy": "preempt-only",
        "other": "suppress-on-put",
        "kinds": frozenset(Kind),
        "marks": frozenset(MARK_CELLS),
        "undated": 0,
        "start_ns": 0,
        "end_ns": 12_000,
        "span_ns": (0, 12_000),
        "window_ns": None,
        "with_cpus": False,
        "lost": (),
        **changes,
    }
    return Shown(**values)  # type: ignore[arg-type]


def page(kinds: list[list[Kind | None]], lanes: CpuLanes | None = None) -> Page:
    """A page whose columns hold 1 us of one kind each."""
    time_ns = np.zeros((len(kinds), COLUMNS, len(Kind)), np.int64)
    for line, row in enumerate(kinds):
        for column, kind in enumerate(row):
            if kind is not None:
                time_ns[line, column, kind] = 1000
    count = np.zeros((len(kinds), COLUMNS, len(Mark)), np.int64)
    return Page(
        Strips(
            np.arange(len(kinds), dtype=np.int32),
            column_edges(0, COLUMNS * 1000, COLUMNS),
            time_ns,
            np.zeros(time_ns.shape[:2], np.int64),
        ),
        Marks(count, count.copy(), count[:, :, 0].copy()),
        lanes,
        np.zeros(COLUMNS, np.int64),
    )


def picture(about: Shown, drawn: Page, color: bool = False) -> list[str]:
    width = label_cells((v.label for v in about.vcpus), with_tags=about.with_cpus)
    section = page_section(about, drawn, width + COLUMNS)
    text = as_text([section], columns=WIDTH, color=color)
    return text.partition("\n\n")[0].splitlines()


def test_each_state_has_its_character() -> None:
    kinds = [Kind.GUEST] * 3 + [Kind.HOST, Kind.HOST_IRQS_OFF, Kind.POLL]
    kinds += [Kind.USERSPACE, Kind.PREEMPTED, Kind.BLOCKED, Kind.ASLEEP, Kind.UNKNOWN]
    assert picture(shown(vcpu(0)), page([[*kinds, None]])) == [
        "              |0        |",
        "vm0, process 99",
        "  vm0/vcpu0   ###=-~up.z?",
    ]


def test_characters_are_told_apart_without_color() -> None:
    states = [cell.char for cell in KIND_CELLS.values()]
    marks = [cell.char for cell in MARK_CELLS.values()]
    chars = states + marks + [char.lower() for char in marks]
    assert len(set(chars)) == len(chars)
    assert set(KIND_CELLS) == set(Kind)
    assert set(MARK_CELLS) | {Mark.REMOVED} == set(Mark)
    assert len(set(TAGS)) == len(TAGS)
    assert all(ord(char) < 128 for char in chars)


def test_the_worst_mark_of_a_column_and_what_is_proven() -> None:
    drawn = page([[Kind.GUEST] * COLUMNS])
    possible, certain = drawn.marks.possible, drawn.marks.certain
    possible[0, 1, Mark.WAKEUP] = certain[0, 1, Mark.WAKEUP] = 1
    possible[0, 1, Mark.RESIDUAL] = 2
    possible[0, 4, [Mark.WRONG_VCPU, Mark.UNLOADED_HOST]] = 1
    certain[0, 4, Mark.WRONG_VCPU] = 1
    possible[0, 5, Mark.REMOVED] = certain[0, 5, Mark.REMOVED] = 1
    assert picture(shown(vcpu(0)), drawn)[2:] == [
        "  vm0/vcpu0   ############",
        "    notified   r  X",
    ]


def test_what_is_not_sure_is_marked_where_it_is_half() -> None:
    drawn = page([[Kind.GUEST] * 6 + [Kind.UNKNOWN] * 6])
    drawn.strips.uncertain_ns[0, 1:4] = (499, 500, 1000)
    assert picture(shown(vcpu(0)), drawn)[2:] == [
        "  vm0/vcpu0   ######??????",
        "    not sure    ??",
    ]


def test_vcpus_stand_under_their_vm_and_names_are_harmless() -> None:
    two = vcpu(1, vm=1, label="vcpu1[\x1b[31m7]")
    lines = picture(shown(vcpu(0), two), page([[Kind.GUEST] * COLUMNS] * 2))
    assert lines[1].startswith("vm0")
    assert lines[3].startswith("vm1")
    assert "\x1b" not in "".join(lines)
    assert lines[4].endswith("############")
    long = vcpu(0, label="v" * 60)
    lines = picture(shown(long), page([[Kind.GUEST] * COLUMNS]))
    assert lines[2] == "  " + "v" * 21 + "...  ############"


def test_pcpus_name_the_vcpu_that_ran_longest() -> None:
    columns = np.zeros((1, COLUMNS), np.int64)
    lanes = CpuLanes(
        np.array([3], np.int32),
        np.zeros((1, COLUMNS), np.int32),
        *(columns.copy() for _ in range(4)),
    )
    lanes.vcpu_ns[0, :4] = lanes.idle_ns[0, 4:6] = 1000
    lanes.other_ns[0, 6:8] = lanes.open_ns[0, 8:] = 1000
    lanes.vcpu[0, 2] = 1
    lanes.vcpu[0, 3] = 7  # not one of those shown
    about = shown(vcpu(0), vcpu(1), with_cpus=True)
    lines = picture(about, page([[Kind.GUEST] * COLUMNS] * 2, lanes))
    assert lines[2] == "  vm0/vcpu0  0  ############"
    assert lines[-2:] == ["pCPUs", "  cpu3          001+..++????"]


def test_color_only_repeats_what_the_characters_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = page([[Kind.GUEST] * COLUMNS])
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    (*_, line) = picture(shown(vcpu(0)), drawn, color=True)
    assert "\x1b[30;42m############\x1b[0m" in line
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(picture(shown(vcpu(0)), drawn, color=True)[1:])


def test_the_opening_says_what_is_shown() -> None:
    about = shown(
        vcpu(0),
        start_ns=2_000_000_000,
        end_ns=2_000_012_000,
        span_ns=(0, 3_000_000_000),
        window_ns=1000,
        with_cpus=True,
        lost=("overwritten: 4", "missed-events: 2"),
        undated=3,
    )
    text = as_text([opening(about, WIDTH)], columns=WIDTH, color=False)
    assert max(map(len, text.splitlines())) <= WIDTH
    words = " ".join(text.split())
    for part in (
        "12.0 us of 3.000 s, from 2.000000000 to 2.000012000, 1.0 us a page",
        "notifications under preempt-only",
        "lost overwritten: 4 missed-events: 2",
        "X wrong vCPU",
        "3 of them left no event",
        "0 the vCPU with that tag",
    ):
        assert part in words
    none = shown(vcpu(0), marks=frozenset())
    text = as_text([opening(none, WIDTH)], columns=WIDTH, color=False)
    assert "none is known" in text


@pytest.mark.parametrize(
    ("span_ns", "columns", "expected"),
    [
        (1_000_000_000, 40, "|0      |+250ms|+500ms|+750ms"),
        (12_000, 12, "|0"),
        (50, 20, "|0      |+20ns  |+4"),
    ],
)
def test_axis(span_ns: int, columns: int, expected: str) -> None:
    line = axis(column_edges(5, 5 + span_ns, columns))
    assert len(line) == columns
    steps = [at for at, char in enumerate(line) if char == "|"]
    assert steps[0] == 0
    assert line.startswith("|0")


_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


@given(st.integers(1, 10**16), st.integers(1, 300))
def test_ticks_stand_where_their_time_begins(span_ns: int, columns: int) -> None:
    edges = column_edges(0, span_ns, columns)
    line = axis(edges)
    assert len(line) == columns
    for text in line.split("|")[2:]:
        label = text.strip()
        if label:
            number, unit = re.fullmatch(r"\+(\d+)(ns|us|ms|s)", label).groups()
            at_ns = int(number) * _UNITS[unit]
            column = int(np.searchsorted(edges, at_ns, side="left"))
            assert line[column:].startswith(f"|{label}")


def test_instants_and_offsets() -> None:
    assert instant_text(307_480_084_281) == "307.480084281"
    assert instant_text(-1) == "-0.000000001"
    assert offset_text(1_500_000_000, 500_000_000) == "1500ms"
    assert offset_text(1_500, 1_000) == "1.5us"
    assert offset_text(7, 1) == "7ns"
