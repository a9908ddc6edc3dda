"""Policies and their stored form."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.storage.record import decode_policy, encode_policy
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.spec import Retention

MS = st.none() | st.integers(0, 2**53)
APPLICATIONS = st.builds(
    ApplicationPolicy,
    paused=st.booleans(),
    retention_done_ms=MS,
    retention_failed_ms=MS,
    secrets=st.lists(st.text(), max_size=2).map(tuple),
)
DESTINATIONS = st.builds(
    DestinationPolicy,
    paused=st.booleans(),
    rate=st.none() | st.floats(0.001, 1e6),
    concurrency=st.none() | st.integers(1, 10_000),
)


@given(APPLICATIONS, DESTINATIONS)
def test_what_is_written_is_read(application: ApplicationPolicy, destination: DestinationPolicy) -> None:
    """Whatever was said."""
    assert decode_policy(ApplicationPolicy, encode_policy(application)) == application
    assert decode_policy(DestinationPolicy, encode_policy(destination)) == destination


def test_what_was_not_said_is_not_stored() -> None:
    """A later version's defaults then hold for it."""
    assert encode_policy(ApplicationPolicy()) == b"{}"
    assert orjson.loads(encode_policy(DestinationPolicy(rate=0.5))) == {"rate": 0.5}


def test_nothing_stored_says_nothing() -> None:
    """As for an application or a host that nobody spoke of."""
    assert decode_policy(ApplicationPolicy, b"") == ApplicationPolicy()
    assert decode_policy(ApplicationPolicy, None) == ApplicationPolicy()
    assert decode_policy(DestinationPolicy, b"") == DestinationPolicy()


def test_what_a_later_version_stored_is_passed_over() -> None:
    """So that one can go back."""
    assert decode_policy(DestinationPolicy, b'{"rate":2,"colour":"blue"}') == DestinationPolicy(rate=2)


def test_secrets_are_not_in_its_text() -> None:
    """A log that names a policy names none."""
    assert "whsec_x" not in repr(ApplicationPolicy(secrets=("whsec_x",)))
    assert "secrets=1" in repr(ApplicationPolicy(secrets=("whsec_x",)))


def test_the_retention_of_an_application() -> None:
    """Each part for itself."""
    assert ApplicationPolicy(retention_done_ms=5).retention == Retention(5, None)
