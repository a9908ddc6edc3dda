"""The `httpqueue` command."""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import orjson

from httpqueue import __version__
from httpqueue.api.schema.field_checks import check_application
from httpqueue.clock import now_ms
from httpqueue.errors import SettingsError, StartError, UnavailableError
from httpqueue.run import run
from httpqueue.run.doctor import examine
from httpqueue.runtime import logs
from httpqueue.settings import Mode, Settings, load, name_variables, parse_duration_ms, variable
from httpqueue.storage.api_keys import ApiKeys
from httpqueue.storage.embedded import serving
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.timers.access import Grant, Scope, new_id
from httpqueue.timers.schedule import MAX_DUE_MS, format_instant, parse_instant_ms
from httpqueue.worker.egress import is_private_unasked

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
ALL_APPLICATIONS: Final = "*"

_PARTS: Final = {
    Mode.ALL: "everything (default); starts the embedded Valkey unless REDIS_URL is set",
    Mode.API: "only the API",
    Mode.RELAY: "only the relay",
    Mode.WORKER: "only a worker",
}
_DOCTOR: Final = (
    "Look at servers, settings, clocks, indices and every timer, and say what is wrong. Without --repair this"
    " changes nothing. Exit code 0: nothing is wrong, or all is repaired; 1: something is; 2: no answer."
)
_FLAGS: Final = {
    "ephemeral": "keep all data in memory, write nothing to disk",
    "virtual_clock": "for tests: time stands still until you advance it; implies --ephemeral",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code; 2 means that it cannot start."""
    asked = _parser().parse_args(arguments)
    flags = {flag: True for flag in _FLAGS if getattr(asked, flag, False)}
    try:
        if asked.part == "keys":
            return _keys(asked, load(**flags))
        if asked.part == "doctor":
            return _doctor(asked, load(**flags))
        run(load(mode=asked.part, **flags) if asked.part else load(**flags))
    except StartError as error:
        _tell(f"httpqueue: {name_variables(str(error))}")
        return EXIT_USAGE
    return 0


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    for flag, text in _FLAGS.items():
        # Without SUPPRESS, a subcommand's default would overwrite a flag that stands before it.
        flags.add_argument(
            f"--{flag.replace('_', '-')}", action="store_true", default=argparse.SUPPRESS, help=text
        )
    parser = argparse.ArgumentParser(
        prog="httpqueue",
        description="Make HTTP requests in the future.",
        epilog="Settings come from the environment (HTTPQUEUE_*): see docs/settings.md.",
        parents=[flags],
    )
    parser.add_argument("--version", action="version", version=f"httpqueue {__version__}")
    parts = parser.add_subparsers(dest="part", title="what to run", metavar="part")
    for mode, text in _PARTS.items():
        parts.add_parser(mode.value, help=text, description=text, parents=[flags])
    doctor = parts.add_parser(
        "doctor", help="say what is wrong with servers, settings and timers", description=_DOCTOR
    )
    doctor.add_argument("--repair", action="store_true", help="mend what can be mended")
    doctor.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    _add_keys(parts.add_parser("keys", help="create, list and revoke API keys"))
    return parser


def _add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="create a key and print it, once")
    create.add_argument(
        "--application",
        required=True,
        type=_application,
        metavar="NAME",
        help="the application whose timers the key may use; '*': all applications",
    )
    create.add_argument(
        "--scope",
        required=True,
        choices=[scope.value for scope in Scope],
        help="what the key may do; write includes read, admin includes both",
    )
    create.add_argument(
        "--expires",
        type=_expires_ms,
        metavar="WHEN",
        help="when the key ends: after a time such as 90d, or at an instant such as 2030-01-01T00:00:00Z",
    )
    actions.add_parser("list", help="list all keys")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", metavar="ID", help="the ID that `httpqueue keys list` shows")


def _doctor(asked: argparse.Namespace, settings: Settings) -> int:
    logs.configure(settings.log_format, settings.log_level)
    if settings.redis_url is None and not settings.data_dir.is_dir():
        raise SettingsError(
            f"setting {variable('data_dir')}: there is no directory {settings.data_dir.absolute()}"
        )
    try:
        with _server(settings, "has nothing to look at") as url:
            report = asyncio.run(examine(settings, url, repair=asked.repair))
    except UnavailableError as error:
        _tell(f"httpqueue doctor: {error}")
        return EXIT_USAGE
    if asked.json:
        _print(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        for line in report.as_text():
            _print(line)
    return 0 if report.is_clean else EXIT_FAILED


def _application(name: str) -> str:
    try:
        return name if name == ALL_APPLICATIONS else check_application(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _expires_ms(text: str) -> int:
    """A duration from now, or an instant -> ms since the epoch."""
    expires_ms = 0
    with suppress(ValueError):
        expires_ms = now_ms() + parse_duration_ms(text)
    with suppress(ValueError):
        expires_ms = parse_instant_ms(text)
    if not now_ms() < expires_ms <= MAX_DUE_MS:
        raise argparse.ArgumentTypeError(
            "must be a time such as 90d, or an instant such as 2030-01-01T00:00:00Z, and in the future"
        )
    return expires_ms


def _keys(asked: argparse.Namespace, settings: Settings) -> int:
    logs.configure(settings.log_format, settings.log_level)
    try:
        with _server(settings, "stores no keys: set HTTPQUEUE_API_KEY instead") as url:
            _tell_where(settings)
            return asyncio.run(_with_keys(asked, settings, url))
    except UnavailableError as error:
        _tell(f"httpqueue: the server that keeps the keys does not answer ({error}): try again")
        return EXIT_FAILED


@contextmanager
def _server(settings: Settings, why_not: str) -> Iterator[str]:
    """The URL of the store. why_not: why there is none that is kept in memory only."""
    if settings.in_memory:
        raise SettingsError(f"an ephemeral httpqueue {why_not}")
    if settings.redis_url is not None:
        yield settings.redis_url
    else:
        with serving(settings.data_dir) as url:
            yield url


def _tell_where(settings: Settings) -> None:
    if settings.redis_url is None:
        _tell(f"The keys in {settings.data_dir.absolute()}:")


async def _with_keys(asked: argparse.Namespace, settings: Settings, url: str) -> int:
    async with open_storage(url, archive_error_rate=settings.archive_error_rate) as storage:
        match asked.action:
            case "create":
                application = None if asked.application == ALL_APPLICATIONS else asked.application
                await _create(
                    storage.api_keys, Grant(new_id(), application, Scope(asked.scope), asked.expires)
                )
                if not settings.listens_on_loopback:
                    await _warn_if_private(settings, storage)
                return 0
            case "revoke":
                return await _revoke(storage.api_keys, asked.id)
            case _:
                return await _list(storage.api_keys)


async def _create(api_keys: ApiKeys, grant: Grant) -> None:
    _print(await api_keys.create(grant))
    application = grant.application or ALL_APPLICATIONS
    until = "" if grant.expires_ms is None else f", until {format_instant(grant.expires_ms)}"
    _tell(
        f"This key (id {grant.id}, application {application}, scope {grant.scope}{until}) is not shown "
        "again.\nSend it in the header X-API-Key. From now on every request to the API needs a key."
    )


async def _warn_if_private(settings: Settings, storage: Storage) -> None:
    """Keys are for strangers, who should not call what only this machine can reach."""
    if await is_private_unasked(settings, storage.first_use):
        _tell(
            "Whoever has it may let webhooks call private and loopback addresses. "
            "Unless you want that, set HTTPQUEUE_EGRESS=public for all parts."
        )


async def _list(api_keys: ApiKeys) -> int:
    rows = [("ID", "APPLICATION", "SCOPE", "CREATED", "EXPIRES")]
    for grant, created_ms in await api_keys.list():
        application = ALL_APPLICATIONS if grant.application is None else grant.application
        rows.append((grant.id, application, grant.scope.value, format_instant(created_ms), _expiry(grant)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _expiry(grant: Grant) -> str:
    if grant.expires_ms is None:
        return "never"
    return format_instant(grant.expires_ms) + (" (expired)" if grant.has_expired(now_ms()) else "")


async def _revoke(api_keys: ApiKeys, key_id: str) -> int:
    if not await api_keys.revoke(key_id):
        _tell(f"httpqueue: there is no key with the id {key_id}: see `httpqueue keys list`")
        return EXIT_FAILED
    _tell(f"Key {key_id} is revoked.")
    if not await api_keys.load():
        _tell(
            "It was the last key. APIs that run still ask for one until they end, and so do new ones, "
            "unless HTTPQUEUE_AUTH is none, or is not set and they listen on loopback."
        )
    return 0


def _print(line: str) -> None:
    print(line)  # noqa: T201 - the output of the command


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - for the person who runs the command
