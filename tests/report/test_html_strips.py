"""The timelines as a page carries them: exact where they fit, bounded where not."""

from __future__ import annotations

import zlib
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report.summaries import vcpu

from piscope.report.html_strips import BUDGET_BYTES, Packed, TimelineTally
from piscope.report.marks import Mark, marks
from piscope.report.own_part import WholePart
from piscope.report.strips import strips
from piscope.tables import Intervals, Kind, PutReason, Vcpu, Windows

SPAN_NS = 7_000_000_000


def intervals(vcpus: int, each: int, rng: np.random.Generator) -> Intervals:
    """So many intervals of each vCPU, which tile the span."""
    n = vcpus * each
    ends = np.sort(rng.integers(1, SPAN_NS, (vcpus, each)), axis=1)
    ends[:, -1] = SPAN_NS
    starts = np.concatenate([np.zeros((vcpus, 1), np.int64), ends[:, :-1]], axis=1)
    return Intervals(
        vcpu=np.repeat(np.arange(vcpus, dtype=np.int32), each),
        kind=rng.integers(0, len(Kind), n).astype(np.uint8),
        start_ns=starts.reshape(-1) + 5,
        end_ns=ends.reshape(-1) + 5,
        cpu=rng.integers(-1, 300, n).astype(np.int32),
        reason=rng.integers(-1, 77, n).astype(np.int32),
        certain=rng.random(n) < 0.9,
        row=np.arange(n),
    )


def analysis(vcpus: int, each: int, posts: int = 0) -> Any:
    """What a TimelineTally reads of one, with posts that hit anything."""
    rng = np.random.default_rng(vcpus * each)
    rows = [
        Vcpu(i, 100 + i, None, 0, i, None, "kvm_entry", f"vm0/vcpu{i}")
        for i in range(vcpus)
    ]

    class Vcpus(list):  # type: ignore[type-arg]
        rows = property(list)

    hit = rng.integers(0, 12, posts)

    def findings(removed: bool) -> Any:
        bits = np.where(removed & (hit < 4), 1 << 6, 1 << hit)

        def mask(hits: tuple[int, ...]) -> int:
            return sum(1 << h for h in hits)

        return SimpleNamespace(
            stimulus=np.arange(posts),
            cpu=np.zeros(posts, np.int32),
            surely=lambda *hits: bits & ~mask(hits) == 0,
            maybe=lambda *hits: bits & mask(hits) > 0,
        )

    return SimpleNamespace(
        events=(),
        timeline=SimpleNamespace(
            vcpus=Vcpus(rows),
            intervals=intervals(vcpus, each, rng),
            windows=Windows(*(np.empty(0, np.int64) for _ in fields(Windows))),
            posts=None,
            span_ns=(5, SPAN_NS + 5),
        ),
        stimuli=SimpleNamespace(
            vcpu=rng.integers(0, vcpus, posts).astype(np.int32),
            ts_ns=np.sort(rng.integers(5, SPAN_NS, posts)),
            row=np.arange(posts),
            post=rng.integers(-1, 2, posts),
        ),
        results={
            "before": SimpleNamespace(findings=findings(False)),
            "after": SimpleNamespace(findings=findings(True)),
        },
    )


def summary(vcpus: int) -> Any:
    return SimpleNamespace(vcpus=[vcpu(f"vm0/vcpu{i}", 100 + i) for i in range(vcpus)])


def pack(of: Any, summary: Any, budget_bytes: int = BUDGET_BYTES) -> Packed | None:
    tally = TimelineTally()
    tally.add(WholePart(of))
    return tally.pack(summary, budget_bytes=budget_bytes)


def unpacked(packed: Packed, block: str, place: dict[str, int]) -> Any:
    """The numbers at a place, read as the page reads them."""
    planes = np.frombuffer(zlib.decompress(packed.blocks[block]), np.uint8)
    size = place["count"] * place["width"]
    mine = planes[place["at"] : place["at"] + size].reshape(place["width"], -1)
    return sum(plane.astype(np.int64) << (8 * i) for i, plane in enumerate(mine))


