"""A Dask cluster on this machine: the same results, even when a worker is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gate import jobs

from piscope.corpus import Corpus, Trace, find_traces
from piscope.errors import UsageError
from piscope.gate.measured import Failed, Options
from piscope.gate.run import run_corpus

distributed = pytest.importorskip("distributed")

OPTIONS = Options(("preempt-only", "suppress-on-put"))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster that is there already."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def test_a_killed_worker_changes_nothing(tmp_path: Path, scheduler: str) -> None:
    names = [f"{c}{i}" for i in range(4) for c in "abc"] + ["once"]
    corpus = Corpus(tuple(Trace(n, str(tmp_path / n)) for n in names))
    results = run_corpus(corpus, OPTIONS, dask=scheduler, job=jobs.dies_once)
    assert len(list((tmp_path / "once").iterdir())) == 2  # it was killed, and redone
    assert results == {n: jobs.measured(n[0], losses=(1, 2)) for n in names}


def test_a_trace_that_kills_each_worker_leaves_the_others(
    tmp_path: Path, scheduler: str
) -> None:
    names = ["a", "always", "b", "c"]
    corpus = Corpus(tuple(Trace(n, str(tmp_path / n)) for n in names))
    results = run_corpus(corpus, OPTIONS, dask=scheduler, job=jobs.dies_always)
    killer = results.pop("always")
    assert isinstance(killer, Failed)
    assert "every worker that tried it died" in killer.why
    assert len(results) == 3
    assert not any(isinstance(result, Failed) for result in results.values())


def test_the_cluster_finds_what_this_machine_finds(samples: Path) -> None:
    corpus = find_traces([f"{samples}/*6.17*-us.m_*.dat", f"{samples}/*-us.n_*.dat"])
    here = run_corpus(corpus, OPTIONS, workers=1)
    assert len(here) == 3
    assert run_corpus(corpus, OPTIONS, workers=2, dask="local") == here


def test_a_scheduler_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("piscope.gate.cluster._CONNECT_S", 1)
    corpus = Corpus((Trace("t", "/t"),))
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:9: no scheduler"):
        run_corpus(corpus, OPTIONS, dask="tcp://127.0.0.1:9")
