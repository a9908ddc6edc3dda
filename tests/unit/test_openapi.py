"""The API's description is true: it equals docs/swagger.json, and names what the API answers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from httpqueue import __version__
from httpqueue.api import app
from httpqueue.api.schema import openapi
from httpqueue.api.schema.operations import OPERATIONS
from httpqueue.api.schema.query import ListQuery
from httpqueue.api.schema.read_timer import read_timer
from httpqueue.api.schema.request_models import TimerRequest
from httpqueue.timers.commands import NewTimer
from tests.support.api_fakes import FakeStore, api, backend
from tests.support.egress import PRIVATE

SWAGGER_JSON = Path(__file__).resolve().parents[2] / "docs" / "swagger.json"


def test_the_printed_description_is_the_committed_one() -> None:
    """Run `make openapi` after a change of the models."""
    printed = subprocess.run(
        [sys.executable, "-m", "httpqueue.api.schema.openapi"], capture_output=True, check=True, timeout=60
    ).stdout
    assert printed == SWAGGER_JSON.read_bytes()


async def test_the_served_description_is_the_committed_one() -> None:
    """/openapi.json, version 3.1 of the format and this version of httpqueue."""
    response = await api(FakeStore()).get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.content == SWAGGER_JSON.read_bytes()
    assert response.json()["openapi"].startswith("3.1.")
    assert response.json()["info"]["version"] == __version__


def test_every_answer_of_post_timers_is_described() -> None:
    """Problems as problem+json."""
    responses = openapi.document()["paths"]["/timers"]["post"]["responses"]
    refused = {"400", "401", "403", "408", "409", "413", "415", "422", "429", "503"}
    assert responses.keys() == {"200", "201", *refused}
    for status, response in responses.items():
        (media_type,) = response["content"]
        assert media_type == ("application/json" if status < "300" else "application/problem+json")


def test_every_operation_is_described_and_served() -> None:
    """By its own name; only the pages that show the description are not described."""
    paths = openapi.document()["paths"]
    described = {operation["operationId"] for methods in paths.values() for operation in methods.values()}
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))
    assert described == set(names) - {"showRoot", "showDocs", "getDocsFile", "getOpenApi"}
    assert served() == set(names)


def served() -> set[str]:
    """The operations that an app with a virtual clock has handlers for."""

    async def advance(_target_of: Callable[[int], int]) -> None:
        raise AssertionError

    return set(app.handlers_of(replace(backend(FakeStore()), advance=advance)))


def test_who_may_call_is_described() -> None:
    """The scope that a key needs; no key at all is one of the ways, while there is none."""
    paths = openapi.document()["paths"]
    assert paths["/timers"]["get"]["security"] == [{}, {"key": ["read"]}, {"bearer": ["read"]}]
    assert paths["/timers"]["post"]["security"][1:] == [{"key": ["write"]}, {"bearer": ["write"]}]
    assert paths["/destinations/{host}"]["put"]["security"][1] == {"key": ["admin"]}
    assert paths["/healthz"]["get"]["security"] == []


def test_a_merge_patch_may_leave_out_and_remove_everything() -> None:
    """Nothing is required in it, at any depth, and null is a value of each member (RFC 7396)."""
    document = openapi.document()
    content = document["paths"]["/timers/{timer_id}"]["patch"]["requestBody"]["content"]
    assert list(content) == ["application/merge-patch+json", "application/json"]
    schemas = document["components"]["schemas"]
    assert schemas["TimerContentPatch"]["properties"].keys() == schemas["TimerContent"]["properties"].keys()
    for name in ("TimerContentPatch", "CallbackRequestPatch", "RetryRequestPatch", "RetentionRequestPatch"):
        assert "required" not in schemas[name]
        for field, schema in schemas[name]["properties"].items():
            assert field == "body" or {"type": "null"} in schema["anyOf"], (name, field)
    (labels, _) = schemas["TimerContentPatch"]["properties"]["labels"]["anyOf"]
    assert {"type": "null"} in labels["additionalProperties"]["anyOf"]


def test_every_reference_leads_somewhere() -> None:
    """To a schema of the same document."""
    document = openapi.document()
    names = {reference.rpartition("/")[2] for reference in references(document)}
    assert names == document["components"]["schemas"].keys()


def references(value: Any) -> Iterator[str]:
    """Every $ref below."""
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for member in value.values():
                yield from references(member)
        case list():
            for member in value:
                yield from references(member)


def test_every_field_is_explained() -> None:
    """Swagger UI is the manual."""
    schemas = openapi.document()["components"]["schemas"]
    assert schemas["TimerRequest"]["properties"].keys() == TimerRequest.model_fields.keys()
    for model, schema in schemas.items():
        for name, field in schema.get("properties", {}).items():
            assert field.get("description"), (model, name)


def test_every_parameter_is_explained() -> None:
    """Those of the query, too, which follow from the model that checks them."""
    paths = openapi.document()["paths"]
    calls = [call for methods in paths.values() for call in methods.values()]
    assert all(each["description"] for call in calls for each in call.get("parameters", []))
    named = [each["name"] for each in paths["/timers"]["get"]["parameters"]]
    assert named == list(ListQuery.model_fields)


def read(members: dict[str, Any]) -> NewTimer:
    """The timer that a request asks for."""
    return read_timer(members, now_ms=0, egress=PRIVATE, application_of=lambda given: given or "default")


def test_the_example_is_a_valid_request() -> None:
    """Swagger UI's "Try it out" and Execute store a timer."""
    (example,) = openapi.document()["components"]["schemas"]["TimerRequest"]["examples"]
    assert read(example).spec.url == example["url"]


WITH: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("hours", "minutes", "seconds", "fire_at", "cron")},
    "timezone": {"cron": "@daily"},
}


@pytest.mark.parametrize("field", TimerRequest.model_fields)
def test_every_example_of_a_field_is_valid(field: str) -> None:
    """What is shown can be sent."""
    schema = openapi.document()["components"]["schemas"]["TimerRequest"]["properties"][field]
    for example in schema.get("examples", [schema.get("default")]):
        members = {"url": "https://example.com", **WITH.get(field, {"seconds": 1}), field: example}
        if field == "fire_at" and isinstance(example, str) and not example.endswith("Z"):
            members["timezone"] = "Europe/Berlin"
        read(members)
