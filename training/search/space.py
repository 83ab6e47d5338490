"""What a search may try: for keys of a configuration the values that they can take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field, RootModel, ValidationError, model_validator

from adapters_store.validation import explain
from training.config import Rate, Section, read_config
from training.errors import ConfigError

Value = bool | int | float | str | None
Point = dict[str, Value]
"""A value for each key; of a key that is searched by `times` the multiple."""
Form = TypeVar("Form", bound=BaseModel)
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Section):
    """Numbers between two ends, the ends included.

    Args:
        low, high: the ends.
        log: drawn evenly on a logarithmic scale.
        integer: whole numbers alone; set where the configuration has one.
    """

    low: Finite
    high: Finite
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must lie below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low:g}")
        return self

    @property
    def ends(self) -> tuple[Value, Value]:
        """The least and the largest value."""
        return (round(self.low), round(self.high)) if self.integer else (self.low, self.high)


class Values(Section):
    """Some values, in no order.

    Args:
        values: at least one.
    """

    values: Annotated[tuple[Value, ...], Field(min_length=1)]

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them, numbers in order."""
        numbers = [value for value in self.values if isinstance(value, int | float)]
        return tuple(sorted(numbers)) if len(numbers) == len(self.values) else self.values


class Times(Section):
    """Multiples of what the configuration has, a number or a list of them; whole numbers stay whole and at least 1.

    Args:
        times: at least one.
    """

    times: Annotated[tuple[Rate, ...], Field(min_length=1)]

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them, in order."""
        return tuple(sorted(self.times))


Parameter = Range | Values | Times
Space = Mapping[str, Parameter]
"""By key in full, such as `adapters.lr`."""


class SpaceFile(RootModel[dict[str, dict[str, dict[str, Any]]]]):
    """Spaces that replace the usual ones: by the name of what is searched, then by key."""


def read_spaces(path: Path) -> dict[str, dict[str, Parameter]]:
    """Read a file of spaces.

    Raises:
        ConfigError: it cannot be read, or holds something else; the message names the key.
    """
    content = read_config(path, SpaceFile).root
    return {
        name: {key: parameter_of(f"{path}: {name}, {key}", keys) for key, keys in space.items()}
        for name, space in content.items()
    }


def parameter_of(where: str, keys: Mapping[str, Any]) -> Parameter:
    """Check what a file says of one key: `values`, `times`, or the ends of a range.

    Args:
        where: it stands, for the message.
        keys: as read.

    Raises:
        ConfigError: it says something else.
    """
    kind: type[Range | Values | Times] = Values if "values" in keys else Times if "times" in keys else Range
    try:
        return kind.model_validate(dict(keys))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, kind)}") from None


def completed(space: Space, config: BaseModel) -> tuple[dict[str, Parameter], Point]:
    """Widen a space until it holds what the configuration has, and return that as a point of it.

    Args:
        space: by key.
        config: that every trial is a change of.

    Raises:
        ConfigError: the configuration has no such key, or has there what the space cannot hold.
    """
    content = config.model_dump(mode="json")
    found = {key: _holding(key, parameter, value_at(content, key)) for key, parameter in space.items()}
    return {key: parameter for key, (parameter, _) in found.items()}, {key: value for key, (_, value) in found.items()}


def value_at(content: Mapping[str, Any], key: str) -> Any:
    """Return what a configuration has at a key in full.

    Raises:
        ConfigError: there is no such key.
    """
    here: Any = content
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            raise ConfigError(f"the space names {key}, which the configuration does not have")
        here = here[part]
    return here


def placed(config: Form, space: Space, point: Mapping[str, Value]) -> Form:
    """Return the configuration at a point of a space.

    Args:
        config: that the point is a change of.
        space: that the point is of.
        point: values of some keys of the space.

    Raises:
        ConfigError: the configuration does not take a value; the message names it.
    """
    content = config.model_dump(mode="json")
    for key, value in point.items():
        *path, last = key.split(".")
        section = value_at(content, ".".join(path)) if path else content
        section[last] = _multiplied(section[last], value) if isinstance(space[key], Times) else value
    try:
        return type(config).model_validate(content)
    except ValidationError as error:
        where = f"at {shown(point)}: " if point else ""
        raise ConfigError(f"{where}{explain(error, type(config))}") from None


def corners(config: Form, space: Space) -> list[Form]:
    """Return the configuration at the ends of each key alone, and of all keys at once.

    Raises:
        ConfigError: the configuration does not take one of the ends.
    """
    points: list[dict[str, Value]] = [{key: end} for key, parameter in space.items() for end in parameter.ends]
    points += [{key: parameter.ends[place] for key, parameter in space.items()} for place in (0, -1)]
    return [placed(config, space, point) for point in points]


def shown(point: Mapping[str, Value]) -> str:
    """Write a point in one line."""
    return ", ".join(f"{key} {value_shown(value)}" for key, value in point.items())


def value_shown(value: Value) -> str:
    """Write a value in a few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _holding(key: str, parameter: Parameter, value: Any) -> tuple[Parameter, Value]:
    """The parameter, widened to hold the configuration's own value, and that value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(parameter, Times):
        if not number and not (isinstance(value, list) and value):
            raise ConfigError(f"{key} is {value}: only a number, or a list of numbers, can be multiplied")
        return Times(times=_with(parameter.times, 1.0)), 1.0
    if isinstance(parameter, Values):
        if isinstance(value, list | Mapping):
            raise ConfigError(f"{key} is {value}, no single value: search it by `times`")
        return Values(values=_with(parameter.values, value)), value
    if not number:
        raise ConfigError(f"{key} is {value}, no number: give the values to try (`values`), not a range")
    if parameter.log and value <= 0:
        raise ConfigError(f"{key} is {value}, which no logarithmic range holds: give the values to try (`values`)")
    ends = {"low": min(parameter.low, value), "high": max(parameter.high, value)}
    return Range(**ends, log=parameter.log, integer=isinstance(value, int)), value


Kept = TypeVar("Kept")


def _with(values: tuple[Kept, ...], one: Kept) -> tuple[Kept, ...]:
    return values if one in values else (*values, one)


def _multiplied(value: Any, times: Any) -> Any:
    if isinstance(value, list):
        return [_multiplied(each, times) for each in value]
    return max(1, round(value * times)) if isinstance(value, int) else value * times
