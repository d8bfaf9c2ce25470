"""The tables of a trace's parts, joined, are those of the whole trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES
from split_analysis import even_cuts, split

import piscope
from piscope import arrow_tables, report_directory
from piscope.arrow_tables import arrow_table
from piscope.part_tables import PartTables
from piscope.pipeline import Analysis, Part
from piscope.report.summary import Summary
from piscope.report_directory import write_dataset, write_report
from piscope.schema import TABLES

TRACES = (
    "proof/vmx-6.17.13-ipiv-sn.h_sn_ipi.trace.dat",
    "proof/vmx-6.12.117-ipiv-us.l_wrong_vcpu.trace.dat",
    "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
    "vmx-6.12.117-noipiv-us.k_userspace_ipi.trace.dat",
)
IDS = {"WINDOWS": "window", "POSTS": "post", "STIMULI": "stimulus"}
UNIQUE = {**IDS, "EVENTS": "row", "VCPUS": "vcpu"}


@cache
def result_of(trace: str) -> piscope.Result:
    return piscope.analyze(SAMPLES / trace)


@cache
def whole_of(trace: str) -> dict[str, list[dict[str, Any]]]:
    analysis = result_of(trace).analysis
    return {name: arrow_table(analysis, name).to_pylist() for name in TABLES}


@pytest.fixture(params=TRACES)
def trace(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def joined(parts: Iterator[Part] | list[Part]) -> dict[str, pa.Table]:
    """The tables of all parts; each piece is as declared (schema.check)."""
    found: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    tables = PartTables()
    for part in parts:
        for name, table in tables.tables_of(part):
            found[name].append(table)
    return {name: pa.concat_tables(tables) for name, tables in found.items()}


def narrowed(parts: Iterator[Part], context: int) -> Iterator[Part]:
    """Parts whose EVENTS and rows are numbered anew, as those of a real part.

    They have only `context` events before and behind their own. Tables other than
    EVENTS keep the rows that lie in those.
    """
    for part in parts:
        analysis, own = part.analysis, part.own
        n = len(analysis.events)
        begin, end = max(own.begin - context, 0), min(own.end + context, n)
        yield _cut(part, begin, end)


def _cut(part: Part, begin: int, end: int) -> Part:
    analysis, timeline = part.analysis, part.analysis.timeline
    events, own = analysis.events, part.own
    n = len(events)

    def moved(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where(row < 0, row, np.minimum(row, end) - begin)

    def taken(rows: Any, keep: Any, *names: str, **others: Any) -> Any:
        columns = {
            name: value[keep]
            for name in rows.__dataclass_fields__
            if isinstance(value := getattr(rows, name), np.ndarray) and name != "starts"
        }
        return replace(
            rows, **{**columns, **{k: moved(columns[k]) for k in names}, **others}
        )

    def renumbered(keep: Any, index: Any) -> Any:
        numbers = np.where(keep, np.cumsum(keep) - 1, -1)
        return np.append(numbers, -1)[index]

    windows, posts, stimuli = timeline.windows, timeline.posts, analysis.stimuli
    keep_stimuli = own.stimuli(stimuli, posts, windows)
    keep_windows = (windows.end_row >= begin) & (windows.put_row < end)
    far = stimuli.window[keep_stimuli]
    keep_windows[far[far >= 0]] = True
    for result in analysis.results.values():
        far = result.findings.window[keep_stimuli[result.findings.stimulus]]
        keep_windows[far[far >= 0]] = True
    # a window's put may lie far before a part: such a part reaches back that far
    least = [begin]
    least += windows.put_row[keep_windows].tolist()
    least += stimuli.row[keep_stimuli].tolist()
    keep_posts = own.posts(posts)
    least += [int(r) for r in posts.cause[keep_posts] if r >= 0]
    begin = min(least)
    end = max([end, *(posts.row[keep_posts] + 1).tolist()])
    keep_intervals = own.intervals(timeline.intervals)
    results = {
        name: replace(
            r,
            findings=taken(
                r.findings,
                keep := keep_stimuli[r.findings.stimulus],
                stimulus=renumbered(keep_stimuli, r.findings.stimulus[keep]),
                window=renumbered(keep_windows, r.findings.window[keep]),
            ),
        )
        for name, r in analysis.results.items()
    }
    payload = {}
    for event, old in events.payload.items():
        keep = (old.rows >= begin) & (old.rows < end)
        payload[event] = replace(
            old,
            rows=old.rows[keep] - begin,
            columns={k: v[keep] for k, v in old.columns.items()},
            valid={k: v[keep] for k, v in old.valid.items()},
        )
    here = np.zeros(n, np.bool_)
    here[begin:end] = True
    vcpus = np.arange(len(stimuli.starts))
    return Part(
        replace(
            analysis,
            events=replace(taken(events, here), payload=payload),
            timeline=replace(
                timeline,
                intervals=taken(timeline.intervals, keep_intervals, "row"),
                windows=taken(windows, keep_windows, "put_row", "load_row", "end_row"),
                posts=taken(posts, keep_posts, "at", "row", "cause"),
            ),
            stimuli=taken(
                stimuli,
                keep_stimuli,
                "row",
                window=renumbered(keep_windows, stimuli.window[keep_stimuli]),
                post=renumbered(keep_posts, stimuli.post[keep_stimuli]),
                starts=np.searchsorted(stimuli.vcpu[keep_stimuli], vcpus),
            ),
            results=results,
        ),
        replace(own, begin=own.begin - begin, end=own.end - begin),
        np.arange(begin, end),
    )


def resolved(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """Rows as text, sorted, with what they refer to in the place of its number.

    A KeyError is a reference to nothing.
    """
    rows = {name: [dict(row) for row in table] for name, table in tables.items()}
    by_id: dict[str, dict[Any, Any]] = {
        name: {row[number]: row for row in rows[name]} for name, number in IDS.items()
    }

    def put(name: str, column: str, table: str) -> None:
        for row in rows[name]:
            if row[column] is not None:
                met = dict(by_id[table][row[column]])
                met.pop(IDS[table], None)
                row[column] = met

    put("STIMULI", "window", "WINDOWS")
    put("STIMULI", "post", "POSTS")
    put("FINDINGS", "window", "WINDOWS")
    put("FINDINGS", "stimulus", "STIMULI")
    for name, number in IDS.items():
        for row in rows[name]:
            row.pop(number)
    return {name: sorted(map(str, table)) for name, table in rows.items()}


def test_a_whole_is_one_part(trace: str) -> None:
    analysis = result_of(trace).analysis
    found = joined([Part.of_whole(analysis)])
    for name in TABLES:
        expected = arrow_table(analysis, name)
        assert found[name].equals(expected), name
        assert found[name].schema.equals(expected.schema, check_metadata=True)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_parts_joined_are_the_whole(trace: str, count: int, narrow: bool) -> None:
    analysis = result_of(trace).analysis
    parts = split(analysis, even_cuts(analysis, count))
    found = joined(narrowed(parts, 50) if narrow else parts)
    for name, number in UNIQUE.items():
        ids = found[name].column(number).to_pylist()
        assert sorted(ids) == list(range(len(ids))), name
    whole = whole_of(trace)
    tables = {name: table.to_pylist() for name, table in found.items()}
    for name in ("EVENTS", "LOSSES", "VCPUS"):
        assert tables[name] == whole[name]
    expected = resolved(whole)
    for name, rows in resolved(tables).items():
        assert rows == expected[name], name


def test_many_parts_of_few_events() -> None:
    trace = TRACES[1]
    analysis = result_of(trace).analysis
    found = joined(narrowed(split(analysis, even_cuts(analysis, 60)), 3))
    tables = {name: table.to_pylist() for name, table in found.items()}
    assert resolved(tables) == resolved(whole_of(trace))


def test_numbers_are_let_go_of() -> None:
    analysis = result_of(TRACES[1]).analysis
    tables = PartTables()
    held = []
    for part in narrowed(split(analysis, even_cuts(analysis, 60)), 3):
        for _ in tables.tables_of(part, ()):
            pass
        held.append(len(tables._windows._keys))
    assert max(held) < len(analysis.timeline.windows) / 5


def written(
    analysis: Analysis, summary: Summary, count: int
) -> tuple[Iterator[Part], Any]:
    """Parts, and the summary's maker, which may be called behind the last only."""
    taken = []

    def parts() -> Iterator[Part]:
        for part in split(analysis, even_cuts(analysis, count)):
            yield part
            taken.append(part.own)

    def told() -> Summary:
        assert len(taken) == count
        return summary

    return parts(), told


