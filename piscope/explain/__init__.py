"""The story of one notification: events, descriptor, rules, under each policy.

It stands behind the pipeline: it reads an analysis, and the trace once more around
the instant that is asked about.
"""
