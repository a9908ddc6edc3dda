"""Policies and their stored form."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers.policies import Application, Destination, decode_policy, encode_policy
from httpqueue.timers.spec import Retention

MS = st.none() | st.integers(0, 2**53)
APPLICATIONS = st.builds(
    Application,
    paused=st.booleans(),
    retention_done_ms=MS,
    retention_failed_ms=MS,
    secrets=st.lists(st.text(), max_size=2).map(tuple),
)
DESTINATIONS = st.builds(
    Destination,
    paused=st.booleans(),
    rate=st.none() | st.floats(0.001, 1e6),
    concurrency=st.none() | st.integers(1, 10_000),
)


@given(APPLICATIONS, DESTINATIONS)
def test_what_is_written_is_read(application: Application, destination: Destination) -> None:
    """Whatever was said."""
    assert decode_policy(Application, encode_policy(application)) == application
    assert decode_policy(Destination, encode_policy(destination)) == destination


def test_what_was_not_said_is_not_stored() -> None:
    """A later version's defaults then hold for it."""
    assert encode_policy(Application()) == b"{}"
    assert orjson.loads(encode_policy(Destination(rate=0.5))) == {"rate": 0.5}


def test_nothing_stored_says_nothing() -> None:
    """As for an application or a host that nobody spoke of."""
    assert decode_policy(Application, b"") == Application()
    assert decode_policy(Destination, b"") == Destination()


def test_what_a_later_version_stored_is_passed_over() -> None:
    """So that one can go back."""
    assert decode_policy(Destination, b'{"rate":2,"colour":"blue"}') == Destination(rate=2)


def test_secrets_are_not_in_its_text() -> None:
    """A log that names a policy names none."""
    assert "whsec_x" not in repr(Application(secrets=("whsec_x",)))
    assert "secrets=1" in repr(Application(secrets=("whsec_x",)))


def test_the_retention_of_an_application() -> None:
    """Each part for itself."""
    assert Application(retention_done_ms=5).retention == Retention(5, None)
