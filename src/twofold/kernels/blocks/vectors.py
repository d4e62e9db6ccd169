"""What a loop over a block asks of the CPU and Numba has no word for: three LLVM instructions."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from twofold.kernels._rows import BIT, TAG, WORD, lanes_of


@intrinsic
def copy_four(_typing: Any, _source: Any, _target: Any) -> Any:
    """Copy four lanes from one host address to another."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, target = (builder.inttoptr(each, ir.VectorType(TAG, 4).as_pointer()) for each in arguments)
        lanes = builder.load(source)
        lanes.align = TAG.width // 8
        builder.store(lanes, target).align = TAG.width // 8
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), generate


@intrinsic
def page_changes(_typing: Any, _address: Any, _offset_mask: Any) -> Any:
    """Return which of 64 addresses at a host address lie in another page than the one before them, as bits.

    The word in front of the first is read too. The mask has the bits of an address inside its page.
    """
    many = ir.VectorType(WORD, WORD.width)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, mask = arguments
        here = builder.load(builder.inttoptr(address, many.as_pointer()))
        before = builder.load(builder.inttoptr(builder.sub(address, WORD(8)), many.as_pointer()))
        here.align = before.align = 8
        undefined = ir.Constant(many, ir.Undefined)
        pages = builder.insert_element(undefined, builder.not_(mask), TAG(0))
        differ = builder.and_(
            builder.xor(here, before), builder.shuffle_vector(pages, undefined, lanes_of([0] * WORD.width))
        )
        return builder.bitcast(builder.icmp_unsigned("!=", differ, ir.Constant(many, [WORD(0)] * WORD.width)), WORD)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def lowest_bit(_typing: Any, _word: Any) -> Any:
    """Return the number of the lowest bit that is set in a word that is not 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        count = builder.module.declare_intrinsic("llvm.cttz", [WORD], ir.FunctionType(WORD, [WORD, BIT]))
        return builder.call(count, [arguments[0], BIT(1)])

    return types.uint64(types.uint64), generate
