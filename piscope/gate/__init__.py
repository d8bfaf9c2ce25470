"""The gate: the traces of a corpus held to the limits of a baseline.

corpus -> measure (each trace, cached) -> judge (limits, baseline) -> report
"""
