"""The Helm chart: linted and rendered by Helm itself, every object held against Kubernetes' own JSON schemas (strict: a
key that the schema does not know is an error), for the oldest version the chart allows and the newest known.

Not checked here: a real API server's admission. ScaledObject and PodMonitor have no schema here; their structure is."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deploy_tools import tool
from deployed import ROOT, bytes_needed, needed, parse, role

from driftgate.config import load

CHART = ROOT / "deploy/helm/driftgate"
VERSIONS = ("1.27", kubernetes_validate.latest_version())
FOREIGN = {"ScaledObject", "PodMonitor"}
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "hpa": [f"stages.{s}.autoscaling.type=hpa" for s in ("sampler", "scorer", "drift", "store")]
    + ["collector.autoscaling.type=hpa", "hpa.selector.namespace=prod"],
    "keda": [f"stages.{s}.autoscaling.type=keda" for s in ("sampler", "scorer", "drift", "store")]
    + ["keda.groupPrefix=eu.", "keda.triggerAuthentication=brokers"],
    "everything": [
        "stages.intake.enabled=true",
        "podMonitor.enabled=true",
        "image.tag=9.9.9",
        "image.pullSecrets[0]=registry",
        "extraEnv[0].name=A",
        "extraEnv[0].value=b",
        "extraVolumes[0].name=ca",
        "extraVolumes[0].secret.secretName=ca",
        "extraVolumeMounts[0].name=ca",
        "extraVolumeMounts[0].mountPath=/etc/ca",
        "podAnnotations.a=b",
        "podLabels.a=b",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "priorityClassName=high",
        "collector.service.type=LoadBalancer",
        "collector.service.annotations.a=b",
        "serviceAccount.annotations.a=b",
        "alerter.persistence.storageClass=fast",
        "networkPolicy.egress.to[0].ipBlock.cidr=10.0.0.0/8",
        "config.collector.grpc.tls.cert_file=/etc/ca/tls.crt",
        "config.collector.grpc.tls.key_file=/etc/ca/tls.key",
    ],
    "little": [
        "topics.enabled=false",
        "alerter.enabled=false",
        "stages.scorer.enabled=false",
        "networkPolicy.enabled=false",
        "podDisruptionBudget.enabled=false",
        "serviceAccount.create=false",
    ],
    # The administration port's token in a file, nothing running, nobody let in.
    "closed": [
        "config.web.token=file:/run/web/token",
        "secretEnv.DRIFTGATE_WEB_TOKEN=null",
        "secretEnv.LEFT_OUT=null",
        "collector.replicas=0",
        *(f"stages.{stage}.replicas=0" for stage in ("sampler", "scorer", "drift", "store")),
        "networkPolicy.sendersFrom=[]",
        "networkPolicy.adminFrom=[]",
    ],
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True)


def options(settings: list[str]) -> list[str]:
    """Return the words that set values; `--set` knows no empty list."""
    return [
        word
        for setting in settings
        for word in ("--set-json" if setting.endswith("=[]") else "--set", setting)
    ]


def template(settings: list[str]) -> list[dict[str, Any]]:
    words = options(settings)
    done = helm("template", "it", str(CHART), "--namespace", "prod", "--kube-version", "1.34.0", *words)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def rendered() -> Callable[[str], list[dict[str, Any]]]:
    """Return what gives the objects of one variant, rendered once."""
    made: dict[str, list[dict[str, Any]]] = {}

    def render(variant: str) -> list[dict[str, Any]]:
        if variant not in made:
            made[variant] = template(VARIANTS[variant])
        return made[variant]

    return render


Rendered = Callable[[str], list[dict[str, Any]]]


def pods(objects: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return component -> (labels, pod spec)."""
    templates = [o["spec"]["template"] for o in objects if o["kind"] in ("Deployment", "StatefulSet", "Job")]
    return {
        t["metadata"]["labels"]["app.kubernetes.io/component"]: (t["metadata"]["labels"], t["spec"])
        for t in templates
    }


