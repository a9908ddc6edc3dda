"""The OpenAPI document (version 3.1), made from the table of operations and the models.

`python -m httpqueue.api.schema.openapi` prints it.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from httpqueue import __version__
from httpqueue.api import problems
from httpqueue.api.schema import field_checks
from httpqueue.api.schema.answer_models import Problem
from httpqueue.api.schema.field_types import EXAMPLE_ID
from httpqueue.api.schema.operation import AnswerDoc, Operation
from httpqueue.api.schema.operations import OPERATIONS
from httpqueue.api.schema.query import REVEAL, ListQuery

_TAGS: Final = {
    "timers": "Schedule webhooks and see what became of them.",
    "applications": "Each application has its own timers, ids and settings.",
    "destinations": "The hosts that timers call.",
    "jobs": "Work on many timers, which goes on after the answer.",
    "audit": "Who changed what over the API.",
    "clock": "Only with `httpqueue --virtual-clock`: time stands still until you advance it.",
    "operations": "Probes and metrics, for those who run httpqueue.",
}
"""An operation is in the group that its path begins with, or else in operations."""
_DOCUMENTED: Final = tuple(operation for operation in OPERATIONS if operation.is_documented)
_MERGE_PATCH: Final = "application/merge-patch+json"
_REF: Final = "#/components/schemas/"
_PROBLEMS: Final = {
    400: "The body is not a JSON object, or is ambiguous; or a header cannot be read.",
    401: "An API key is needed, or the one that was sent is unknown.",
    403: "The API key does not permit this.",
    404: "There never was a timer of this id.",
    408: "The body did not arrive in time.",
    410: "The timer's record is damaged; operators find it set aside.",
    412: "The timer no longer has the version in If-Match.",
    413: "The body is too large.",
    415: "Content-Type is not JSON.",
    422: "Some fields are faulty; errors names each of them.",
    429: "Too many requests.",
    503: "Redis does not answer; try again.",
}
_HEADERS: Final = {
    "ETag": ("The timer's version, for If-Match.", '"wPL3xQ0.0.0.s"'),
    "Location": ("The path of the timer or job.", "/timers/order-4711"),
    "Retry-After": ("Seconds to wait.", problems.RETRY_AFTER_S),
    "WWW-Authenticate": ("How to send an API key.", "Bearer"),
}
_PROBLEM_HEADERS: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_ENTITY_TAGS: Final = r'^ *(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*) *$'
_IDEMPOTENCY_KEYS: Final = r'^ *("[ !#-\[\]-~]{1,255}"|[!#-~]{1,255}) *$'
_PARAMETERS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "timer_id": (
        "path",
        "The timer's id.",
        {"pattern": field_checks.KNOWN_ID_PATTERN, "examples": [EXAMPLE_ID]},
    ),
    "application": (
        *("path", "The application's name."),
        {"pattern": field_checks.APPLICATION_PATTERN, "examples": ["shop"]},
    ),
    "host": ("path", "A host without scheme and port.", {"minLength": 1, "examples": ["example.com"]}),
    "job_id": ("path", "The job's id.", {"pattern": r"^[A-Za-z0-9_-]{16}$"}),
    "If-Match": (
        *("header", "Change the timer only if it still has this version: its ETag."),
        {"pattern": _ENTITY_TAGS, "examples": ["*", '"wPL3xQ0.0.0.s"']},
    ),
    "Idempotency-Key": (
        *("header", "The same request with the same key, within 24 hours, gets the same answer."),
        {"pattern": _IDEMPOTENCY_KEYS, "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"']},
    ),
}


def document() -> dict[str, Any]:
    """The document as a JSON object."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in _DOCUMENTED:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "httpqueue",
            "version": __version__,
            "description": "Makes HTTP requests in the future. Post a timer; its webhook is called on time.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


@cache
def render() -> bytes:
    """The document as text: that of /openapi.json and docs/swagger.json."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _operation(operation: Operation) -> dict[str, Any]:
    tag, scope = operation.path.split("/")[1], operation.scope
    described = {
        "tags": [tag if tag in _TAGS else "operations"],
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "parameters": list(_parameters(operation)),
        "requestBody": None if operation.request is None else _body(operation, operation.request),
        "responses": {
            **{str(status): _answer(answer) for status, answer in operation.answers.items()},
            **{str(status): _problem(status, text) for status, text in sorted(_problems(operation).items())},
        },
        # {} means no API key: nobody needs one while none exists
        "security": [] if operation.is_open else [{}, *({name: [scope]} for name in ("key", "bearer"))],
    }
    return {name: value for name, value in described.items() if value or name == "security"}


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    in_path = [
        name for name in ("timer_id", "application", "host", "job_id") if f"{{{name}}}" in operation.path
    ]
    in_header = [
        name
        for name, is_known in (
            ("If-Match", operation.has_if_match),
            ("Idempotency-Key", operation.has_idempotency_key),
        )
        if is_known
    ]
    for name in (*in_path, *in_header):
        place, text, schema = _PARAMETERS[name]
        yield {
            "name": name,
            "in": place,
            "required": place == "path",
            "description": text,
            "schema": {"type": "string"} | schema,
        }
    fields = (operation.query or ListQuery).model_json_schema()["properties"]
    for name in fields if operation.query else ["application"] if _is_one_timer(operation) else []:
        schema = _never_null(fields[name])
        description = schema.pop("description")
        if _is_one_timer(operation):
            description = "The timer's application. Absent: the API key's own, or `default`."
        yield {"name": name, "in": "query", "description": description, "schema": schema}
    if operation.has_reveal:
        schema = {"type": "boolean", "default": False}
        yield {"name": "reveal", "in": "query", "description": REVEAL, "schema": schema}


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null: a parameter of a query is absent or has a value."""
    schema = {name: value for name, value in schema.items() if name != "title" and value not in (None, [])}
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    whole: dict[str, Any] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    return schema | whole