def test_few_intervals_are_kept_as_they_are() -> None:
    of = analysis(3, 500)
    packed = pack(of, summary(3))
    assert packed is not None
    assert packed.about["lives"]["mode"] == "intervals"
    assert packed.about["vcpus"] == ["vm0/vcpu0", "vm0/vcpu1", "vm0/vcpu2"]
    i = of.timeline.intervals
    for n, line in enumerate(packed.about["lives"]["vcpus"]):
        own = slice(500 * n, 500 * (n + 1))

        def values(name: str, line: Any = line) -> Any:
            return unpacked(packed, "lives", line[name])

        assert line["first_ns"] == 0
        np.testing.assert_array_equal(values("length_ns"), (i.end_ns - i.start_ns)[own])
        np.testing.assert_array_equal(values("kind") & 0x7F, i.kind[own])
        np.testing.assert_array_equal(values("kind") < 0x80, i.certain[own])
        np.testing.assert_array_equal(values("cpu") - 1, i.cpu[own])
        np.testing.assert_array_equal(values("reason") - 1, i.reason[own])


@pytest.mark.parametrize(("vcpus", "each"), [(4, 125_000), (200, 2_500)])
def test_many_are_kept_within_the_budget(vcpus: int, each: int) -> None:
    of = analysis(vcpus, each, posts=300_000)
    budget = 900_000
    packed = pack(of, summary(vcpus), budget_bytes=budget)
    assert packed is not None
    assert sum(map(len, packed.blocks.values())) <= budget
    lives = packed.about["lives"]
    assert lives["mode"] == "columns" and lives["columns"] >= 128
    columns = lives["columns"]
    expected = strips(of.timeline, 5, SPAN_NS + 5, columns)
    width_ns = SPAN_NS / columns
    for n in (0, vcpus - 1):
        shares = unpacked(packed, "lives", lives["vcpus"][n]["shares"])
        shares = shares.reshape(len(Kind), columns) / 255
        exact = expected.time_ns[n].T / width_ns
        assert np.abs(shares - exact).max() <= 1 / 255
        assert ((shares > 0) == (exact > 0)).all(), "some time is never none"


def test_twice_the_room_shows_more() -> None:
    of = analysis(4, 125_000)
    small, large = (
        pack(of, summary(4), budget_bytes=size) for size in (150_000, 900_000)
    )
    assert small is not None and large is not None
    assert small.about["lives"]["columns"] < large.about["lives"]["columns"]


@pytest.mark.parametrize("budget", [3_000_000, 30_000])
def test_every_notification_is_in_its_column(budget: int) -> None:
    of = analysis(3, 100, posts=20_000)
    packed = pack(of, summary(3), budget_bytes=budget)
    assert packed is not None
    about = packed.about["notifications"]
    assert [m["name"] for m in about["marks"]] == [m.label for m in Mark]
    assert (about["columns"] is None) == (budget > 10**6)
    whole = strips(of.timeline, 5, SPAN_NS + 5, 1)
    for policy, other in (("before", "after"), ("after", "before")):
        (lines,) = [p["vcpus"] for p in about["policies"] if p["name"] == policy]
        expected = marks(of, whole, policy, other=other)
        for n, line in enumerate(lines):
            rows = line["at_ns"]["count"]
            for name in ("certain", "possible"):
                told = unpacked(packed, "notifications", line[name])
                counts = told.reshape(len(Mark), rows).sum(axis=1)
                assert counts.tolist() == getattr(expected, name)[n, 0].tolist()
            undated = unpacked(packed, "notifications", line["undated"])
            assert undated.sum() <= expected.undated[n, 0]
            at = unpacked(packed, "notifications", line["at_ns"])
            assert (np.diff(at) > 0).all() and at.max() < SPAN_NS
        removed = expected.certain[:, 0, Mark.REMOVED].sum()
        assert (removed > 0) == (policy == "before")


def test_the_busiest_vcpus_of_very_many() -> None:
    of = analysis(300, 3)
    some = summary(300)
    some.vcpus[7].entries = 0
    some.vcpus[7].puts = {PutReason.USERSPACE.label: 1}
    packed = pack(of, some)
    assert packed is not None
    assert len(packed.about["vcpus"]) == 256
    assert packed.about["left_out"] == 44
    assert "vm0/vcpu7" not in packed.about["vcpus"]


def test_no_vcpu_no_picture() -> None:
    assert pack(analysis(2, 3), summary(0)) is None
