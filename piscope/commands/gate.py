"""`piscope gate`: a corpus of traces held to the limits of a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from piscope.gate.baseline import Baseline
    from piscope.gate.run import Results

__all__ = ("gate",)

_FORMS = ("text", "markdown", "junit", "sarif", "github", "json")
_UNITS = {"": 1 << 20, "M": 1 << 20, "G": 1 << 30}
EXIT_NOT_ANALYZED = 2


class _Bytes(click.ParamType[int]):
    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        text = str(value).upper()
        number = text.rstrip("MG")
        unit = text[len(number) :]
        if not (number.isascii() and number.isdigit() and len(number) < 7):
            self.fail("expected 512M or 2G", param, ctx)
        if unit not in _UNITS or not int(number):
            self.fail("expected 512M or 2G", param, ctx)
        return int(number) * _UNITS[unit]


@click.command()
@click.argument("corpus", metavar="CORPUS...", nargs=-1, required=True)
@click.option(
    "--baseline",
    "baseline_path",
    metavar="FILE",
    required=True,
    help="The limits, and the numbers they are relative to (TOML, docs/gate.md).",
)
@click.option(
    "--update",
    is_flag=True,
    help="Write the numbers of this corpus to the baseline, in place of judging.",
)
@click.option(
    "--partial",
    is_flag=True,
    help="CORPUS is a part of the baseline's: traces that it lacks are not missing.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    default="text",
    show_default=True,
    help="What to print.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="FORMAT=FILE",
    help="Write this as well, as in junit=gate.xml. Repeatable.",
)
@click.option(
    "--results",
    metavar="DIR",
    help="Write every number to a Parquet dataset, a file for each trace.",
)
@click.option(
    "--cache",
    "cache_directory",
    metavar="DIR",
    help="Where results are kept.  [default: ~/.cache/piscope/gate]",
)
@click.option("--no-cache", is_flag=True, help="Neither use nor keep results.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help="Processes, or workers of a local cluster.  [default: one a core]",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=_Bytes(),
    metavar="SIZE",
    help="Most that each process may take, as in 2G.  [default: its share of 7/8]",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Spread the traces over a Dask cluster: the address of its scheduler, or"
    " `local` for one on this machine (needs piscope[cluster]).",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def gate(
    corpus: tuple[str, ...],
    baseline_path: str,
    update: bool,
    partial: bool,
    form: str,
    outputs: tuple[str, ...],
    results: str | None,
    cache_directory: str | None,
    no_cache: bool,
    jobs: int | None,
    memory_bytes: int | None,
    dask: str | None,
    quiet: bool,
) -> int:
    """Hold the traces of a corpus to the limits of a baseline.

    CORPUS is a directory, a glob, a trace, NAME=TRACE, a list of any of these
    (@FILE), or a URL. A trace that can't be read does not keep the others from being
    judged.

    Exit status: 0 every limit is kept; 1 a limit is broken; 2 a trace could not be
    analyzed, or the baseline can't be used; 3 a limit can't be told.
    """
    import functools

    from piscope.commands.gate_verify import disagreements
    from piscope.corpus import find_traces
    from piscope.gate.baseline import parse_baseline, read_baseline
    from piscope.gate.cache import default_directory
    from piscope.gate.judge import judge
    from piscope.gate.measure import attempt
    from piscope.gate.render_ci import FORMS
    from piscope.gate.run import run_corpus
    from piscope.gate.update import DEFAULT_TEXT

    if update and partial:
        raise click.UsageError("--update writes the whole baseline: not with --partial")
    targets = [_target(output) for output in outputs]
    if update and not Path(baseline_path).exists():
        baseline = parse_baseline(DEFAULT_TEXT, baseline_path)
    else:
        baseline = read_baseline(baseline_path)
    found = find_traces(corpus, baseline.exclude)
    cache = None if no_cache else cache_directory or str(default_directory())
    with _Progress(len(found.traces), quiet=quiet, cached=cache is not None) as watch:
        measured = run_corpus(
            found,
            baseline.options,
            cache=cache,
            workers=jobs,
            memory_bytes=memory_bytes,
            dask=dask,
            watch=watch.done,
            job=functools.partial(attempt, verify=disagreements),
        )
    if results is not None:
        from piscope.gate.results import write_results

        write_results(results, measured)
    if update:
        return _update(baseline, measured)
    report = judge(baseline, found, measured, partial=partial)
    for name, path in targets:
        _write(path, FORMS[name](report))
    click.echo(FORMS[form](report), nl=False)
    return report.exit_status


def _target(output: str) -> tuple[str, str]:
    form, separator, path = output.partition("=")
    if not separator or not path or form not in _FORMS:
        raise click.UsageError(
            f"--output {output}: expected FORMAT=FILE, FORMAT {' or '.join(_FORMS)}"
        )
    return form, path


def _write(path: str, text: str) -> None:
    from piscope.output import replacing

    with replacing(path) as file:
        file.write(text.encode())


def _update(baseline: Baseline, results: Results) -> int:
    """Write the baseline, without the traces that can't be read, and say which."""
    from piscope.gate.measured import Failed, Measured
    from piscope.gate.update import updated

    measured = {n: r for n, r in results.items() if isinstance(r, Measured)}
    failed = {n: r for n, r in results.items() if isinstance(r, Failed)}
    for _, result in sorted(failed.items()):
        click.echo(f"piscope: error: {result.why}", err=True)
    if not measured:
        click.echo(f"{baseline.path}: left as it is: no trace could be analyzed")
        return EXIT_NOT_ANALYZED
    _write(baseline.path, updated(baseline, measured))
    click.echo(
        f"{baseline.path}: {len(measured):,} traces"
        + (f", {len(failed):,} left out: they can't be analyzed" if failed else "")
    )
    return EXIT_NOT_ANALYZED if failed else 0


class _Progress:
    """A line on a terminal's stderr: how many traces are done."""

    def __init__(self, total: int, *, quiet: bool, cached: bool) -> None:
        import sys

        self._stream = sys.stderr
        self._active = not quiet and self._stream.isatty()
        self._total, self._keeps = total, cached
        self._finished = self._cached = self._failed = 0

    def __enter__(self) -> _Progress:
        return self

    def done(self, trace: object, result: object) -> None:
        self._finished += 1
        self._cached += bool(getattr(result, "cached", False))
        self._failed += hasattr(result, "why")
        if self._active:
            self._stream.write(
                f"\r\x1b[K{self._finished:,} of {self._total:,} traces,"
                f" {self._cached:,} from the cache, {self._failed:,} unreadable"
            )
            self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._active:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._keeps:
            click.echo(
                f"piscope: {self._finished:,} of {self._total:,} traces are done;"
                " the next run takes them from the cache",
                err=True,
            )
