"""`httpqueue doctor`: what it prints and how it exits."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from httpqueue.cli import main
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.timers.checkup import WHAT, Fault, Server, judge_clocks, judge_server
from tests.support.frozen import closed_port
from tests.support.keys import PARTITIONS
from tests.support.records import old_store

Doctor = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store_url(valkey_server: EmbeddedValkey) -> str:
    """An empty server."""
    Redis.from_url(valkey_server.url).flushall()
    return valkey_server.url


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """Run it with these settings -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("httpqueue.runtime.logs.configure", lambda *_: None)  # others have theirs
    monkeypatch.setenv("HTTPQUEUE_PARTITIONS", str(PARTITIONS.count))

    def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"HTTPQUEUE_{name.upper()}", value)
        code = main(["doctor", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def damage(url: str) -> None:
    """An index entry without a record, and a record that nobody can read."""
    keys = PARTITIONS.store_keys[0]
    client = Redis.from_url(url)
    client.zadd(keys.running, {"default:nobody": 1})
    client.set(f"{keys.records}default:bad", b"garbage")
    client.close()


def codes(out: str) -> list[str]:
    """Of the findings, as --json prints them, without those about the test's server, which keeps no data."""
    found = json.loads(out)["findings"]
    return [each["code"] for each in found if each["code"] != "unsafe_server"]


def test_from_damage_to_repair(doctor: Doctor, store_url: str) -> None:
    """1 while there is something to do; the text says what --repair would do; a person must do the rest."""
    damage(store_url)
    code, out, err = doctor(redis_url=store_url)
    assert (code, err) == (1, "")
    assert "store   valkey 9" in out
    assert "queue   on the store's server" in out
    assert "timers  1 damaged, in " in out
    assert (
        "dangling (1): index entries that lead to no record\n    default:nobody\n    --repair would: drop"
        in out
    )
    assert "damaged (1): records that nobody can read" in out
    assert "    default:bad\n" in out
    code, out, _ = doctor("--json", redis_url=store_url)
    assert (code, codes(out)) == (1, ["damaged", "dangling"])
    code, out, _ = doctor("--repair", redis_url=store_url)
    assert code == 1
    assert "    repaired: 1" in out
    assert "a person must do" in out
    code, out, _ = doctor("--json", redis_url=store_url)
    assert (code, codes(out)) == (1, ["damaged"])


def test_a_server_that_keeps_nothing_is_told(doctor: Doctor, store_url: str) -> None:
    """The test's server writes nothing to disk."""
    code, out, _ = doctor("--json", redis_url=store_url)
    [finding] = json.loads(out)["findings"]
    assert (code, finding["code"], finding["repair"]) == (1, "unsafe_server", None)
    assert finding["examples"] == ["store: nothing is written to disk: set appendonly yes"]


def test_the_embedded_server(doctor: Doctor, tmp_path: Path) -> None:
    """It is started for the moment, or used while it runs. It keeps its data, so all is well: 0."""
    if PARTITIONS.count > 1:
        pytest.skip("it is no cluster")
    with EmbeddedValkey(tmp_path / "data"):
        assert doctor(data_dir="data")[:1] == (0,)
    code, out, _ = doctor(data_dir="data")
    assert code == 0
    assert out.endswith("\nNothing is wrong.\n")
    damage_code = None
    with EmbeddedValkey(tmp_path / "data") as server:
        Redis.from_url(server.url).zadd(PARTITIONS.store_keys[0].running, {"default:nobody": 1})
        damage_code = doctor(data_dir="data")[0]
    assert damage_code == 1
    code, out, _ = doctor("--repair", data_dir="data")
    assert code == 0
    assert out.endswith("\nAll of it is repaired.\n")
    assert doctor(data_dir="data")[0] == 0


def test_what_cannot_be_reached(doctor: Doctor, store_url: str) -> None:
    """2, and one line that names the server, not its password."""
    with closed_port() as port:
        dead = f"redis://:s3cret@127.0.0.1:{port}"
        code, out, err = doctor(redis_url=dead)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "the store's server does not answer" in err
        code, out, err = doctor(redis_url=store_url, broker_redis_url=dead)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "the queue's server does not answer" in err
        assert "s3cret" not in err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data_dir": "nowhere"}, "HTTPQUEUE_DATA_DIR: there is no directory"),
        ({"ephemeral": "1"}, "an ephemeral httpqueue has nothing to look at"),
        ({"partitions": "x"}, "HTTPQUEUE_PARTITIONS"),
    ],
)
def test_what_there_is_not(doctor: Doctor, tmp_path: Path, settings: dict[str, str], said: str) -> None:
    """2 and one line; nothing is made."""
    if "ephemeral" in settings:
        (tmp_path / ".httpqueue").mkdir()
    before = sorted(tmp_path.iterdir())
    code, out, err = doctor(**settings)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert sorted(tmp_path.iterdir()) == before


