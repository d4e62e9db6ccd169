"""What can be chosen by name and added to from outside: names of an entry-point group, the built-in ones first.

Asking the metadata of everything that is installed takes some 10 ms, so it is asked only for a name that is not
built in.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from twofold.errors import UnknownNameError, wrong_type


def names_of(group: str, built_in: Mapping[str, str]) -> tuple[str, ...]:
    """Return all names of a group. `built_in` : {name: "module:attribute"}, as pyproject.toml has them."""
    return tuple(dict.fromkeys((*built_in, *(entry.name for entry in others(group, built_in)))))


def others(group: str, built_in: Mapping[str, str]) -> list[EntryPoint]:
    """Return what other packages have registered in a group, by name; what is installed twice, once."""
    entries = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [entries[key] for key in sorted(entries.keys() - built_in.items())]


def load(kind: str, group: str, built_in: Mapping[str, str], name: str) -> Any:
    """Return what a name of a group stands for; its module is imported now.

    Parameters
    ----------
    kind : what the message calls it

    Raises
    ------
    UnknownNameError : nothing that is installed has that name
    """
    if not isinstance(name, str):
        raise wrong_type(f"{kind}: a name is a str", name)
    if name in built_in:
        return EntryPoint(name, built_in[name], group).load()
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    raise UnknownNameError(kind, name, names_of(group, built_in))


def is_known(group: str, built_in: Mapping[str, str], name: str) -> bool:
    """Return whether a group has a name."""
    return name in built_in or name in names_of(group, built_in)