def test_helm_lints_it() -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.34.0")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_what_kubernetes_knows(variant: str, rendered: Rendered) -> None:
    objects = rendered(variant)
    assert len({(o["kind"], o["metadata"]["name"]) for o in objects}) == len(objects)
    for item in objects:
        assert item["metadata"]["namespace"] == "prod"
        if item["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


def test_the_schemas_would_notice(rendered: Rendered) -> None:
    (wrong,) = (dict(o) for o in rendered("default") if o["kind"] == "Deployment")
    wrong["spec"] = wrong["spec"] | {"replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[1], strict=True)


@pytest.mark.parametrize("variant", ["default", "everything"])
def test_every_pod_is_confined(variant: str, rendered: Rendered) -> None:
    found = pods(rendered(variant))
    assert set(found) - {"intake"} == {
        "topics",
        "collector",
        "sampler",
        "scorer",
        "drift",
        "store",
        "alerter",
    }
    assert ("intake" in found) is (variant == "everything")
    for name, (_, spec) in found.items():
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        if name != "topics":
            probes = {
                container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
            }
            assert probes == {"/livez", "/readyz"}


@pytest.mark.parametrize("variant", ["default", "everything", "closed"])
def test_commands_images_and_configuration_are_real(variant: str, rendered: Rendered, tmp_path: Path) -> None:
    objects = rendered(variant)
    for config_map in (o for o in objects if o["kind"] == "ConfigMap"):
        file = tmp_path / "driftgate.yaml"
        file.write_text(config_map["data"]["driftgate.yaml"])
        config = load(file, {})
    for name, (_, spec) in pods(objects).items():
        (container,) = spec["containers"]
        assert parse(container["args"])
        assert role(container["args"]) == name
        slim = container["image"].endswith("-slim")
        assert slim is (name not in ("scorer", "drift"))
        given = {item["name"] for item in container["env"]}
        wanted = needed(config, name)
        assert wanted <= given, name
        secret = {i["name"] for i in container["env"] if "secretKeyRef" in i.get("valueFrom", {})}
        if name != "topics":
            assert secret <= wanted, name
        assert not any("value" in i for i in container["env"] if i["name"] in secret)
        ports = {p["containerPort"] for p in container.get("ports", [])}
        if name != "topics":
            assert config.web.port in ports
            assert spec["terminationGracePeriodSeconds"] > config.shutdown_grace


def test_what_a_process_may_hold_fits_its_container(rendered: Rendered, tmp_path: Path) -> None:
    objects = rendered("default")
    (text,) = (
        o["data"]["driftgate.yaml"]
        for o in objects
        if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "it-driftgate"
    )
    file = tmp_path / "driftgate.yaml"
    file.write_text(text)
    found = pods(objects)
    for process in ("collector", "sampler"):
        limit = found[process][1]["containers"][0]["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        assert bytes_needed(load(file, {}), process) <= int(limit.removesuffix("Gi")) << 30, process


def test_what_points_at_something_points_at_it(rendered: Rendered) -> None:
    for variant in ("hpa", "keda", "everything"):
        objects = rendered(variant)
        found = pods(objects)
        labels = [labels for labels, _ in found.values()]
        names = {(o["kind"], o["metadata"]["name"]) for o in objects}

        def selected(selector: dict[str, str], labels: list[dict[str, str]] = labels) -> int:
            return sum(selector.items() <= pod.items() for pod in labels)

        for item in objects:
            spec = item.get("spec", {})
            if item["kind"] == "Service":
                assert selected(spec["selector"]) == 1
            elif item["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
                assert selected(spec["selector"]["matchLabels"]) == 1
            elif item["kind"] == "NetworkPolicy":
                assert selected(spec["podSelector"]["matchLabels"]) == 1
            elif item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
                target = spec["scaleTargetRef"]
                assert (target["kind"], target["name"]) in names
                (scaled,) = (
                    o
                    for o in objects
                    if (o["kind"], o["metadata"]["name"]) == (target["kind"], target["name"])
                )
                assert "replicas" not in scaled["spec"]
            if item["kind"] == "StatefulSet":
                assert ("Service", spec["serviceName"]) in names
        budgets = [o for o in objects if o["kind"] == "PodDisruptionBudget"]
        assert "alerter" not in {b["metadata"]["labels"]["app.kubernetes.io/component"] for b in budgets}


def test_scaling_follows_the_lag_of_the_real_group(rendered: Rendered) -> None:
    from driftgate.metrics import render
    from driftgate.runtime.status import StageStatus, Status

    metrics = render(
        Status(
            version="", ready=True, time_unix_nano=0, stages=[StageStatus("sampler", "running", "", 7, 1, 1)]
        )
    ).decode()
    for item in rendered("hpa"):
        if item["kind"] == "HorizontalPodAutoscaler" and item["spec"]["metrics"][0]["type"] == "External":
            metric = item["spec"]["metrics"][0]["external"]["metric"]
            stage = item["metadata"]["labels"]["app.kubernetes.io/component"]
            assert metric["selector"]["matchLabels"] == {"stage": stage, "namespace": "prod"}
            assert f'{metric["name"]}{{stage="sampler"}} 7.0' in metrics
    found = {}
    for item in rendered("keda"):
        if item["kind"] == "ScaledObject":
            (trigger,) = item["spec"]["triggers"]
            assert trigger["authenticationRef"] == {"name": "brokers"}
            assert {"bootstrapServers", "consumerGroup", "lagThreshold"} <= set(trigger["metadata"])
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            found[item["metadata"]["labels"]["app.kubernetes.io/component"]] = trigger["metadata"][
                "consumerGroup"
            ]
    assert found == {stage: f"eu.{stage}" for stage in ("sampler", "scorer", "drift", "store")}


def test_topics_are_made_before_anything_else(rendered: Rendered) -> None:
    hooks = {
        o["kind"]: o["metadata"]["annotations"]
        for o in rendered("default")
        if "helm.sh/hook" in o["metadata"].get("annotations", {})
    }
    assert set(hooks) == {"ConfigMap", "Job", "NetworkPolicy"}
    assert {a["helm.sh/hook"] for a in hooks.values()} == {"pre-install,pre-upgrade"}
    weight = {kind: int(a["helm.sh/hook-weight"]) for kind, a in hooks.items()}
    assert weight["ConfigMap"] < weight["Job"]
    assert weight["NetworkPolicy"] < weight["Job"]
    # Nothing that it uses may come later than the job.
    (job,) = (o for o in rendered("default") if o["kind"] == "Job")
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    (volume,) = spec["volumes"]
    (owner,) = (
        o
        for o in rendered("default")
        if o["metadata"]["name"] == volume["configMap"]["name"] and o["kind"] == "ConfigMap"
    )
    assert "helm.sh/hook" in owner["metadata"]["annotations"]


def test_the_network_lets_through_what_is_needed(rendered: Rendered) -> None:
    reach = {}
    for item in rendered("default"):
        if item["kind"] == "NetworkPolicy":
            name = item["metadata"]["labels"]["app.kubernetes.io/component"]
            out = {port["port"] for rule in item["spec"]["egress"] for port in rule["ports"]}
            into = {port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]}
            reach[name] = (out - {53}, into)
    assert reach == {
        "topics": ({9092}, set()),
        "collector": ({9092}, {4317, 4318, 8080}),
        "sampler": ({9092}, {8080}),
        "scorer": ({9092, 443}, {8080}),
        "drift": ({9092}, {8080}),
        "store": ({9092, 8123}, {8080}),
        "alerter": ({9092, 8123, 443}, {8080}),
    }


def test_an_empty_list_of_peers_is_nobody(rendered: Rendered) -> None:
    policies = [o for o in rendered("closed") if o["kind"] == "NetworkPolicy"]
    assert policies
    for policy in policies:
        assert "Ingress" in policy["spec"]["policyTypes"]
        assert not policy["spec"]["ingress"]


def test_the_values_in_the_documentation_make_a_configuration_that_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    (example,) = re.findall(r"^```text\n(image: .*?)^```", text, re.MULTILINE | re.DOTALL)
    values = tmp_path / "values.yaml"
    values.write_text(example)
    done = helm("template", "it", str(CHART), "--kube-version", "1.34.0", "--values", str(values))
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    (config_map,) = (
        o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "it-driftgate"
    )
    file = tmp_path / "driftgate.yaml"
    file.write_text(config_map["data"]["driftgate.yaml"])
    config = load(file, {})
    assert config.log.kafka.security == "sasl_ssl"
    assert config.store.target.secure
    for name, (_, spec) in pods(objects).items():
        given = {item["name"] for item in spec["containers"][0]["env"]}
        assert needed(config, name) <= given, name


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("alerter.replicas=2", "additional properties 'replicas' not allowed"),
        ("config.log=sqlite:///", "^kafka://"),
        ("config.store.url=chdb:///", "^clickhouse://"),
        ("config.web.token=open", "/config/web/token"),
        ("stages.sampler.autoscaling.type=vpa", "/stages/sampler/autoscaling/type"),
        ("stage.sampler.replicas=3", "additional properties 'stage' not allowed"),
        ("secretEnv.X.secret=a", "missing property 'key'"),
        ("networkPolicy.egress.kafkaPorts=[]", "/networkPolicy/egress/kafkaPorts"),
        ("podMonitor.enabled=true,secretEnv.DRIFTGATE_WEB_TOKEN=null", "secretEnv.DRIFTGATE_WEB_TOKEN"),
    ],
)
def test_wrong_values_are_refused(setting: str, says: str) -> None:
    done = helm("template", "it", str(CHART), "--kube-version", "1.34.0", *options([setting]))
    assert done.returncode != 0
    assert says in done.stderr


def test_every_value_is_used_and_described() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    text = "".join(p.read_text() for p in (CHART / "templates").iterdir())
    for name in values:
        assert re.search(rf"\.Values\.{name}\b", text), name
    assert values.keys() >= {"podSecurityContext", "networkPolicy"}
