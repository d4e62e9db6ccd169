"""Every expected failure has fields, a base and a message in hex with the space named."""

import inspect
import pickle

import pytest

from twofold import errors
from twofold.errors import TwofoldError

EXAMPLES = [
    (errors.SizeError("4X", "is no size"), {"text": "4X"}, "size '4X' is no size"),
    (errors.AddressError("gfn", 0x1234, "is too high"), {"space": "gfn", "number": 0x1234}, "gfn 0x1234 is too high"),
    (
        errors.HeapExhaustedError(9, 512, 7),
        {"order": 9, "wanted_frames": 512, "free_frames": 7},
        "the heap cannot give 512 frames at order 9: 7 frames are free",
    ),
    (
        errors.EncodingError(0x400, "npt-2", 1 << 20),
        {"gfn": 0x400, "table_format": "npt-2", "limit": 1 << 20},
        (
            "gfn 0x400 needs small entries of a npt-2 table for machine frames from 0x100000 on, which they cannot "
            "hold; move them below first"
        ),
    ),
    (
        errors.PoolExhaustedError(1, 8),
        {"free": 1, "capacity": 8},
        (
            "the table pool is too small: 1 of its 8 frames are free, and the change needs more; "
            "give the domain a larger table_pool"
        ),
    ),
    (errors.OwnershipError(0xAB, "is free already"), {"mfn": 0xAB}, "mfn 0xab is free already"),
    (
        errors.P2MTypeError("MMIO_DM", "has no present entry"),
        {"type_name": "MMIO_DM"},
        "P2M type MMIO_DM has no present entry",
    ),
    (
        errors.NotPresentError("gpa", 0x1000, 2, 0),
        {"space": "gpa", "address": 0x1000, "level": 2, "entry": 0},
        "gpa 0x1000 is not mapped (level 2, entry 0x0)",
    ),
    (
        errors.PermissionFaultError("gva", 0x1000, 0, 0x65),
        {"level": 0, "entry": 0x65},
        "gva 0x1000 forbids the access (level 0, entry 0x65)",
    ),
    (
        errors.ReservedBitError("gpa", 0x1000, 3, 0xE7),
        {"level": 3, "entry": 0xE7},
        "gpa 0x1000 has a malformed entry (level 3, entry 0xe7)",
    ),
    (
        errors.ListenerError("P2M.unmap", "a listener", "P2M.map"),
        {"operation": "P2M.unmap", "told": "a listener", "under_way": "P2M.map"},
        "P2M.unmap, called by a listener, is refused while P2M.map is under way; do it when that is over",
    ),
    (
        errors.ClosedError("the machine", "is closed"),
        {"what": "the machine", "problem": "is closed"},
        "the machine is closed",
    ),
    (
        errors.WriteRefusedError(0x12, "loader", "it is logged"),
        {"gfn": 0x12, "by": "loader", "why": "it is logged"},
        "a store into gfn 0x12 by loader is refused: it is logged",
    ),
    (errors.BuildError("no memory"), {"problem": "no memory"}, "cannot build the domain: no memory"),
    (
        errors.DomainError(3, "is not paused"),
        {"domid": 3, "problem": "is not paused"},
        "domain 3 is not paused",
    ),
    (
        errors.HypercallError(-22, "gpfn is invalid"),
        {"errno": -22, "problem": "gpfn is invalid"},
        "hypercall fails with errno 22: gpfn is invalid",
    ),
    (errors.ProfileError("zen9", "is unknown"), {"name": "zen9"}, "CPU profile 'zen9' is unknown"),
    (errors.FormatError("a.json", "is empty"), {"path": "a.json"}, "a.json: is empty"),
    (
        errors.ReadingError("address_bits", "60", "is no width of addresses in npt tables: 32 to 52"),
        {"option": "address_bits", "value": "60", "problem": "is no width of addresses in npt tables: 32 to 52"},
        "address_bits 60 is no width of addresses in npt tables: 32 to 52",
    ),
    (
        errors.DamagedJournalError("a.journal", 0x40, 3, "a checksum is wrong"),
        {"path": "a.journal", "offset": 0x40, "operations": 3, "damage": "a checksum is wrong"},
        "a.journal: is damaged at offset 0x40, after 3 whole operations: a checksum is wrong",
    ),
    (
        errors.DivergenceError("a.journal", 7, 0x90, "it raises nothing"),
        {"path": "a.journal", "operation": 7, "offset": 0x90, "difference": "it raises nothing"},
        "a.journal: operation 7 (offset 0x90) diverges: it raises nothing",
    ),
    (errors.FreeMapError("runs overlap"), {"problem": "runs overlap"}, "runs overlap"),
    (errors.HostError("/proc/buddyinfo", "is empty"), {"source": "/proc/buddyinfo"}, "/proc/buddyinfo: is empty"),
    (
        errors.UnknownNameError("layout", "x", ("pvh", "hvm")),
        {"kind": "layout", "name": "x", "known": ("pvh", "hvm")},
        "unknown layout 'x'; known are pvh, hvm",
    ),
    (
        errors.PlugInError("design", "house", "is registered by a:A and b:B: uninstall one of them"),
        {"kind": "design", "name": "house"},
        "design 'house' is registered by a:A and b:B: uninstall one of them",
    ),
    (
        errors.CountError("-1", 0, 8),
        {"text": "-1", "least": 0, "most": 8},
        "'-1' is no whole number from 0 to 8",
    ),
    (
        errors.ScenarioError("a.toml", ("modes", 1, "paging"), "paging of [[modes]] number 2", "is unknown"),
        {"path": "a.toml", "place": ("modes", 1, "paging"), "wrong": "is unknown"},
        "a.toml: field paging of [[modes]] number 2: is unknown",
    ),
    (errors.AccessRefusedError("frozen"), {"reason": "frozen"}, "frozen"),
    (errors.GuestError("no program"), {"problem": "no program"}, "no program"),
]


@pytest.mark.parametrize(
    ("error", "fields", "message"),
    EXAMPLES,
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_carries_its_fields_and_builds_its_message(error, fields, message):
    assert isinstance(error, TwofoldError)
    assert {name: getattr(error, name) for name in fields} == fields
    assert str(error) == message


def test_every_error_class_is_shown_by_an_example():
    bases = {TwofoldError, errors.TranslationError}
    classes = {thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, TwofoldError)}
    assert classes - bases == {type(error) for error, _, _ in EXAMPLES}


def test_what_a_walk_ends_in_can_be_caught_as_one():
    for kind in (errors.NotPresentError, errors.PermissionFaultError, errors.ReservedBitError):
        assert issubclass(kind, errors.TranslationError)


@pytest.mark.parametrize(
    ("error", "fields", "message"),
    EXAMPLES,
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_survives_the_way_between_processes(error, fields, message):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == message
    assert {name: getattr(again, name) for name in fields} == fields
