"""The values that a journal holds, as bytes: what operations are called with, and nothing else.

    value       kind (1 byte), then what the kind needs; numbers are varints (seven bits a byte, low bits first)

    NONE FALSE TRUE  nothing more
    INT              varint: 2n, of a negative n -2n-1
    BYTES TEXT       length, bytes (a text in UTF-8)
    NAME             number; one that is not known yet is followed by length and bytes
    TUPLE LIST       count, values
    MAPPING          count, then NAME and value in turn
    INTEGERS         count, 8 bytes each: a list of integers
    RANGE            start, stop, step as INTs
    ARRAY            number of the dtype, dimensions, length of each, bytes; a NumPy scalar is an array of none
    ENUM             NAME of the class, value
    RECORD           NAME of the class, count, values of its fields
    CALLBACK         number: a function that was passed

Names (of methods, arguments and classes) are written out once in a journal. A journal may come from anywhere: decoding
takes memory in proportion to the bytes that are there, makes only the classes that the caller lists, and whatever the
bytes are, the only error is a ValueError.
"""

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum, auto
from typing import Any, Final

import numpy as np

_INT_BYTES: Final = 20  # 140 bits
_INT_BITS: Final = 7 * _INT_BYTES - 1
_MAX_DEPTH: Final = 8
_MAX_VALUES: Final = 1 << 20  # in one record; integers of a list and elements of an array do not count
_MAX_NAMES: Final = 1 << 12
_MAX_NAME_BYTES: Final = 200
_MAX_DIMENSIONS: Final = 4
_DTYPES: Final = tuple(np.dtype(name) for name in ("?", "<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8"))
_PACKED_FROM: Final = 8  # integers; a shorter list is as small in single values
_INT64_MAX: Final = int(np.iinfo(np.int64).max)


class _Kind(IntEnum):
    """What follows."""

    NONE = 0
    FALSE = auto()
    TRUE = auto()
    INT = auto()
    BYTES = auto()
    TEXT = auto()
    NAME = auto()
    TUPLE = auto()
    LIST = auto()
    MAPPING = auto()
    INTEGERS = auto()
    RANGE = auto()
    ARRAY = auto()
    ENUM = auto()
    RECORD = auto()
    CALLBACK = auto()


class Name(str):
    """A text that stands in many records, and is written out in the first of them."""

    __slots__ = ()


