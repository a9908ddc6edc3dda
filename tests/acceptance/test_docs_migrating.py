"""docs/migrating.md, executed as tests/support/documents.py says: what other systems do, httpqueue does.

`text` blocks hold the other system's requests; the `http` blocks after them are sent, their answers compared.
"""

import re
from pathlib import Path

import pytest

from httpqueue.settings import Settings, variables
from tests.support.documents import blocks_of, tell
from tests.support.processes import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "migrating.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SYSTEMS = {
    "httpqueue (the Go ancestor)": ("POST /timers", "GET /timers/{timer_id}"),
    "cassata-io": ("POST /cassata/add/", "GET /cassata/delete/", "GET /cassata/status/"),
    "schedule-rs": (
        "POST /schedule",
        "GET /schedule",
        "GET /schedule/ec3e",
        "PUT /schedule/ec3e",
        "PUT /schedule/ec3eee49-f876-4ceb-a112-9dc33251e506/callback",
        "DELETE /schedule/",
    ),
    "clockwork": ("POST /schedule",),
    "kafka-message-scheduler": ("scheduler-epoch: 1893456000", "go run ./cmd/mini", "GET /schedules"),
}
"""Every request in the documents of these systems."""


def section(title: str) -> str:
    """What stands under a heading of the second level."""
    _, _, rest = TEXT.partition(f"\n## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


async def test_every_example_is_true(tmp_path: Path) -> None:
    """What stands beside the other systems' requests works, and is answered as the page says."""
    assert await tell(DOCUMENT, tmp_path) > 50


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_request_of_a_system_has_its_counterpart(system: str) -> None:
    """Each stands in a text block, and a request of httpqueue, which is executed, follows it."""
    text = section(system)
    for request in SYSTEMS[system]:
        assert re.search(rf"^(?:.* )?{re.escape(request)}", text, re.MULTILINE), request
        _, _, after = text.partition(request)
        assert re.search(r"^```(http|sh)$", after, re.MULTILINE), request


def test_cassata_s_status_words_stand_beside_ours() -> None:
    """All five of them."""
    for word in ("PENDING", "PROCESSING", "COMPLETED", "SERVICE_UNAVAILABLE", "FAILED"):
        assert re.search(rf"^\| `{word}` \| `\w+`", section("cassata-io"), re.MULTILINE), word


def test_the_settings_that_are_accepted_by_their_old_names_are() -> None:
    """The page promises a name only if settings.py knows it, and every name of httpqueue's exists."""
    known = {name for field in Settings.model_fields for name in variables(field)}
    for old in re.findall(r"^\| `(\w+)`.*\| the same name, or `(\w+)`", TEXT, re.MULTILINE):
        assert set(old) <= known
    rows = r"^\| `([A-Z_]+)`.*\| `(HTTPQUEUE_\w+)`"
    ancestor = re.findall(rows, section("httpqueue (the Go ancestor)"), re.MULTILINE)
    assert len(ancestor) == 7
    assert {name for pair in ancestor for name in pair} <= known
    assert set(re.findall(r"HTTPQUEUE_[A-Z_]+", TEXT)) <= known


def test_blocks_of_other_systems_are_not_sent() -> None:
    """They are text."""
    assert not any("/cassata/" in block.text for block in blocks_of(DOCUMENT) if block.language != "text")
