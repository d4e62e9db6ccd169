"""Every expected failure, with its fields; each builds its own one-line message.

`TwofoldError` is the base: anything else that escapes is a bug of ours. Numbers are given in hex with the space
named (`gfn 0x1234`). Kernels return status codes; the room that owns the data turns them into these.
"""

from collections.abc import Callable, Iterable
from typing import Final

MOST_SHOWN: Final = 80  # of what somebody gave: a file name or a value may be as long as it likes [letters]

MOST_IN_LINE: Final = 2000  # of a whole message, and of any other sentence [letters]
MOST_IN_NAME: Final = 200  # of the name of a domain out of a file [letters]

_FEW: Final = 8  # names of what there is, where a file says how many
_LEAST_BEGUN: Final = 3  # of a name that was not written out [letters]
_LIKENESS: Final = 0.7  # "tall" is 0.67 of "small"


def shown(text: str, most: int = MOST_IN_LINE) -> str:
    """Return text that came from anywhere as part of one line: what a terminal would act on is escaped, the rest cut.

    Escaped are control characters and ends of lines, marks of direction and other letters without a shape, surrogates,
    and what is assigned to nothing: all that `str.isprintable` refuses, but the space that no line ends at. Whatever
    prints what a file said asks this.
    """
    begun = text[: most + 1]
    if not begun.isprintable():
        begun = "".join(each if each.isprintable() or each == "\xa0" else _escaped(each) for each in begun)
    return begun if len(text) <= most and len(begun) <= most else f"{begun[:most]}..."


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def quoted(given: object) -> str:
    """Return what somebody gave as one printable word of bounded length, in quotes where it is a text."""
    try:
        # Of a long text only what is shown is looked at.
        text = repr(given[: MOST_SHOWN + 1] if isinstance(given, str | bytes) else given)
    except ValueError:  # Python writes no number of more than 4300 digits
        return f"a very large {type(given).__name__}"
    return shown(text, MOST_SHOWN)


def some(names: Iterable[str]) -> str:
    """Return the names that a file says there are: the first few of them, and how many more."""
    every = list(names)
    more = f" and {len(every) - _FEW} more" if len(every) > _FEW else ""
    return ", ".join(shown(each, MOST_SHOWN) for each in every[:_FEW]) + more


