"""CPU profiles: what is known of a core's TLBs, page-walk caches and latencies, each number with its source.

A profile is a TOML file, one section a field; the shipped ones lie in `data/cpus`:

    name = "zen3"
    title = "AMD Zen 3 (EPYC 7003)"
    [l1_4k]
    entries = 64
    ways = 64
    source = "where the number is from"
    confidence = "high"                 # or "medium", "low": assumed, or not checked against the primary text
    [l1_2m]
    shares = "l1_4k"                    # the same entries hold both sizes
    source = ...

A structure with 0 entries is absent. Sections from `l1i_4k` on may be left out: they then say so, and what is assumed.
A structure replaces its least recently used entry unless `replacement` says otherwise. Left out: coalesced entries.
Read first: `spec.mmu` for what each structure does.
"""

import json
import os
from dataclasses import dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from twofold.errors import ProfileError, UnknownNameError, wrong_type
from twofold.files import read_toml

if TYPE_CHECKING:
    from pydantic import ValidationError

Confidence = Literal["high", "medium", "low"]
SUFFIX: Final = ".toml"
MAX_ENTRIES: Final = 1 << 24  # of one structure: as lines, a share of 1 GiB
MAX_FILE_BYTES: Final = 1 << 20
MAX_CYCLES: Final = 1_000_000  # of one table read
MAX_WALKERS: Final = 64
MAX_TREE_WAYS: Final = 64  # a set's tree is one word
_STRICT: Final = {"extra": "forbid"}  # what Pydantic reads from a dataclass: no field that is not declared


@dataclass(frozen=True)
class Structure:
    """One caching structure: so many entries in sets of so many ways, or the entries of another one."""

    __pydantic_config__ = _STRICT

    source: str
    confidence: Confidence
    entries: int = 0  # 0: absent
    ways: int = 0
    shares: str = ""  # the structure whose entries this one uses too
    replacement: Literal["lru", "fifo", "tree-plru", "random"] = "lru"

    @property
    def sets(self) -> int:
        """Sets of the structure; 1 for an absent one."""
        return self.entries // self.ways if self.ways else 1


@dataclass(frozen=True)
class Cycles:
    """A latency [core cycles]."""

    __pydantic_config__ = _STRICT

    value: int
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class TableEntryContent:
    """What a guest paging-structure cache holds: the mfn of the next table, or its gfn, translated again."""

    __pydantic_config__ = _STRICT

    value: Literal["combined", "guest"]
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Smashing:
    """Which TLBs keep a 1G page as the 2M pieces of it that are used."""

    __pydantic_config__ = _STRICT

    value: Literal["none", "l1", "l2", "both"]
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Number:
    """A plain number: of walkers, or a seed."""

    __pydantic_config__ = _STRICT

    value: int
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class PaeRoot:
    """When the four root entries of PAE tables are read: in each walk, or once when CR3 is loaded."""

    __pydantic_config__ = _STRICT

    value: Literal["walk", "load"]
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Tagging:
    """Whether entries carry an address-space number, so that they survive a switch; "none": a switch drops them."""

    __pydantic_config__ = _STRICT

    value: Literal["asid", "none"]
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Marking:
    """A and D bits: "preset" before the run, or by walks ("update"), where a store to a clean leaf walks again."""

    __pydantic_config__ = _STRICT

    value: Literal["preset", "update"]
    source: str
    confidence: Confidence


_NOT_STATED: Final = "Not stated in this profile"
_FETCHES: Final = Structure(f"{_NOT_STATED}: fetches use the TLB of the data side", "low")
_LEVEL_5: Final = Structure(f"{_NOT_STATED}: entries of level 4 are not cached", "low")


@dataclass(frozen=True)
class CpuProfile:
    """One core's address translation."""

    __pydantic_config__ = _STRICT

    name: str
    title: str
    l1_4k: Structure
    l1_2m: Structure
    l1_1g: Structure
    l2_4k: Structure
    l2_2m: Structure
    l2_1g: Structure
    guest_pde: Structure
    guest_pdpte: Structure
    guest_pml4e: Structure
    nested_4k: Structure
    nested_2m: Structure
    nested_1g: Structure
    host_pde: Structure
    host_pdpte: Structure
    host_pml4e: Structure
    l2_lines: Structure  # lines of page-table entries that the L2 cache holds: a stated share of it
    l3_lines: Structure
    guest_structure_holds: TableEntryContent
    smash_1g: Smashing
    l2_cycles: Cycles  # of a table read that the L2 cache serves
    l3_cycles: Cycles
    memory_cycles: Cycles
    l2_tlb_cycles: Cycles  # what an access loses that misses the L1 TLB and hits the L2 TLB
    l1i_4k: Structure = _FETCHES  # all three absent: fetches use the data side's
    l1i_2m: Structure = _FETCHES
    l1i_1g: Structure = _FETCHES
    l2i_4k: Structure = _FETCHES
    l2i_2m: Structure = _FETCHES
    l2i_1g: Structure = _FETCHES
    guest_pml5e: Structure = _LEVEL_5
    host_pml5e: Structure = _LEVEL_5
    walkers: Number = Number(1, f"{_NOT_STATED}: one page walker", "low")
    pae_root: PaeRoot = PaeRoot("walk", f"{_NOT_STATED}: walks read root entries", "low")
    tags: Tagging = Tagging("asid", f"{_NOT_STATED}: entries are tagged", "low")
    accessed_dirty: Marking = Marking("preset", f"{_NOT_STATED}: set beforehand", "low")
    random_seed: Number = Number(1, "Of structures that replace at random", "high")

    @property
    def structures(self) -> dict[str, Structure]:
        """All caching structures by field name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in named.items() if isinstance(part, Structure)}


def _folder() -> Traversable:
    """Return the folder of the shipped profiles."""
    return resources.files("twofold") / "data" / "cpus"


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted."""
    files = (file.name for file in _folder().iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)))