class Encoder:
    """Turns values into bytes. `callbacks` are the functions met since `begin`, in order."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._known = 0
        self._out = bytearray()
        self.callbacks: list[Callable[..., object]] = []

    def begin(self) -> None:
        """Begin a record; what was put since the last `finish` is forgotten, its new names too."""
        while len(self._names) > self._known:
            self._names.popitem()
        self._out.clear()
        self.callbacks = []

    def finish(self) -> bytes:
        """Return the bytes of what was put since `begin`; the names in it are known from now on."""
        self._known = len(self._names)
        return bytes(self._out)

    def __len__(self) -> int:
        """Return the bytes of what was put since `begin`."""
        return len(self._out)

    def put(self, value: Any) -> None:
        """Append a value.

        Raises
        ------
        TypeError : it is of no kind that a journal holds
        """
        if value is None:
            self._out.append(_Kind.NONE)
        elif isinstance(value, bool):
            self._out.append(_Kind.TRUE if value else _Kind.FALSE)
        elif isinstance(value, Name):
            self._put_name(value)
        elif isinstance(value, Enum):
            self._out.append(_Kind.ENUM)
            self._put_name(type(value).__name__)
            self.put(value.value)
        elif isinstance(value, int):
            self._put_int(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._put_array(np.asarray(value))
        elif isinstance(value, str):
            self._put_bytes(_Kind.TEXT, value.encode())
        elif isinstance(value, bytes | bytearray | memoryview):
            self._put_bytes(_Kind.BYTES, bytes(value))
        else:
            self._put_compound(value)

    def _put_compound(self, value: Any) -> None:
        """Append a value that is made of others."""
        if isinstance(value, range):
            self._out.append(_Kind.RANGE)
            for number in (value.start, value.stop, value.step):
                self._put_int(number)
        elif (fields := _fields_of(value)) is not None:
            self._out.append(_Kind.RECORD)
            self._put_name(type(value).__name__)
            self._put_all(fields)
        elif isinstance(value, list) and _is_packable(value):
            self._head(_Kind.INTEGERS, len(value))
            self._out += np.array(value, "<i8").tobytes()
        elif isinstance(value, list | tuple):
            self._out.append(_Kind.LIST if isinstance(value, list) else _Kind.TUPLE)
            self._put_all(value)
        elif isinstance(value, Mapping):
            self._head(_Kind.MAPPING, len(value))
            for name, each in value.items():
                self._put_name(name)
                self.put(each)
        elif callable(value):
            self._head(_Kind.CALLBACK, len(self.callbacks))
            self.callbacks.append(value)
        else:
            raise TypeError(f"a journal cannot hold a {type(value).__name__}")

    def _put_all(self, values: list[Any] | tuple[Any, ...]) -> None:
        self._varint(len(values))
        for each in values:
            self.put(each)

    def _put_int(self, value: int) -> None:
        if value.bit_length() >= _INT_BITS:
            raise TypeError(f"a journal cannot hold an integer of {value.bit_length()} bits")
        self._head(_Kind.INT, value << 1 if value >= 0 else ~value << 1 | 1)

    def _put_bytes(self, kind: _Kind, data: bytes) -> None:
        self._head(kind, len(data))
        self._out += data

    def _put_name(self, name: str) -> None:
        number = self._names.get(name)
        self._head(_Kind.NAME, len(self._names) if number is None else number)
        if number is None:
            self._names[name] = len(self._names)
            self._varint(len(name.encode()))
            self._out += name.encode()

    def _put_array(self, array: np.ndarray[Any, Any]) -> None:
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _DTYPES or array.ndim > _MAX_DIMENSIONS:
            raise TypeError(f"a journal cannot hold an array of {array.dtype} in {array.ndim} dimensions")
        self._head(_Kind.ARRAY, _DTYPES.index(dtype), array.ndim, *array.shape)
        self._out += array.astype(dtype, copy=False).tobytes()

    def _head(self, kind: _Kind, *numbers: int) -> None:
        self._out.append(kind)
        for number in numbers:
            self._varint(number)

    def _varint(self, number: int) -> None:
        while number > 0x7F:
            self._out.append(number % 128 + 128)
            number >>= 7
        self._out.append(number)


def _fields_of(value: object) -> tuple[Any, ...] | None:
    """Return the fields of a dataclass or a named tuple; None for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    return tuple(value) if isinstance(value, tuple) and hasattr(value, "_fields") else None


def _is_packable(values: list[Any]) -> bool:
    """Return whether a list is plain integers of 64 bits, and long."""
    return len(values) >= _PACKED_FROM and all(
        type(each) is int and -_INT64_MAX <= each <= _INT64_MAX for each in values
    )


@dataclasses.dataclass(frozen=True)
class Callback:
    """Stands for a function that was passed; `number` counts those of one call."""

    number: int


