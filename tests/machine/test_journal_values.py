"""The values of a journal: each comes back as it was, and no bytes do any harm."""

import contextlib
import tracemalloc
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.machine import Origin, Zones
from twofold.machine.journal_values import Callback, Decoder, Encoder, Name


class Pair(NamedTuple):
    first: int
    second: object


class Colour(IntEnum):
    RED = 7


CLASSES = {kind.__name__: kind for kind in (Pair, Origin, Zones)}
INTS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.sampled_from([0, -1, 2**63, 2**64 - 1, -(2**63)]))
DTYPES = ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
SCALARS = st.sampled_from([np.uint64(2**64 - 1), np.int64(-5), np.uint8(7), np.bool_(1), np.int32(-(2**31))])
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        INTS,
        st.binary(max_size=40),
        st.text(max_size=20),
        st.builds(range, INTS, INTS, st.integers(1, 9)),
        st.sampled_from([Zones.LOW_ONLY, Origin(node=1, address_bits=32), Origin(Zones.HIGH_FIRST)]),
        SCALARS,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12),
        st.lists(st.integers(-(1 << 62), 1 << 62), min_size=7, max_size=30),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.builds(Pair, st.integers(0, 9), inner),
    ),
    max_leaves=12,
)


def encoded(*values) -> bytes:
    encoder = Encoder()
    for value in values:
        encoder.put(value)
    return encoder.finish()


def same(one, other) -> bool:
    """Return whether two values are equal and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == other


@given(values=st.lists(VALUES, max_size=4))
def test_a_value_comes_back_with_its_type(values):
    assert same(Decoder(CLASSES).values(encoded(*values)), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (3, 0, 2)])
def test_an_array_comes_back_with_its_dtype_and_shape(dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(dtype).reshape(shape)
    (again,) = Decoder({}).values(encoded(array))
    assert again.dtype == array.dtype
    assert again.shape == shape
    assert np.array_equal(again, array)


def test_an_array_in_another_byte_order_or_with_gaps_comes_back_as_its_numbers():
    numbers = np.arange(20, dtype=">u4")[::3]
    (again,) = Decoder({}).values(encoded(numbers))
    assert again.tolist() == numbers.tolist()
    again[0] = 9  # it can be written: an operation may


def test_a_name_is_written_out_once():
    encoder = Encoder()
    encoder.put(Name("populate_physmap"))
    first = encoder.finish()
    encoder.begin()
    encoder.put(Name("populate_physmap"))
    second = encoder.finish()
    assert len(second) == 2
    decoder = Decoder({})
    assert decoder.values(first) == decoder.values(second) == ["populate_physmap"]


def test_a_name_in_a_record_that_was_given_up_is_written_out_again():
    encoder = Encoder()
    encoder.put(Name("lost"))
    encoder.begin()
    encoder.put(Name("kept"))
    assert Decoder({}).values(encoder.finish()) == ["kept"]


def test_functions_are_numbered():
    encoder = Encoder()
    encoder.put((print, 5, len))
    assert encoder.callbacks == [print, len]
    assert Decoder({}).values(encoder.finish()) == [(Callback(0), 5, Callback(1))]


@pytest.mark.parametrize(
    "value", [1.5, {1}, object(), 1 << 200, np.array([1.5]), np.array(["x"]), np.zeros((1,) * 5), 1j]
)
def test_what_no_operation_takes_is_refused(value):
    with pytest.raises(TypeError, match="a journal cannot hold"):
        Encoder().put(value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (bytes([99]), "no kind of value"),
        (encoded(b"abcdef")[:-1], "longer than its record"),
        (bytes([3]) + b"\x80" * 30, "longer than 20 bytes"),
        (bytes([8]) + b"\xff\xff\xff\x7f", "promises"),
        (bytes([9]) + b"\xff\xff\xff\x7f", "promises"),
        (bytes([9, 1, 0]), "a name is missing"),
        (bytes([10]) + b"\xff\xff\xff\xff\x7f", "longer than its record"),
        (bytes([6, 3]), "was not written out"),
        (bytes([6, 0]) + b"\xff\x7f", "a name has"),
        (bytes([11, 3, 0, 3, 0, 3, 0]), "must not be zero"),
        (bytes([11, 0]), "an integer is missing"),
        (bytes([12, 40, 1, 1, 0]), "dtype"),
        (bytes([12, 1, 9]), "dimensions"),
        (bytes([12, 4, 2]) + b"\xff\xff\xff\xff\x7f\x00", "shape"),
        (bytes([12, 0, 1, 1, 5]), "truth"),
        (bytes([7, 1] * 12 + [0]), "more values"),
        (encoded(Colour.RED), "'Colour', which no operation takes"),
        (encoded(Zones.LOW_ONLY).replace(b"\x04", b"\x50"), "cannot be"),
        (bytes([5, 1, 0xFF]), "utf-8"),
    ],
)
def test_bytes_that_are_no_value_say_what_is_wrong(data, problem):
    with pytest.raises(ValueError, match=problem):
        Decoder(CLASSES).values(data)


@given(values=st.lists(VALUES, max_size=4), data=st.data())
def test_damaged_values_end_in_a_value_error_or_other_values(values, data):
    damaged = bytearray(encoded(*values) or b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        Decoder(CLASSES).values(bytes(damaged))


@given(data=st.binary(max_size=200))
def test_any_bytes_end_in_a_value_error_or_values(data):
    with contextlib.suppress(ValueError):
        Decoder(CLASSES).values(data)


def test_many_small_values_do_not_take_much_memory():
    hostile = bytes([8]) + b"\x80\x80\x80\x08" + bytes(16 << 20)  # a list of 16 million Nones
    tracemalloc.start()
    with pytest.raises(ValueError, match="promises"):
        Decoder({}).values(hostile)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
