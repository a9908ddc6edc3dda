"""What the API says of one operation: who may call it, what it takes, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from httpqueue.timers.access import Scope


@dataclass(frozen=True, slots=True)
class AnswerDoc:
    """One answer of an operation, as the OpenAPI document describes it."""

    description: str
    models: tuple[type[BaseModel], ...] = ()
    """The body is JSON of one of these models. Without any, it is text."""
    headers: tuple[str, ...] = ()
    """Names of headers. A name that ends with a question mark is sent only with some of these answers."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Problems that follow from the other fields, such as 401 or 415, are added by openapi.py.
    """

    method: str
    path: str
    """May hold parameters: {timer_id}, {application}, {host}, {name}."""
    name: str
    """The operationId. app.py binds a handler to it."""
    scope: Scope | None
    """The scope that an API key must have. None: the operation is open, nobody needs a key."""
    summary: str
    answers: Mapping[int, AnswerDoc]
    """By status; problems not included."""
    description: str = ""
    request: type[BaseModel] | None = None
    """The model of the body. None: there is no body, or an empty object."""
    is_patch: bool = False
    """Whether the body is a merge patch (RFC 7396) of the request model."""
    is_body_optional: bool = False
    query: type[BaseModel] | None = None
    """The model of the query of a list."""
    has_reveal: bool = False
    """Whether the query may ask to reveal credentials."""
    has_if_match: bool = False
    """Whether the header If-Match is understood (RFC 9110 section 13.1.1)."""
    has_idempotency_key: bool = False
    """Whether the header Idempotency-Key is understood."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Problems of this operation alone, by status."""
    all_applications: bool = False
    """Whether it shows or changes something that all applications share.

    An API key for one application may not call it.
    """
    is_documented: bool = True
    """Whether it is in the OpenAPI document; the pages that show the document are not."""

    @property
    def is_open(self) -> bool:
        """Whether it may be called without an API key."""
        return self.scope is None
