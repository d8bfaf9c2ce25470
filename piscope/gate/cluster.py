"""A corpus spread over the workers of a Dask cluster, or of one on this machine.

Each trace is one task, and a task's result hangs on nothing but its trace and the
options, so that a task whose worker died is done again elsewhere with the same result.

To be read beside Dask's "Resilience" page. Every worker must have this version of
piscope and reach the traces by the paths or URLs that the corpus has.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
        dask: Any = importlib.import_module("dask")
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise UsageError(
            "--dask needs the packages dask and distributed: pip install"
            " 'piscope[cluster]'"
        ) from None
    with ExitStack() as stack:
        # A result lies on its worker; of one that died meanwhile it is made again,
        # but only when connecting to it has been given up.
        seconds = {"distributed.comm.timeouts.connect": f"{_CONNECT_S}s"}
        stack.enter_context(dask.config.set(seconds))
        cluster: Any = address
        if address == "local":
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=":0"
                )
            )
        try:
            client = distributed.Client(cluster, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise UsageError(f"--dask {address}: no scheduler: {error}") from None
        stack.enter_context(client)
        completed = distributed.as_completed()
        yield from _run(client, completed, job, traces, options, cache)


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
    suspects: list[Trace] = []
    while running:
        future = next(completed)
        trace = running.pop(future.key)
        result = _result(future)
        if result is None:
            suspects.append(trace)
        else:
            yield trace, result
        future.release()
        submit()
    # Dask blames every task that a dead worker had, also those that only waited there.
    # Alone on the cluster, a trace can't die of another.
    for trace in suspects:
        future = client.submit(job, trace, options, cache, pure=False)
        result = _result(future)
        why = f"{trace.path}: every worker that tried it died (out of memory?)"
        yield trace, result if result is not None else Failed(why, retry=True)
        future.release()


def _result(future: Any) -> Measured | Failed | None:
    """Of a finished task; None where its workers died."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        result = future.result()
    except KilledWorker:
        return None
    except FutureCancelledError as error:
        raise PiscopeError(f"the cluster gave up: {error}") from None
    assert isinstance(result, (Measured, Failed))
    return result