def test_another_number_of_partitions(doctor: Doctor, store_url: str) -> None:
    """The store's own number is used, and the setting is told."""
    Redis.from_url(store_url).hset("hq:first-use", "partitions", "3")
    code, out, _ = doctor("--json", redis_url=store_url, partitions="5")
    assert code == 1
    assert json.loads(out)["partitions"] == 3
    assert codes(out) == ["settings"]
    assert "HTTPQUEUE_PARTITIONS is 5, this store has 3" in out


@pytest.mark.skipif(PARTITIONS.count > 1, reason="the store in the file has one partition")
def test_a_store_of_an_older_version(doctor: Doctor, store_url: str) -> None:
    """Nothing else is looked at, or its records would look lost. --repair upgrades it."""
    client: Any = Redis.from_url(store_url)
    for command in old_store():
        client.execute_command(*command)
    before = sorted(client.keys())
    code, out, _ = doctor("--json", redis_url=store_url)
    assert (code, codes(out)) == (1, ["format"])
    assert sorted(client.keys()) == before
    _, out, _ = doctor("--json", "--repair", redis_url=store_url)
    assert [each["repaired"] for each in json.loads(out)["findings"] if each["code"] == "format"] == [1]
    _, out, _ = doctor("--json", redis_url=store_url)
    assert json.loads(out)["timers"] == {"scheduled": 2}
    assert "format" not in codes(out)


def server(role: str, **other: Any) -> Server:
    """A sound one, but for that."""
    sound: dict[str, Any] = {
        "role": role,
        "product": "valkey",
        "version": "9.0.1",
        "used_bytes": 1,
        "max_bytes": 0,
        "eviction": "noeviction",
        "persistence": "append-only file",
        "write_error": "",
        "is_replica": False,
        "ahead_ms": 0,
        "round_trip_ms": 1,
    }
    return Server(**{**sound, **other})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, []),
        ({"version": "6.2.0"}, []),
        ({"version": ""}, []),
        ({"max_bytes": 100, "used_bytes": 90}, []),
        ({"version": "6.0.16"}, ["6.0.16 is older than 6.2"]),
        ({"version": "5.0"}, ["older"]),
        ({"eviction": "allkeys-lru"}, ["maxmemory-policy is allkeys-lru"]),
        ({"persistence": ""}, ["nothing is written to disk"]),
        ({"write_error": "snapshot"}, ["cannot write to disk (snapshot)"]),
        ({"is_replica": True}, ["it is a replica"]),
        ({"max_bytes": 100, "used_bytes": 91}, ["91% of its maxmemory"]),
    ],
)
def test_servers(other: dict[str, Any], said: Sequence[str]) -> None:
    """Each thing that may lose timers is said."""
    found = judge_server(server("store", **other), needs_disk=True)
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))
    if "persistence" in other:
        assert judge_server(server("store", **other), needs_disk=False) == []


@pytest.mark.parametrize(
    ("store", "queue", "said"),
    [
        ((0, 1), None, []),
        ((501, 1), None, []),
        ((-502, 1), None, ["store: -502 ms from this machine's clock"]),
        ((3_600_000, 1), (3_600_000, 1), ["store: +3600000 ms", "queue: +3600000 ms"]),
        ((300, 1), (-300, 1), ["queue: -600 ms from the store's clock"]),
        ((300, 100), (-300, 100), []),
    ],
)
def test_clocks(store: tuple[int, int], queue: tuple[int, int] | None, said: Sequence[str]) -> None:
    """What is more than half a second and more than the error of measurement."""
    servers = [
        server(role, ahead_ms=pair[0], round_trip_ms=pair[1])
        for role, pair in (("store", store), ("queue", queue))
        if pair
    ]
    found = judge_clocks(servers)
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


def test_every_fault_is_described() -> None:
    """In words, and by its code in docs/operations.md."""
    operations = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert WHAT.keys() == set(Fault)
    assert [fault for fault in Fault if f"| `{fault.value}` |" not in operations] == []
