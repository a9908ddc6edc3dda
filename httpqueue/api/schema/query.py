"""A request's query -> values. Faults are reported in the same way as those of a body."""

import re
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Scope as Connection

from httpqueue.api.problems import FieldError, ProblemError, faulty_field, faulty_fields
from httpqueue.api.schema import field_checks
from httpqueue.api.schema.field_types import EXAMPLE_INSTANT, ApplicationName, Instant
from httpqueue.api.schema.validate import validate
from httpqueue.timers.timer import State

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
REVEAL: Final = (
    "true: show credentials in headers, which are otherwise •••. The API key must have the scope write."
)
MAX_CURSOR: Final = 1_000
LISTED: Final = frozenset(State) - {State.ARCHIVED}
"""The states of timers in lists: an archived timer has no record, so that it cannot be listed."""

MAX_PARAMETERS: Final = 100
"""The most parameters of a query, repeated ones included."""

_REPEATED: Final = ("status", "label")
_TWICE: Final = "is given more than once: send it once"
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


class AuditQuery(BaseModel):
    """Which entries of the audit log to show."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    application: ApplicationName = Field(
        None, description="Changes in this application. Absent: the API key's own, or all applications."
    )
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = Field(
        DEFAULT_LIMIT, description="The most entries of a page."
    )
    cursor: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The next_cursor of the previous page. Keep the other parameters the same."
    )


def _state(name: str) -> State:
    for state in LISTED:
        if state.value == name:
            return state
    raise ValueError(f"must be one of {', '.join(sorted(LISTED))}")


def _instant(text: str) -> float | str:
    """Epoch seconds become a number; anything else stays text."""
    if _NUMBER.fullmatch(text):
        return float(text)
    return text.replace(" ", "+")  # "+" that is not escaped in a query means a space


ListedState = Annotated[
    State, PlainValidator(_state), WithJsonSchema({"type": "string", "enum": sorted(LISTED)})
]
Label = Annotated[
    str,
    AfterValidator(field_checks.check_label_filter),
    WithJsonSchema({"type": "string", "pattern": field_checks.LABEL_FILTER_PATTERN}),
]


class ListQuery(BaseModel):
    """Which timers to list."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    application: ApplicationName = Field(
        None, description="Timers of this application. Absent: the API key's own, or all applications."
    )
    status: list[ListedState] = Field(
        [], description="Timers in this state. Repeat it to list several states."
    )
    label: list[Label] = Field(
        [], description="Timers with this label, as name:value. Repeat it to require several labels."
    )
    due_from: Instant = Field(
        None, description="Timers due at this instant or later.", examples=[EXAMPLE_INSTANT]
    )
    due_to: Instant = Field(None, description="Timers due at this instant or earlier.")
    host: Annotated[str, AfterValidator(field_checks.check_host)] | None = Field(
        None, description="Timers whose url has this host.", examples=["example.com"]
    )
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = Field(
        DEFAULT_LIMIT, description="The most timers of a page."
    )
    reveal: bool = Field(False, description=REVEAL)
    cursor: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The next_cursor of the previous page. Keep the other parameters the same."
    )


class PageQuery(BaseModel):
    """Which page of a list of names."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = Field(
        DEFAULT_LIMIT, description="The most entries of a page."
    )
    cursor: Annotated[str, Field(min_length=1, max_length=MAX_CURSOR)] | None = Field(
        None, description="The next_cursor of the previous page."
    )


def read_page_query(request: Request) -> PageQuery:
    """The query of a list of names; raises ProblemError (422)."""
    check_query(request.scope, *PageQuery.model_fields)
    return validate(PageQuery, dict(request.query_params))


def read_audit_query(request: Request) -> AuditQuery:
    """The query of GET /audit; raises ProblemError (422)."""
    check_query(request.scope, *AuditQuery.model_fields)
    return validate(AuditQuery, dict(request.query_params))


def read_list_query(request: Request) -> ListQuery:
    """The query of GET /timers; raises ProblemError (422)."""
    _check_count(request.scope)
    members: dict[str, Any] = {}
    errors = []
    for name, text in request.query_params.multi_items():
        if name in _REPEATED:
            parts = text.split(",", MAX_PARAMETERS) if name == "status" else [text]
            members.setdefault(name, []).extend(parts)
        elif name in members:
            errors.append(FieldError(name, _TWICE))
        else:
            members[name] = _instant(text) if name.startswith("due_") else text
    return validate(ListQuery, members, errors)


def check_query(connection: Connection, *known: str) -> None:
    """Raise ProblemError (422) for a parameter that is unknown (it may be misspelled) or repeated."""
    if not connection["query_string"]:
        return
    _check_count(connection)
    names = [name for name, _ in QueryParams(connection["query_string"]).multi_items()]
    errors = [
        FieldError(name, "is no parameter of this call: remove it") for name in names if name not in known
    ]
    errors += [FieldError(name, _TWICE) for name in known if names.count(name) > 1]
    if errors:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)


def _check_count(connection: Connection) -> None:
    """Raise ProblemError (422) for so many parameters that a look at each would take long."""
    if connection["query_string"].count(b"&") >= MAX_PARAMETERS:
        detail = f"the query must have at most {MAX_PARAMETERS} parameters"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def application_parameter(request: Request, *others: str) -> str | None:
    """The value of ?application=; no parameters but `others` may be there, too. Raises ProblemError (422)."""
    check_query(request.scope, "application", *others)
    given = request.query_params.get("application")
    if given is not None:
        try:
            field_checks.check_application(given)
        except ValueError as error:
            raise faulty_field("application", str(error)) from None
    return given


def reveal_parameter(request: Request) -> bool:
    """The value of ?reveal=; raises ProblemError (422)."""
    given = request.query_params.get("reveal", "false")
    if given not in {"true", "false"}:
        raise faulty_field("reveal", "must be true or false")
    return given == "true"
