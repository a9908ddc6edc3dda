"""The API's description (OpenAPI 3.1), made from reference.py and the models.

`python -m httpqueue.api.schema.openapi` prints it.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue import __version__
from httpqueue.api import problems
from httpqueue.api.auth import scope_of
from httpqueue.api.schema import field_checks
from httpqueue.api.schema.answer_models import Problem
from httpqueue.api.schema.operations import CALLS, TAGS, Answer, Call
from httpqueue.api.schema.query import ListQuery
from httpqueue.api.schema.request_models import EXAMPLE_ID

_MERGE_PATCH: Final = "application/merge-patch+json"
_REF: Final = "#/components/schemas/"
_PROBLEMS: Final = {
    400: "The body is no JSON object, or an ambiguous one; or If-Match is no list of entity tags.",
    401: "An API key is needed, or this one is not known.",
    403: "The API key does not permit this.",
    404: "There never was a timer of this id.",
    410: "The timer's record is damaged: it was set aside.",
    412: "If-Match names another version.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "Fields are faulty; errors names each.",
    429: "Too many requests.",
    503: "Redis does not answer; try again.",
}
_HEADERS: Final = {
    "ETag": ("The timer's version, for If-Match.", '"0.0.s"'),
    "Location": ("The timer's path.", "/timers/order-4711"),
    "Retry-After": ("Seconds to wait.", problems.RETRY_AFTER_S),
    "WWW-Authenticate": ("How to send a key.", "Bearer"),
}
_PROBLEM_HEADERS: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_ENTITY_TAGS: Final = r'^ *(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*) *$'
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
    "If-Match": (
        *("header", "The change is made only to this version: an ETag."),
        {"pattern": _ENTITY_TAGS, "examples": ["*", '"0.0.s"']},
    ),
}


def document() -> dict[str, Any]:
    """The description as JSON."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "httpqueue",
            "version": __version__,
            "description": "Makes HTTP requests in the future. Post a timer; its webhook is called on time.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
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
    """The description as text, as /openapi.json and docs/swagger.json have it."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def routes() -> list[Route]:
    """/openapi.json, rendered once."""
    text = render()

    async def openapi_json(_request: Request) -> Response:
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-cache"})

    return [Route("/openapi.json", openapi_json)]


def _operation(call: Call) -> dict[str, Any]:
    tag, scope = call.path.split("/")[1], scope_of(call.method, call.path)
    described = {
        "tags": [tag if tag in TAGS else "operations"],
        "operationId": call.name,
        "summary": call.summary,
        "description": call.description,
        "parameters": list(_parameters(call)),
        "requestBody": None if call.takes is None else _body(call, call.takes),
        "responses": {
            **{str(status): _answer(answer) for status, answer in call.answers.items()},
            **{str(status): _problem(status, text) for status, text in sorted(_problems(call).items())},
        },
        # {}: while there are no API keys, none is asked for
        "security": [] if call.is_open else [{}, *({name: [scope]} for name in ("key", "bearer"))],
    }
    return {name: value for name, value in described.items() if value or name == "security"}


def _parameters(call: Call) -> Iterable[dict[str, Any]]:
    in_path = [name for name in ("timer_id", "application", "host") if f"{{{name}}}" in call.path]
    for name in (*in_path, *(["If-Match"] if call.if_match else [])):
        place, text, schema = _PARAMETERS[name]
        yield {
            "name": name,
            "in": place,
            "required": place == "path",
            "description": text,
            "schema": {"type": "string"} | schema,
        }
    fields = ListQuery.model_json_schema()["properties"]
    for name in fields if call.lists else ["application"] if _is_one_timer(call) else []:
        schema = _never_null(fields[name])
        description = schema.pop("description")
        yield {"name": name, "in": "query", "description": description, "schema": schema}


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query's fields are absent or have a value."""
    schema = {name: value for name, value in schema.items() if name != "title" and value not in (None, [])}
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    whole: dict[str, Any] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    return schema | whole


def _body(call: Call, model: type[BaseModel]) -> dict[str, Any]:
    name = f"{model.__name__}Patch" if call.takes_patch else model.__name__
    media_types = [_MERGE_PATCH] if call.takes_patch else []
    content = {media_type: _schema(name) for media_type in (*media_types, "application/json")}
    return {"required": not call.body_optional, "content": content}


def _answer(answer: Answer) -> dict[str, Any]:
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
    """A name with a question mark: of some answers only."""
    headers = {}
    for name in names:
        description, example = _HEADERS[name.removesuffix("?")]
        headers[name.removesuffix("?")] = {
            "description": description,
            "required": not name.endswith("?"),
            "schema": {"type": "string", "examples": [example]},
        }
    return {"headers": headers} if headers else {}


def _problems(call: Call) -> Mapping[int, str]:
    """The statuses that follow from a call's parts, and its own."""
    statuses: set[int] = set()
    if not call.is_open:
        statuses |= {401, 403, 422, 429, 503}  # 422: unknown query parameters
    if call.takes is not None or call.method == "POST":
        statuses |= {400, 413, 415, 422}
    if _is_one_timer(call):
        statuses |= {404, 410}
    if call.if_match:
        statuses |= {400, 412}
    return {status: _PROBLEMS[status] for status in statuses} | dict(call.problems)


def _is_one_timer(call: Call) -> bool:
    return "{timer_id}" in call.path


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"{_REF}{name}"}}


def _schemas() -> dict[str, Any]:
    models = {model for call in CALLS for answer in call.answers.values() for model in answer.models}
    models |= {call.takes for call in CALLS if call.takes is not None} | {Problem}
    by_name = sorted(models, key=lambda model: model.__name__)
    _, made = models_json_schema([(model, "validation") for model in by_name], ref_template=_REF + "{model}")
    schemas: dict[str, Any] = made["$defs"]
    for call in CALLS:
        if call.takes is not None and call.takes_patch:
            _add_patch(schemas, call.takes.__name__)
    return dict(sorted(schemas.items()))


def _add_patch(schemas: dict[str, Any], name: str) -> str:
    """The merge patch of a model, which may leave out and remove everything in it."""
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
