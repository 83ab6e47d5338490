"""What the chart promises of pods and their surroundings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.helm.rendering import EXAMPLES, LEAST, Object, example, one, pods, rendered, settings_of

ALL = [pytest.param(path, id=path.stem) for path in EXAMPLES]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("path", ALL)
def test_every_pod_is_restricted(path: Path) -> None:
    """Law: no pod is root, writes its root filesystem, gains privileges, keeps a capability or has an API token."""
    for pod in pods(rendered(example(path.stem))).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("path", ALL)
def test_no_pod_gets_the_variables_of_services(path: Path) -> None:
    """Law: ESPALIER_PORT of a service named espalier is never read as a setting, which would stop the start."""
    for pod in pods(rendered(example(path.stem))).values():
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("path", ALL)
def test_secrets_are_named_and_never_held(path: Path) -> None:
    """Law: a release creates no Secret, and the store's URL comes from one wherever it may hold a password."""
    objects = rendered(example(path.stem))
    assert not [each for each in objects if each["kind"] == "Secret"]
    for pod in pods(objects).values():
        for container in containers(pod):
            for variable in container.get("env", []):
                if variable["name"] == "ESPALIER_STORE":
                    assert "secretKeyRef" in variable.get("valueFrom", {}) or "@" not in variable["value"]


@pytest.mark.parametrize("path", ALL)
def test_mounts_and_volumes_belong_together(path: Path) -> None:
    """Law: every mount has its volume, every volume its mount, and no path is mounted twice."""
    for pod in pods(rendered(example(path.stem))).values():
        mounts = [mount for container in containers(pod) for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in pod["volumes"]}
        for container in containers(pod):
            places = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(places) == len(set(places))


@pytest.mark.parametrize(
    "settings", [{}, {"drain_delay_s": 0, "drain_s": 1}, {"drain_delay_s": 29.5, "drain_s": 60}, {"drain_s": None}]
)
@pytest.mark.parametrize("sleep", [0, 7])
def test_a_pod_is_given_the_time_that_its_drain_takes(settings: dict[str, Any], sleep: int) -> None:
    """Law: Kubernetes kills no pod before its sleep, drain_delay_s, drain_s and the supervisor's margin are over."""
    objects = rendered({**LEAST, "settings": settings, "preStopSleepSeconds": sleep})
    defaults = {name: Settings.model_fields[name].default for name in ("drain_delay_s", "drain_s")}
    read = {**defaults, **settings_of(objects)}
    pod = pods(objects)["Deployment"]
    needed = sleep + math.ceil(read["drain_delay_s"]) + read["drain_s"]
    assert needed + 10 <= pod["terminationGracePeriodSeconds"] <= needed + 30
    hook = pod["containers"][0].get("lifecycle")
    assert hook == ({"preStop": {"sleep": {"seconds": sleep}}} if sleep else None)


def test_probes_ask_the_three_questions() -> None:
    """Law: start-up, readiness and liveness have a route each, on the scoring port, in the port's own scheme."""
    (container,) = pods(rendered(LEAST))["Deployment"]["containers"]
    asked = {key: container[f"{key}Probe"]["httpGet"] for key in ("startup", "readiness", "liveness")}
    assert {key: (get["path"], get["port"], get["scheme"]) for key, get in asked.items()} == {
        "startup": ("/healthz/startup", "http", "HTTP"),
        "readiness": ("/healthz/ready", "http", "HTTP"),
        "liveness": ("/healthz/live", "http", "HTTP"),
    }
    (container,) = pods(rendered({**LEAST, "tls": {"existingSecret": "tls"}}))["Deployment"]["containers"]
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"


def test_with_mutual_tls_the_container_asks_itself() -> None:
    """Law: a kubelet without a client certificate is not turned away as if the service were down."""
    (container,) = pods(rendered(example("mutual-tls")))["Deployment"]["containers"]
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "httpGet" not in container[key]
        assert "/opt/espalier/healthcheck.py" in container[key]["exec"]["command"]


