"""The compose files, resolved by the library that Docker Compose itself uses; no container is started here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from deploy_tools import tool
from deployed import ROOT, bytes_needed, needed, parse, role

from driftgate.config import load
from sinks.store import Store
from sinks.store_settings import StoreSettings

FILES = ("docker-compose.yml", "deploy/one-process/docker-compose.yml")
OURS = re.compile(r"driftgate:\d")
# A service that ends when its work is done, and examples without a port to ask.
NO_HEALTH = {"topics", "gateway", "support-app"}


def resolve(path: str, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("compose"), str(ROOT / path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **secrets},
    )


@pytest.fixture(scope="module", params=FILES)
def project(request: pytest.FixtureRequest, secrets: dict[str, str]) -> dict[str, Any]:
    """Return one project with everything merged and interpolated."""
    done = resolve(request.param, secrets)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def distributed(secrets: dict[str, str]) -> dict[str, Any]:
    done = resolve("docker-compose.yml", secrets)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def configuration(service: dict[str, Any]) -> Path:
    """Return the file that is mounted where DRIFTGATE_CONFIG points."""
    target = service["environment"]["DRIFTGATE_CONFIG"]
    (path,) = (Path(v["source"]) for v in service["volumes"] if v["target"] == target and v["read_only"])
    return path


def drivers(services: dict[str, Any]) -> dict[str, Any]:
    """Return the services that run the driftgate command."""
    return {n: s for n, s in services.items() if OURS.match(s["image"]) and not s.get("entrypoint")}


@pytest.mark.parametrize("path", FILES)
def test_without_secrets_it_says_how_to_make_them(path: str, secrets: dict[str, str]) -> None:
    assert len(set(secrets.values())) == len(secrets)
    assert all(len(value) >= 48 for value in secrets.values())
    for name in secrets:
        done = resolve(path, secrets | {name: ""})
        unused = path != "docker-compose.yml" and name == "CLICKHOUSE_PASSWORD"
        assert (done.returncode == 0) is unused
        assert unused or "new-env.sh" in done.stderr


def test_the_file_of_secrets_is_its_owners_and_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    command = ["sh", str(ROOT / "deploy/compose/new-env.sh"), str(file)]
    subprocess.run(command, check=True, umask=0o022)
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.read_bytes()
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert file.read_bytes() == first
    assert {".env", "driftgate-data/"} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_every_container_is_confined(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert not service.get("privileged"), name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert "no-new-privileges:true" in service["security_opt"], name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["restart"], name
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or volume.get("read_only"), (name, volume)
            assert "docker.sock" not in volume["source"]
        if OURS.match(service["image"]) or name == "grafana":
            assert service["read_only"], name
        if name not in NO_HEALTH:
            assert service["healthcheck"]["test"], name


def test_every_image_is_pinned(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+\.\d+", tag), (name, service["image"])
    plugin = project["services"]["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"]
    assert re.fullmatch(r"grafana-clickhouse-datasource@\d+\.\d+\.\d+", plugin)


def test_ports_are_published_on_loopback_only(project: dict[str, Any]) -> None:
    published = [port for s in project["services"].values() for port in s.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_sources_that_are_mounted_or_built_exist(project: dict[str, Any]) -> None:
    for service in project["services"].values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume
        if build := service.get("build"):
            file = Path(build["context"]) / build["dockerfile"]
            assert f" AS {build['target']}\n" in file.read_text()


def test_commands_are_commands_and_configurations_load(project: dict[str, Any]) -> None:
    found = drivers(project["services"])
    assert found
    for name, service in found.items():
        assert parse(service["command"]), name
        config = load(configuration(service), {})
        published = {int(port["target"]) for port in service.get("ports", [])}
        listening = {
            config.collector.grpc.port,
            config.collector.http.port,
            config.web.port,
            config.query.port,
        }
        assert published <= listening, name


def test_every_process_gets_the_secrets_it_needs_and_no_others(
    project: dict[str, Any], secrets: dict[str, str]
) -> None:
    for name, service in drivers(project["services"]).items():
        given = set(service["environment"])
        wanted = needed(load(configuration(service), {}), role(service["command"]))
        # Docker itself sets HOSTNAME to the container's id.
        assert wanted - {"HOSTNAME"} <= given, name
        if name != "topics":
            assert given & set(secrets) <= wanted, name


def test_examples_are_started_as_they_can_be(project: dict[str, Any]) -> None:
    for name in ("gateway", "support-app"):
        python, script, *arguments = project["services"][name]["entrypoint"]
        assert python == "python"
        done = subprocess.run(
            [sys.executable, str(ROOT / script.lstrip("/")), "--help"], capture_output=True, text=True
        )
        for word in arguments:
            assert not word.startswith("--") or word in done.stdout, (name, word)


def test_the_start_follows_health(distributed: dict[str, Any]) -> None:
    after = {
        n: {k: v["condition"] for k, v in s.get("depends_on", {}).items()} for n, s in distributed.items()
    }
    assert after["topics"] == {"kafka": "service_healthy"}
    for name in ("collector", "sampler", "scorer", "drift", "store", "alerter"):
        assert after[name]["topics"] == "service_completed_successfully"
    for name in ("store", "alerter", "grafana"):
        assert after[name]["clickhouse"] == "service_healthy"
    assert after["support-app"]["collector"] == "service_healthy"


def test_every_stage_has_a_process_and_the_alerter_is_one(distributed: dict[str, Any]) -> None:
    roles = {role(service["command"]): service for service in drivers(distributed).values()}
    assert set(roles) == {"topics", "collector", "sampler", "scorer", "drift", "store", "alerter"}
    assert roles["alerter"]["deploy"].get("replicas", 1) == 1
    assert any(v["target"] == "/data" and v["type"] == "volume" for v in roles["alerter"]["volumes"])
    scaled = {name for name, service in roles.items() if service["deploy"].get("replicas", 1) > 1}
    assert scaled == {"sampler", "scorer", "drift"}
    for name in scaled:  # a port of the host can be taken once
        assert not roles[name].get("ports")


def test_names_in_one_file_are_names_in_the_others(distributed: dict[str, Any]) -> None:
    config = load(ROOT / "deploy/compose/driftgate.yaml", {})
    kafka, clickhouse = distributed["kafka"], distributed["clickhouse"]
    assert config.log.kafka.brokers in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert config.store.target.host == "clickhouse"
    root = ET.fromstring((ROOT / "deploy/compose/clickhouse-users.xml").read_text())
    users = root.find("users")
    assert users is not None
    passwords = {u.tag: p.get("from_env") for u in users if (p := u.find("password")) is not None}
    assert config.store.target.username in passwords
    assert set(passwords.values()) <= set(clickhouse["environment"])
    source = (ROOT / "deploy/grafana/provisioning/datasources/driftgate.yaml").read_text()
    assert "username: grafana" in source
    assert "grafana" in passwords
    for name in re.findall(r"\$\{(\w+)\}", source):
        assert name in distributed["grafana"]["environment"]
    for other in users:
        if other.tag != "default":
            assert other.find("profile").text in {"default", "driftgate_reader"}  # type: ignore[union-attr]


def test_the_databases_grants_are_sql(tmp_path: Path) -> None:
    root = ET.fromstring((ROOT / "deploy/compose/clickhouse-users.xml").read_text())
    grants = [query.text or "" for query in root.iter("query")]
    assert len(grants) == 3
    store = Store.open(StoreSettings(), tmp_path / "store")
    try:
        for grant in grants:
            assert store.query(f"EXPLAIN AST {grant} TO somebody")
        known = store.query("SELECT name FROM system.settings")
    finally:
        store.close()
    profile = root.find("profiles/driftgate_reader")
    assert profile is not None
    assert {setting.tag for setting in profile} <= {row["name"] for row in known}


def test_what_a_process_may_hold_fits_its_container(project: dict[str, Any]) -> None:
    checked = 0
    for service in drivers(project["services"]).values():
        if (process := role(service["command"])) in ("collector", "sampler", "up"):
            limit = int(service["deploy"]["resources"]["limits"]["memory"])
            assert bytes_needed(load(configuration(service), {}), process) <= limit, process
            checked += 1
    assert checked


def test_commands_in_the_alerters_container_ask_its_own_port(distributed: dict[str, Any]) -> None:
    config = load(ROOT / "deploy/compose/driftgate.yaml", {})
    assert distributed["alerter"]["environment"]["DRIFTGATE_URL"] == f"http://127.0.0.1:{config.web.port}"
    (port,) = distributed["gateway"]["ports"]  # where the documentation ships a bad prompt version
    assert f"http://127.0.0.1:{port['published']}/" in (ROOT / "docs/deploy.md").read_text()


def test_prometheus_asks_every_process_with_its_token(distributed: dict[str, Any]) -> None:
    import yaml

    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    (found,) = scrape["dns_sd_configs"]
    assert set(found["names"]) == set(drivers(distributed)) - {"topics"}
    assert found["port"] == load(ROOT / "deploy/compose/driftgate.yaml", {}).web.port
    (secret,) = distributed["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == secret["target"]
    reached = {
        name
        for name, s in distributed.items()
        if set(s["networks"]) & set(distributed["prometheus"]["networks"])
    }
    assert set(found["names"]) <= reached
