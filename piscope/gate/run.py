"""From a corpus to results, wherever they are computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from piscope.corpus import Corpus, Trace
from piscope.gate.measure import attempt
from piscope.gate.measured import Failed, Measured, Options
from piscope.gate.processes import (
    Job,
    in_processes,
    in_this_process,
    memory_share_bytes,
)

__all__ = ("Results", "run_corpus", "usable_cores")

Results = dict[str, Measured | Failed]


def usable_cores() -> int:
    """Cores that this process may run on, which a container may have fewer of."""
    return len(os.sched_getaffinity(0))


def run_corpus(
    corpus: Corpus,
    options: Options,
    *,
    cache: str | None = None,
    workers: int | None = None,
    memory_bytes: int | None = None,
    dask: str | None = None,
    watch: Callable[[Trace, Measured | Failed], None] = lambda _trace, _result: None,
    job: Job = attempt,
) -> Results:
    """Measure every trace; the result does not depend on where or in which order.

    cache         directory of earlier results; None: none are used, none are kept
    workers       processes; None: one a core
    memory_bytes  most that each of them may take; None: its share of this machine's
    dask          address of a Dask scheduler, or "local"; None: this machine's cores
    watch         is told each result as it comes

    Raises KeyboardInterrupt as it comes; what was finished is in the cache.
    """
    results: Results = {}
    for trace, result in _parts(
        corpus.traces, options, cache, workers, memory_bytes, dask, job
    ):
        results[trace.name] = result
        watch(trace, result)
    return results


def _parts(
    traces: Sequence[Trace],
    options: Options,
    cache: str | None,
    workers: int | None,
    memory_bytes: int | None,
    dask: str | None,
    job: Job,
) -> Iterator[tuple[Trace, Measured | Failed]]:
    # fsspec's memory:// exists in one process only.
    here = [t for t in traces if t.path.startswith("memory://")]
    there = [t for t in traces if not t.path.startswith("memory://")]
    yield from in_this_process(job, here, options, cache)
    if not there:
        return
    if dask is not None:
        from piscope.gate.cluster import on_cluster

        yield from on_cluster(job, there, options, cache, dask, workers)
        return
    count = min(workers or usable_cores(), len(there))
    if count == 1 and memory_bytes is None:
        yield from in_this_process(job, there, options, cache)
        return
    yield from in_processes(
        job,
        there,
        options,
        cache,
        workers=count,
        memory_bytes=memory_bytes or memory_share_bytes(count),
    )
