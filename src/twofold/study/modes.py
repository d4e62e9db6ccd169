"""Modes: the paging of hypervisor, domain and guest that a comparison may vary, checked together and named.

    hypervisor's own       P2M                      guest's own, at most
    4-level, 5-level       npt, ept, ept-5          4-level: 4K, 2M, 1G
    pae                    npt: 4K, 2M              pae: 4K, 2M
    2-level                npt: 4K, 4M              2-level: 4K, 4M

What a mode leaves open is as its hypervisor has it. Read first: `Mode`.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from twofold.domain import DomainOptions
from twofold.domain.options import leaf_orders
from twofold.errors import TwofoldError
from twofold.formats.geometry import FOUR_LEVEL, GEOMETRIES, Geometry
from twofold.formats.table_formats import get_format
from twofold.guest import area_base, check_guest_mode, mode_bits
from twofold.units import Order, order_name

DEFAULT_HOST: Final = FOUR_LEVEL.name
NPT: Final = "npt"
HAP: Final = "hap"
_GUEST_OF_HOST: Final = {"5-level": FOUR_LEVEL.name}  # the other hypervisors run guests of their own mode by default


def checked(check: Any) -> AfterValidator:
    """Return a validator that runs one of our own checks and reports its message."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except TwofoldError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


class Frozen(BaseModel):
    """A part of a scenario: no field that is not declared, and none that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mode(Frozen):
    """How hypervisor, domain and guest page.

    host_paging : the hypervisor's own mode: "4-level", "5-level", "pae", "2-level"
    table_format : of the P2M: "npt" (in the hypervisor's mode), "ept", "ept-5"
    guest_mode : the guest's own paging, no wider than the hypervisor's; None: the same, 4-level on 5-level
    paging : the domain's: "hap"
    page_sizes : what P2M leaves may be, such as "4K,2M"; None: as the scenario's guest has it
    """

    host_paging: Annotated[str, checked(lambda name: get_format(name, NPT))] = DEFAULT_HOST
    table_format: str = NPT
    guest_mode: str | None = None
    paging: Annotated[str, checked(lambda name: DomainOptions(paging=name))] = HAP
    page_sizes: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            geometry = self.geometry
            check_guest_mode(self.host_paging, self.guest)
            leaf_orders(self.page_sizes, geometry)
        except TwofoldError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def guest(self) -> str:
        """The guest's own paging."""
        if self.guest_mode is not None:
            return self.guest_mode
        return _GUEST_OF_HOST.get(self.host_paging, self.host_paging)

    @property
    def bits(self) -> int:
        """Width of the guest's addresses, and of its programs."""
        return mode_bits(self.guest)

    @property
    def area_base(self) -> int:
        """The gva of a workload's area."""
        return area_base(self.guest)

    @property
    def geometry(self) -> Geometry:
        """The shape of the P2M."""
        return get_format(self.host_paging, self.table_format).geometry

    @property
    def guest_orders(self) -> tuple[Order, ...]:
        """What pages of the guest's own may be, ascending."""
        return GEOMETRIES[self.guest].leaf_orders

    def sizes(self) -> str:
        """Return the sizes of P2M leaves as a list."""
        return ",".join(map(order_name, leaf_orders(self.page_sizes, self.geometry)))

    def with_sizes(self, page_sizes: str | None) -> "Mode":
        """Return the mode with its own page sizes, or these where it has none of its own.

        Raises
        ------
        SizeError : the P2M has no such leaves
        """
        mode = self if self.page_sizes is not None else self.model_copy(update={"page_sizes": page_sizes})
        leaf_orders(mode.page_sizes, mode.geometry)
        return mode

    @property
    def name(self) -> str:
        """What tells it from other modes: the hypervisor's own, then whatever is not as that has it."""
        parts = [
            self.host_paging,
            *([self.table_format] if self.table_format != NPT else []),
            *([self.sizes()] if leaf_orders(self.page_sizes, self.geometry) != self.geometry.leaf_orders else []),
            *([f"{self.guest} guest"] if self.guest != Mode(host_paging=self.host_paging).guest else []),
            *([self.paging] if self.paging != HAP else []),
        ]
        return " ".join(parts)


def lay_over(modes: Any, choices: Mapping[str, list[str]], without: Iterable[str] = ()) -> Any:
    """Return modes, as a scenario file has them, with every combination of some fields laid over each, once each.

    Parameters
    ----------
    modes : a list of tables; anything else is left as it is, for the scenario to refuse
    choices : fields, with what each may be
    without : fields that the result does not have
    """
    if not isinstance(modes, list) or not all(isinstance(mode, dict) for mode in modes):
        return modes
    combined = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    kept = [{name: value for name, value in mode.items() if name not in without} for mode in modes]
    laid = [mode | fields for mode in kept for fields in combined]
    return [mode for place, mode in enumerate(laid) if mode not in laid[:place]]
