"""Every hot loop, compiled: the fast twin of `spec`, with the same names and signatures over the same arrays."""

from twofold.kernels import audit, frames, heap, lookup, p2m, walk

__all__ = ["audit", "frames", "heap", "lookup", "p2m", "walk"]
