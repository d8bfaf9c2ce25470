"""Captures of a simulated host, whose truth is known: `piscope synth`.

scenario -> machine (pCPUs, threads, scheduler) -> recorder -> trace.dat, perf.data
                 |
            descriptors (the reference model) -> truth
"""
