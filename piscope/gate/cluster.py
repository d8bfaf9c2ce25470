"""A corpus spread over the workers of a Dask cluster, or of one on this machine.

Each trace is one task, and a task's result hangs on nothing but its trace and the
options, so that a task whose worker died is done again elsewhere with the same result.

To be read beside Dask's "Resilience" page. Every worker must have this version of
piscope and reach the traces by the paths or URLs that the corpus has.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from piscope.corpus import Trace
from piscope.errors import PiscopeError, UsageError
from piscope.gate.measured import Failed, Measured, Options
from piscope.gate.processes import Job

__all__ = ("on_cluster",)

_ATTEMPTS = 3  # of a task whose worker died, after the first
_CONNECT_S = 10
_WINDOW = 4096  # tasks that the scheduler knows at once


def on_cluster(
    job: Job,
    traces: Sequence[Trace],
    options: Options,
    cache: str | None,
    address: str,
    workers: int | None,
) -> Iterator[tuple[Trace, Measured | Failed]]:
    """Each trace with its result, as they are done.

    `address` is that of a scheduler, or "local" for a cluster of this machine's cores
    that ends with the run.

    Raises UsageError without the packages, and when no scheduler answers.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise UsageError(
            "--dask needs the packages dask and distributed: pip install"
            " 'piscope[cluster]'"
        ) from None
    local = None
    try:
        if address == "local":
            local = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
        try:
            client = distributed.Client(local or address, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise UsageError(f"--dask {address}: no scheduler: {error}") from None
        try:
            completed = distributed.as_completed()
            yield from _run(client, completed, job, traces, options, cache)
        finally:
            client.close()
    finally:
        if local is not None:
            local.close()


def _run(
    client: Any,
    completed: Any,
    job: Job,
    traces: Sequence[Trace],
    options: Options,
    cache: str | None,
) -> Iterator[tuple[Trace, Measured | Failed]]:
    waiting = iter(traces)
    running: dict[Any, Trace] = {}

    def submit() -> None:
        for trace in waiting:
            future = client.submit(
                job, trace, options, cache, pure=False, retries=_ATTEMPTS
            )
            running[future.key] = trace
            completed.add(future)
            return

    for _ in range(min(_WINDOW, len(traces))):
        submit()
    while running:
        future = next(completed)
        trace = running.pop(future.key)
        yield trace, _result(future, trace)
        future.release()
        submit()


def _result(future: Any, trace: Trace) -> Measured | Failed:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        result = future.result()
    except KilledWorker:
        why = f"{trace.path}: every worker that tried it died (out of memory?)"
        return Failed(why, retry=True)
    except FutureCancelledError as error:
        raise PiscopeError(f"the cluster gave up: {error}") from None
    assert isinstance(result, (Measured, Failed))
    return result
