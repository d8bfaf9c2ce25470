"""Whether a kernel does with its descriptors what the model says it does.

probe_names  which events are the probes       -> observations  what they read
transitions  from one reading to the next      -> judge         what the model allows
finding      which policy and platform fit     -> counters      PIN and PIW as counted
build        all of it as one account (`account`)
"""
