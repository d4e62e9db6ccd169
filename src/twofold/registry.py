"""What can be chosen by name and added to from outside: names of an entry-point group, the built-in ones first.

Asking the metadata of everything that is installed takes some 10 ms, so it is asked only for a name that is not
built in.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from twofold.errors import UnknownNameError


def names_of(group: str, built_in: Mapping[str, str]) -> tuple[str, ...]:
    """Return all names of a group. `built_in` : {name: "module:attribute"}, as pyproject.toml has them."""
    return (*built_in, *sorted({entry.name for entry in entry_points(group=group)} - built_in.keys()))


def load(kind: str, group: str, built_in: Mapping[str, str], name: str) -> Any:
    """Return what a name of a group stands for; its module is imported now.

    Parameters
    ----------
    kind : what the message calls it

    Raises
    ------
    UnknownNameError : nothing that is installed has that name
    """
    if name in built_in:
        return EntryPoint(name, built_in[name], group).load()
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    raise UnknownNameError(kind, name, names_of(group, built_in))


def is_known(group: str, built_in: Mapping[str, str], name: str) -> bool:
    """Return whether a group has a name."""
    return name in built_in or name in names_of(group, built_in)
