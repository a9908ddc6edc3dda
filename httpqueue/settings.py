"""Settings: the only reader of the environment."""

import binascii
import os
import re
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from httpqueue.errors import SettingsError
from httpqueue.runtime.logs import LogFormat
from httpqueue.storage.connection import check_url
from httpqueue.storage.partitions import MAX_PARTITIONS
from httpqueue.storage.secret_box import KEY_BYTES
from httpqueue.timers.retry import RetryPolicy
from httpqueue.timers.schedule import MAX_DUE_MS
from httpqueue.webhooks.client.factory import SenderKind
from httpqueue.webhooks.egress import EgressList, EgressMode, parse_list

_NAMED_SETTING: Final = re.compile(r"setting `(\w+)`")
PREFIX: Final = "HTTPQUEUE_"
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_API_KEY: Final = re.compile(r"[!-~]{16,}")  # what every client can send in a header as it is
_MAX_PORT: Final = 65_535
_URL_SAFE: Final = str.maketrans("-_", "+/")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")
_PROXY_URL: Final = re.compile(
    r"https?://([^\s/?#@]+@)?([^\s/?#@:\[\]]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?/?"
)


class Mode(StrEnum):
    """Which parts a process runs."""

    ALL = "all"
    API = "api"
    RELAY = "relay"
    WORKER = "worker"


class AuthMode(StrEnum):
    """NONE: nobody needs an API key while there is none. REQUIRED: everybody needs one, always."""

    NONE = "none"
    REQUIRED = "required"


def parse_duration_ms(value: str | int) -> int:
    """'90', '1.5h', '250 ms' -> ms. A string without a unit is in s, an int is in ms. Raises ValueError."""
    if isinstance(value, int):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a duration such as 20, 1.5s, 10m, 1h or 30d (a bare number is seconds)")
    amount, unit = match.groups()
    ms = float(amount) * _UNIT_MS[unit or "s"]
    if ms > MAX_DUE_MS:  # and float's infinity
        raise ValueError("must be a duration that does not reach beyond the year 9999")
    return round(ms)


def _redis_url(value: str) -> str:
    """The URL of a Redis server; the Go ancestor's host:port becomes a URL."""
    return check_url(value.strip() if "://" in value else f"redis://{value.strip()}")


