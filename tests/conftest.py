"""What every test may use: programs that may be missing, and where traces are.

A test that needs a program which is no Python package is marked
`@pytest.mark.tool("trace-cmd")`, or asks the `tool` fixture for its path. Where the
program is missing such a test is skipped, and says so; with CI=true it fails, since
an oracle that silently goes missing tests nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import settings

# How long an example takes says more of the machine's load than of the code.
settings.register_profile("piscope", deadline=None, print_blob=True)
settings.load_profile("piscope")

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_traces"
CAPTURES = ROOT.parent / "shared" / "captures"  # beside a development checkout only

DEBIAN_PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "node": "nodejs",
    "perf": "linux-perf",
    "trace-cmd": "trace-cmd",
}


def _missing(name: str) -> str:
    package = DEBIAN_PACKAGES.get(name, name)
    return f"TOOL MISSING: {name} (Debian package {package})"


def _without(name: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(_missing(name), pytrace=False)
    pytest.skip(_missing(name))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("tool"):
        for name in mark.args:
            if shutil.which(name) is None:
                _without(name)


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of a program, or a skip (a failure in CI) that names its package."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            _without(name)
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the traces that come with the project."""
    return SAMPLES


@pytest.fixture
def lab() -> Path:
    """The folder of all lab captures; a skip where the checkout stands alone."""
    if not (CAPTURES / "lab").is_dir():
        pytest.skip("no lab captures beside this checkout")
    return CAPTURES / "lab"


@pytest.fixture
def public_captures() -> Path:
    """The folder of captures by others; a skip where the checkout stands alone."""
    if not (CAPTURES / "public").is_dir():
        pytest.skip("no public captures beside this checkout")
    return CAPTURES / "public"


# CI draws the same examples each time, so that a run says something of the change and
# not of the draw; a developer's runs keep looking for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")
