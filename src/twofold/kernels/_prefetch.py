"""`prefetch`: ask the CPU for a cache line that a loop will read a few rounds later. Never faults."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_READ, _KEEP, _DATA = 0, 3, 1  # operands of llvm.prefetch: for reading, in all levels, data cache


@intrinsic
def prefetch(_typing: Any, _address: Any) -> Any:
    """Prefetch the line at a host address, given as uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte_pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", (byte_pointer,), shape)
        pointer = builder.inttoptr(arguments[0], byte_pointer)
        builder.call(function, [pointer, number(_READ), number(_KEEP), number(_DATA)])
        return _context.get_dummy_value()

    return types.void(types.uint64), generate
