"""The command line, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def piscope(
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; gives exit status, stdout and stderr."""
    from piscope.cli import run

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(arguments)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return status, out, err

    return command
