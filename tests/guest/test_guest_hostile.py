"""Hostile ELF files: whatever the bytes are, loading is refused with one line or works, and a run comes to an end."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_elf import ENTRY, code, elf

from twofold.domain import Machine, build
from twofold.errors import FormatError, TwofoldError
from twofold.guest import Guest, Program, run
from twofold.guest.program import MAX_GVA, MAX_IMAGE_BYTES, MAX_SEGMENTS
from twofold.trace import WORKLOADS

GUPS = WORKLOADS["gups"].program()
HEADERS = 64 + 3 * 56  # of gups.elf: everything that a loader believes
WORDS = (0, 1, 0x7F, 0xFF, 0x80)


@pytest.fixture(scope="module")
def guest():
    with Machine("128MiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain)
        yield Guest(domain, footprint="1MiB")


def image_or_none(data):
    """Return what a file loads as; None when it is refused as it should be."""
    try:
        entry, segments = Program("hostile", data).image()
    except FormatError:
        return None
    assert 0 < len(segments) <= MAX_SEGMENTS
    assert sum(part.length for part in segments) <= MAX_IMAGE_BYTES
    assert all(0 < part.gva <= part.gva + part.length <= MAX_GVA[64] for part in segments)
    assert all(len(part.data) <= part.length for part in segments)
    return entry, segments


@st.composite
def damaged(draw, original):
    """Return a file with some bytes replaced, mostly in its headers, and perhaps an end cut off."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.one_of(st.integers(0, min(HEADERS, len(data)) - 1), st.integers(0, len(data) - 1)))
        data[place] = draw(st.one_of(st.sampled_from(WORDS), st.integers(0, 255)))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@given(st.binary(max_size=300))
def test_random_bytes_are_no_program(data):
    assert image_or_none(data) is None


@given(st.binary(max_size=300))
def test_random_bytes_behind_an_elf_magic_do_no_harm(data):
    image_or_none(b"\x7fELF\x02\x01\x01" + data)


@pytest.mark.medium
@settings(max_examples=200)
@given(damaged(GUPS))
def test_a_damaged_file_is_refused_or_loads_within_bounds(data):
    image_or_none(data)


@given(st.integers(0, len(GUPS) - 1))
def test_a_truncated_file_is_refused_or_loads_within_bounds(length):
    image_or_none(GUPS[:length])


@pytest.mark.medium
@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=40), st.integers(0, 2**64 - 1)), max_size=4))
def test_any_segments_load_within_bounds_or_are_refused(segments):
    image_or_none(elf(*segments))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_program_comes_to_an_end(guest, data):
    """Wrong code may do anything to its guest; nothing but errors of ours comes out, within its time."""
    damaged_elf = data.draw(damaged(GUPS))
    try:
        result = run(guest, Program("hostile", damaged_elf, steps=20), seconds=0.2)
    except TwofoldError:
        return
    assert result.exit_code == len(result.faults)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(min_size=1, max_size=64))
def test_random_code_comes_to_an_end(guest, body):
    result = run(guest, Program("hostile", code(body), steps=20), seconds=0.2)
    assert result.exit_code == len(result.faults)


def test_the_file_that_the_damage_starts_from_is_a_good_one():
    assert image_or_none(GUPS)[0] == ENTRY
