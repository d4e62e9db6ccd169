"""Paging: what translates for a guest, what an access may do, what a fault means and who resolves it."""

from twofold.paging.fault import AccessFault
from twofold.paging.hap import Hap
from twofold.paging.modes import Paging, get_paging, is_paging, paging_names
from twofold.paging.resolvers import Resolver, Resolvers
from twofold.paging.space import GuestSpace, Roots

__all__ = [
    "AccessFault",
    "GuestSpace",
    "Hap",
    "Paging",
    "Resolver",
    "Resolvers",
    "Roots",
    "get_paging",
    "is_paging",
    "paging_names",
]
