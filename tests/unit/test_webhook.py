from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue import __version__
from httpqueue.timers.commands import Begun, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.message import OWN_HEADERS, Request, render, webhook_id

URL = "http://example.org/hook"
WEBHOOK_ID = "default:t1:nonce:4"
WAKE_UP = WakeUp(TimerName("default", "t1"), 4)

timer_ids = st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True)
header_names = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True).filter(
    lambda name: name.lower() not in OWN_HEADERS
)
json_values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def rendered(spec: Spec, *, timer_id: str = "t1", attempt: int = 1, append_timer_id: bool = False) -> Request:
    """A call of a timer, started a bit after a whole second."""
    return render(
        spec,
        timer_id=timer_id,
        webhook_id=WEBHOOK_ID,
        attempt=attempt,
        started_ms=1_700_000_000_987,
        append_timer_id=append_timer_id,
    )


def begun(wake_up: WakeUp = WAKE_UP, **members: Any) -> Begun:
    """An attempt of a timer."""
    usual: dict[str, Any] = {
        "nonce": "nonce",
        "holder": "worker.1",
        "lease_ms": 1,
        "attempt": 1,
        "lost": 0,
        "due_ms": 1,
        "started_ms": 1,
    }
    return Begun(wake_up, spec=timer(), host="example.org", **(usual | members))


def timer(url: str = URL, body: Any = None, **headers: str) -> Spec:
    """A spec due at once."""
    return Spec(url, Delay(0), headers=headers, body=body)


def test_a_webhook_introduces_itself() -> None:
    """Standard Webhooks: id and timestamp in seconds; who calls, and for which time."""
    assert rendered(timer(), attempt=3) == Request(
        method="POST",
        url=URL,
        headers=(
            ("user-agent", f"httpqueue/{__version__}"),
            ("webhook-id", WEBHOOK_ID),
            ("webhook-timestamp", "1700000000"),
            ("httpqueue-attempt", "3"),
        ),
        body=b"",
    )


def test_retries_share_their_webhook_id() -> None:
    """It is what a receiver tells a repetition by: other workers and attempts do not show in it."""
    attempts = [begun(), begun(attempt=2), begun(holder="other.1"), begun(lost=1), begun(due_ms=7)]
    assert {webhook_id(each) for each in attempts} == {WEBHOOK_ID}


def test_no_two_runs_share_a_webhook_id() -> None:
    """Of one timer, of two that had the same id one after the other, or of two applications."""
    names = [TimerName("default", "t1"), TimerName("other", "t1"), TimerName("default", "t2")]
    runs = [begun(WakeUp(name, run), nonce=nonce) for name in names for run in (4, 5) for nonce in ("x", "y")]
    assert len({webhook_id(run) for run in runs}) == len(runs)


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_the_clients_content_type_counts(name: str) -> None:
    """However it is spelled."""
    headers = rendered(Spec(URL, Delay(0), headers={name: "text/x"}, body={"a": 1})).headers
    assert [pair for pair in headers if pair[0].lower() == "content-type"] == [(name, "text/x")]


@pytest.mark.parametrize("name", ["User-Agent", "user-agent"])
def test_the_clients_user_agent_counts(name: str) -> None:
    """However it is spelled."""
    headers = rendered(Spec(URL, Delay(0), headers={name: "me/1"})).headers
    assert [pair for pair in headers if pair[0].lower() == "user-agent"] == [(name, "me/1")]


@given(st.dictionaries(header_names, st.text(max_size=20), max_size=5), json_values)
def test_every_header_of_the_client_is_sent_as_it_is(headers: dict[str, str], body: Any) -> None:
    """The ones that httpqueue adds touch no other."""
    sent = dict(rendered(Spec(URL, Delay(0), headers=headers, body=body)).headers)
    assert headers.items() <= sent.items()
    added = {name.lower() for name in sent} - {name.lower() for name in headers}
    assert added <= {*OWN_HEADERS, "user-agent", "content-type"}


@given(st.text())
def test_a_string_is_sent_as_it_is(text: str) -> None:
    """Even one that looks like JSON; the client says what it is."""
    request = rendered(timer(body=text))
    assert request.body == text.encode()
    assert "content-type" not in dict(request.headers)


@given(json_values)
def test_any_other_value_is_sent_as_json(value: Any) -> None:
    """A body of false or 0 is one, too."""
    request = rendered(timer(body=value))
    assert orjson.loads(request.body) == value
    assert dict(request.headers)["content-type"] == "application/json"


def test_no_body_has_no_type() -> None:
    """Nothing to describe."""
    request = rendered(timer())
    assert request.body == b""
    assert "content-type" not in dict(request.headers)


@given(timer_ids)
def test_the_id_replaces_its_placeholder(timer_id: str) -> None:
    """Everywhere in the URL; other braces stay."""
    url = rendered(timer("http://h/{id}/x?a={id}&b={ID}{}#{id}"), timer_id=timer_id).url
    assert url == f"http://h/{timer_id}/x?a={timer_id}&b={{ID}}{{}}#{timer_id}"


@given(timer_ids)
def test_only_the_placeholder_is_replaced(timer_id: str) -> None:
    """A URL without one is called exactly as given."""
    url = "https://h:8443/a%2Fb//c/./?q=%20+&&x#f"
    assert rendered(timer(url), timer_id=timer_id).url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "http://h/t1"),
        ("http://h/", "http://h/t1"),
        ("http://h/a", "http://h/a/t1"),
        ("http://h/a/", "http://h/a/t1"),
        ("http://h//a", "http://h//a/t1"),
        ("http://h/a?x=1&y=%20", "http://h/a/t1?x=1&y=%20"),
        ("http://h?x=1", "http://h/t1?x=1"),
        ("http://[::1]:81/a%2F", "http://[::1]:81/a%2F/t1"),
    ],
)
def test_the_id_is_appended_to_the_path(url: str, expected: str) -> None:
    """As the ancestor does, when the setting says so; the query stays behind it."""
    assert rendered(timer(url), append_timer_id=True).url == expected


@given(timer_ids, st.text("abc/%2F.", max_size=10), st.sampled_from(["", "?a=1", "?b=%2F&c"]))
def test_appending_adds_one_segment(timer_id: str, path: str, query: str) -> None:
    """The last segment of the path is the id, whatever the path was."""
    parts = urlsplit(rendered(timer(f"http://h/{path}{query}"), timer_id=timer_id, append_timer_id=True).url)
    assert parts.path.rpartition("/")[2] == timer_id
    assert parse_qsl(parts.query) == parse_qsl(query[1:])
