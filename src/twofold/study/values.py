"""Numbers of a scenario, read strictly: a text is no number, and true is not 1."""

import math
import operator
from typing import Any

from pydantic import BeforeValidator

from twofold.errors import CountError, quoted
from twofold.units import MAX_COUNT


def counted(least: int, most: int = MAX_COUNT) -> BeforeValidator:
    """Return a validator of whole numbers in a range; any integer type will do."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(str(CountError(value, least, most)))
        number = operator.index(value)
        if not least <= number <= most:
            raise ValueError(str(CountError(number, least, most)))
        return number

    return BeforeValidator(check)


def share() -> BeforeValidator:
    """Return a validator of shares: finite numbers from 0 to 1."""

    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1 or math.copysign(1, value) < 0:
            raise ValueError(f"{quoted(value)} is no share, a number from 0 to 1")
        return float(value)

    return BeforeValidator(check)
