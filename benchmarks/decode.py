"""Read a trace as an analysis does, and nothing more: the decoder's own speed.

    python -m benchmarks.decode TRACE

Every event and field that `piscope analyze` asks for is decoded; nothing is kept.
"""

from __future__ import annotations

import sys

from piscope.events.catalog import analysis_fields
from piscope.sources.detect import open_trace
from piscope.sources.raw import Wanted


def main() -> None:
    source = open_trace(sys.argv[1])
    rows = sum(len(chunk) for chunk in source.chunks(Wanted(analysis_fields())))
    print(f"{rows} of {sum(source.counts.values())} events decoded")


if __name__ == "__main__":
    main()