def _list(value: object) -> object:
    """'1, 5, 30' -> its parts."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _mode(value: object) -> object:
    """The Go ancestor calls the mode `workers`."""
    return "worker" if value == "workers" else value


def _api_key(value: SecretStr) -> SecretStr:
    if _API_KEY.fullmatch(value.get_secret_value()) is None:
        raise ValueError("must be at least 16 ASCII letters, digits or signs, without spaces")
    return value


def _host_names(value: object) -> object:
    names = _list(value)
    if isinstance(names, list):
        for name in names:
            if _HOST_NAME.fullmatch(name) is None:
                raise ValueError(
                    f"must list host names without scheme and port, such as timers.example.com (not {name})"
                )
        return [name.lower() for name in names]
    return names


def _egress_list(value: object) -> object:
    return parse_list(value) if isinstance(value, str) else value


def _proxy_url(value: SecretStr) -> SecretStr:
    match = _PROXY_URL.fullmatch(value.get_secret_value())
    if match is None or not 0 < int(match[3] or 1) <= _MAX_PORT:
        raise ValueError("must be a proxy's URL such as http://proxy:3128 or https://user:password@proxy:443")
    return value


def _secrets_key(value: SecretStr) -> SecretStr:
    if not all(map(_decode_key, value.get_secret_value().split(","))):
        raise ValueError(
            f"must be {KEY_BYTES} random bytes in base64 (openssl rand -base64 {KEY_BYTES}), "
            "or several of these, separated by commas"
        )
    return value


def _decode_key(text: str) -> bytes | None:
    """32 bytes in base64, of either alphabet; None for anything else."""
    try:
        key = binascii.a2b_base64(text.strip().translate(_URL_SAFE), strict_mode=True)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


DurationMs = Annotated[int, BeforeValidator(parse_duration_ms)]
RedisUrl = Annotated[str, BeforeValidator(_redis_url)]
EgressEntries = Annotated[EgressList, NoDecode, BeforeValidator(_egress_list)]
Port = Annotated[int, Field(ge=0, le=_MAX_PORT)]


def _names(name: str, *others: str) -> AliasChoices:
    return AliasChoices(f"{PREFIX}{name}", *others)


class Settings(BaseSettings):
    """Every setting. docs/settings.md describes them for users; a test compares the two."""

    model_config = SettingsConfigDict(
        extra="ignore",
        env_ignore_empty=True,  # compose files leave empty variables: they mean the default
        hide_input_in_errors=True,
    )

    mode: Annotated[Mode, BeforeValidator(_mode)] = Field(
        Mode.ALL, validation_alias=_names("MODE", "APP_MODE"), description="which parts `httpqueue` runs"
    )
    host: str = Field("127.0.0.1", validation_alias=_names("HOST"), description="address the API listens on")
    port: Port = Field(
        8080, validation_alias=_names("PORT", "HTTP_PORT"), description="port the API listens on"
    )
    metrics_port: Port | None = Field(
        None,
        validation_alias=_names("METRICS_PORT", "HTTP_METRICS_PORT"),
        description="extra port for /metrics, /healthz and /readyz; unset: no extra port",
    )
    redis_url: RedisUrl | None = Field(
        None,
        validation_alias=_names("REDIS_URL", "REDIS_URL"),
        repr=False,
        description="the store's server, URL or host:port; unset: the embedded Valkey",
    )
    broker_redis_url: RedisUrl | None = Field(
        None,
        validation_alias=_names("BROKER_REDIS_URL"),
        repr=False,
        description="the queue's server; unset: the store",
    )
    data_dir: Path = Field(
        Path(".httpqueue"),
        validation_alias=_names("DATA_DIR"),
        description="directory of the embedded Valkey's data",
    )
    allow_unsafe_redis: bool = Field(
        False,
        validation_alias=_names("ALLOW_UNSAFE_REDIS"),
        description="start even if the server may evict keys",
    )
    partitions: int = Field(
        1,
        ge=1,
        le=MAX_PARTITIONS,
        validation_alias=_names("PARTITIONS"),
        description="slices of all keys, for a Redis Cluster; fixed when the store is first used",
    )
    max_pending: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("MAX_PENDING"),
        description="the most timers of all applications that are scheduled or running; unset: no limit",
    )
    arq_partition: int = Field(
        0,
        ge=0,
        validation_alias=_names("ARQ_PARTITION"),
        description="the partition that a stock arq worker drains",
    )
    concurrency: int = Field(
        10_000,
        ge=1,
        validation_alias=_names("CONCURRENCY", "CONSUMER_CONCURRENCY"),
        description="webhooks that one worker calls at once; applications and hosts share them",
    )
    host_concurrency: int = Field(
        200,
        ge=1,
        validation_alias=_names("HOST_CONCURRENCY"),
        description="webhooks that one worker calls at once at one host, unless its policy says how many",
    )
    relay_batch_size: int = Field(
        500,
        ge=1,
        le=1_000,
        validation_alias=_names("RELAY_BATCH_SIZE", "RELAY_BATCH_SIZE"),
        description="outbox entries and wake-ups that the relay moves at once",
    )
    horizon_ms: DurationMs = Field(
        600_000, validation_alias=_names("HORIZON"), description="how far ahead the relay fills the queue"
    )
    max_attempts: int = Field(
        10,
        ge=1,
        validation_alias=_names("MAX_ATTEMPTS"),
        description="attempts of a timer before it has failed",
    )
    backoff_base_ms: DurationMs = Field(
        1_000,
        ge=1,
        validation_alias=_names("BACKOFF_BASE"),
        description="longest delay after the first attempt; it doubles with every attempt",
    )
    backoff_max_ms: DurationMs = Field(
        3_600_000,
        ge=1,
        validation_alias=_names("BACKOFF_MAX"),
        description="longest delay between two attempts",
    )
    attempt_timeout_ms: DurationMs = Field(
        20_000,
        ge=1,
        validation_alias=_names("ATTEMPT_TIMEOUT"),
        description="how long one attempt may take in total",
    )
    retention_done_ms: DurationMs = Field(
        3_600_000,
        validation_alias=_names("RETENTION_DONE"),
        description="how long a delivered timer is kept; 0: archived at once",
    )
    retention_failed_ms: DurationMs = Field(
        2_592_000_000,
        validation_alias=_names("RETENTION_FAILED"),
        description="how long a failed timer is kept; 0: archived at once",
    )
    callback_timeout_ms: DurationMs = Field(
        10_000,
        ge=1,
        validation_alias=_names("CALLBACK_TIMEOUT", "SCHEDULERS_CALLBACK_TIMEOUT"),
        description="how long one attempt of a callback may take in total",
    )
    callback_delays_ms: Annotated[tuple[DurationMs, ...], NoDecode, BeforeValidator(_list)] = Field(
        (1_000, 5_000, 30_000),
        validation_alias=_names("CALLBACK_DELAYS", "SCHEDULERS_CALLBACK_RETRY_INTERVAL"),
        description="delays between the attempts of a callback; three delays make four attempts",
    )
    archive_error_rate: float = Field(
        1e-6,
        gt=0,
        lt=0.5,
        validation_alias=_names("ARCHIVE_ERROR_RATE"),
        description="share of unknown ids that the archive may wrongly report as finished",
    )
    shutdown_grace_ms: DurationMs = Field(
        30_000,
        validation_alias=_names("SHUTDOWN_GRACE"),
        description="how long a stopping worker waits for the webhooks it is calling",
    )
    append_timer_id: bool = Field(
        False,
        validation_alias=_names("APPEND_TIMER_ID"),
        description="append the timer's id to the path of its URL, as the Go ancestor does",
    )
    sender: SenderKind = Field(
        SenderKind.HTTP1,
        validation_alias=_names("SENDER"),
        description="HTTP client that calls the webhooks",
    )
    egress: EgressMode | None = Field(
        None,
        validation_alias=_names("EGRESS"),
        description="where webhooks may go; unset: as was chosen when the store was first used",
    )
    egress_allow: EgressEntries | None = Field(
        None,
        validation_alias=_names("EGRESS_ALLOW"),
        description="networks and hosts that may be called although EGRESS forbids it",
    )
    egress_deny: EgressEntries | None = Field(
        None,
        validation_alias=_names("EGRESS_DENY"),
        description="networks and hosts that are never called; it wins over EGRESS_ALLOW",
    )
    egress_proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] | None = Field(
        None,
        validation_alias=_names("EGRESS_PROXY"),
        description="the proxy that calls the webhooks if EGRESS is proxy",
    )
    log_format: LogFormat = Field(
        LogFormat.AUTO,
        validation_alias=_names("LOG_FORMAT"),
        description="auto: human-readable on a terminal, JSON elsewhere",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=_names("LOG_LEVEL"), description="lowest level that is logged"
    )
    producer_max_retry: int | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("PRODUCER_MAX_RETRY"),
        description="the Go ancestor's setting: retries after the first attempt, MAX_ATTEMPTS minus 1",
    )
    rate_limit: float | None = Field(
        None,
        ge=0.001,
        allow_inf_nan=False,
        validation_alias=_names("RATE_LIMIT", "RATE_LIMIT"),
        description="requests per second of each API key; unset: no limit",
    )
    api_key: Annotated[SecretStr, AfterValidator(_api_key)] | None = Field(
        None,
        validation_alias=_names("API_KEY", "SCHEDULERS_API_KEY"),
        description="a key that may do everything, in addition to those of `httpqueue keys create`",
    )
    wait_replicas: int = Field(
        0,
        ge=0,
        validation_alias=_names("WAIT_REPLICAS"),
        description="replicas that must have a timer before the API confirms it; 0: none",
    )
    ephemeral: bool = Field(
        False,
        validation_alias=_names("EPHEMERAL"),
        description="keep the embedded Valkey's data only in memory",
    )
    virtual_clock: bool = Field(
        False,
        validation_alias=_names("VIRTUAL_CLOCK"),
        description="for tests: time stands still until you advance it; implies EPHEMERAL",
    )

    auth: AuthMode | None = Field(
        None,
        validation_alias=_names("AUTH"),
        description="whether the API may be used without a key; unset: only one that listens on loopback",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_host_names)] | None = Field(
        None,
        validation_alias=_names("ALLOWED_HOSTS"),
        description="host names under which the API may be called without a key; loopback names always are",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        validation_alias=_names("METRICS_HOST"),
        description="address that the metrics port listens on",
    )
    secrets_key: Annotated[SecretStr, AfterValidator(_secrets_key)] | None = Field(
        None,
        validation_alias=_names("SECRETS_KEY"),
        description="encrypts signing secrets; unset: a key beside the embedded Valkey's data",
    )

    @property
    def retry_policy(self) -> RetryPolicy:
        """The backoff settings as one value."""
        attempts = self.max_attempts if self.producer_max_retry is None else self.producer_max_retry + 1
        return RetryPolicy(attempts, self.backoff_base_ms, self.backoff_max_ms)

    @property
    def has_api(self) -> bool:
        """Whether this process serves the API."""
        return self.mode in {Mode.ALL, Mode.API}

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def needs_key(self) -> bool:
        """Whether nobody may use the API without a key, even while there is none."""
        return not self.listens_on_loopback if self.auth is None else self.auth is AuthMode.REQUIRED

    @property
    def secret_keys(self) -> tuple[bytes, ...]:
        """The keys that encrypt signing secrets: the first one encrypts, all of them decrypt."""
        texts = "" if self.secrets_key is None else self.secrets_key.get_secret_value()
        return tuple(key for key in map(_decode_key, texts.split(",")) if key)

    @property
    def in_memory(self) -> bool:
        """Whether all data is kept in memory only."""
        return self.ephemeral or self.virtual_clock


def load(**overrides: Any) -> Settings:
    """Read the environment; overrides (by field name) win. Raises SettingsError that names the variable."""
    try:
        settings = Settings(**{variables(field)[0]: value for field, value in overrides.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = next(field for field in Settings.model_fields if first["loc"][0] in variables(field))
        raise SettingsError(f"setting {variable(field)}: {_must(first['msg'])}") from error
    if settings.arq_partition >= settings.partitions:
        raise SettingsError(
            f"setting {variable('arq_partition')}: must be less than {settings.partitions}, which is "
            f"{variable('partitions')}: partitions are counted from 0"
        )
    if settings.in_memory:
        _check_in_memory(settings)
    _check_proxy(settings)
    if settings.mode in {Mode.ALL, Mode.WORKER}:
        _check_certificates()
    return settings


def variables(field: str) -> list[str]:
    """The environment variables of a setting. The first one that is set counts."""
    names = Settings.model_fields[field].validation_alias
    return [str(name) for name in names.choices]  # type: ignore[union-attr] # every field is given AliasChoices


def variable(field: str) -> str:
    """The variable that sets this setting, or its first name if none does. Case does not matter."""
    environment = {name.upper() for name, value in os.environ.items() if value}  # noqa: TID251 - the one reader
    names = variables(field)
    return next((name for name in names if name in environment), names[0])


def name_variables(message: str) -> str:
    """An error's message with the environment variables in the place of the settings that it names."""
    return _NAMED_SETTING.sub(lambda match: f"setting {variable(match[1])}", message)


