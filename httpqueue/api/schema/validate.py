"""A JSON object -> a pydantic model; all faults of a request are reported together, in words of our own."""

from http import HTTPStatus
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from httpqueue.api.problems import MAX_ERRORS, FieldError, faulty_fields

UNKNOWN: Final = "is unknown here: remove it"

ModelT = TypeVar("ModelT", bound=BaseModel)

_MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": UNKNOWN,
    "int_parsing": "must be a whole number",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "float_type": "must be a number, not a string or a boolean",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be an array",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be an object of strings",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
"""By pydantic's error types; the text of any other type is pydantic's own."""


def validate(model: type[ModelT], members: dict[str, Any], others: list[FieldError] | None = None) -> ModelT:
    """The members of a JSON object -> the model.

    others: faults that the caller has found already. Raises ProblemError (422) with all faults.
    """
    others = others or []
    if len(members) > MAX_ERRORS:
        _check_count(model, members)
    try:
        request = model.model_validate(members)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        errors = [*map(_field_error, faults), *others]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
    if others:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, others)
    return request


def _check_count(model: type[BaseModel], members: dict[str, Any]) -> None:
    """Raise ProblemError (422) for so many unknown members that pydantic's errors of each would take long."""
    unknown = (name for name in members if name not in model.model_fields)
    if len(errors := [FieldError(name, UNKNOWN) for name in islice(unknown, MAX_ERRORS)]) == MAX_ERRORS:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)


def _field_error(details: ErrorDetails) -> FieldError:
    # pydantic says of a faulty name in an object: (..., name, "[key]")
    path = ".".join(str(part) for part in details["loc"] if part != "[key]")
    context = {name: _plain(value) for name, value in details.get("ctx", {}).items()}
    if cause := context.get("error"):
        return FieldError(path, str(cause))
    message = _MESSAGES.get(details["type"])
    return FieldError(path, message.format(**context) if message else details["msg"])


def _plain(value: Any) -> Any:
    """3600.0 as 3600."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
