"""The API's description is true: it equals docs/swagger.json, and names what the API answers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from httpqueue import __version__
from httpqueue.api import openapi
from httpqueue.api.models import TimerRequest
from httpqueue.api.requests import read_timer
from tests.unit.api_fakes import FakeStore, api

SWAGGER_JSON = Path(__file__).resolve().parents[2] / "docs" / "swagger.json"


def test_the_printed_description_is_the_committed_one() -> None:
    """Run `make openapi` after a change of the models."""
    printed = subprocess.run(
        [sys.executable, "-m", "httpqueue.api.openapi"], capture_output=True, check=True, timeout=60
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
    assert responses.keys() == {"200", "201", "400", "409", "413", "415", "422", "503"}
    for status, response in responses.items():
        (media_type,) = response["content"]
        assert media_type == ("application/json" if status < "300" else "application/problem+json")


async def test_every_described_path_exists() -> None:
    """No path of the description is unknown to the API."""
    client = api(FakeStore())
    for path in openapi.document()["paths"]:
        response = await client.options(path.replace("{timer_id}", "a"))
        assert response.status_code == 405, path


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


def test_every_field_of_a_request_is_explained() -> None:
    """Swagger UI is the manual."""
    properties = openapi.document()["components"]["schemas"]["TimerRequest"]["properties"]
    assert properties.keys() == TimerRequest.model_fields.keys()
    for name, schema in properties.items():
        assert schema["description"], name


def test_the_example_is_a_valid_request() -> None:
    """Swagger UI's "Try it out" and Execute store a timer."""
    (example,) = openapi.document()["components"]["schemas"]["TimerRequest"]["examples"]
    assert read_timer(example, now_ms=0).spec.url == example["url"]


@pytest.mark.parametrize("field", ["hours", "minutes", "seconds", "fire_at", "method", "headers", "id"])
def test_every_example_of_a_field_is_valid(field: str) -> None:
    """What is shown can be sent."""
    schema = openapi.document()["components"]["schemas"]["TimerRequest"]["properties"][field]
    schedule = {} if field in {"hours", "minutes", "seconds", "fire_at"} else {"seconds": 1}
    for example in schema.get("examples", [schema.get("default")]):
        read_timer({"url": "https://example.com", **schedule, field: example}, now_ms=0)
