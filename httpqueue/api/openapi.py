"""The API's description (OpenAPI 3.1), made from the models; `python -m httpqueue.api.openapi` prints it."""

import sys
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue import __version__
from httpqueue.api import problems
from httpqueue.api.models import BatchRequest, TimerRequest
from httpqueue.api.rules import ID_PATTERN
from httpqueue.api.views import ArchivedTimer, BatchAnswer, Health, Problem, StoredTimer, TimerView

_MODELS: Final = (
    TimerRequest,
    StoredTimer,
    BatchRequest,
    BatchAnswer,
    TimerView,
    ArchivedTimer,
    Health,
    Problem,
)
_PROBLEMS: Final = {
    HTTPStatus.BAD_REQUEST: "The body is no JSON object, or an ambiguous one.",
    HTTPStatus.NOT_FOUND: "There never was a timer of this id.",
    HTTPStatus.CONFLICT: "The id belongs to a timer with other content.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Fields are faulty; errors names each.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Redis does not answer; try again.",
}


def document() -> dict[str, Any]:
    """The description as JSON."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "httpqueue",
            "version": __version__,
            "description": "Makes HTTP requests in the future. Post a timer; its webhook is called on time.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": "timers", "description": "Schedule webhooks and see what became of them."},
            {"name": "operations", "description": "For those who run httpqueue."},
        ],
        "paths": {
            "/timers": {"post": _post()},
            "/timers/batch": {"post": _post_batch()},
            "/timers/{timer_id}": {"get": _get()},
            **_operations(),
        },
        "components": {"schemas": schemas["$defs"]},
    }


def render() -> bytes:
    """The description as text, as /openapi.json and docs/swagger.json have it."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def routes() -> list[Route]:
    """/openapi.json, rendered once."""
    text = render()

    async def openapi_json(_request: Request) -> Response:
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-cache"})

    return [Route("/openapi.json", openapi_json)]


def _post() -> dict[str, Any]:
    created = _answer("StoredTimer", "Stored; the webhook will be called.")
    created["headers"] = {"Location": {"description": "The timer's path.", "schema": {"type": "string"}}}
    return {
        "tags": ["timers"],
        "operationId": "createTimer",
        "summary": "Store a timer",
        "description": "Sending the same id with the same content again is safe: it is stored once.",
        "requestBody": {"required": True, "content": {"application/json": _schema("TimerRequest")}},
        "responses": {
            "201": created,
            "200": _answer("StoredTimer", "It was stored before, with the same content."),
            **_problems(
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.CONFLICT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
            ),
        },
    }


def _post_batch() -> dict[str, Any]:
    return {
        "tags": ["timers"],
        "operationId": "createTimers",
        "summary": "Store many timers in one commit",
        "description": "Each is stored or refused as if it had been posted alone. At most 8 MiB.",
        "requestBody": {"required": True, "content": {"application/json": _schema("BatchRequest")}},
        "responses": {
            "200": _answer("BatchAnswer", "What became of each, in their order."),
            **_problems(
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
            ),
        },
    }


def _get() -> dict[str, Any]:
    found = _answer("TimerView", "The timer, or what the archive remembers of it.")
    found["content"]["application/json"]["schema"] = {
        "anyOf": [_schema(name)["schema"] for name in ("TimerView", "ArchivedTimer")]
    }
    return {
        "tags": ["timers"],
        "operationId": "getTimer",
        "summary": "Look at a timer",
        "parameters": [
            {
                "name": "timer_id",
                "in": "path",
                "required": True,
                "description": "The timer's id.",
                "schema": {"type": "string", "pattern": ID_PATTERN},
            }
        ],
        "responses": {
            "200": found,
            **_problems(HTTPStatus.NOT_FOUND),
        },
    }


def _operations() -> dict[str, Any]:
    text = {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "/healthz": _operation("isAlive", "Is the process alive?", {"200": _answer("Health", "Yes.")}),
        "/readyz": _operation(
            "isReady", "Can it work? (Redis answers)", {"200": _answer("Health", "Yes."), **_problems()}
        ),
        "/metrics": _operation("readMetrics", "Figures for Prometheus", {"200": text}),
    }


def _operation(operation_id: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {
            "tags": ["operations"],
            "operationId": operation_id,
            "summary": summary,
            "responses": responses,
        }
    }


def _problems(*statuses: HTTPStatus) -> dict[str, Any]:
    """These, and 503, which each path that needs Redis may answer."""
    answers = {
        str(status.value): _answer("Problem", _PROBLEMS[status], problems.MEDIA_TYPE)
        for status in (*statuses, HTTPStatus.SERVICE_UNAVAILABLE)
    }
    schema = {"type": "string", "examples": [problems.RETRY_AFTER_S]}
    answers["503"]["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": schema}}
    return answers


def _answer(model: str, description: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: _schema(model)}}


def _schema(model: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{model}"}}


if __name__ == "__main__":
    sys.stdout.buffer.write(render())
