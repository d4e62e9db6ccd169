"""What is wrong with a scenario: the field as it is written, and one sentence."""

from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from twofold.errors import ScenarioError, nearest, quoted

MAX_SHOWN: Final = 300  # of a name or message from a file [letters]
_NOT_CALLED: Final = "default_factory_not_called"  # a default that depends on a field that is wrong itself
_KINDS: Final = {
    "string_type": "takes a text",
    "tuple_type": "takes a list, such as [...]",
    "model_type": "takes a table",
    "bool_type": "takes true or false",
}

Place = tuple[str | int, ...]


def refusal(source: object, place: Place, wrong: str) -> ScenarioError:
    """Return the error that says what is wrong with a field."""
    return ScenarioError(source, place, _printable(written(place)), wrong)


def written(place: Place) -> str:
    """Return a field as it stands in a TOML file: its keys, its number in a list, and the table of a list it is in."""
    keys: list[str] = []
    number = inside = ""
    for part in place:
        if isinstance(part, int):
            number = f" number {part + 1}"
        else:
            if number:
                inside, keys, number = f" of [[{'.'.join(keys)}]]{number}", [], ""
            keys.append(part)
    return ".".join(keys) + number + inside


def first_refusal(error: ValidationError, model: type[BaseModel]) -> tuple[Place, str]:
    """Return the first field that is wrong, and what is wrong with it."""
    found = error.errors(include_url=False)
    first = next(each for each in found if each["type"] != _NOT_CALLED)
    place: Place = first["loc"]
    if "field" in first.get("ctx", {}):  # what is wrong only in the light of others
        place = tuple(first["ctx"]["field"].split("."))
    return place, _printable(_sentence(first, place, model))


def _sentence(found: Any, place: Place, model: type[BaseModel]) -> str:
    """Return what is wrong with a field."""
    kind = found["type"]
    if kind == "extra_forbidden":
        known = _known(place[:-1], model)
        meant = nearest(str(place[-1]), known)
        return f"is unknown; {'' if meant is None else f'did you mean {meant!r}? '}known are {', '.join(known)}"
    if kind == "missing":
        return "is missing"
    if kind == "too_short":
        return "is an empty list; leave it out for the default"
    if kind in _KINDS:
        return f"{_KINDS[kind]}, not {quoted(found['input'])}"
    return str(found["msg"]).removeprefix("Value error, ")


def _known(place: Place, model: Any) -> tuple[str, ...]:
    """Return the fields of the part of a model that a place leads to."""
    for part in place:
        if isinstance(part, str):
            model = model.model_fields[part].annotation
        while get_args(model):  # a list of them, or one that may be None
            model = get_args(model)[0]
    return tuple(model.model_fields)


def _printable(text: str) -> str:
    """Return text of a file in one line that a terminal can show."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
