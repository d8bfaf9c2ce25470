"""VM-exits as long rows, one number each: for CSV, Parquet and whoever pivots them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from piscope.report.exit_report import ExitGroup, ExitReport

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("exit_rows_schema", "exit_rows_table")

_COLUMNS = (
    ("section", "string", "exits, left-out, budget or outlier"),
    ("scope", "string", "all, vm, vcpu: what the number is about"),
    ("label", "string", "name of the scope: all, vm0, vm0/vcpu1"),
    ("vm", "int32", "number of the VM; null: not one, or not known"),
    ("vcpu_id", "int32", "KVM's number in the VM; null: not one, or not known"),
    ("tid", "int32", "thread of the vCPU; null: not one vCPU"),
    ("name", "string", "exit reason, why an exit is left out, or part of the budget"),
    ("code", "int64", "exit_reason as recorded; null: not a reason, or not told"),
    ("isa", "int8", "1 VMX, 2 SVM; null: not a reason, or not told"),
    ("statistic", "string", "which number of it"),
    ("unit", "string", "1 (a count or a ratio), ns, or ns of the trace clock"),
    ("value", "float64", "the number; whole numbers up to 2**53 are exact"),
)
_STATISTICS = (
    ("count", "1"),
    ("total_ns", "ns"),
    ("min_ns", "ns"),
    ("mean_ns", "ns"),
    ("p50_ns", "ns"),
    ("p90_ns", "ns"),
    ("p99_ns", "ns"),
    ("max_ns", "ns"),
    ("max_at_ns", "clock"),
)


def exit_rows_schema(report: ExitReport) -> pa.Schema:
    """The columns, each with its meaning; what was read is metadata (`piscope`)."""
    import pyarrow as pa

    about = {
        "schema_version": report.schema_version,
        "piscope_version": report.piscope_version,
        "path": report.trace.path,
        "kernel_release": report.trace.kernel_release,
        "clock": report.trace.clock,
        "narrowed": report.narrowed,
    }
    return pa.schema(
        [
            pa.field(name, getattr(pa, kind)(), metadata={"meaning": meaning})
            for name, kind, meaning in _COLUMNS
        ],
        metadata={"piscope": json.dumps(about)},
    )


def exit_rows_table(report: ExitReport) -> pa.Table:
    """All numbers of the report, in its order; columns as `exit_rows_schema` says."""
    import pyarrow as pa

    schema = exit_rows_schema(report)
    rows = list(_rows(report))
    columns = zip(*rows, strict=True) if rows else [[] for _ in _COLUMNS]
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _rows(report: ExitReport) -> Iterator[tuple[object, ...]]:
    groups = [("all", report.all)]
    groups += [("vm", group) for group in report.vms]
    groups += [("vcpu", group) for group in report.vcpus]
    for scope, group in groups:
        of = (scope, group.label, group.vm, group.vcpu_id, group.tid)
        yield from _group_rows(of, group)
    for budget in report.budgets:
        of = ("vcpu", budget.label, budget.vm, budget.vcpu_id, budget.tid)
        times_ns = {**budget.time_ns, "wall": budget.wall_ns}
        for name, ns in {**times_ns, "uncertain": budget.uncertain_ns}.items():
            yield ("budget", *of, name, None, None, "total_ns", "ns", ns)
    vcpus = {group.label: group for group in report.vcpus}
    for one in report.outliers:
        v = vcpus[one.label]
        of = ("vcpu", one.label, v.vm, v.vcpu_id, v.tid)
        code = next((r.code, r.isa) for r in v.reasons if r.reason == one.reason)
        for statistic, unit, value in (
            ("ts_ns", "clock", one.ts_ns),
            ("dur_ns", "ns", one.dur_ns),
            ("times_median", "1", one.times_median),
        ):
            yield ("outlier", *of, one.reason, *code, statistic, unit, value)


def _group_rows(
    of: tuple[object, ...], group: ExitGroup
) -> Iterator[tuple[object, ...]]:
    for line in group.reasons:
        for statistic, unit in _STATISTICS:
            value = getattr(line, statistic)
            yield (
                "exits",
                *of,
                line.reason,
                line.code,
                line.isa or None,
                statistic,
                unit,
                value,
            )
    for why, count in group.left_out.items():
        yield ("left-out", *of, why, None, None, "count", "1", count)
