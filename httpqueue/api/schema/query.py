"""A request's query and headers -> values; faults are reported like those of a body."""

import base64
import binascii
import re
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Scope as Connection

from httpqueue.api.auth import application_of
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.api.schema import field_checks
from httpqueue.api.schema.read_timer import read
from httpqueue.api.schema.request_models import EXAMPLE_INSTANT, ApplicationName, Instant
from httpqueue.timers.commands import Place
from httpqueue.timers.timer import State

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
LISTED: Final = frozenset(State) - {State.ARCHIVED}

_REPEATED: Final = ("status", "label")
_TWICE: Final = "is given more than once: send it once"
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')  # RFC 9110 section 8.8.3


def _state(name: str) -> State:
    for state in LISTED:
        if state.value == name:
            return state
    raise ValueError(f"must be one of {', '.join(sorted(LISTED))}")


def _instant(text: Any) -> Any:
    """In a query all is text: epoch seconds, too."""
    if _NUMBER.fullmatch(text):
        return float(text)
    return text.replace(" ", "+")  # a plus sign that was not escaped


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
        None, description="Whose timers; without it, those of the API key, or of all applications."
    )
    status: list[ListedState] = Field([], description="In one of these states; may be repeated.")
    label: list[Label] = Field(
        [], description="With this label, name:value; may be repeated: with all of them."
    )
    due_from: Instant = Field(None, description="Due at this instant or later.", examples=[EXAMPLE_INSTANT])
    due_to: Instant = Field(None, description="Due at this instant or earlier.")
    host: Annotated[str, AfterValidator(field_checks.check_host)] | None = Field(
        None, description="The host of their url.", examples=["example.com"]
    )
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = Field(
        DEFAULT_LIMIT, description="How many timers a page has at most."
    )
    cursor: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The next_cursor of the page before; the other parameters stay the same."
    )


def read_list_query(request: Request) -> ListQuery:
    """The query of GET /timers; raises ProblemError (422)."""
    members: dict[str, Any] = {}
    errors = []
    for name, text in request.query_params.multi_items():
        if name in _REPEATED:
            parts = text.split(",") if name == "status" else [text]
            members.setdefault(name, []).extend(parts)
        elif name in members:
            errors.append(FieldError(name, _TWICE))
        else:
            members[name] = _instant(text) if name.startswith("due_") else text
    return read(ListQuery, members, errors)


def check_query(connection: Connection, *known: str) -> None:
    """Nothing in the query but these, once: what is misspelled must not be passed over; ProblemError 422."""
    if not connection["query_string"]:
        return
    names = [name for name, _ in QueryParams(connection["query_string"]).multi_items()]
    errors = [
        FieldError(name, "is no parameter of this call: remove it") for name in names if name not in known
    ]
    errors += [FieldError(name, _TWICE) for name in known if names.count(name) > 1]
    if errors:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)


def application_in_query(request: Request) -> str:
    """The application that ?application= names, or the API key's own; raises ProblemError (403, 422)."""
    check_query(request.scope, "application")
    given = request.query_params.get("application")
    if given is not None:
        try:
            field_checks.check_application(given)
        except ValueError as error:
            errors = [FieldError("application", str(error))]
            raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
    return application_of(request.scope, given)


def if_match(request: Request) -> frozenset[str] | None:
    """The versions that If-Match wants (RFC 9110 section 13.1.1); None: any. Raises ProblemError (400)."""
    header = ",".join(request.headers.getlist("if-match"))
    if "if-match" not in request.headers or header.strip() == "*":
        return None
    tags = [_ENTITY_TAG.fullmatch(part.strip()) for part in header.split(",")]
    if not all(tags):
        detail = 'If-Match must be *, or entity tags such as "0.0.s", as ETag gave them'
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
    return frozenset(tag[2] for tag in tags if tag and tag[2] and not tag[1])  # a weak tag never matches


def encode_cursor(place: Place) -> str:
    """An opaque text for next_cursor."""
    return base64.urlsafe_b64encode(f"{place.due_ms}:{place.member}".encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> Place | None:
    """The inverse of encode_cursor; raises ProblemError (422)."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        due_ms, colon, member = raw.partition(":")
        if colon and member.count(":") == 1 and len(due_ms) < 18:  # noqa: PLR2004 - an int that Redis takes
            return Place(int(due_ms), member)
    except (ValueError, binascii.Error):
        pass
    errors = [FieldError("cursor", "must be a next_cursor as it was given")]
    raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
