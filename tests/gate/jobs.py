"""What workers do in tests; modules of their own, so that any process can import them.

A job's trace names what happens: its path is a directory that counts attempts.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from piscope.corpus import Trace
from piscope.gate.measured import Failed, Measured, Options
from piscope.gate.metrics import Range, Value


def measured(name: str = "t", **values: tuple[float, float]) -> Measured:
    return Measured(
        sha256=name * 64,
        size_bytes=1,
        kernel_release="6.17.0",
        captured_policy="suppress-on-put",
        duration_ns=2 * 10**9,
        entries=100,
        policies=("suppress-on-put",),
        values={Value(key): Range(*ends) for key, ends in values.items()},
    )


def _attempts(trace: Trace) -> int:
    """How often this was called for the trace, counting this call."""
    path = Path(trace.path)
    path.mkdir(exist_ok=True)
    (path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return len(list(path.iterdir()))


def plain(trace: Trace, options: Options, cache: str | None) -> Measured | Failed:
    _attempts(trace)
    return measured(trace.name[0], losses=(1, 2))


def dies_once(trace: Trace, options: Options, cache: str | None) -> Measured | Failed:
    """The worker of a trace called `once...` is killed, the first time."""
    if _attempts(trace) == 1 and trace.name.startswith("once"):
        os.kill(os.getpid(), signal.SIGKILL)
    return measured(trace.name[0], losses=(1, 2))


def dies_always(trace: Trace, options: Options, cache: str | None) -> Measured | Failed:
    _attempts(trace)
    if trace.name.startswith("always"):
        os.kill(os.getpid(), signal.SIGKILL)
    return measured(trace.name[0], losses=(1, 2))


def takes_memory(
    trace: Trace, options: Options, cache: str | None
) -> Measured | Failed:
    try:
        bytearray(8 << 30)
    except MemoryError:
        return Failed("out of memory")
    return measured()
