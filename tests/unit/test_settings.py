"""Settings: what the environment may say, and what docs/settings.md says about it."""

import binascii
import os
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from httpqueue.errors import SettingsError
from httpqueue.runtime.logs import LogFormat
from httpqueue.settings import (
    PREFIX,
    AuthMode,
    Mode,
    Settings,
    load,
    name_variables,
    parse_duration_ms,
    variables,
)
from httpqueue.timers.retry import RetryPolicy
from httpqueue.timers.schedule import MAX_DUE_MS
from httpqueue.webhooks.client.factory import SenderKind
from httpqueue.webhooks.egress import EgressList, EgressMode

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
UNSET = "–"  # noqa: RUF001 - the dash of the tables
INTERN = EgressList((ip_network("10.1.0.0/16"),), ("*.intern.example",))
SECRETS_KEY = "+/8=".rjust(44, "A")
VALUES: dict[str, tuple[str, Any]] = {
    "mode": ("relay", Mode.RELAY),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9_000),
    "metrics_port": ("9001", 9_001),
    "redis_url": ("rediss://u:p@redis:6380/1", "rediss://u:p@redis:6380/1"),
    "broker_redis_url": ("broker:6379", "redis://broker:6379"),
    "data_dir": ("/data", Path("/data")),
    "allow_unsafe_redis": ("true", True),
    "partitions": ("4", 4),
    "max_pending": ("1000", 1_000),
    "arq_partition": ("3", 3),
    "concurrency": ("7", 7),
    "host_concurrency": ("9", 9),
    "relay_batch_size": ("8", 8),
    "horizon_ms": ("1h", 3_600_000),
    "max_attempts": ("3", 3),
    "callback_timeout_ms": ("5", 5_000),
    "callback_delays_ms": ("2, 10s,1m", (2_000, 10_000, 60_000)),
    "backoff_base_ms": ("250ms", 250),
    "backoff_max_ms": ("2d", 172_800_000),
    "attempt_timeout_ms": ("1.5", 1_500),
    "retention_done_ms": ("0", 0),
    "retention_failed_ms": ("7d", 604_800_000),
    "archive_error_rate": ("1e-3", 1e-3),
    "shutdown_grace_ms": ("5s", 5_000),
    "append_timer_id": ("true", True),
    "sender": ("httpx", SenderKind.HTTPX),
    "egress": ("public", EgressMode.PUBLIC),
    "egress_allow": ("10.1.0.0/16, *.intern.example", INTERN),
    "egress_deny": ("10.1.0.0/16, *.intern.example", INTERN),
    "egress_proxy": ("http://user:password@proxy:3128", SecretStr("http://user:password@proxy:3128")),
    "log_format": ("json", LogFormat.JSON),
    "log_level": ("debug", "debug"),
    "producer_max_retry": ("4", 4),
    "rate_limit": ("2.5", 2.5),
    "api_key": ("0123456789abcdef", SecretStr("0123456789abcdef")),
    "wait_replicas": ("2", 2),
    "ephemeral": ("true", True),
    "virtual_clock": ("true", True),
    "auth": ("required", AuthMode.REQUIRED),
    "allowed_hosts": ("Timers.example.com, [fd00::1]", ("timers.example.com", "[fd00::1]")),
    "metrics_host": ("0.0.0.0", "0.0.0.0"),
    "secrets_key": (SECRETS_KEY, SecretStr(SECRETS_KEY)),
}
"""A value for every setting, as text and as read; none is the default."""
NEEDED = {"arq_partition": ("HTTPQUEUE_PARTITIONS", "4")}
"""What else has to be set for the value of a setting to be a valid one."""
EVERY_NAME = [(field, name) for field in Settings.model_fields for name in variables(field)]


class Row(NamedTuple):
    """A row of the tables, its code marks taken off."""

    variable: str
    ancestor: str
    default: str
    unit: str
    meaning: str

    @property
    def names(self) -> list[str]:
        """The variables of the setting, in the order in which they count."""
        return [name for name in (self.variable, self.ancestor) if name != UNSET]


def rows() -> Iterator[Row]:
    """Every setting that the document describes."""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "Variable":
            yield Row(*cells)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the settings is set."""
    names = {name for _, name in EVERY_NAME}
    for name in [name for name in os.environ if name.upper() in names]:  # noqa: TID251 - to be emptied
        monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    """Why a variable of this value ends the start, in one line that names it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"setting {variable}: must ")
    return message.removeprefix(f"setting {variable}: ")