def test_admin_routes_have_a_service_of_their_own() -> None:
    """Law: the scoring Service and the Ingress reach the main port only; metrics are scraped from the admin one."""
    objects = rendered(example("mutual-tls"))
    services = {
        o["metadata"]["name"]: [p["targetPort"] for p in o["spec"]["ports"]] for o in objects if o["kind"] == "Service"
    }
    assert services == {"demo-espalier": ["http"], "demo-espalier-admin": ["admin"]}
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["endpoints"][0]["port"] == "admin"
    assert monitor["selector"]["matchLabels"].items() <= one(objects, "Service", "-admin")["metadata"]["labels"].items()
    paths = [p["path"] for rule in one(objects, "Ingress")["spec"]["rules"] for p in rule["http"]["paths"]]
    assert paths == ["/score", "/feedback"]


def test_on_one_port_metrics_are_scraped_there() -> None:
    """Law: without an admin port the ServiceMonitor finds the main Service."""
    objects = rendered(example("one-port"))
    service = one(objects, "Service")
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"] == "http"
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert "admin_port" not in settings_of(objects)


def test_selectors_find_the_services_pods_and_no_training_pod() -> None:
    """Law: Services, budget and spread select pods of the Deployment, never a pod that trains."""
    objects = rendered(example("everything"))
    service = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    training = one(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    pod = pods(objects)["Deployment"]
    selectors = [o["spec"]["selector"] for o in objects if o["kind"] == "Service"]
    selectors += [
        one(objects, kind)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")
    ]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod["topologySpreadConstraints"]]
    for selector in selectors:
        assert selector.items() <= service.items()
        assert not selector.items() <= training.items()
    policy = one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= service.items()
    assert policy.items() <= training.items()


def test_domains_have_affinity_to_replicas() -> None:
    """Law: the ingress hashes the header that carries the domain; own annotations go before."""
    assert one(rendered(example("everything")), "Ingress")["metadata"]["annotations"] == {
        "nginx.ingress.kubernetes.io/upstream-hash-by": "$http_x_espalier_domain",
        "nginx.ingress.kubernetes.io/upstream-hash-by-subset": "true",
        "nginx.ingress.kubernetes.io/upstream-hash-by-subset-size": "3",
    }
    assert "annotations" not in one(rendered(example("one-port")), "Ingress")["metadata"]