def test_a_report_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_tables, "EVENTS_AT_ONCE", 1000)
    monkeypatch.setattr(report_directory, "_ROWS_IN_A_GROUP", 1000)
    trace = TRACES[2]
    result = result_of(trace)
    write_report(*written(result.analysis, result.summary, 5), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [t["name"] for t in manifest["tables"]] == list(TABLES)
    read = {}
    for table in manifest["tables"]:
        path = tmp_path / "out" / table["file"]
        read[table["name"]] = pq.read_table(path).to_pylist()
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        assert metadata.num_rows == table["rows"] == len(whole_of(trace)[table["name"]])
        assert max((g.num_rows for g in groups), default=0) <= 1000
        assert len(groups) <= max(1, 2 * table["rows"] / 1000), "few small groups"
    assert resolved(read) == resolved(whole_of(trace))
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told == result.as_dict()


def test_a_dataset_of_parts_and_wholes(tmp_path: Path) -> None:
    first, second = result_of(TRACES[2]), result_of(TRACES[5])
    traces: list[Any] = [
        written(first.analysis, first.summary, 2),
        (second.analysis, second.summary),
    ]
    write_dataset(iter(traces), tmp_path / "out", events=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    names = [Path(trace).name for trace in (TRACES[2], TRACES[5])]
    assert [trace["name"] for trace in manifest["traces"]] == names
    folders = {table["name"] for table in manifest["tables"]}
    assert folders == set(TABLES) - {"EVENTS"}
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == folders | {"manifest.json", "summary"}
    for told in manifest["traces"]:
        for name, rows in told["rows"].items():
            inside = tmp_path / "out" / name / f"trace={told['name']}"
            assert pq.read_metadata(inside / f"{name}.parquet").num_rows == rows