def _check_in_memory(settings: Settings) -> None:
    """Only `httpqueue all` with its embedded server can keep everything in memory."""
    field = "virtual_clock" if settings.virtual_clock else "ephemeral"
    if settings.mode is not Mode.ALL:
        raise SettingsError(
            f"setting {variable(field)}: must not be used for `httpqueue {settings.mode}` alone: "
            "only `httpqueue all` has everything in one process"
        )
    for server in ("redis_url", "broker_redis_url"):
        if getattr(settings, server) is not None:
            raise SettingsError(
                f"setting {variable(field)}: must not be used together with {variable(server)}, "
                "which names another server: unset one of the two"
            )


def _check_proxy(settings: Settings) -> None:
    """The mode and the proxy's URL belong together."""
    if settings.egress is EgressMode.PROXY and settings.egress_proxy is None:
        raise SettingsError(
            f"setting {variable('egress')}: must not be proxy without {variable('egress_proxy')}, "
            "the URL of the proxy: set it"
        )
    if settings.egress_proxy is not None and settings.egress is not EgressMode.PROXY:
        raise SettingsError(
            f"setting {variable('egress_proxy')}: must not be used unless {variable('egress')} is proxy: "
            "set that, or unset this one"
        )


def _check_certificates() -> None:
    """OpenSSL reads these two itself, and trusts others without a word when they name nothing."""
    for name, is_there in (("SSL_CERT_FILE", Path.is_file), ("SSL_CERT_DIR", Path.is_dir)):
        value = os.environ.get(name)  # noqa: TID251 - the one reader
        if value and not any(is_there(Path(part)) for part in value.split(os.pathsep)):
            raise SettingsError(
                f"setting {name}: must name certificates to trust, but there is nothing at {value}:"
                " correct or unset it"
            )


def _must(message: str) -> str:
    """Pydantic's message in the style of this project: must be …."""
    message = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return message.partition(", unable to")[0]
