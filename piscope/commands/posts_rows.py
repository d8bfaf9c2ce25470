"""Posts one by one: to a terminal, a pipe or a file, a part of the trace at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import BinaryIO

import click
import pyarrow as pa

from piscope.arrow_tables import listed_posts, listed_schema
from piscope.output import replacing
from piscope.part_tables import PartTables
from piscope.posts_pipeline import PartPosts
from piscope.report.render_words import printable

__all__ = ("echo_head", "echo_json_lines", "echo_rows", "rows_of", "write_rows")

_ROWS_AT_ONCE = 1 << 14


def rows_of(posts: Iterable[PartPosts]) -> Iterator[pa.Table]:
    """Of each part the posts that are asked for, as arrow_tables.listed_schema says."""
    tables = PartTables()
    for found in posts:
        events, vcpus = found.part.analysis.events, found.part.analysis.timeline.vcpus
        ((_, table),) = tables.tables_of(found.part, ("POSTS",))
        table = table.filter(pa.array(found.chosen))
        comms = events.info.comms
        del found, events
        yield listed_posts(table, vcpus, comms)


def echo_head() -> None:
    """Print the line above `echo_rows`."""
    click.echo(
        f"{'time':>17}  cpu  {'origin':<9} {'vector':>6}  {'target':<14}  poster;"
        " evidence"
    )


def echo_rows(table: pa.Table) -> None:
    """Print each post on a line for people."""
    for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in part.to_pylist():
            target = row["target"] or f"vcpu_id {row['vcpu_id']}, which?"
            if not row["certain"]:
                target += "?"
            irq = f" IRQ {row['host_irq']}" if row["host_irq"] is not None else ""
            who = f"{row['device']}{irq}" if row["device"] else row["thread"]
            click.echo(
                f"{_seconds(row['ts_ns']):>17}  {row['cpu']:>3}  {row['origin']:<9}"
                f" {row['vector']:>6}  {target:<14}  {printable(who)};"
                f" {row['evidence']}"
            )


def _seconds(ts_ns: int) -> str:
    return f"{ts_ns // 1_000_000_000}.{ts_ns % 1_000_000_000:09d}"


def echo_json_lines(table: pa.Table) -> None:
    """Print each post as a JSON object on a line."""
    for line in _json_lines(table):
        click.echo(line)


def _json_lines(table: pa.Table) -> Iterator[str]:
    for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in part.to_pylist():
            yield json.dumps(row, allow_nan=False)


def write_rows(tables: Iterable[pa.Table], path: str) -> None:
    """Write each post to a file, whose suffix names its format: csv, jsonl, Parquet.

    Raises UsageError as output.replacing does, and what making the tables raises.
    """
    write = {".csv": _write_csv, ".jsonl": _write_json_lines}.get(
        PurePath(path).suffix.lower(), _write_parquet
    )
    with replacing(path) as file:
        write(tables, file)


def _write_csv(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(file, listed_schema()) as writer:
        for table in tables:
            writer.write_table(table)


def _write_json_lines(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        for line in _json_lines(table):
            file.write(line.encode() + b"\n")


def _write_parquet(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    import pyarrow.parquet

    schema = listed_schema()
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            if len(table):
                writer.write_table(table)
