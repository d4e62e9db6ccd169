"""Rows: sets of 32-bit tags in a vector register, newest first, so that a use is a compare and a shuffle.

    tag t is used          | a b t c d ... |      lanes 0 to the one that holds t (or to the last way) move down by one,
                           | t a b c d ... |      t enters lane 0, the lanes behind stay: exact LRU, no branch, no ages

The operations are LLVM vector instructions, so each CPU gets its own: with AVX-512 a bit mask picks the lanes; without
(AVX2, SSE) turning masks into vectors is slow, and lane numbers are compared instead. A row of four lanes never leaves
the vector registers. Lanes of no entry hold EMPTY. Numba knows a row as a value of its own type.
"""

import platform
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic, models, register_model

IS_X86: Final = platform.machine().lower() in {"x86_64", "amd64"}
EMPTY: Final = np.uint32(0xFFFFFFFF)
TAG: Final = ir.IntType(32)
WORD: Final = ir.IntType(64)
BIT: Final = ir.IntType(1)


def has_feature(name: str) -> bool:
    """Return whether the CPU that Numba compiles for has a feature, by LLVM's name for it."""
    config: Any = numba_config
    if config.CPU_FEATURES is not None:
        return f"+{name}" in config.CPU_FEATURES.split(",")
    return bool(llvm.get_host_cpu_features().get(name))


WIDE_MASKS: Final = has_feature("avx512f")
PIECE: Final = 16 if WIDE_MASKS else 8 if has_feature("avx2") else 4  # lanes of a vector register, stored at once