def wrong_type(expected: str, given: object) -> TypeError:
    """Return what is raised for an argument of a type that nothing can be made of: "a size is a text, not int 5"."""
    return TypeError(f"{expected}, not {type(given).__name__} {quoted(given)}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None where no one is near."""
    from difflib import SequenceMatcher, get_close_matches  # noqa: PLC0415  of no use but here

    plain, given = {_plain(each): each for each in known}, _plain(name[:MOST_SHOWN])
    begun = [each for each in plain if len(given) >= _LEAST_BEGUN and each.startswith(given)]
    swapped = [each for each in plain if sorted(each) == sorted(given)]
    for sure in (swapped, begun):
        if len(sure) == 1:
            return plain[sure[0]]
    near = get_close_matches(given, plain, n=2, cutoff=_LIKENESS)
    likeness = [SequenceMatcher(None, each, given).ratio() for each in near]
    return plain[near[0]] if len(set(likeness)) == len(near) > 0 else None  # of two that are as near, neither


def _plain(name: str) -> str:
    """Return a name without what people write differently."""
    return name.lower().replace("-", "").replace("_", "")


class TwofoldError(Exception):
    """Base of all failures that a caller should expect. Its message is one line, whatever a file said (`shown`)."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(str(message)))

    def __reduce__(self) -> tuple[Callable[..., "TwofoldError"], tuple[object, ...]]:
        # The default calls the class with the message alone; workers in other processes send errors with fields.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[TwofoldError], args: tuple[object, ...], fields: dict[str, object]) -> TwofoldError:
    """Return an error that another process has raised."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class SizeError(TwofoldError):
    """A size, page size or order that cannot be read or does not fit."""

    def __init__(self, text: str, problem: str) -> None:
        self.text = text
        self.problem = problem
        super().__init__(f"size {quoted(text)} {problem}")


class CountError(TwofoldError):
    """A number of something that is no whole number, or outside what is allowed."""

    def __init__(self, given: object, least: int, most: int) -> None:
        self.text = given if isinstance(given, str) else quoted(given)
        self.least = least
        self.most = most
        super().__init__(f"{quoted(given)} is no whole number from {least} to {most}")


class AddressError(TwofoldError):
    """A gfn, mfn, order or alignment outside what the table or machine can hold."""

    def __init__(self, space: str, number: int, problem: str) -> None:
        self.space = space
        self.number = number
        self.problem = problem
        super().__init__(f"{space} {number:#x} {problem}")


class HeapExhaustedError(TwofoldError):
    """The machine heap has no free block of the order asked for."""

    def __init__(self, order: int, wanted_frames: int, free_frames: int) -> None:
        self.order = order
        self.wanted_frames = wanted_frames
        self.free_frames = free_frames
        super().__init__(f"the heap cannot give {wanted_frames} frames at order {order}: {free_frames} frames are free")


class PoolExhaustedError(TwofoldError):
    """The domain's pool of table frames is empty; the mapping stands as it was."""

    def __init__(self, free: int, capacity: int) -> None:
        self.free = free
        self.capacity = capacity
        super().__init__(
            f"the table pool is too small: {free} of its {capacity} frames are free, and the change needs more; "
            "give the domain a larger table_pool"
        )


class EncodingError(TwofoldError):
    """A frame that an entry of this table format cannot hold; nothing was changed."""

    def __init__(self, gfn: int, table_format: str, limit: int) -> None:
        self.gfn = gfn
        self.table_format = table_format
        self.limit = limit
        super().__init__(
            f"gfn {gfn:#x} needs small entries of a {table_format} table for machine frames from {limit:#x} on, which "
            "they cannot hold; move them below first"
        )


class OwnershipError(TwofoldError):
    """A frame that belongs to another domain, to nobody, or is in use."""

    def __init__(self, mfn: int, problem: str) -> None:
        self.mfn = mfn
        self.problem = problem
        super().__init__(f"mfn {mfn:#x} {problem}")


class P2MTypeError(TwofoldError):
    """A P2M type that the table format or the operation cannot hold."""

    def __init__(self, type_name: str, problem: str) -> None:
        self.type_name = type_name
        self.problem = problem
        super().__init__(f"P2M type {type_name} {problem}")


class ListenerError(TwofoldError):
    """A function that an operation was calling did what only others may do: it changed something, or ended it all.

    operation : what it tried;  told : which function it is;  under_way : what called it
    """

    def __init__(self, operation: str, told: str, under_way: str) -> None:
        self.operation = operation
        self.told = told
        self.under_way = under_way
        by = f", called by {told}," if told else ""
        super().__init__(f"{operation}{by} is refused while {under_way} is under way; do it when that is over")


class ClosedError(TwofoldError):
    """A machine, or tables, that are closed, or that belong to the process from which this one was forked."""

    def __init__(self, what: str, problem: str) -> None:
        self.what = what
        self.problem = problem
        super().__init__(f"{what} {problem}")


class WriteRefusedError(TwofoldError):
    """Somebody who watches guest memory does not let a store happen; nothing of it was stored.

    gfn : a frame that it goes to;  by : who wanted to store
    """

    def __init__(self, gfn: int, by: str, why: str) -> None:
        self.gfn = gfn
        self.by = by
        self.why = why
        super().__init__(f"a store into gfn {gfn:#x} by {by} is refused: {why}")


class TranslationError(TwofoldError):
    """Base of what a walk can end in besides a translation."""

    def __init__(self, space: str, address: int, level: int, entry: int, problem: str) -> None:
        self.space = space
        self.address = address
        self.level = level
        self.entry = entry
        super().__init__(f"{space} {address:#x} {problem} (level {level}, entry {entry:#x})")


class NotPresentError(TranslationError):
    """A walk met an entry that is not present."""

    def __init__(self, space: str, address: int, level: int, entry: int) -> None:
        super().__init__(space, address, level, entry, "is not mapped")


class PermissionFaultError(TranslationError):
    """A walk met an entry that forbids the access."""

    def __init__(self, space: str, address: int, level: int, entry: int) -> None:
        super().__init__(space, address, level, entry, "forbids the access")


class ReservedBitError(TranslationError):
    """A walk met an entry with a reserved bit set, or a table outside the machine."""

    def __init__(self, space: str, address: int, level: int, entry: int) -> None:
        super().__init__(space, address, level, entry, "has a malformed entry")


class BuildError(TwofoldError):
    """A domain that could not be built; everything it had taken was given back."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"cannot build the domain: {problem}")


class DomainError(TwofoldError):
    """A domain that is in no state for what is asked of it."""

    def __init__(self, domid: int, problem: str) -> None:
        self.domid = domid
        self.problem = problem
        super().__init__(f"domain {domid} {problem}")


class HypercallError(TwofoldError):
    """A hypercall that fails, with the ABI's negative errno."""

    def __init__(self, errno: int, problem: str) -> None:
        self.errno = errno
        self.problem = problem
        super().__init__(f"hypercall fails with errno {-errno}: {problem}")


class ProfileError(TwofoldError):
    """A CPU profile that is unknown or wrong."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"CPU profile {name!r} {problem}")  # a whole path may be its name


class FormatError(TwofoldError):
    """A file (snapshot, scenario, program, dump, trace) that is not what it should be; `offset` says where [bytes]."""

    def __init__(self, path: object, problem: str, offset: int | None = None) -> None:
        self.path = str(path)
        self.problem = problem
        self.offset = offset
        where = "" if offset is None else f"at byte {offset}: "
        super().__init__(f"{self.path}: {where}{problem}")


class ReadingError(TwofoldError):
    """An option that says how tables of a file are to be read, and cannot be: its name, what it says, and why."""

    def __init__(self, option: str, value: str, problem: str) -> None:
        self.option = option
        self.value = value
        self.problem = problem
        super().__init__(f"{option} {value} {problem}")


class ScenarioError(FormatError):
    """A field of a scenario that is unknown or wrong.

    place : the keys that lead to it, and places in lists;  written : as it stands in a file
    """

    def __init__(self, path: object, place: tuple[str | int, ...], written: str, wrong: str) -> None:
        self.place = place
        self.wrong = wrong
        super().__init__(path, f"field {written}: {wrong}")


class DamagedJournalError(FormatError):
    """A journal that is whole only up to an offset; `operations` of it stand before."""

    def __init__(self, path: object, offset: int, operations: int, damage: str) -> None:
        super().__init__(path, f"is damaged at offset {offset:#x}, after {operations} whole operations: {damage}")
        self.offset = offset
        self.operations = operations
        self.damage = damage


class DivergenceError(TwofoldError):
    """An operation of a journal that now comes to something else than when it was recorded."""

    def __init__(self, path: object, operation: int, offset: int, difference: str) -> None:
        self.path = str(path)
        self.operation = operation
        self.offset = offset
        self.difference = difference
        super().__init__(f"{self.path}: operation {operation} (offset {offset:#x}) diverges: {difference}")


class FreeMapError(TwofoldError):
    """A map of free memory that cannot be: runs, fields or file bytes that contradict themselves."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class HostError(TwofoldError):
    """Something of the live host that cannot be read."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class UnknownNameError(TwofoldError):
    """A design, CPU, workload, layout or engine that does not exist, with what does."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        if not isinstance(name, str):
            raise wrong_type(f"{kind}: a name is a str", name)
        self.kind = kind
        self.name = name
        self.known = known
        meant = nearest(name, known)
        guess = "" if meant is None else f"did you mean {meant!r}? "
        super().__init__(f"unknown {kind} {quoted(name)}; {guess}known are {', '.join(known) or 'none'}")


class PlugInError(TwofoldError):
    """What another package has registered under a name, and what is wrong with it."""

    def __init__(self, kind: str, name: str, problem: str) -> None:
        self.kind = kind
        self.name = name
        self.problem = problem
        super().__init__(f"{kind} {quoted(name)} {problem}")


class PlugInWarning(UserWarning):
    """Something of another package is left out."""


class AccessRefusedError(TwofoldError):
    """An access of a guest that a resolver of its domain refuses: the fault is delivered, with this reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class GuestError(TwofoldError):
    """A guest that cannot be set up as asked, or a program that did not end well."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)
