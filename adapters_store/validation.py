"""Says what is wrong with a pydantic input, one clear sentence a fault, suggesting the key that was meant."""

import difflib
import typing
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

_SHOWN_FAULTS = 5
_SHOWN_CHARACTERS = 60


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn a validation error into sentences that name the key, what is wrong, and what was probably meant.

    Args:
        error: What pydantic raised.
        model: The model that was validated; its field names are what a near miss is compared with.

    Returns:
        One sentence a fault, joined by "; ", at most five of them and the count of the rest.
    """
    faults = error.errors(include_url=False, include_context=False)
    sentences = [_sentence(dict(fault), model) for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        sentences.append(f"and {len(faults) - _SHOWN_FAULTS} more")
    return "; ".join(sentences)


def _sentence(fault: dict[str, typing.Any], model: type[BaseModel]) -> str:
    place = tuple(fault["loc"])
    where = ".".join(str(part) for part in place)
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, place[:-1]))
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{where} is no known key; {hint}"
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not where:
        return message
    if fault["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message[:1].lower()}{message[1:]}, got {_shown(fault['input'])}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _known_keys(model: type[BaseModel], place: tuple[object, ...]) -> set[str]:
    """Keys of the model (or models: a union) that lies at `place` inside `model`."""
    found: list[type[BaseModel]] = [model]
    for part in place:
        fields = [one.model_fields[str(part)].annotation for one in found if str(part) in one.model_fields]
        # a position in a list or the tag of a union steps over no field: the models stay
        found = [inner for annotation in fields for inner in _models_in(annotation)] or found
    return {field.alias or name for one in found for name, field in one.model_fields.items()}


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
