"""The `httpqueue` command."""

import pytest

from httpqueue import __version__, cli
from httpqueue.errors import StartError
from httpqueue.settings import Mode, Settings


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
