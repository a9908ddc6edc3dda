"""The `httpqueue` command."""

import pytest

from httpqueue import __version__, cli
from httpqueue.errors import StartError
from httpqueue.runtime import logs
from httpqueue.settings import Mode, Settings


@pytest.fixture(autouse=True)
def logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loggers would keep this test's stderr, which is closed after it."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been run."""
    runs: list[Settings] = []
    monkeypatch.setattr(cli, "run", runs.append)
    monkeypatch.delenv("APP_MODE", raising=False)
    return runs


@pytest.mark.parametrize("mode", list(Mode))
def test_a_part_by_its_name(started: list[Settings], mode: Mode) -> None:
    """`httpqueue api` and so on."""
    assert cli.main([mode.value]) == 0
    assert started[0].mode is mode


def test_all_without_a_name(started: list[Settings]) -> None:
    """`httpqueue` alone runs everything."""
    assert cli.main([]) == 0
    assert started[0].mode is Mode.ALL


def test_the_ancestors_app_mode(started: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """APP_MODE=workers counts when no part is named."""
    monkeypatch.setenv("APP_MODE", "workers")
    cli.main([])
    cli.main(["relay"])
    assert [settings.mode for settings in started] == [Mode.WORKER, Mode.RELAY]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both answer and exit with 0."""
    for option, words in (
        ("--version", [f"httpqueue {__version__}"]),
        ("--help", [*Mode, "docs/settings.md"]),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main([option])
        assert end.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)


def test_what_cannot_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, and exit code 2."""

    def refuse(_: Settings) -> None:
        raise StartError("no")

    monkeypatch.setattr(cli, "run", refuse)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == "httpqueue: no\n"


def test_flags_stand_before_or_behind_the_part(started: list[Settings]) -> None:
    """And mean the same; without them nothing is kept in memory alone."""
    for arguments in (
        ["--ephemeral"],
        ["all", "--ephemeral"],
        ["--ephemeral", "all"],
        ["all", "--virtual-clock"],
        ["all"],
    ):
        assert cli.main(arguments) == 0
    assert [settings.in_memory for settings in started] == [True, True, True, True, False]
    assert [settings.virtual_clock for settings in started] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys"], "action"),
        (["keys", "create"], "--application, --scope"),
        (["keys", "create", "--application", "a:b", "--scope", "read"], "must be 1 to 64 characters"),
        (["keys", "create", "--application", "a", "--scope", "owner"], "'admin'"),
        (["keys", "revoke"], "ID"),
        (["everything"], "everything"),
    ],
)
def test_what_is_not_understood(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what was expected."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_keys_of_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and exit code 1."""
    monkeypatch.setenv("HTTPQUEUE_REDIS_URL", "unix:///nowhere/valkey.sock")
    assert cli.main(["keys", "list"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "does not answer" in line
