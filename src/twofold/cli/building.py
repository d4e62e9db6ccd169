"""What every command that builds a guest is told about it: one declaration, so that no command lacks a word.

A command takes a `Building` as one parameter; `taking_apart` makes of it the options that Typer reads.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.cli import options

if TYPE_CHECKING:
    from twofold.study import Scenario


@dataclass(frozen=True)
class Building:
    """Which guest is built, on which host, in which mode."""

    host: options.Host = None
    size: options.HostSize = None
    free: options.Free = None
    fragmentation: options.Fragmentation = None
    packing: options.Packing = None
    page_kib: options.PageKib = None
    guest: options.Memory = None
    layout: options.Layout = None
    page_sizes: options.PageSizes = None
    host_paging: options.HostPaging = None
    table_format: options.TableFormat = None
    guest_mode: options.GuestMode = None
    paging: options.Paging = None
    exact: options.Exact = None
    behaviour: options.Behaviour = None
    seed: options.Seed = None

    def scenario(self, path: Path | None = None, *, footprint: str | None = None, **fields_: Any) -> "Scenario":
        """Return the scenario of a file, or the defaults, with what was given and more fields laid over it."""
        return options.scenario_from(path, self._fields(footprint) | fields_, self._modes())

    def one_guest(self, design: str, *, footprint: str | None = None, **fields_: Any) -> "Scenario":
        """Return the scenario of one guest: one design, one mode, one of everything."""
        given = self._fields(footprint) | {"designs": options.names(design)} | fields_
        return options.single_guest(given, self._modes())

    def _fields(self, footprint: str | None) -> dict[str, Any]:
        return {
            "host": options.host_fields(
                self.host, self.size, self.free, self.fragmentation, self.packing, self.page_kib
            ),
            "guest": options.guest_fields(self.guest, self.layout, self.page_sizes, footprint, self.exact),
            "behaviours": options.names(self.behaviour),
            "seed": self.seed,
        }

    def _modes(self) -> dict[str, list[str]]:
        return options.mode_fields(self.host_paging, self.table_format, self.guest_mode, self.paging)


def taking_apart(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameters that are groups of options, dataclasses, are those options, one by one."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(kind := parameter.annotation) and isinstance(kind, type):
            groups[name] = kind
            parameters += [
                inspect.Parameter(part.name, parameter.KEYWORD_ONLY, default=part.default, annotation=part.type)
                for part in fields(kind)
            ]
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def taken_apart(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{part.name: given.pop(part.name) for part in fields(kind)})
        command(**given)

    del taken_apart.__wrapped__  # whoever reads a command reads its options, and not the groups
    taken_apart.__annotations__ = {each.name: each.annotation for each in parameters}
    vars(taken_apart)["__signature__"] = inspect.Signature(parameters)
    return taken_apart
