"""Frames, orders and sizes: the units that every other room counts in.

A *frame* is 4 KiB. A *gfn* counts guest frames, an *mfn* machine frames; `gva`, `gpa` and `maddr` are the byte
addresses. An *order* is log2 of a number of frames. Types are `NewType`s: free at run time, never mixed.
"""

import operator
import re
from typing import Final, NewType

from twofold.errors import CountError, SizeError, wrong_type

Gfn = NewType("Gfn", int)  # guest frame: what a guest puts in its own tables
Mfn = NewType("Mfn", int)  # machine frame: what the hypervisor puts in its tables
Order = NewType("Order", int)  # log2 of frames

FRAME_SHIFT: Final = 12
FRAME_BYTES: Final = 1 << FRAME_SHIFT
ORDER_4K: Final = Order(0)
ORDER_2M: Final = Order(9)
ORDER_4M: Final = Order(10)
ORDER_1G: Final = Order(18)
MAX_HEAP_ORDER: Final = Order(20)  # 4 GiB: the largest block that the buddy heap keeps
INVALID_GFN: Final = Gfn(2**64 - 1)
SHARED_M2P: Final = Gfn(2**64 - 2)  # what the M2P says of a frame that several gfns share
INVALID_MFN: Final = Mfn(2**64 - 1)

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(
    r"[ \t]*(0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?)[ \t]*(?:([KMGT])(iB|B)?|B)?[ \t]*", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"-?[0-9]+")
_ORDER_NAMES: Final = {0: "4K", 9: "2M", 10: "4M", 18: "1G"}
MAX_COUNT: Final = 1 << 40  # of accesses, steps and their like: years of work
_MAX_DIGITS: Final = 40  # longer texts are no numbers that anything here counts
_SPACE_BITS: Final = 64  # no address space has more bytes


def parse_bytes(size: int | str) -> int:
    """Return a size such as `"4GiB"`, `"512M"`, `"1.5G"` or `0x1000` in bytes.

    K, M, G and T are powers of 1024, with or without "iB"; a plain number counts bytes. Digits are ASCII's. "GB" and
    its kin are refused: to some they are powers of 1000.

    Raises
    ------
    SizeError : the text is no size, not a whole number of bytes, or more than 64 bits address
    TypeError : neither a text nor a whole number
    """
    if not isinstance(size, str):
        return _whole_bytes(size)
    match = _SIZE.fullmatch(size)
    if match is None:
        raise SizeError(size, "is no size; write it like 4GiB, 512M or 0x1000")
    number, unit, ending = match.group(1), (match.group(2) or "").upper(), match.group(3) or ""
    if ending.upper() == "B":
        raise SizeError(size, f"could be of 1000 or of 1024: write {number}{unit}iB")
    if len(number) > _MAX_DIGITS:
        raise SizeError(size, f"is larger than 2**{_SPACE_BITS} bytes")
    if number[:2] in {"0x", "0X"}:
        return _bounded(int(number, 16) * _UNITS[unit], size)
    whole, _, fraction = number.partition(".")
    scale: int = 10 ** len(fraction)
    bytes_, rest = divmod(int(whole + fraction) * _UNITS[unit], scale)
    if rest:
        raise SizeError(size, "is not a whole number of bytes")
    return _bounded(bytes_, size)


def _whole_bytes(size: object) -> int:
    """Return a number of bytes of whichever integer type."""
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise wrong_type("a size is a whole number of bytes or a text like '4GiB'", size)
    bytes_ = operator.index(size)
    if bytes_ < 0:
        raise SizeError(str(bytes_), "is negative")
    return bytes_


def _bounded(bytes_: int, text: str) -> int:
    """Return a number of bytes that an address of 64 bits can count."""
    if bytes_ > 1 << _SPACE_BITS:
        raise SizeError(text, f"is larger than 2**{_SPACE_BITS} bytes")
    return bytes_


def parse_count(text: str, least: int = 0, most: int = MAX_COUNT) -> int:
    """Return a whole number in a range, written in ASCII digits and nothing else.

    Raises
    ------
    CountError : the text is none
    """
    number = int(text) if _NUMBER.fullmatch(text) and len(text) <= _MAX_DIGITS and text != "-0" else None
    if number is None or not least <= number <= most:
        raise CountError(text, least, most)
    return number


def parse_frames(size: int | str) -> int:
    """Return a size in 4 KiB frames; it must be a whole number of them."""
    frames, rest = divmod(parse_bytes(size), FRAME_BYTES)
    if rest:
        raise SizeError(str(size), "is not a multiple of 4 KiB")
    return frames


def format_bytes(bytes_: int) -> str:
    """Return a size as people write it: `"4GiB"`, `"1.5GiB"`, `"640KiB"`."""
    for unit in ("T", "G", "M", "K"):
        if bytes_ >= _UNITS[unit]:
            return f"{bytes_ / _UNITS[unit]:.4g}{unit}iB"
    return f"{bytes_}B"


def parse_page_sizes(text: str) -> tuple[Order, ...]:
    """Return the orders of a list such as `"4K,2M"`, ascending."""
    return tuple(sorted({parse_order(part) for part in text.split(",")}))


def parse_order(text: str) -> Order:
    """Return the order of a page size: 0 for `"4K"`, 9 for `"2M"`, 10 for `"4M"`, 18 for `"1G"`; "iB" may follow."""
    if not isinstance(text, str):
        raise wrong_type("a page size is a text like '2M'", text)
    given = text.strip(" \t").upper()
    for order, name in _ORDER_NAMES.items():
        if given in {name, f"{name}IB"}:
            return Order(order)
        if given == f"{name}B":
            raise SizeError(text, f"could be of 1000 or of 1024: write {name}")
    raise SizeError(text, f"is no page size; known are {', '.join(_ORDER_NAMES.values())}")


def order_name(order: int) -> str:
    """Return an order as the field writes it: `"4K"`, `"2M"`, `"1G"`, otherwise in bytes."""
    return _ORDER_NAMES.get(order) or format_bytes(FRAME_BYTES << order)
