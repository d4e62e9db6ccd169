"""Every hot loop, compiled: the fast twin of `spec`, with the same names and signatures over the same arrays.

`kernels.blocks`, the block simulator of the MMU, is another algorithm and has no twin: whole runs hold it to `mmu`.
"""

from twofold.kernels import (
    audit,
    frames,
    heap,
    lookup,
    lru_simd,
    mmu,
    p2m,
    requests,
    resize,
    sweep,
    traces,
    walk,
    workloads,
)

__all__ = [
    "audit",
    "frames",
    "heap",
    "lookup",
    "lru_simd",
    "mmu",
    "p2m",
    "requests",
    "resize",
    "sweep",
    "traces",
    "walk",
    "workloads",
]
