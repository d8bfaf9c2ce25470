"""`piscope schema`: every table that crosses a stage, column by column."""

from __future__ import annotations

import json

import click

__all__ = ("schema",)


@click.command()
@click.argument("table", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def schema(table: str | None, as_json: bool) -> None:
    """Document the tables that `piscope report` writes, or one TABLE of them."""
    from dataclasses import asdict

    from piscope.errors import UsageError
    from piscope.schema import TABLES

    if table is not None and table.upper() not in TABLES:
        known = ", ".join(TABLES)
        raise UsageError(f"{table!r} is no table: expected one of {known}")
    chosen = [TABLES[table.upper()]] if table is not None else list(TABLES.values())
    if as_json:
        click.echo(json.dumps([asdict(one) for one in chosen], indent=2))
        return
    for i, one in enumerate(chosen):
        if i:
            click.echo()
        click.echo(f"{one.name}: {one.row}\n  order: {one.order}")
        width = max(len(column.name) for column in one.columns)
        for column in one.columns:
            type_ = column.type + ("?" if column.nullable else "")
            unit = f" [{column.unit}]" if column.unit else ""
            joins = f" -> {column.joins}" if column.joins else ""
            text = f"{column.meaning}{unit}{joins}"
            click.echo(
                click.wrap_text(
                    f"{column.name:<{width}}  {type_:<8}  {text}",
                    width=80,
                    initial_indent="  ",
                    subsequent_indent=" " * (width + 14),
                )
            )
