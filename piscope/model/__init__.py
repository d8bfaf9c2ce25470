"""What the posted-interrupt descriptor does: kernel, IOMMU and CPU, policy by policy.

Reading order: `descriptor` (the reference), `policy` (what differs between kernels),
`lapic` (the pCPU's side), `table` (the reference, enumerated), `runner` (the
conformance form), `explain` (where each rule comes from). Nothing here reads a trace.
"""
