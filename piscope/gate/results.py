"""Every number of a corpus as a Parquet dataset: a file for each trace.

    DIRECTORY/part=3f/3f2a....parquet

The file is called by the digest of the trace's bytes, so that a run replaces what an
earlier one wrote of the same trace, and several may write at once. `part`, its first
two digits, keeps directories small. Whoever sums reads one column of one file at a
time, however large the corpus is:

    duckdb -c "select metric, policy, sum(min), sum(max)
               from 'DIRECTORY/*/*.parquet' group by all"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piscope import __version__
from piscope.errors import UsageError
from piscope.gate.measured import Failed, Measured
from piscope.output import replacing

__all__ = ("results_schema", "write_results")


def results_schema() -> Any:
    """Of every file: one row a number; ns and counts are int64, an open end is null.

    Numbers that are 0 have no row. `key` and `policy` are null where a metric has
    none.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("trace", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("kernel_release", pa.string()),
            pa.field("captured_policy", pa.string()),
            pa.field("duration_ns", pa.int64(), nullable=False),
            pa.field("metric", pa.string(), nullable=False),
            pa.field("key", pa.string()),
            pa.field("policy", pa.string()),
            pa.field("min", pa.int64(), nullable=False),
            pa.field("max", pa.int64()),
        ],
        metadata={"piscope": __version__},
    )


def write_results(directory: str | Path, results: Mapping[str, object]) -> int:
    """Write each measured trace's numbers, and give how many traces there were.

    Raises UsageError, naming the path, where a file can't be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = 0
    for name, result in sorted(results.items()):
        if isinstance(result, Failed) or not isinstance(result, Measured):
            continue
        path = Path(directory, f"part={result.sha256[:2]}", f"{result.sha256}.parquet")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't be made: {error.strerror}", path=path) from None
        table = pa.Table.from_pylist(_rows(name, result), schema=results_schema())
        with replacing(path) as file:
            pq.write_table(table, file)
        written += 1
    return written


def _rows(name: str, result: Measured) -> list[dict[str, Any]]:
    return [
        {
            "trace": name,
            "sha256": result.sha256,
            "kernel_release": result.kernel_release,
            "captured_policy": result.captured_policy,
            "duration_ns": result.duration_ns,
            "metric": value.metric,
            "key": value.key or None,
            "policy": value.policy or None,
            "min": int(number.min),
            "max": None if math.isinf(number.max) else int(number.max),
        }
        for value, number in sorted(result.values.items())
    ]
