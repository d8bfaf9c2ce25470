"""Make a large perf.data from a small one, to measure reading.

    python benchmarks/make_perf_data.py SMALL.perf.data LARGE.perf.data 500

The last argument is the size in MB. Prints how many samples the result has.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from writers.perf_multiply import multiply


def main() -> None:
    source, target, megabytes = sys.argv[1:]
    samples, size = multiply(Path(source), Path(target), int(megabytes) * 1_000_000)
    print(f"{target}: {samples} samples, {size} bytes")


if __name__ == "__main__":
    main()