def _body(operation: Operation, model: type[BaseModel]) -> dict[str, Any]:
    name = f"{model.__name__}Patch" if operation.is_patch else model.__name__
    media_types = [_MERGE_PATCH] if operation.is_patch else []
    content = {media_type: _schema(name) for media_type in (*media_types, "application/json")}
    return {"required": not operation.is_body_optional, "content": content}


def _answer(answer: AnswerDoc) -> dict[str, Any]:
    schemas = [_schema(model.__name__)["schema"] for model in answer.models]
    content: dict[str, Any]
    if not schemas:
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    return {"description": answer.description, **_headers(answer.headers), "content": content}


def _problem(status: int, description: str) -> dict[str, Any]:
    content = {problems.MEDIA_TYPE: _schema(Problem.__name__)}
    return {"description": description, **_headers(_PROBLEM_HEADERS.get(status, ())), "content": content}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    """A name that ends with a question mark is optional."""
    headers = {}
    for name in names:
        description, example = _HEADERS[name.removesuffix("?")]
        headers[name.removesuffix("?")] = {
            "description": description,
            "required": not name.endswith("?"),
            "schema": {"type": "string", "examples": [example]},
        }
    return {"headers": headers} if headers else {}


def _problems(operation: Operation) -> Mapping[int, str]:
    """The problems that follow from what the operation takes, and its own."""
    statuses: set[int] = set()
    if not operation.is_open:
        statuses |= {401, 403, 422, 429, 503}  # 422: unknown query parameters
    if operation.request is not None or operation.method == "POST":
        statuses |= {400, 408, 413, 415, 422}
    if _is_one_timer(operation):
        statuses |= {404, 410}
    if operation.has_if_match:
        statuses |= {400, 412}
    return {status: _PROBLEMS[status] for status in statuses} | dict(operation.problems)


def _is_one_timer(operation: Operation) -> bool:
    return "{timer_id}" in operation.path


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"{_REF}{name}"}}


def _schemas() -> dict[str, Any]:
    models = {
        model for operation in _DOCUMENTED for answer in operation.answers.values() for model in answer.models
    }
    models |= {operation.request for operation in _DOCUMENTED if operation.request is not None} | {Problem}
    by_name = sorted(models, key=lambda model: model.__name__)
    _, made = models_json_schema([(model, "validation") for model in by_name], ref_template=_REF + "{model}")
    schemas: dict[str, Any] = made["$defs"]
    for operation in _DOCUMENTED:
        if operation.request is not None and operation.is_patch:
            _add_patch(schemas, operation.request.__name__)
    return dict(sorted(schemas.items()))


def _add_patch(schemas: dict[str, Any], name: str) -> str:
    """Add the schema of a merge patch of a model: every field is optional and may be null."""
    patch = f"{name}Patch"
    if patch not in schemas:
        schemas[patch] = {}
        schemas[patch] = _patch_of(schemas, schemas[name])
    return patch


def _patch_of(schemas: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {"$ref": _REF + _add_patch(schemas, schema["$ref"].removeprefix(_REF))}
    patch = {name: value for name, value in schema.items() if name not in {"required", "default", "examples"}}
    if "anyOf" in schema:
        patch["anyOf"] = [_patch_of(schemas, kind) for kind in schema["anyOf"]]
    if "properties" in schema:
        patch["properties"] = {
            name: _or_null(_patch_of(schemas, value)) for name, value in schema["properties"].items()
        }
    if isinstance(schema.get("additionalProperties"), dict):
        patch["additionalProperties"] = _or_null(schema["additionalProperties"])
    return patch


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {name: schema[name] for name in ("title", "description") if name in schema}
    kinds = schema.get("anyOf") or [{name: value for name, value in schema.items() if name not in about}]
    null: dict[str, Any] = {"type": "null"}
    return schema if kinds == [{}] else {**about, "anyOf": [kind for kind in kinds if kind != null] + [null]}


if __name__ == "__main__":
    sys.stdout.buffer.write(render())