def test_documented() -> None:
    """Every setting has one row in docs/settings.md, under all of its names and no others."""
    documented = [row.names for row in rows()]
    assert sorted(documented) == sorted(variables(field) for field in Settings.model_fields)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_documented_default(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default in docs/settings.md is the one that counts when nothing is set."""
    (row,) = [row for row in rows() if row.names == variables(field)]
    default = getattr(load(), field)
    assert (row.default == UNSET) == (default is None)
    if default is not None:
        monkeypatch.setenv(row.names[0], row.default)
        assert getattr(load(), field) == default


def test_documented_in_full() -> None:
    """Every row says in which unit the value is, and what it means."""
    assert all(row.unit and row.meaning.endswith((".", ")")) for row in rows())


@pytest.mark.parametrize(("field", "name"), EVERY_NAME)
def test_every_name(field: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting can be set under each of its names, and nothing else changes."""
    text, value = VALUES[field]
    nothing: dict[str, Any] = {}
    before = dict(Settings(**nothing))  # not load(), which also checks that settings go together
    if field in NEEDED:
        monkeypatch.setenv(*NEEDED[field])
    before = load().model_dump()
    assert before[field] != value
    monkeypatch.setenv(name, text)
    assert dict(Settings(**nothing)) == before | {field: value}


@pytest.mark.parametrize(("field", "name"), EVERY_NAME)
def test_blank(field: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is none: the default counts, or the setting's other name."""
    before = load()
    monkeypatch.setenv(name, "")
    assert load() == before
    for other in set(variables(field)) - {name}:
        text, value = VALUES[field]
        monkeypatch.setenv(other, text)
        assert getattr(load(), field) == value


def test_own_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the setting's own name and the ancestor's, its own counts."""
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("HTTPQUEUE_PORT", "2")
    assert load().port == 2


def test_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says counts more than the environment; an int is in the field's own unit."""
    monkeypatch.setenv("APP_MODE", "api")
    monkeypatch.setenv("HTTPQUEUE_MODE", "api")
    monkeypatch.setenv("HTTPQUEUE_HORIZON", "1h")
    settings = load(mode="worker", horizon_ms=250)
    assert settings.mode is Mode.WORKER
    assert settings.horizon_ms == 250


@pytest.mark.parametrize("field", Settings.model_fields)
def test_other_programs_variables(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST, PORT, MODE and their like belong to others and mean nothing here."""
    before = load()
    for name in {field.upper(), f"{PREFIX}{field.upper()}"} - set(variables(field)):
        monkeypatch.setenv(name, VALUES[field][0])
    assert load() == before


@pytest.mark.parametrize(
    ("text", "mode"), [("workers", Mode.WORKER), ("worker", Mode.WORKER), ("all", Mode.ALL)]
)
@pytest.mark.parametrize("name", ["APP_MODE", "HTTPQUEUE_MODE"])
def test_mode(name: str, text: str, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ancestor's plural is understood."""
    monkeypatch.setenv(name, text)
    assert load().mode is mode


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("redis", "redis://redis"),
        (" redis:6379 ", "redis://redis:6379"),
        ("redis://redis:6379/3", "redis://redis:6379/3"),
        ("rediss://user:pass%40word@redis", "rediss://user:pass%40word@redis"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_redis_url(text: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ancestor's host:port, or a URL as it is."""
    monkeypatch.setenv("REDIS_URL", text)
    assert load().redis_url == url


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "redis://",
        "http://redis:6379",
        "://redis",
        "two words",
        "redis:secret",
        "redis:70000",
        "redis://redis/?socket_timeout=secret",
    ],
)
def test_bad_redis_url(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What redis-py could not use is refused; it may hold a password, which is not repeated."""
    assert refusal(monkeypatch, "REDIS_URL", text) == (
        "must be host:port, a URL that begins with redis://, rediss:// or unix://, or"
        " redis+sentinel://host:port,host:port,host:port/name[/db]"
    )


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("20", 20_000),
        ("1.5", 1_500),
        ("250ms", 250),
        ("250 ms", 250),
        (" 2s ", 2_000),
        ("10m", 600_000),
        ("1.5h", 5_400_000),
        ("30d", 2_592_000_000),
        ("0.0004", 0),
    ],
)
def test_duration(text: str, ms: int) -> None:
    """A number with or without a unit, rounded to the millisecond."""
    assert parse_duration_ms(text) == ms


@given(st.integers(0, MAX_DUE_MS))
def test_duration_round_trip(ms: int) -> None:
    """What is written in ms is read as that, and so is what is in ms already."""
    assert parse_duration_ms(f"{ms}ms") == ms
    assert parse_duration_ms(ms) == ms


@pytest.mark.parametrize(
    "text", ["x", "1w", "-1", "+1", "1,5", ".5", "1e3", "1h30m", "nan", "٣", "1 s s", "\n"]
)
def test_bad_duration(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused with examples."""
    message = refusal(monkeypatch, "HTTPQUEUE_HORIZON", text)
    assert message == "must be a duration such as 20, 1.5s, 10m, 1h or 30d (a bare number is seconds)"


@pytest.mark.parametrize("text", [f"{MAX_DUE_MS + 1}ms", "9999999d", "9" * 400])
def test_endless_duration(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A duration that no instant can hold is refused."""
    assert "year 9999" in refusal(monkeypatch, "HTTPQUEUE_RETENTION_DONE", text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("HTTP_PORT", "x", "must be a valid integer"),
        ("HTTPQUEUE_PORT", "65536", "must be less than or equal to 65535"),
        ("HTTP_METRICS_PORT", "-1", "must be greater than or equal to 0"),
        ("HTTPQUEUE_PARTITIONS", "0", "must be greater than or equal to 1"),
        ("HTTPQUEUE_PARTITIONS", "1025", "must be less than or equal to 1024"),
        ("HTTPQUEUE_ARQ_PARTITION", "-1", "must be greater than or equal to 0"),
        ("HTTPQUEUE_HOST_CONCURRENCY", "0", "must be greater than or equal to 1"),
        ("CONSUMER_CONCURRENCY", "0", "must be greater than or equal to 1"),
        ("RELAY_BATCH_SIZE", "1001", "must be less than or equal to 1000"),
        ("PRODUCER_MAX_RETRY", "-1", "must be greater than or equal to 0"),
        ("HTTPQUEUE_MAX_ATTEMPTS", "0", "must be greater than or equal to 1"),
        ("HTTPQUEUE_ATTEMPT_TIMEOUT", "0", "must be greater than or equal to 1"),
        ("HTTPQUEUE_BACKOFF_BASE", "0", "must be greater than or equal to 1"),
        ("HTTPQUEUE_BACKOFF_MAX", "0", "must be greater than or equal to 1"),
        ("HTTPQUEUE_ARCHIVE_ERROR_RATE", "0", "must be greater than 0"),
        ("HTTPQUEUE_ARCHIVE_ERROR_RATE", "0.5", "must be less than 0.5"),
        ("HTTPQUEUE_ARCHIVE_ERROR_RATE", "nan", "must be less than 0.5"),
        ("RATE_LIMIT", "0", "must be greater than or equal to 0.001"),
        ("HTTPQUEUE_RATE_LIMIT", "inf", "must be a finite number"),
        ("HTTPQUEUE_ALLOW_UNSAFE_REDIS", "maybe", "must be a valid boolean"),
        ("APP_MODE", "everything", "must be 'all', 'api', 'relay' or 'worker'"),
        ("HTTPQUEUE_EGRESS", "all", "must be 'public', 'private' or 'proxy'"),
        ("HTTPQUEUE_SENDER", "curl", "must be 'http1' or 'httpx'"),
        ("HTTPQUEUE_LOG_FORMAT", "xml", "must be 'auto', 'json' or 'text'"),
        ("HTTPQUEUE_LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_bad_value(name: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the variable that is set, under the name that is set, and what it must be."""
    assert refusal(monkeypatch, name, text) == message


@pytest.mark.parametrize(("partitions", "arq_partition"), [("", "1"), ("4", "4"), ("4", "5")])
def test_a_partition_that_there_is_not(
    partitions: str, arq_partition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock arq worker would wait for ever at a queue that nobody fills."""
    monkeypatch.setenv("HTTPQUEUE_PARTITIONS", partitions)
    assert refusal(monkeypatch, "HTTPQUEUE_ARQ_PARTITION", arq_partition) == (
        f"must be less than {partitions or 1}, which is HTTPQUEUE_PARTITIONS: partitions are counted from 0"
    )


def test_bad_value_of_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both names are set, the one that counts is named."""
    monkeypatch.setenv("HTTP_PORT", "8080")
    refusal(monkeypatch, "HTTPQUEUE_PORT", "x")
    monkeypatch.setenv("HTTPQUEUE_PORT", "")
    refusal(monkeypatch, "HTTP_PORT", "x")


def test_bad_value_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's name may be written in lower case; the message has it as it is documented."""
    monkeypatch.setenv("http_port", "x")
    with pytest.raises(SettingsError, match="setting HTTP_PORT: must"):
        load()


def test_bad_override() -> None:
    """What is not from the environment is named as the setting's own variable."""
    with pytest.raises(SettingsError, match="setting HTTPQUEUE_PORT: must be a valid integer"):
        load(port="x")


def test_retry_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backoff settings as one value; the ancestor counts retries, not attempts."""
    assert load().retry_policy == RetryPolicy(10, 1_000, 3_600_000)
    monkeypatch.setenv("HTTPQUEUE_MAX_ATTEMPTS", "4")
    monkeypatch.setenv("HTTPQUEUE_BACKOFF_BASE", "2")
    monkeypatch.setenv("HTTPQUEUE_BACKOFF_MAX", "1m")
    assert load().retry_policy == RetryPolicy(4, 2_000, 60_000)
    monkeypatch.setenv("PRODUCER_MAX_RETRY", "0")
    assert load().retry_policy == RetryPolicy(1, 2_000, 60_000)


@pytest.mark.parametrize("text", ["0123456789abcde", "0123456789 abcdef", "0123456789abcdef\u00fc"])
def test_bad_api_key(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too short, or not to be sent as it is by every client: refused, and not repeated."""
    message = refusal(monkeypatch, "SCHEDULERS_API_KEY", text)
    assert message == "must be at least 16 ASCII letters, digits or signs, without spaces"


def test_the_api_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when all settings are."""
    monkeypatch.setenv("HTTPQUEUE_API_KEY", "0123456789abcdef")
    assert "0123456789" not in repr(load())


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "10.0.0.0/33", "*", "*.", "a.*.b", "a b", "http://a", "a:80", "127.1", "1.2.3"]
)
@pytest.mark.parametrize("name", ["HTTPQUEUE_EGRESS_ALLOW", "HTTPQUEUE_EGRESS_DENY"])
def test_bad_egress_list(name: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither a network nor a host pattern is refused, and named."""
    message = refusal(monkeypatch, name, f"10.0.0.0/8, {entry}")
    assert message == (
        "must list networks such as 10.0.0.0/8, addresses, and hosts such as example.com or *.example.com "
        f"(not {entry})"
    )


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "socks5://proxy",
        "http://",
        "http://proxy/path",
        "http://pro xy",
        "http://p:x",
        "http://p:65536",
    ],
)
def test_bad_proxy_url(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a password, which is not repeated."""
    monkeypatch.setenv("HTTPQUEUE_EGRESS", "proxy")
    assert refusal(monkeypatch, "HTTPQUEUE_EGRESS_PROXY", text) == (
        "must be a proxy's URL such as http://proxy:3128 or https://user:password@proxy:443"
    )


def test_mode_proxy_and_its_url_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without the other is refused; the URL is never shown."""
    assert "HTTPQUEUE_EGRESS_PROXY" in refusal(monkeypatch, "HTTPQUEUE_EGRESS", "proxy")
    monkeypatch.setenv("HTTPQUEUE_EGRESS_PROXY", "http://user:password@[::1]:3128/")
    assert "password" not in repr(load())
    monkeypatch.setenv("HTTPQUEUE_EGRESS", "public")
    url = "http://proxy:3128"
    assert "HTTPQUEUE_EGRESS is proxy" in refusal(monkeypatch, "HTTPQUEUE_EGRESS_PROXY", url)
    monkeypatch.delenv("HTTPQUEUE_EGRESS")
    assert "HTTPQUEUE_EGRESS is proxy" in refusal(monkeypatch, "HTTPQUEUE_EGRESS_PROXY", url)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Defect 14: OpenSSL would trust others without a word, and httpx end the worker."""
    missing = tmp_path / "missing"
    monkeypatch.setenv(name, str(missing))
    with pytest.raises(SettingsError, match=rf"setting {name}: must name certificates .* {missing}"):
        load()
    load(mode="relay")  # which calls nobody
    if name == "SSL_CERT_FILE":
        missing.touch()
    else:
        missing.mkdir()
    load()


def test_who_reaches_the_api() -> None:
    """Any loopback address, or its name."""
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert load(host=host).listens_on_loopback
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        assert not load(host=host).listens_on_loopback
    assert [load(mode=mode).has_api for mode in Mode] == [True, True, False, False]


@pytest.mark.parametrize(
    ("auth", "host", "needs_key"),
    [
        (None, "127.0.0.1", False),
        (None, "localhost", False),
        (None, "0.0.0.0", True),
        (None, "::", True),
        (None, "timers.example", True),
        ("none", "0.0.0.0", False),
        ("required", "127.0.0.1", True),
    ],
)
def test_who_needs_a_key(
    auth: str | None, host: str, *, needs_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond loopback everybody, unless it is written out that nobody does."""
    if auth is not None:
        monkeypatch.setenv("HTTPQUEUE_AUTH", auth)
    assert load(host=host).needs_key is needs_key


@pytest.mark.parametrize("text", ["http://a", "a:80", "a b", "*", "*.a", "fd00::1"])
def test_bad_allowed_host(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, not more: the entry that is none is named."""
    message = refusal(monkeypatch, "HTTPQUEUE_ALLOWED_HOSTS", f"localhost, {text}")
    assert message.endswith(f"such as timers.example.com (not {text})")


@pytest.mark.parametrize(
    "text", ["short", "A" * 44, "A" * 43, f"{SECRETS_KEY},", f"{SECRETS_KEY},x", "ü" * 44]
)
def test_bad_secrets_key(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not 32 bytes in base64 is refused, and not repeated."""
    message = refusal(monkeypatch, "HTTPQUEUE_SECRETS_KEY", text)
    assert message.startswith("must be 32 random bytes in base64 (openssl rand -base64 32)")
    assert text not in message


def test_secret_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of them, in the order in which they count, in either alphabet of base64; never shown."""
    assert load().secret_keys == ()
    url_safe = SECRETS_KEY.translate(str.maketrans("+/", "-_"))
    monkeypatch.setenv("HTTPQUEUE_SECRETS_KEY", f"{'A' * 43}=, {url_safe}")
    assert load().secret_keys == (bytes(32), binascii.a2b_base64(SECRETS_KEY))
    assert url_safe not in repr(load())


def test_passwords_of_redis_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when all settings are."""
    monkeypatch.setenv("REDIS_URL", "rediss://user:password@redis")
    monkeypatch.setenv("HTTPQUEUE_BROKER_REDIS_URL", "rediss://user:password@broker")
    assert "password" not in repr(load())


def test_in_memory() -> None:
    """A virtual clock is never together with real data."""
    assert not load().in_memory
    assert load(ephemeral=True).in_memory
    assert load(virtual_clock=True).in_memory


@pytest.mark.parametrize(
    ("flag", "other", "value", "words"),
    [
        ("EPHEMERAL", "MODE", "api", "`httpqueue api` alone"),
        ("VIRTUAL_CLOCK", "MODE", "worker", "`httpqueue worker` alone"),
        ("EPHEMERAL", "REDIS_URL", "redis:6379", "together with HTTPQUEUE_REDIS_URL"),
        ("EPHEMERAL", "BROKER_REDIS_URL", "redis:6379", "together with HTTPQUEUE_BROKER_REDIS_URL"),
    ],
)
def test_in_memory_is_for_a_whole_httpqueue(
    flag: str, other: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another server or process is involved, memory is not ours to promise."""
    monkeypatch.setenv(PREFIX + other, value)
    assert words in refusal(monkeypatch, PREFIX + flag, "true")


def test_a_message_names_the_variables_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage knows a setting by its field only; whoever reads the message needs the variable."""
    monkeypatch.setenv("REDIS_URL", "localhost")
    message = "give setting `data_dir` another directory, or setting `redis_url` a server"
    assert name_variables(message) == (
        "give setting HTTPQUEUE_DATA_DIR another directory, or setting REDIS_URL a server"
    )
