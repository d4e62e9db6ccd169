"""Who is asked when an access is refused: resolvers, in the order in which they were registered.

A resolver mends what the access needs (populates, splits, marks dirty, ...) and says so; then the access is made again.
Or it says that this is not its matter, and the next one is asked. Or it refuses, by raising.
"""

from collections.abc import Callable
from dataclasses import replace

from twofold.errors import TwofoldError
from twofold.paging.fault import AccessFault

Resolver = Callable[[AccessFault], bool]


class Resolvers:
    """The resolvers of one domain."""

    def __init__(self) -> None:
        self._resolvers: list[Resolver] = []

    def add(self, resolver: Resolver) -> None:
        """Ask a resolver from now on, after those that are there."""
        self._resolvers.append(resolver)

    def remove(self, resolver: Resolver) -> None:
        """Ask it no more."""
        self._resolvers.remove(resolver)

    def resolve(self, fault: AccessFault) -> AccessFault | None:
        """Ask one after the other; return None when one has resolved the fault, otherwise the fault to deliver.

        An error of ours that a resolver raises (`AccessRefusedError`, or a machine that has no memory left) refuses the
        access: nobody else is asked, and the fault has it as its reason. A guest's own fault is never asked about.
        """
        if fault.is_guests:
            return fault
        for resolver in tuple(self._resolvers):
            try:
                if resolver(fault):
                    return None
            except TwofoldError as error:
                return replace(fault, reason=str(error))
        return fault