def profile_fields(name_or_path: str | Path) -> list[tuple[str, str, str, str]]:
    """Return (field, value, confidence, source) of every field of a profile."""
    profile = load_profile(name_or_path)
    rows = []
    for field in fields(profile):
        part = getattr(profile, field.name)
        if isinstance(part, str):
            rows.append((field.name, part, "", ""))
            continue
        value = _structure_text(part) if isinstance(part, Structure) else str(part.value)
        rows.append((field.name, value, part.confidence, part.source))
    return rows


def _structure_text(part: Structure) -> str:
    if part.shares:
        return f"those of {part.shares}"
    policy = "" if part.replacement == "lru" else f", {part.replacement}"
    return f"{part.entries} entries, {part.ways} ways{policy}" if part.entries else "absent"


def load_profile(name_or_path: str | Path) -> CpuProfile:
    """Return a shipped profile by name, or the profile in a file whose name ends in `.toml`.

    Raises
    ------
    UnknownNameError : no profile of this name is shipped
    FormatError : the file cannot be read, or is no TOML
    ProfileError : a field is missing, unknown or wrong; it is named
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise wrong_type("a CPU is a name or the path of a TOML file", name_or_path)
    if str(name_or_path).endswith(SUFFIX):
        return _parse(str(name_or_path), Path(name_or_path))
    if name_or_path not in profile_names():
        raise UnknownNameError("CPU", str(name_or_path), profile_names())
    return _parse(str(name_or_path), _folder() / f"{name_or_path}{SUFFIX}")


def _parse(name: str, file: Traversable) -> CpuProfile:
    """Read, validate and check one profile; `name` is what messages call it."""
    return make_profile(read_toml(file, MAX_FILE_BYTES), name)


def make_profile(fields_: dict[str, Any], name: str) -> CpuProfile:
    """Return a checked profile of the fields that a file or a saved scenario has; `name` is what messages call it.

    Raises
    ------
    ProfileError : a field is missing, unknown or wrong; it is named
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - heavy, and only needed here

    try:
        # By way of JSON: in strict mode only that form lets a table become a dataclass.
        profile = TypeAdapter(CpuProfile).validate_json(json.dumps(fields_, default=str), strict=True)
    except ValidationError as error:
        raise ProfileError(name, _first_problem(error)) from error
    for field in fields(profile):
        problem = _problem(profile, field.name)
        if problem:
            raise ProfileError(name, f"field {field.name}: {problem}")
    return profile


def _first_problem(error: "ValidationError") -> str:
    """Return the first of Pydantic's findings in one line, with the field named."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"field {where}: {first['msg']}"


def _problem(profile: CpuProfile, field: str) -> str:
    """Return what is wrong with one field of a well-formed profile, "" when nothing is."""
    part = getattr(profile, field)
    if isinstance(part, Structure):
        return _structure_problem(profile, field, part)
    if isinstance(part, Cycles) and not 0 <= part.value <= MAX_CYCLES:
        return f"{part.value} cycles are out of range"
    if field == "walkers" and not 1 <= profile.walkers.value <= MAX_WALKERS:
        return f"{profile.walkers.value} walkers are out of range"
    if field == "random_seed" and not 1 <= profile.random_seed.value < 1 << 16:
        return f"{profile.random_seed.value} is no seed from 1 to 65535"
    return ""


def _structure_problem(profile: CpuProfile, field: str, structure: Structure) -> str:
    """Return what is wrong with one structure, "" when nothing is."""
    entries, ways, owner = structure.entries, structure.ways, structure.shares
    if owner:
        lines = {field, owner} & {"l2_lines", "l3_lines"}
        if entries or ways:
            return "entries and ways are those of the structure that it shares"
        if owner == field or owner not in profile.structures or profile.structures[owner].shares or lines:
            return f"cannot share {owner!r}"
        return ""
    if not 0 <= entries <= MAX_ENTRIES:
        return f"{entries} entries are out of range"
    if (ways < 1 or entries % ways) if entries else ways:
        return f"{entries} entries cannot stand in {ways} ways"
    if structure.replacement == "tree-plru" and (ways & (ways - 1) or ways > MAX_TREE_WAYS):
        return f"no tree has {ways} ways: a power of two of at most {MAX_TREE_WAYS}"
    if structure.replacement != "lru" and field in {"l2_lines", "l3_lines"}:
        return "lines are replaced by least recent use"
    return ""
