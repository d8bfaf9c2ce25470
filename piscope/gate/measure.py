"""One trace of a corpus, analyzed or looked up: what every worker does."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from piscope.corpus import Trace, is_url, local_file
from piscope.errors import PiscopeError
from piscope.gate.cache import Cache
from piscope.gate.earlier import is_report, read_summary
from piscope.gate.measured import Failed, Measured, Options
from piscope.gate.metrics import VERIFY, Range, Value, measure_summary
from piscope.report.render_words import printable
from piscope.report.summary import Summary

__all__ = ("Verify", "attempt", "measure", "sha256_of")

Verify = Callable[[str], Mapping[str, Range]]
"""By policy: transitions of the trace at a path that disagree with it."""

_PART_BYTES = 1 << 20


def attempt(
    trace: Trace,
    options: Options,
    cache_directory: str | None,
    verify: Verify | None = None,
) -> Measured | Failed:
    """Measure one trace; whatever it does wrong is a line that says so."""
    cache = Cache(cache_directory) if cache_directory is not None else None
    try:
        return measure(trace, options, cache, verify)
    except PiscopeError as error:
        error.path = trace.path  # not that of a temporary copy
        return Failed(printable(str(error)))
    except OSError as error:
        return Failed(printable(f"{trace.path}: {error.strerror or error}"), retry=True)
    except MemoryError:
        return Failed(printable(f"{trace.path}: out of memory"), retry=True)
    except Exception as error:  # one trace must not end the run of all others
        if os.environ.get("PISCOPE_DEBUG") == "1":
            raise
        return Failed(
            printable(
                f"{trace.path}: unexpected {type(error).__name__}: {error};"
                " this is a defect of piscope: please report it"
            )
        )


def measure(
    trace: Trace, options: Options, cache: Cache | None, verify: Verify | None = None
) -> Measured:
    """The numbers of one trace, from the cache if an earlier run left them there.

    `verify` is called where the options ask for it; without it, nothing is known of
    any disagreement.

    Raises PiscopeError and OSError, as the analysis does.
    """
    with local_file(trace.path) as path:
        digest, size_bytes = sha256_of(path)
        if cache is not None:
            known = cache.find(digest, options)
            if known is not None:
                return known
        if is_report(trace.path):
            measured = _reported(path, options, digest, size_bytes)
            verify = None  # the trace itself isn't there
        else:
            measured = _analyzed(path, options, digest, size_bytes)
        if options.verify:
            measured = _verified(path, measured, verify)
    if cache is not None:
        cache.keep(measured, options)
    return measured


def _verified(path: str, measured: Measured, verify: Verify | None) -> Measured:
    try:
        known = verify(path) if verify is not None else {}
    except PiscopeError:
        known = {}  # the trace was analyzed: that nothing can be verified is a number
    values = dict(measured.values)
    for policy in measured.policies:
        number = known.get(policy, Range(0, math.inf))
        if number.max:
            values[Value(VERIFY, "", policy)] = number
    return replace(measured, values=values)


def sha256_of(path: str) -> tuple[str, int]:
    """The digest of a file's bytes, in hexadecimal, and how many they are."""
    if not is_url(path) and not Path(path).is_file() and Path(path).exists():
        raise PiscopeError("no regular file: a corpus is read more than once")
    digest, size_bytes = hashlib.sha256(), 0
    with Path(path).open("rb", buffering=0) as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            size_bytes += len(part)
    return digest.hexdigest(), size_bytes


def _analyzed(path: str, options: Options, digest: str, size_bytes: int) -> Measured:
    # Here, so that a run that finds everything in the cache loads no numpy.
    from piscope import sliced_pipeline
    from piscope.model.policy import POLICIES
    from piscope.report.tally import Tallies
    from piscope.sources.detect import open_trace

    def policies(captured: str | None) -> tuple[str, ...]:
        needed = tuple(POLICIES) if captured is None else (captured,)
        return tuple(dict.fromkeys((*options.policies, *needed)))

    tallies = Tallies()
    source = open_trace(path)
    try:
        for part in sliced_pipeline.parts_of(
            source,
            policies=policies,
            posted=options.posted,
            ignore=options.ignore,
            slice_rows=sliced_pipeline.SLICE_ROWS,
            whole_rows=sliced_pipeline.WHOLE_ROWS,
            keep_events=False,
        ):
            tallies.add(part)
            del part
    finally:
        source.close()
    return _measured(tallies.finish(), digest, size_bytes)


def _reported(path: str, options: Options, digest: str, size_bytes: int) -> Measured:
    return _measured(read_summary(path, options), digest, size_bytes)


def _measured(summary: Summary, digest: str, size_bytes: int) -> Measured:
    values = measure_summary(summary)
    entries = values.get(Value("entries"))
    return Measured(
        sha256=digest,
        size_bytes=size_bytes,
        kernel_release=summary.trace.kernel_release,
        captured_policy=summary.trace.captured_policy,
        duration_ns=summary.trace.duration_ns,
        entries=int(entries.min) if entries is not None else 0,
        policies=tuple(summary.policies),
        values=values,
    )
