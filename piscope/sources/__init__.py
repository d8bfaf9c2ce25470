"""Bytes to raw records: trace.dat, perf.data and text, recognised by content."""
