"""Raw records to one table of events: which tracepoints are read, and in what order."""
