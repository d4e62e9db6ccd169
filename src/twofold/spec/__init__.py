"""The algorithms in plain Python, following the manuals' steps: the readable twin of `kernels`."""

from twofold.spec import audit, frames, heap, lookup, mmu, p2m, resize, traces, walk, workloads

__all__ = ["audit", "frames", "heap", "lookup", "mmu", "p2m", "resize", "traces", "walk", "workloads"]
