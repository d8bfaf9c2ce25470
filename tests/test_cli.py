"""The command itself: quick, lazy, and polite however it ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from typing import Any

import click
import pytest

from piscope import __version__, cli
from piscope.errors import TraceFormatError

HEAVY = ("numpy", "pyarrow", "pandas", "rich", "zstandard")


def _piscope(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "piscope", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def test_help_and_version_load_nothing_heavy() -> None:
    script = (
        "import sys; from piscope.cli import run\n"
        "assert run(['--help']) == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_help_answers_at_once() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _piscope("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and the best of some: the program, not the machine's load.
    assert min(cpu_s() for _ in range(5)) < 0.3


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_there_and_says_what_the_list_says(name: str) -> None:
    context = click.Context(cli.cli, info_name="piscope")
    command = cli.cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=1000) == cli.COMMANDS[name].help
    assert all(
        getattr(p, "help", None) for p in command.params if isinstance(p, click.Option)
    )
    assert cli.run([name, "--help"]) == 0


def test_version() -> None:
    done = _piscope("--version")
    assert (done.returncode, done.stdout) == (0, f"piscope, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["events"], "Missing argument 'TRACE'; see `piscope events --help`"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("piscope: error: ")
    assert said in err


class _Ends:
    """A command that ends as told."""

    def __init__(self, how: BaseException | int | None) -> None:
        self.how = how

    def make_context(self, *args: object) -> click.Context:
        return click.Context(click.Command("piscope"))

    def invoke(self, context: click.Context) -> int | None:
        if isinstance(self.how, BaseException):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (
            TraceFormatError("expected a page header", path="t.dat", byte=4096),
            2,
            "piscope: error: t.dat, byte 4096: expected a page header\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "no.dat"),
            2,
            "piscope: error: no.dat: No such file or directory\n",
        ),
        (MemoryError(), 2, "piscope: error: out of memory\n"),
        (KeyboardInterrupt(), 130, "piscope: interrupted\n"),
        (click.Abort(), 130, "piscope: interrupted\n"),
        (
            TraceFormatError("comm \x1b]0;x\x07"),
            2,
            "piscope: error: comm \\x1b]0;x\\x07\n",
        ),
    ],
)
def test_endings(
    how: BaseException | int | None,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "cli", _Ends(how))
    assert cli.run([]) == status
    assert capsys.readouterr() == ("", said)


def test_a_defect_is_one_line_and_a_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "cli", _Ends(IndexError("list index out of range")))
    assert cli.run([]) == 2
    _, err = capsys.readouterr()
    assert "unexpected IndexError: list index out of range" in err
    assert "please report it" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("PISCOPE_DEBUG", "1")
    with pytest.raises(IndexError):
        cli.run([])


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "piscope", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_completion_knows_commands_and_options() -> None:
    def complete(line: str) -> str:
        env = {
            **os.environ,
            "_PISCOPE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        script = (
            "from piscope.cli import main; import sys; sys.argv=['piscope']; main()"
        )
        return subprocess.run(
            [sys.executable, "-c", script],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "events" in complete("piscope ev")
    assert "--vcpu" in complete("piscope events --vc")