def test_scaling_looks_at_processor_and_queue() -> None:
    """Law: the autoscaler sees both, and the Deployment then names no number of replicas of its own."""
    objects = rendered(example("everything"))
    metrics = one(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metrics[0]["resource"]["name"] == "cpu"
    assert metrics[1]["pods"]["metric"]["name"] == "espalier_queue_rows"
    assert "replicas" not in one(objects, "Deployment")["spec"]
    assert one(rendered(LEAST), "Deployment")["spec"]["replicas"] == 2


def test_strangers_reach_the_scoring_port_alone() -> None:
    """Law: without peers named the admin port is open to pods of the namespace only."""
    spec = one(rendered(LEAST), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    by_port = {rule["ports"][0]["port"]: rule.get("from") for rule in spec["ingress"]}
    assert by_port == {"http": None, "admin": [{"podSelector": {}}]}
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53, 443, 6379]


def test_prometheus_reaches_the_port_that_it_scrapes() -> None:
    """Law: an example whose metrics are collected from another namespace lets that namespace in."""
    rules = one(rendered(example("everything")), "NetworkPolicy")["spec"]["ingress"]
    (admin,) = [rule["from"] for rule in rules if rule["ports"][0]["port"] == "admin"]
    assert {"kubernetes.io/metadata.name": "monitoring"} in [
        peer["namespaceSelector"]["matchLabels"] for peer in admin if "namespaceSelector" in peer
    ]


def test_feedback_outlives_a_pod_where_a_claim_is_named() -> None:
    """Law: with a claim feedback lies in it, without one in a volume of the pod's own."""

    def volume(feedback: dict[str, Any]) -> dict[str, Any]:
        volumes = pods(rendered({**LEAST, "feedback": {"enabled": True, **feedback}}))["Deployment"]["volumes"]
        (found,) = [each for each in volumes if each["name"] == "feedback"]
        return {key: each for key, each in found.items() if key != "name"}

    assert volume({"existingClaim": "kept"}) == {"persistentVolumeClaim": {"claimName": "kept"}}
    assert volume({}) == {"emptyDir": {"sizeLimit": "12Gi"}}


def test_a_change_of_the_settings_rolls_the_pods() -> None:
    """Law: pods never keep serving with settings that the release no longer has."""

    def checksum(values: dict[str, Any]) -> str:
        template = one(rendered({**LEAST, **values}), "Deployment")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/settings"]
        return found

    assert checksum({}) == checksum({"replicas": 5})
    assert checksum({}) != checksum({"settings": {"queue_rows": 1}})


def test_gpus_are_asked_for_where_they_are_wanted() -> None:
    """Law: with `gpu.enabled` the service, with `training.gpu` the training step, and nothing else asks for a GPU."""
    objects = rendered(example("everything"))
    asking = {
        container["name"]
        for pod in pods(objects).values()
        for container in containers(pod)
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert asking == {"espalier", "train"}
    for pod in pods(objects).values():
        assert pod["runtimeClassName"] == "nvidia"
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert all("runtimeClassName" not in pod for pod in pods(rendered(example("bare"))).values())


def test_training_prepares_trains_and_publishes_in_this_order() -> None:
    """Law: a run is published only after it was trained, resumes in its own folder, and alone sees the store."""
    for kind in ("Job", "CronJob"):
        pod = pods(rendered(example("everything")))[kind]
        prepare, train, publish = containers(pod)
        assert prepare["args"][:2] == ["data", "prepare"]
        assert train["args"][:2] == ["train", "all"]
        assert "--resume" in train["args"]
        assert publish["args"] == ["publish", "/runs/run", "--release"]
        for container in (prepare, train, publish):
            (runs,) = [mount for mount in container["volumeMounts"] if mount["name"] == "runs"]
            assert runs["subPathExpr"] == "$(JOB_NAME)"
            assert "JOB_NAME" in {each["name"] for each in container["env"]}
        assert [("ESPALIER_STORE" in {e["name"] for e in c["env"]}) for c in (prepare, train, publish)] == [
            False,
            False,
            True,
        ]


def test_the_audit_names_the_job_that_published() -> None:
    """Law: what a training job publishes is recorded under the job's name, which Kubernetes fills in."""
    (publish,) = pods(rendered(example("everything")))["CronJob"]["containers"]
    names = [each["name"] for each in publish["env"]]
    assert {"name": "ESPALIER_BY", "value": "$(JOB_NAME)"} in publish["env"]
    assert names.index("JOB_NAME") < names.index("ESPALIER_BY"), "only earlier variables are filled in"


def test_a_job_has_a_name_of_its_own_in_each_revision() -> None:
    """Law: an upgrade of the release starts a new job and changes none, which Kubernetes would refuse."""
    assert one(rendered(example("everything")), "Job")["metadata"]["name"] == "demo-espalier-train-7"


def bytes_of(quantity: str) -> int:
    """A quantity of Gi or Mi in bytes."""
    return int(quantity[:-2]) << {"Gi": 30, "Mi": 20}[quantity[-2:]]


@pytest.mark.parametrize("path", ALL)
def test_a_pod_has_room_for_what_its_settings_allow(path: Path) -> None:
    """Law: no example is killed for memory, nor evicted for what it keeps on disk."""
    objects = rendered(example(path.stem))
    read = {name: field.default for name, field in Settings.model_fields.items()} | settings_of(objects)
    pod = pods(objects)["Deployment"]
    memory = bytes_of(pod["containers"][0]["resources"]["limits"]["memory"])
    # a quarter is left for the interpreter, the backbone and the tables
    assert read["workers"] * read["memory_bytes"] <= memory * 3 / 4
    room = {volume["name"]: volume for volume in pod["volumes"]}
    for name, most in (("cache", read["cache_bytes"]), ("feedback", read["feedback_keep_bytes"])):
        if name in room and "persistentVolumeClaim" not in room[name]:
            claim = room[name].get("ephemeral", {}).get("volumeClaimTemplate", {}).get("spec", {}).get("resources")
            size = claim["requests"]["storage"] if claim else room[name]["emptyDir"]["sizeLimit"]
            assert most < bytes_of(size)
