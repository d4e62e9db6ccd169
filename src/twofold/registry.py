"""What can be chosen by name and added to from outside: names of an entry-point group, the built-in ones first.

Asking the metadata of everything that is installed takes some 10 ms: it is kept for as long as `sys.path` is the same.

A name that is built in stays so: what somebody else registers under it is left out, and a warning says so. What another
package has registered is loaded when it is asked for by name; whatever comes of that, its error names the package.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from twofold.errors import PlugInError, PlugInWarning, UnknownNameError, wrong_type


def names_of(group: str, built_in: Mapping[str, str]) -> tuple[str, ...]:
    """Return all names of a group. `built_in` : {name: "module:attribute"}, as pyproject.toml has them."""
    return tuple(dict.fromkeys((*built_in, *(entry.name for entry in others(group, built_in)))))


def others(group: str, built_in: Mapping[str, str]) -> list[EntryPoint]:
    """Return what other packages have registered in a group, by name; what is installed twice, once."""
    found = _registered(group, tuple(sys.path))
    foreign = [each for each in found if each.name not in built_in]
    for each in found:
        if each.name in built_in and each.value != built_in[each.name]:
            text = f"{each.value} is registered as {each.name!r} of {group}, which is built in: it is left out"
            warnings.warn(text, PlugInWarning, stacklevel=2)
    return foreign


@lru_cache(maxsize=16)
def _registered(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group that are found along a path."""
    entries = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return tuple(entries[key] for key in sorted(entries))


def load(kind: str, group: str, built_in: Mapping[str, str], name: str) -> Any:
    """Return what a name of a group stands for; its module is imported now.

    Parameters
    ----------
    kind : what the message calls it

    Raises
    ------
    UnknownNameError : nothing that is installed has that name
    PlugInError : another package has registered it and cannot be loaded, or two have
    """
    if not isinstance(name, str):
        raise wrong_type(f"{kind}: a name is a str", name)
    found = [entry for entry in others(group, built_in) if entry.name == name]
    if name in built_in:
        return EntryPoint(name, built_in[name], group).load()
    if not found:
        raise UnknownNameError(kind, name, names_of(group, built_in))
    if len(found) > 1:
        both = " and ".join(entry.value for entry in found)
        raise PlugInError(kind, name, f"is registered by {both}: uninstall one of them")
    return use(kind, found[0], found[0].load)


def create(kind: str, group: str, built_in: Mapping[str, str], name: str) -> Any:
    """Return an object of the class that a name stands for; parameters and errors are those of `load`."""
    made = load(kind, group, built_in, name)
    return made() if name in built_in else use(kind, EntryPoint(name, str(made), group), made)


def use(kind: str, entry: EntryPoint, action: Callable[[], Any]) -> Any:
    """Return what somebody else's code does.

    Raises
    ------
    PlugInError : it raised anything at all, SystemExit too
    """
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, the user has to know whose fault it is
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        raise PlugInError(
            kind, entry.name, f"({entry.value}) cannot be used: {problem}; repair or uninstall it"
        ) from error


def is_known(group: str, built_in: Mapping[str, str], name: str) -> bool:
    """Return whether a group has a name."""
    return name in built_in or name in names_of(group, built_in)