class Decoder:
    """Turns bytes into values again.

    Parameters
    ----------
    classes : the enums and records that may be made, by name; nothing else ever is
    """

    def __init__(self, classes: Mapping[str, type[Any]]) -> None:
        self._classes = classes
        self._names: list[str] = []
        self._data, self._here, self._left = b"", 0, 0

    def values(self, data: bytes) -> list[Any]:
        """Return the values of a record.

        Raises
        ------
        ValueError : what is wrong with the bytes
        """
        self._data, self._here, self._left = data, 0, _MAX_VALUES
        found = []
        while self._here < len(data):
            found.append(self._value(0))
        return found

    def _value(self, depth: int) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise ValueError("it holds more values than a record may")
        (kind,) = self._take(1)
        if kind >= len(_READERS):
            raise ValueError(f"{kind} is no kind of value")
        return _READERS[kind](self, depth + 1)

    def _take(self, bytes_: int) -> bytes:
        end = self._here + bytes_
        if end > len(self._data):
            raise ValueError("a value is longer than its record")
        taken = self._data[self._here : end]
        self._here = end
        return taken

    def _varint(self) -> int:
        number = 0
        for place in range(_INT_BYTES):
            (seven,) = self._take(1)
            number |= (seven & 0x7F) << 7 * place
            if seven < 0x80:
                return number
        raise ValueError(f"a number is longer than {_INT_BYTES} bytes")

    def _int(self, _: int = 0) -> int:
        number = self._varint()
        return ~(number >> 1) if number & 1 else number >> 1

    def _bytes(self, _: int) -> bytes:
        return self._take(self._varint())

    def _text(self, depth: int) -> str:
        return self._bytes(depth).decode()  # its error is a ValueError

    def _name(self, _: int = 0) -> Name:
        number = self._varint()
        if number == len(self._names) < _MAX_NAMES:
            length = self._varint()
            if length > _MAX_NAME_BYTES:
                raise ValueError(f"a name has {length} bytes")
            self._names.append(self._take(length).decode())
        if number >= len(self._names):
            raise ValueError(f"name {number} was not written out")
        return Name(self._names[number])

    def _tuple(self, depth: int) -> tuple[Any, ...]:
        return tuple(self._list(depth))

    def _list(self, depth: int) -> list[Any]:
        count = self._varint()
        if count > self._left:  # before a list of that length is made
            raise ValueError(f"it promises {count} values")
        return [self._value(depth) for _ in range(count)]

    def _mapping(self, depth: int) -> dict[str, Any]:
        count = self._varint()
        if count > self._left:
            raise ValueError(f"it promises {count} values")
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._named()
            found[name] = self._value(depth)
        return found

    def _named(self) -> str:
        """Return a text that has to be a NAME."""
        if self._take(1)[0] != _Kind.NAME:
            raise ValueError("a name is missing")
        return str(self._name())

    def _integers(self, _: int) -> list[int]:
        numbers: list[int] = np.frombuffer(self._take(8 * self._varint()), "<i8").tolist()
        return numbers

    def _range(self, _: int) -> range:
        start, stop, step = (self._int_kind() for _ in range(3))
        return range(start, stop, step)  # a step of 0 is a ValueError

    def _int_kind(self) -> int:
        if self._take(1)[0] != _Kind.INT:
            raise ValueError("an integer is missing")
        return self._int()

    def _array(self, _: int) -> Any:
        number, dimensions = self._varint(), self._varint()
        if number >= len(_DTYPES) or dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"an array has dtype {number} and {dimensions} dimensions")
        dtype, shape = _DTYPES[number], [self._varint() for _ in range(dimensions)]
        length = dtype.itemsize
        for each in shape:
            length *= each
        if max(shape, default=0) > len(self._data):  # some length may be 0
            raise ValueError(f"an array has shape {shape}")
        data = np.frombuffer(self._take(length), dtype)
        if dtype == np.bool_ and (data.view(np.uint8) > 1).any():
            raise ValueError("an array has truth values that are neither")
        array = data.astype(dtype.newbyteorder("="))  # a copy of its own, that can be written
        return array.reshape(shape) if shape else array[0]

    def _enum(self, depth: int) -> Any:
        kind = self._class(self._named())
        return self._made(kind, (self._value(depth),))

    def _record(self, depth: int) -> Any:
        kind = self._class(self._named())
        return self._made(kind, self._tuple(depth))

    def _class(self, name: str) -> type[Any]:
        if name not in self._classes:
            raise ValueError(f"it holds a {name!r}, which no operation takes")
        return self._classes[name]

    def _made(self, kind: type[Any], values: tuple[Any, ...]) -> Any:
        try:
            return kind(*values)
        except Exception as error:  # noqa: BLE001  a class may refuse what it is given in any way
            raise ValueError(f"it holds a {kind.__name__} that cannot be: {error}") from None

    def _callback(self, _: int) -> Callback:
        return Callback(self._varint())


_READERS: Final[tuple[Callable[[Decoder, int], Any], ...]] = (
    lambda _self, _depth: None,
    lambda _self, _depth: False,
    lambda _self, _depth: True,
    Decoder._int,  # noqa: SLF001  of this module
    Decoder._bytes,  # noqa: SLF001
    Decoder._text,  # noqa: SLF001
    Decoder._name,  # noqa: SLF001
    Decoder._tuple,  # noqa: SLF001
    Decoder._list,  # noqa: SLF001
    Decoder._mapping,  # noqa: SLF001
    Decoder._integers,  # noqa: SLF001
    Decoder._range,  # noqa: SLF001
    Decoder._array,  # noqa: SLF001
    Decoder._enum,  # noqa: SLF001
    Decoder._record,  # noqa: SLF001
    Decoder._callback,  # noqa: SLF001
)
