"""A corpus on this machine's cores: a process for each, that can't take the rest down.

    traces -> window of WORKERS -> processes -> results, as they come

Only as many traces are handed out as there are processes, so that when one dies (the
kernel kills for want of memory) those that it may have died of are few; each of them
gets one more chance, alone.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from piscope.corpus import Trace
from piscope.gate.measured import Failed, Measured, Options

__all__ = ("Job", "in_processes", "in_this_process", "memory_share_bytes")

Job = Callable[[Trace, Options, str | None], Measured | Failed]

_LEAST_BYTES = 1 << 30  # below this, imports alone might fail


def in_this_process(
    job: Job, traces: Sequence[Trace], options: Options, cache: str | None
) -> Iterator[tuple[Trace, Measured | Failed]]:
    """One after the other."""
    for trace in traces:
        yield trace, job(trace, options, cache)


def in_processes(
    job: Job,
    traces: Sequence[Trace],
    options: Options,
    cache: str | None,
    *,
    workers: int,
    memory_bytes: int,
) -> Iterator[tuple[Trace, Measured | Failed]]:
    """Each trace with its result, as they are done.

    Raises whatever ends the caller's loop, KeyboardInterrupt among them; the processes
    are gone by then, and what was yielded stays.
    """
    suspects: list[Trace] = []
    waiting = deque(traces)
    while waiting:
        yield from _until_broken(
            job, waiting, suspects, options, cache, workers, memory_bytes
        )
    for trace in suspects:
        alone, again = deque([trace]), list[Trace]()
        yield from _until_broken(job, alone, again, options, cache, 1, memory_bytes)
        if again:
            why = f"{trace.path}: its process was killed twice (out of memory?)"
            yield trace, Failed(why, retry=True)


def _until_broken(
    job: Job,
    waiting: deque[Trace],
    suspects: list[Trace],
    options: Options,
    cache: str | None,
    workers: int,
    memory_bytes: int,
) -> Iterator[tuple[Trace, Measured | Failed]]:
    """Empty `waiting`; those under way when a process dies go to `suspects`."""
    # Spawned: a fork of a process with threads (pyarrow has some) may hang.
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(memory_bytes,),
    )
    before = set(multiprocessing.active_children())
    running: dict[Future[Measured | Failed], Trace] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                trace = waiting.popleft()
                try:
                    running[pool.submit(job, trace, options, cache)] = trace
                except BrokenProcessPool:
                    waiting.appendleft(trace)
                    break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = not done
            for future in done:
                trace = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(trace)
                    broken = True
                    continue
                yield trace, result
            if broken:
                suspects.extend(running.values())
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if waiting or running:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()


def _begin(memory_bytes: int) -> None:
    # Ctrl-C is for the parent, which ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # RLIMIT_DATA counts what is written to, not the files that are mapped.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def memory_share_bytes(workers: int) -> int:
    """What each of some processes may take of this machine's memory, of 7/8 of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(total // 8 * 7 // workers, _LEAST_BYTES)
