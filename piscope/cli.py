"""The `piscope` command: which commands there are, and how each of them ends.

Commands are imported when they are run, so that `piscope --help` and completion
load nothing but click. A command prints its result on stdout and its talk on
stderr, and returns its exit status.

    0    analyzed; every limit kept
    1    analyzed; a limit is exceeded
    2    not analyzed: bad arguments, unreadable trace, or a defect of piscope
    3    can't tell: losses or missing events cover what was asked
    130, 141, 143   ended by Ctrl-C, by a closed pipe (`| head`), by SIGTERM
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import click

from piscope import __version__
from piscope.errors import PiscopeError

__all__ = ("COMMANDS", "LazyCommand", "cli", "main", "run")

EXIT_NOT_ANALYZED = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_CLOSED_PIPE = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM


class LazyCommand(NamedTuple):
    """Where a command is (`module:attribute`), and its line in `piscope --help`.

    The line is the command's own short help; a test compares them.
    """

    target: str
    help: str


COMMANDS: dict[str, LazyCommand] = {
    "analyze": LazyCommand(
        "piscope.commands.analyze:analyze",
        "Say what posted-interrupt notifications hit, under two policies.",
    ),
    "agreement": LazyCommand(
        "piscope.commands.agreement:agreement",
        "Compare the loads and puts of the timeline with probes that saw them.",
    ),
    "check": LazyCommand(
        "piscope.commands.check:check",
        "Say what a trace is, what it lost, and which questions it can answer.",
    ),
    "events": LazyCommand(
        "piscope.commands.events:events",
        "Print or convert the events of a trace, in time order.",
    ),
    "exits": LazyCommand(
        "piscope.commands.exits:exits",
        "Count VM-exits by reason, time them, and tell each vCPU's budget.",
    ),
    "compare": LazyCommand(
        "piscope.commands.compare:compare",
        "Compare two captures, before and after a kernel change.",
    ),
    "explain": LazyCommand(
        "piscope.commands.explain:explain",
        "Tell the story of one notification: events, descriptor, and why.",
    ),
    "gate": LazyCommand(
        "piscope.commands.gate:gate",
        "Hold the traces of a corpus to the limits of a baseline.",
    ),
    "model": LazyCommand(
        "piscope.commands.model:model",
        "Show and run the model of the posted-interrupt descriptor.",
    ),
    "posts": LazyCommand(
        "piscope.commands.posts:posts",
        "Say who posted each interrupt: device, vhost, IPI, timer.",
    ),
    "report": LazyCommand(
        "piscope.commands.report:report",
        "Write every table of an analysis as Parquet, with its summary as JSON.",
    ),
    "schema": LazyCommand(
        "piscope.commands.schema:schema",
        "Document the tables that `piscope report` writes, or one TABLE of them.",
    ),
    "synth": LazyCommand(
        "piscope.commands.synth:synth",
        "Make a capture of a simulated host, and the truth beside it.",
    ),
    "timeline": LazyCommand(
        "piscope.commands.timeline:timeline",
        "Draw what each vCPU did, and what notifications to it hit.",
    ),
    "verify": LazyCommand(
        "piscope.commands.verify:verify",
        "Hold the model against what probes read of the descriptors.",
    ),
}


class _LazyGroup(click.Group):
    # Of a click.Group only what would import every command is replaced.

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), lazy.target
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="piscope")
def cli() -> None:
    """Say what the posted-interrupt notifications in a KVM trace hit.

    TRACE is a trace.dat of trace-cmd, a perf.data, or the text of tracefs,
    `trace-cmd report` or `perf script`; `-` is standard input.
    """


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    # numpy starts a thread per core for BLAS, which nothing here uses: 60 ms.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # An exception, so that unfinished files are removed on the way out.
    signal.signal(signal.SIGTERM, _on_sigterm)
    if "_PISCOPE_COMPLETE" in os.environ:
        cli.main(prog_name="piscope")  # answers the shell and ends
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = _closed_pipe()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit status; errors are one line on stderr.

    With PISCOPE_DEBUG=1 in the environment, an error is the exception itself.
    """
    try:
        # cli.main() would turn a closed pipe into status 1, which is a verdict here.
        with cli.make_context("piscope", list(arguments)) as context:
            status = cli.invoke(context)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _closed_pipe()
    except Exception as e:
        if os.environ.get("PISCOPE_DEBUG") == "1":
            raise
        _say(f"error: {_one_line(e)}")
        return EXIT_NOT_ANALYZED


def _one_line(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "piscope"
        return f"{error.format_message().rstrip('.')}; see `{command} --help`"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, PiscopeError):
        text = str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = "out of memory"
    else:
        text = (
            f"unexpected {type(error).__name__}: {error}; this is a defect of piscope:"
            " please report it, with what PISCOPE_DEBUG=1 prints"
        )
    # A name or a message may hold bytes of the trace.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _say(line: str) -> None:
    click.echo(f"piscope: {line}", err=True)


def _closed_pipe() -> int:
    # The interpreter flushes stdout once more at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_CLOSED_PIPE


def _on_sigterm(signum: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)
