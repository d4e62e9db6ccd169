"""Sizes, orders and page-size lists."""

import numpy as np
import pytest

from twofold.errors import CountError, SizeError
from twofold.units import (
    format_bytes,
    order_name,
    parse_bytes,
    parse_count,
    parse_frames,
    parse_order,
    parse_page_sizes,
)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("4GiB", 4 << 30),
        ("4 GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("4g", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("0x10B", 0x10B),
        (np.uint32(4096), 4096),
        ("512M", 512 << 20),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("640KiB", 640 << 10),
        ("1TiB", 1 << 40),
        ("4096", 4096),
        ("4096B", 4096),
        ("0x1000", 4096),
        ("0X10M", 16 << 20),
        ("  2M  ", 2 << 20),
        (4096, 4096),
        (0, 0),
        ("0.1T", None),
        ("1.0000000001K", None),
        ("0.3B", None),
    ],
)
def test_a_size_is_read_as_an_exact_number_of_bytes(text, bytes_):
    if bytes_ is None:
        with pytest.raises(SizeError, match="not a whole number of bytes"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == bytes_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "4X",
        "+4G",
        "-0",
        "1_0K",
        "\u0664K",
        "4\u00a0K",
        "nan",
        "inf",
        "4GiBs",
        "-1",
        "1e3",
        "0x",
        "0xG",
        "1,5G",
        ".5G",
        "4 4",
        "1.G",
        "iB",
    ],
)
def test_what_is_no_size_is_refused_with_the_text(text):
    with pytest.raises(SizeError) as caught:
        parse_bytes(text)
    assert caught.value.text == text
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"), [("2GB", "2GiB"), ("1.5 kb", "1.5KiB"), ("3Mb", "3MiB"), ("1tB", "1TiB"), ("0x1GB", "0x1GiB")]
)
def test_a_unit_that_may_be_of_1000_is_refused_with_the_one_that_is_meant(text, meant):
    with pytest.raises(SizeError) as caught:
        parse_bytes(text)
    assert str(caught.value) == f"size {text!r} could be of 1000 or of 1024: write {meant}"


@pytest.mark.parametrize(("text", "meant"), [("2MB", "2M"), ("4kb", "4K"), ("1Gb", "1G")])
def test_a_page_size_that_may_be_of_1000_is_refused_too(text, meant):
    with pytest.raises(SizeError, match=f"write {meant}$"):
        parse_order(text)


@pytest.mark.parametrize("text", ["9" * 5000, "1" + "0" * 30, "16777217T", hex(2**64 + 1)])
def test_more_than_64_bits_address_is_no_size(text):
    with pytest.raises(SizeError, match=r"is larger than 2\*\*64 bytes") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [1.5, None, True, b"4K", ["4K"]])
def test_what_is_neither_text_nor_whole_number_is_a_type_error_that_says_what_is(size):
    with pytest.raises(TypeError, match="a whole number of bytes or a text like '4GiB'"):
        parse_bytes(size)
    with pytest.raises(TypeError, match="a text like '2M'"):
        parse_order(size)


def test_a_count_is_written_in_ascii_digits_and_within_its_range():
    assert [parse_count(text, -2, 20) for text in ("0", "20", "-2", "007")] == [0, 20, -2, 7]
    assert parse_count(str(1 << 40)) == 1 << 40


@pytest.mark.parametrize(
    "text", ["", " 1", "+1", "-0", "1_0", "1.0", "1e3", "0x1", "\u0663", "nan", "-3", "21", "9" * 5000, str(2**80)]
)
def test_what_is_no_count_is_refused_with_the_range(text):
    with pytest.raises(CountError, match="is no whole number from -2 to 20") as caught:
        parse_count(text, -2, 20)
    assert len(str(caught.value)) < 200


def test_a_negative_number_of_bytes_is_refused():
    with pytest.raises(SizeError, match="negative"):
        parse_bytes(-4096)


def test_frames_are_whole_frames_only():
    assert parse_frames("4GiB") == 1 << 20
    assert parse_frames("4K") == 1
    with pytest.raises(SizeError, match="multiple of 4 KiB"):
        parse_frames(4095)


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0B"), (4095, "3.999KiB"), (640 << 10, "640KiB"), (3 << 29, "1.5GiB"), (4 << 30, "4GiB"), (1 << 40, "1TiB")],
)
def test_sizes_are_written_as_people_write_them(bytes_, text):
    assert format_bytes(bytes_) == text


@pytest.mark.parametrize(
    ("text", "order"),
    [("4K", 0), ("4k", 0), ("4KiB", 0), ("2M", 9), ("2mib", 9), (" 2MiB ", 9), ("4M", 10), ("1G", 18), ("1GiB", 18)],
)
def test_a_page_size_names_an_order(text, order):
    assert parse_order(text) == order


@pytest.mark.parametrize("text", ["", "8K", "2G", "512M", "4", "K4", "4KM"])
def test_what_is_no_page_size_is_refused_with_those_that_are(text):
    with pytest.raises(SizeError, match="4K, 2M, 4M, 1G"):
        parse_order(text)


def test_a_list_of_page_sizes_is_sorted_and_has_no_doubles():
    assert parse_page_sizes("1G,4K, 2M,4k") == (0, 9, 18)


def test_orders_have_the_names_of_the_field():
    assert [order_name(order) for order in (0, 9, 10, 18)] == ["4K", "2M", "4M", "1G"]
    assert order_name(12) == "16MiB"