class Row(types.Type):
    """Numba's type of a row."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Row({lanes})")


@register_model(Row)
class RowModel(models.PrimitiveModel):
    """A row is one LLVM vector."""

    def __init__(self, manager: Any, row: Row) -> None:
        super().__init__(manager, row, ir.VectorType(TAG, row.lanes))  # type: ignore[no-untyped-call]


class RowOperations(NamedTuple):
    """What a kernel does with rows of one width.

    load(address) -> row;  store(address, row)
    ways_of(row, tag) -> mask of the lanes that hold a tag (bit 0: lane 0)
    moved(row, tag, hits, last) -> the row after a use; hits : what `ways_of` gave;  last : the bit of the last way
    moved_if(row, tag, hits, last, is_used) -> the same where the last is 1; where it is 0, the row as it is
    counted(counts, row, tag) -> counts, a row too, with one more in the lanes of the row that hold a tag
    """

    lanes: int
    load: Callable[..., Any]
    store: Callable[..., Any]
    ways_of: Callable[..., Any]
    moved: Callable[..., Any]
    moved_if: Callable[..., Any]
    counted: Callable[..., Any]


def lanes_of(numbers: list[int]) -> ir.Constant:
    """Return a constant vector."""
    return ir.Constant(ir.VectorType(TAG, len(numbers)), [TAG(number) for number in numbers])


def _splat(builder: Any, lanes: int, tag: Any) -> Any:
    """Return a vector with a tag in every lane."""
    undefined = ir.Constant(ir.VectorType(TAG, lanes), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, tag, TAG(0)), undefined, lanes_of([0] * lanes))


def _shifted(builder: Any, row: Any, tags: Any, lanes: int) -> Any:
    """Return the row moved down by one lane, with a tag in front."""
    return builder.shuffle_vector(row, tags, lanes_of([lanes, *range(lanes - 1)]))


def _as_it_is(builder: Any, vector: Any) -> Any:
    """Return a vector of at most PIECE lanes, so that LLVM does not look through it.

    Else it makes a store of the lanes that change out of a choice and a store, and no load is fed by such a store: each
    use of a set would wait for the one before it to reach the cache. And it takes vectors of four through mask
    registers, four cycles a step.
    """
    if not IS_X86:
        return vector
    return builder.asm(ir.FunctionType(vector.type, [vector.type]), "", "=x,0", [vector], side_effect=False)


def _moved_by_mask(builder: Any, row: Any, tag: Any, stop: Any, is_used: Any, lanes: int) -> Any:
    """Move the lanes up to the lowest bit of a mask: that bit and those below it, as one value."""
    picked = builder.xor(stop, builder.sub(stop, WORD(1)))
    picked = builder.and_(picked, builder.sub(WORD(0), is_used))
    narrow = picked if lanes == WORD.width else builder.trunc(picked, ir.IntType(lanes))
    mask = builder.bitcast(narrow, ir.VectorType(BIT, lanes))
    return builder.select(mask, _shifted(builder, row, _splat(builder, lanes, tag), lanes), row)


def _moved_by_number(builder: Any, row: Any, tag: Any, stop: Any, is_used: Any, lanes: int) -> Any:
    """Move the lanes up to the lowest bit of a mask: those whose number is below the number behind its."""
    count = builder.module.declare_intrinsic("llvm.cttz", [WORD], ir.FunctionType(WORD, [WORD, BIT]))
    behind = builder.add(builder.call(count, [stop, BIT(1)]), WORD(1))
    end = builder.trunc(builder.and_(behind, builder.sub(WORD(0), is_used)), TAG)
    stay = builder.icmp_unsigned(">=", lanes_of(list(range(lanes))), _splat(builder, lanes, end))
    return builder.select(stay, row, _shifted(builder, row, _splat(builder, lanes, tag), lanes))


def _moved_in_four(builder: Any, row: Any, tag: Any, last: Any) -> Any:
    """Move the lanes up to the one that holds the tag, by vectors alone."""
    four = ir.VectorType(TAG, 4)
    tags, zero = _splat(builder, 4, tag), ir.Constant(four, [TAG(0)] * 4)
    held = _as_it_is(builder, builder.sext(builder.icmp_unsigned("==", row, tags), four))
    behind = builder.shuffle_vector(zero, held, lanes_of([0, 4, 5, 6]))  # lanes behind the one that holds it ...
    for step in ([0, 0, 4, 5], [0, 0, 0, 4]):
        behind = builder.or_(behind, builder.shuffle_vector(zero, held, lanes_of(step)))
    bits = _splat(builder, 4, builder.trunc(last, TAG))
    # ... or the last way stay; with no last, all.
    beyond = builder.sext(builder.icmp_unsigned(">", lanes_of([1, 2, 4, 8]), bits), four)
    stay = builder.or_(behind, beyond)
    shifted = _shifted(builder, row, tags, 4)
    return builder.or_(builder.and_(row, stay), builder.and_(shifted, builder.not_(stay)))


def make_operations(lanes: int, *, wide_masks: bool) -> RowOperations:
    """Return the operations on rows of a width, for CPUs that pick lanes by bit masks or not."""
    row_type, vector = Row(lanes), ir.VectorType(TAG, lanes)

    @intrinsic
    def load(_typing: Any, _address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            row = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()))
            row.align = 16
            return row

        return row_type(types.uint64), generate

    @intrinsic
    def store(_typing: Any, _address: Any, _row: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            address, row = arguments
            for first in range(0, lanes, PIECE):
                width = min(lanes, PIECE)
                piece = builder.shuffle_vector(row, row, lanes_of(list(range(first, first + width))))
                pointer = builder.inttoptr(builder.add(address, WORD(first * TAG.width // 8)), piece.type.as_pointer())
                builder.store(_as_it_is(builder, piece), pointer).align = 16
            return context.get_dummy_value()

        return types.void(types.uint64, row_type), generate

    @intrinsic
    def ways_of(_typing: Any, _row: Any, _tag: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            row, tag = arguments
            held = builder.bitcast(builder.icmp_unsigned("==", row, _splat(builder, lanes, tag)), ir.IntType(lanes))
            return held if lanes == WORD.width else builder.zext(held, WORD)

        return types.uint64(row_type, types.uint32), generate

    def move(builder: Any, row: Any, tag: Any, hits: Any, last: Any, is_used: Any) -> Any:
        if lanes == 4:
            return _moved_in_four(builder, row, tag, builder.and_(last, builder.sub(WORD(0), is_used)))
        moved = _moved_by_mask if wide_masks else _moved_by_number
        return moved(builder, row, tag, builder.or_(hits, last), is_used, lanes)

    @intrinsic
    def moved(_typing: Any, _row: Any, _tag: Any, _hits: Any, _last: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            row, tag, hits, last = arguments
            return move(builder, row, tag, hits, last, WORD(1))

        return row_type(row_type, types.uint32, types.uint64, types.uint64), generate

    @intrinsic
    def moved_if(_typing: Any, _row: Any, _tag: Any, _hits: Any, _last: Any, _is_used: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            row, tag, hits, last, is_used = arguments
            return move(builder, row, tag, hits, last, is_used)

        return row_type(row_type, types.uint32, types.uint64, types.uint64, types.uint64), generate

    @intrinsic
    def counted(_typing: Any, _counts: Any, _row: Any, _tag: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            counts, row, tag = arguments
            held = builder.icmp_unsigned("==", row, _splat(builder, lanes, tag))
            return builder.sub(counts, builder.sext(held, vector))

        return row_type(row_type, row_type, types.uint32), generate

    return RowOperations(lanes, load, store, ways_of, moved, moved_if, counted)


FOUR: Final = make_operations(4, wide_masks=WIDE_MASKS)
SIXTEEN: Final = make_operations(16, wide_masks=WIDE_MASKS)
SIXTY_FOUR: Final = make_operations(64, wide_masks=WIDE_MASKS)
WIDTHS: Final = (4, 16, 64)
