"""Processes that die, that take too much, and a corpus that is finished nonetheless."""

from __future__ import annotations

from pathlib import Path

from gate import jobs

from piscope.corpus import Corpus, Trace
from piscope.gate.measured import Failed, Measured, Options
from piscope.gate.processes import Job
from piscope.gate.run import Results, run_corpus

OPTIONS = Options(("preempt-only",))


def _run(job: Job, tmp_path: Path, names: list[str], memory_bytes: int) -> Results:
    corpus = Corpus(tuple(Trace(n, str(tmp_path / n)) for n in names))
    return run_corpus(corpus, OPTIONS, workers=2, memory_bytes=memory_bytes, job=job)


def test_a_process_that_is_killed_costs_a_second_attempt(tmp_path: Path) -> None:
    names = ["a", "b", "once", "c", "d"]
    results = _run(jobs.dies_once, tmp_path, names, 4 << 30)
    assert all(isinstance(result, Measured) for result in results.values())
    assert sorted(results) == sorted(names)
    assert len(list((tmp_path / "once").iterdir())) == 2


def test_a_trace_that_kills_each_process_leaves_the_others(tmp_path: Path) -> None:
    results = _run(jobs.dies_always, tmp_path, ["a", "always", "b", "c"], 4 << 30)
    killer = results.pop("always")
    assert isinstance(killer, Failed)
    assert killer.why == f"{tmp_path / 'always'}: its process was killed twice" + (
        " (out of memory?)"
    )
    assert all(isinstance(result, Measured) for result in results.values())
    assert len(results) == 3


def test_memory_is_bounded(tmp_path: Path) -> None:
    (result,) = _run(jobs.takes_memory, tmp_path, ["t"], 1 << 30).values()
    assert result == Failed("out of memory")
