"""The algorithms in plain Python, following the manuals' steps: the readable twin of `kernels`."""

from twofold.spec import (
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
