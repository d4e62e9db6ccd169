"""Helpers of kernels, which Python cannot call, compiled once more as kernels that it can."""

import functools

from twofold.kernels import _jit


@functools.cache
def callable_helper(helper):
    """Return a kernel of the same source as a helper."""
    return _jit.kernel(helper.py_func)
