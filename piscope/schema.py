"""Every table that crosses a stage, as a value: columns, types, units, meanings, joins.

What `piscope schema` prints, what travels into Parquet as metadata, and what `check`
holds a table to. To be read beside `tables` and `outcomes`, which hold the same columns
inside piscope; there an unknown number is -1, here it is null.

    EVENTS.row <- INTERVALS.row, WINDOWS.put_row, POSTS.row, STIMULI.row
    VCPUS.vcpu <- INTERVALS.vcpu, WINDOWS.vcpu, POSTS.vcpu, STIMULI.vcpu
    POSTS.post <- STIMULI.post        STIMULI.stimulus <- FINDINGS.stimulus
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from piscope import __version__

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("KERNEL_FIELDS", "TABLES", "Column", "Table", "arrow_schema", "check")

ColumnType = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint64",
    "float64",
    "string",
    "name",  # one of few words: a string, dictionary-encoded
    "names",  # a list of those
    "pir",  # four uint64: 256 bits, vector v is bit v % 64 of word v // 64
]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    unit      "ns", "bits", ...; empty: a number without one, or none at all
    nullable  whether unknown is possible; the meaning says when
    joins     `TABLE.column` that it refers to, or None
    """

    name: str
    type: ColumnType
    meaning: str
    unit: str = ""
    nullable: bool = False
    joins: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    row    what a row is
    order  of the rows
    """

    name: str
    row: str
    order: str
    columns: tuple[Column, ...]


def _vcpu(meaning: str = "the vCPU", *, nullable: bool = False) -> Column:
    return Column("vcpu", "int32", meaning, nullable=nullable, joins="VCPUS.vcpu")


def _row(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, "int64", meaning, nullable=nullable, joins="EVENTS.row")


def _ts(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, "int64", f"{meaning}, on the trace clock", "ns", nullable)


KERNEL_FIELDS: tuple[str, ...] = (
    *("vcpu_id", "exit_reason", "isa", "intr_info", "apicid", "dm", "tm", "vec"),
    *("address", "data", "icr_low", "dest_id", "host_irq", "gsi", "gvec", "irq"),
    *("vector", "prev_pid", "prev_state", "next_pid", "pid", "reason", "load"),
)
"""Kernel fields that EVENTS has as columns of their own."""

_UNSIGNED = {"address", "data"}  # u64 in the kernel

_IN_SLICES = "; of a long trace within each slice"

EVENTS = Table(
    "EVENTS",
    "one tracepoint hit that the analysis read",
    "by ts_ns, then cpu, then order in the CPU's buffer",
    (
        Column("row", "int64", "number of the event, from 0"),
        _ts("ts_ns", "when"),
        Column("cpu", "int32", "pCPU that recorded it"),
        Column("tid", "int32", "thread that ran (common_pid)"),
        Column(
            "flags",
            "uint8",
            "common_flags: 1 IRQs off, 8 hardirq, 16 softirq; null: not recorded",
            "bits",
            nullable=True,
        ),
        Column("system", "name", "tracepoint's system; null: not told", nullable=True),
        Column("event", "name", "tracepoint's name"),
        *(
            Column(
                name,
                "uint64" if name in _UNSIGNED else "int64",
                f"kernel field {name}; null: the event has none",
                nullable=True,
            )
            for name in KERNEL_FIELDS
        ),
    ),
)
LOSSES = Table(
    "LOSSES",
    "one thing that the trace does not know",
    "as the file was read",
    (
        Column("cause", "name", "why it is missing (sources.raw.LossCause)"),
        Column("cpu", "int32", "pCPU; null: all, or unknown", nullable=True),
        _ts("start_ns", "missing after; null: from the beginning", nullable=True),
        _ts("end_ns", "missing before; null: to the end", nullable=True),
        Column("count", "int64", "events; null: unknown", nullable=True),
        Column("detail", "string", "what and where, for people"),
    ),
)
VCPUS = Table(
    "VCPUS",
    "one vCPU",
    "by VM, vcpu_id, thread",
    (
        Column("vcpu", "int32", "number of the vCPU, from 0"),
        Column("vm", "int32", "number of its VM; null: not known", nullable=True),
        Column("vcpu_id", "int32", "KVM's number; null: not known", nullable=True),
        Column("tid", "int32", "its thread"),
        Column("tgid", "int32", "its process; null: not known", nullable=True),
        Column("comm", "string", "the thread's name; null: not known", nullable=True),
        Column("evidence", "name", "what tells that it is a vCPU"),
        Column("label", "string", "short name, no two alike: vm0/vcpu1"),
    ),
)
INTERVALS = Table(
    "INTERVALS",
    "a stretch of one vCPU's life; half-open, and they tile it",
    f"vCPU after vCPU, by start_ns{_IN_SLICES}",
    (
        _vcpu(),
        Column("kind", "name", "what it did (tables.Kind)"),
        _ts("start_ns", "from this instant"),
        _ts("end_ns", "until before this one"),
        Column("cpu", "int32", "pCPU; null: on none, or unknown", nullable=True),
        Column(
            "reason", "int32", "VM-exit reason before it; null: none", nullable=True
        ),
        Column("certain", "bool", "false: the kind or an end is open"),
        _row("row", "event that began it; null: the trace's start", nullable=True),
    ),
)
WINDOWS = Table(
    "WINDOWS",
    "a vCPU's put, with the load that ends its window",
    f"vCPU after vCPU, by put_row{_IN_SLICES}",
    (
        Column("window", "int64", "number of the window, from 0"),
        _vcpu(),
        Column("reason", "name", "why it was put (tables.PutReason)"),
        _row("put_row", "event of the put"),
        _ts("put_ns", "when it was put"),
        Column("put_cpu", "int32", "where; notifications go there (NDST)"),
        _row("load_row", "event of the load; null: none is known", nullable=True),
        _ts("load_ns", "when the window ends: load, death, end of what is known"),
        Column("load_cpu", "int32", "where; null: no load is known", nullable=True),
        Column("end_row", "int64", "first row after it; the number of rows at the end"),
        Column("certain", "bool", "the put is at its place, its reason is right"),
        Column("probed", "bool", "probes read the descriptor at both ends"),
        *(
            Column(name, "bool", f"{meaning}; null: not read", nullable=True)
            for name, meaning in (
                ("on_put", "ON at the end of the put"),
                ("on_before", "ON when the put began"),
                ("pir_before", "PIR not empty when the put began"),
                ("on_load", "ON when the load began"),
                ("pir_load", "PIR not empty when the load began"),
                ("sn_put", "SN at the end of the put"),
            )
        ),
        Column("nv_put", "int16", "NV at the put's end; null: not read", nullable=True),
        Column("new_pir", "pir", "bits that PIR gained in the window", "bits"),
    ),
)
POSTS = Table(
    "POSTS",
    "an interrupt that KVM accepted for a vCPU, or that the user gave",
    "by at, then ts_ns",
    (
        Column("post", "int64", "number of the post, from 0"),
        _ts("ts_ns", "when the call chain began; of a given one, when it was posted"),
        _row("at", "event that began the call chain; of a given one, the last before"),
        _row("row", "the accept event; of a given one, the last event before it"),
        _vcpu("target; null: several have that vcpu_id, or none", nullable=True),
        Column("vcpu_id", "int32", "target as traced"),
        Column("vector", "int16", "interrupt vector"),
        Column("msi", "bool", "delivered by an MSI"),
        Column("unicast", "bool", "the MSI had one destination"),
        Column("cpu", "int32", "pCPU on which KVM posted it", nullable=True),
        Column("tid", "int32", "thread in whose context", nullable=True),
        Column("posted", "bool", "through PIR; false: into IRR, APICv was off"),
        Column("certain", "bool", "false: the target was learned from other posts"),
        Column("origin", "name", "who posted (origins.Origin)"),
        Column("evidence", "name", "what tells the origin (origins.Evidence)"),
        _row("cause", "event at which hardware would have posted"),
        Column(
            "postable", "bool", "hardware could have: a unicast MSI, or such an IPI"
        ),
        Column("host_irq", "int32", "of the vfio interrupt; null: none", nullable=True),
        Column(
            "device",
            "name",
            "the host interrupt's name; null: in no handler",
            nullable=True,
        ),
        Column("target_by", "name", "what tells the target (origins.Target)"),
        Column("given", "name", "traced, or who posted by the user (origins.Given)"),
    ),
)
STIMULI = Table(
    "STIMULI",
    "one thing that a descriptor met",
    f"vCPU after vCPU, in order{_IN_SLICES}",
    (
        Column("stimulus", "int64", "number of the stimulus, from 0"),
        _vcpu(),
        Column("letter", "name", "what it was (model.letters.Letter)"),
        _ts("ts_ns", "when"),
        _row("row", "event that it rests on"),
        Column("cpu", "int32", "that event's pCPU"),
        Column(
            "window",
            "int64",
            "window of a put, load or hidden post; null: none",
            nullable=True,
            joins="WINDOWS.window",
        ),
        Column(
            "post",
            "int64",
            "the traced post; null: none",
            nullable=True,
            joins="POSTS.post",
        ),
        Column("vector", "int16", "of a post; null: not known", nullable=True),
    ),
)
FINDINGS = Table(
    "FINDINGS",
    "what became of one post under one policy",
    f"policy after policy, by stimulus{_IN_SLICES}",
    (
        Column("policy", "name", "the policy that was replayed"),
        Column("stimulus", "int64", "the post as a stimulus", joins="STIMULI.stimulus"),
        Column("hit", "name", "its outcome; null: several are possible", nullable=True),
        Column("possible", "names", "all that the trace allows (outcomes.Hit)"),
        Column("rows", "names", "rows of the state table (outcomes.Row)"),
        Column("certain", "bool", "one outcome, and all rows have that one"),
        Column(
            "coalesced",
            "bool",
            "the vector was latched already: one IRQ; null: not told",
            nullable=True,
        ),
        Column("wrong_share", "float64", "chance that another vCPU took it, 0 to 1"),
        Column("kind", "name", "what the target vCPU was doing (tables.Kind)"),
        Column("reason", "int32", "VM-exit it was handling; null: none", nullable=True),
        Column(
            "window",
            "int64",
            "window it fell into; null: the vCPU was loaded",
            nullable=True,
            joins="WINDOWS.window",
        ),
        Column("cpu", "int32", "pCPU that was notified; null: none", nullable=True),
        Column(
            "victim",
            "int32",
            "vCPU in whose guest mode it was taken; null: none",
            nullable=True,
            joins="VCPUS.vcpu",
        ),
        Column("idle", "bool", "the pCPU ran its idle task"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        EVENTS,
        LOSSES,
        VCPUS,
        INTERVALS,
        WINDOWS,
        POSTS,
        STIMULI,
        FINDINGS,
    )
}
"""All tables by name, in the order of the stages."""


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema, with nullability; meanings, units and joins are metadata.

    The schema's own metadata has one key, `piscope`: JSON of table, row, order and
    piscope_version.
    """
    import pyarrow as pa

    name = pa.dictionary(pa.int16(), pa.string())
    types = {
        "bool": pa.bool_(),
        "name": name,
        "names": pa.list_(pa.field("item", pa.string(), nullable=False)),
        "pir": pa.list_(pa.field("item", pa.uint64(), nullable=False), 4),
    }
    fields = []
    for column in table.columns:
        metadata = {"meaning": column.meaning}
        if column.unit:
            metadata["unit"] = column.unit
        if column.joins is not None:
            metadata["joins"] = column.joins
        type_ = types.get(column.type) or getattr(pa, column.type)()
        fields.append(
            pa.field(column.name, type_, nullable=column.nullable, metadata=metadata)
        )
    about = {
        "table": table.name,
        "row": table.row,
        "order": table.order,
        "piscope_version": __version__,
    }
    return pa.schema(fields, metadata={"piscope": json.dumps(about)})


def check(name: str, table: pa.Table) -> pa.Table:
    """The same table, if it is what its declaration says.

    pyarrow's own validate() does not enforce `nullable=False`; this does.

    Raises ValueError, naming table and column, for other columns, types or order, and
    for a null where none may be.
    """
    expected = arrow_schema(TABLES[name])
    if table.schema.names != expected.names:
        raise ValueError(
            f"{name}: columns {table.schema.names}, expected {expected.names}"
        )
    for declared in expected:
        found = table.schema.field(declared.name)
        where = f"{name}.{declared.name}"
        if found.type != declared.type:
            raise ValueError(f"{where}: type {found.type}, expected {declared.type}")
        nulls = table.column(declared.name).null_count
        if nulls and not declared.nullable:
            raise ValueError(f"{where}: {nulls} nulls, expected none")
    return table
