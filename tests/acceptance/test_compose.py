"""The services of docker-compose.yaml work: each is run as a process, without a container engine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from httpqueue.clock import monotonic_s, pause
from httpqueue.settings import load
from tests.support.cluster import own_server
from tests.support.keys import PARTITIONS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PORTS = ("HTTP_PORT", "HTTP_METRICS_PORT")
HEALTHY_WITHIN_S = 60
STOPPED_WITHIN_S = 60

COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def image_instruction(name: str) -> str:
    """What stands behind the Dockerfile's last instruction of that name."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(name)][-1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The redis service's stand-in."""
    with own_server(tmp_path / "valkey") as valkey:
        yield valkey.url


def environment_of(name: str) -> dict[str, str]:
    """A service's environment in a container where nobody has set anything: the image's, and its own."""
    image = dict(re.findall(r"(\w+)=(\S+)", image_instruction("ENV")))
    own = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    settings = {key: value for key, value in image.items() if key.startswith("HTTPQUEUE_")} | own
    return {key: re.sub(r"\$\{\w+:-\}", "", value) for key, value in settings.items()}


def is_healthy() -> bool:
    """What the image's health check says, run in this environment."""
    _, _, check = image_instruction("HEALTHCHECK").partition("CMD ")
    return subprocess.run(["sh", "-c", check], check=False, capture_output=True).returncode == 0


def wait_until_healthy(process: subprocess.Popen[str]) -> None:
    """Ask again and again, as a container engine does, while the process lives."""
    deadline = monotonic_s() + HEALTHY_WITHIN_S
    while not is_healthy():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[0]}"
        assert monotonic_s() < deadline, "did not become healthy"
        pause(0.05)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_becomes_healthy_and_stops_on_sigterm(
    name: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command in its environment passes the image's health check and ends with 0."""
    environment = environment_of(name)
    assert "REDIS_URL" in environment
    environment |= {key: str(free_port()) for key in PORTS if key in environment}
    environment |= {"HTTPQUEUE_PARTITIONS": str(PARTITIONS.count)}
    environment |= {"HTTPQUEUE_DATA_DIR": str(tmp_path)}
    environment |= {"REDIS_URL": redis_url, "PATH": f"{BIN}{os.pathsep}{os.defpath}"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    command = [*json.loads(image_instruction("ENTRYPOINT")), *SERVICES[name]["command"]]

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            wait_until_healthy(process)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=STOPPED_WITHIN_S)
        finally:
            process.kill()
    assert process.returncode == 0, output


def test_compose_starts_every_part_and_any_number_of_workers() -> None:
    """Neither a fixed name nor a fixed port of the host keeps a second worker from starting."""
    assert {service["command"][0] for service in SERVICES.values()} == {"api", "relay", "worker"}
    for service in (SERVICES["relay"], SERVICES["worker"]):
        assert not {"container_name", "ports"} & service.keys()
    for service in SERVICES.values():
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert service["read_only"] is True


def test_who_may_use_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API asks everybody for a key, even before there is one; metrics are for the container alone."""
    assert dict(re.findall(r"(\w+)=(\S+)", image_instruction("ENV")))["HTTPQUEUE_AUTH"] == "required"
    for name in SERVICES:
        with monkeypatch.context() as context:
            for key, value in environment_of(name).items():
                context.setenv(key, value)
            settings = load(mode=name)
        assert settings.needs_key
        assert settings.api_key is None
        assert settings.metrics_host == "127.0.0.1"


def test_redis_keeps_every_timer() -> None:
    """It is told to write every change to its file before it answers, and to evict nothing."""
    redis = COMPOSE["services"]["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes --appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command
    assert [volume.partition(":")[2] for volume in redis["volumes"]] == ["/data"]
    assert "healthcheck" in redis


def test_the_image_is_not_run_by_root() -> None:
    """The user of the image's last stage is one of its own."""
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", image_instruction("USER"))
