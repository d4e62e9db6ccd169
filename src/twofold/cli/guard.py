"""What every command is run in: its outputs are kept from its inputs, and its errors name what was typed.

All of it goes by what Typer is told of a command's parameters, so a command or an option that is added later needs
nothing but two marks: `writable=True` where a file is written, and `MayBeFile` where a text may name one to read.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo, ParameterInfo

from twofold.cli.first_use import told_of_kernels
from twofold.errors import (
    AddressError,
    CountError,
    FormatError,
    ProfileError,
    ScenarioError,
    SizeError,
    TwofoldError,
    UnknownNameError,
    quoted,
)
from twofold.files import check_apart
from twofold.units import parse_bytes

STREAM = Path("-")
STDOUT = "standard output"
MODES = ("host_paging", "table_format", "guest_mode", "paging")
# The parameter that a field of a scenario is given by, where the two have other names; all others have the field's.
PARAMETERS = {
    "host": ("host", "size"),
    "host.snapshot": ("host",),
    "guest.memory": ("guest",),
    "designs": ("design", "designs"),
    "behaviours": ("behaviour",),
    "workloads": ("workload", "program"),
    "cpus": ("cpu",),
    "trace.file": ("trace",),
    "trace.format": ("trace_format",),
    "modes": MODES,
}


@dataclass(frozen=True)
class MayBeFile:
    """Marks a text, or a list of them, that names a file to read, unless it is one of some names."""

    names: Callable[[], Collection[str]] = tuple


@dataclass(frozen=True)
class Parameter:
    """What a command says of one of its parameters."""

    name: str
    info: ParameterInfo
    may_be_file: MayBeFile | None
    default: object  # what it is when nobody has typed it

    @property
    def spelling(self) -> str:
        """How it was typed: an option by the one of its names that stands in the command line."""
        if isinstance(self.info, ArgumentInfo):
            return self.name.upper()
        # In an annotation Typer takes the first name for the default, until it reads the command.
        declared = [self.info.default, *(self.info.param_decls or ())]
        names = [each for each in declared if isinstance(each, str) and each.startswith("-")] or [
            f"--{self.name.replace('_', '-')}"
        ]
        typed = [word.partition("=")[0] for word in sys.argv[1:]]
        return next((each for each in names if each in typed), names[0])

    def reads(self, value: object) -> Iterator[Path]:
        """Yield the files that a value of it names as inputs."""
        if self.info.writable:
            return
        if isinstance(value, Path):
            yield value
        elif self.may_be_file is not None:
            yield from (
                Path(text) for text in texts_of(value) if _exists(text) and text not in self.may_be_file.names()
            )


def guard(app: typer.Typer) -> None:
    """Guard every command of an app, and of the groups in it."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = guarded(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            guard(group.typer_instance)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that refuses what its files must not be, and names options in what it raises."""
    parameters = parameters_of(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        check_files(parameters, given)
        try:
            with told_of_kernels(quiet=bool(given.get("quiet"))):
                command(**given)
        except TwofoldError as error:
            line = line_of(error, parameters, given)
            if line is None:
                raise
            raise TwofoldError(line) from None

    return run


def parameters_of(command: Callable[..., object]) -> tuple[Parameter, ...]:
    """Return the parameters of a command."""
    hints = get_type_hints(inspect.unwrap(command), include_extras=True)
    signature = inspect.signature(command).parameters
    found = []
    for name, hint in hints.items():
        notes = getattr(hint, "__metadata__", ())
        mark = next((note for note in notes if isinstance(note, MayBeFile)), None)
        default = signature[name].default if name in signature else None
        found += [Parameter(name, note, mark, default) for note in notes if isinstance(note, ParameterInfo)]
    return tuple(found)


def check_files(parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> None:
    """Refuse an output over an input, and two outputs in one file, standard output among them."""
    outputs = {each.spelling: Path(given[each.name]) for each in parameters if each.info.writable and given[each.name]}
    files = {name: path for name, path in outputs.items() if path != STREAM}
    if files:
        inputs = [(each.spelling, path) for each in parameters for path in each.reads(given[each.name])]
        check_apart(files, inputs)
        check_apart({**files, STDOUT: STREAM}, ())


def texts_of(value: object) -> Iterator[str]:
    """Yield what a value says: all of it, and each part of a list."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
        if isinstance(value, str):
            yield from (part.strip() for part in value.split(",") if part.strip() != value)


def _exists(text: str) -> bool:
    try:
        return text == str(STREAM) or Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def line_of(error: TwofoldError, parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> str | None:
    """Return what an error says of the options that were typed; None where it speaks of none of them."""
    typed = [(each, given[each.name]) for each in parameters if given[each.name] != each.default]
    if isinstance(error, ScenarioError):
        names = _givers(error)
        said = [each.spelling for each, _ in typed if each.name in names]
        return f"{', '.join(said)}: {error.wrong}" if said else None
    if isinstance(error, FormatError):
        return _line_of_file(error, typed)
    if isinstance(error, AddressError) and error.space == "gva":
        said = [f"{each.spelling}: {quoted(value)} {error.problem}" for each, value in typed if each.name == "address"]
        return next(iter(said), None)
    if isinstance(error, SizeError | CountError):
        return _line_of_value(error, error.text, typed) or _line_of_size(error, typed)
    if isinstance(error, UnknownNameError | ProfileError):
        return _line_of_value(error, error.name, typed)
    return None


def _givers(error: ScenarioError) -> tuple[str, ...]:
    """Return the parameters that give a field of a scenario."""
    keys = [part for part in error.place if isinstance(part, str)][:2]
    return PARAMETERS.get(".".join(keys), (keys[-1],))


def _line_of_file(error: FormatError, typed: list[tuple[Parameter, Any]]) -> str | None:
    """Return an error about a file that an option names as an input; of an argument the name says enough."""
    said = [
        each.spelling
        for each, given in typed
        if each.may_be_file is not None and not isinstance(each.info, ArgumentInfo)
        if any("\0" not in text and Path(text) == Path(error.path) for text in texts_of(given))
    ]
    return f"{', '.join(said)}: {error}" if said else None


def _line_of_value(error: TwofoldError, value: str, typed: list[tuple[Parameter, Any]]) -> str | None:
    """Return an error's line with the options in front whose value it speaks of."""
    said = [
        each.spelling
        for each, given in typed
        if any(value in {text, *text.split(":"), text.removeprefix("+")} for text in texts_of(given))
    ]
    return f"{', '.join(said)}: {error}" if said else None


def _line_of_size(error: TwofoldError, typed: list[tuple[Parameter, Any]]) -> str | None:
    """Return an error about a size as it was typed, where it speaks of as many bytes in other words."""
    if not isinstance(error, SizeError) or (bytes_ := _bytes_of(error.text)) is None:
        return None
    said = [
        f"{each.spelling}: {SizeError(text, error.problem)}"
        for each, given in typed
        if isinstance(given, str) and "page" not in each.name  # 4K pages are no 4096 bytes of something
        for text in texts_of(given)
        if _bytes_of(text) == bytes_
    ]
    return said[0] if len(said) == 1 else None


def _bytes_of(text: str) -> int | None:
    """Return the bytes of a size; None where a text is none."""
    try:
        return parse_bytes(text)
    except SizeError:
        return None
