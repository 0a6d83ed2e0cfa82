"""Kubernetes' manifests: would the API take them, and do they keep the rules of this repository."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import kubernetes_validate

# The oldest release that Chart.yaml allows, and the newest that kubernetes-validate has.
RELEASES = ("1.31", "1.37")
Manifest = Mapping[str, Any]


def closed(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    """The schema of an object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


TEXT, TEXTS, OPEN = {"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}
BACKEND = closed(("name", "port"), name=TEXT, port={"type": "integer"})
REWRITE = closed(("path",), path=closed(("type",), type={"const": "ReplacePrefixMatch"}, replacePrefixMatch=TEXT))
PREFIX = closed(("type", "value"), type={"const": "PathPrefix"}, value={"type": "string", "pattern": "^/"})
TARGET = closed(("type", "value"), type={"const": "Value"}, value=TEXT)
QUERY = closed(("backend", "query"), backend={"const": "prometheus"}, serverAddress=TEXT, query=TEXT)
METRIC = closed(("type",), type={"const": "External"}, external=closed(("metric", "target"), metric=QUERY, target=TARGET))
FORMAT = closed(("name",), name=TEXT, version=TEXT, autoSelect={"type": "boolean"}, priority={"type": "integer"})
# No Python package carries the published schemas of these. So here are the fields that are used, after gateway-api 1.4's
# HTTPRoute and KServe 0.16's resources: another field is refused, a wrong value of a used one as well. What is in `OPEN` is
# checked elsewhere: containers and volumes as those of a pod.
SCHEMAS: dict[str, dict[str, Any]] = {
    "gateway.networking.k8s.io/v1 HTTPRoute": closed(
        ("parentRefs", "rules"),
        parentRefs={"type": "array", "items": closed(("name",), name=TEXT, namespace=TEXT, sectionName=TEXT), "minItems": 1},
        hostnames=TEXTS,
        rules={
            "type": "array",
            "items": closed(
                ("backendRefs",),
                matches={"type": "array", "items": closed((), path=PREFIX)},
                filters={"type": "array", "items": closed(("type",), type={"const": "URLRewrite"}, urlRewrite=REWRITE)},
                backendRefs={"type": "array", "items": BACKEND},
            ),
        },
    ),
    "serving.kserve.io/v1alpha1 ClusterServingRuntime": closed(
        ("supportedModelFormats", "containers"),
        annotations=OPEN,
        supportedModelFormats={"type": "array", "items": FORMAT},
        protocolVersions={"type": "array", "items": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}},
        containers={"type": "array", "items": OPEN},
        volumes={"type": "array", "items": OPEN},
    ),
    "serving.kserve.io/v1beta1 InferenceService": closed(
        ("predictor",),
        predictor=closed(
            ("model",),
            automountServiceAccountToken={"type": "boolean"},
            minReplicas={"type": "integer", "minimum": 1},
            maxReplicas={"type": "integer", "minimum": 1},
            autoScaling=closed(("metrics",), metrics={"type": "array", "items": METRIC}),
            model=closed(
                ("modelFormat",), modelFormat=closed(("name",), name=TEXT), runtime=TEXT, protocolVersion=TEXT, storageUri=TEXT
            ),
        ),
    ),
}  # fmt: skip


def validate(manifest: Manifest) -> None:
    """Raises where the API server would refuse the manifest, an unknown field included."""
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    if kind in SCHEMAS:
        jsonschema.validate(manifest["spec"], SCHEMAS[kind])
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    elif manifest["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/")):
        validate_custom(manifest)
    else:
        for release in RELEASES:
            kubernetes_validate.validate(manifest, release, strict=True)


def validate_custom(manifest: Manifest) -> None:
    """KEDA's and the Prometheus operator's, by the models that cloudcoil made of their published schemas. These leave an unknown
    field out in silence, so what comes back is held against what went in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # field names of theirs that hide pydantic's own
        from cloudcoil.models.keda.v1alpha1 import ScaledObject
        from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
    model = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}[manifest["kind"]]
    read = model.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert read == manifest


def violations(manifests: Sequence[Manifest]) -> set[str]:
    """The rules of ours that a set of manifests breaks, one short sentence each."""
    return {broken for manifest in manifests for broken in _of_one(manifest)} | set(_of_all(manifests))


def _of_one(manifest: Manifest) -> Iterator[str]:
    pod = pod_of(manifest)
    if pod is None:
        return
    security = pod.get("securityContext", {})
    if (security.get("runAsNonRoot"), security.get("runAsUser")) != (True, 10001):
        yield "runs as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "holds a token of the cluster"
    if pod.get("enableServiceLinks") is not False:
        yield "takes variables from Services"
    writable = {volume["name"] for volume in pod.get("volumes", []) if "emptyDir" in volume}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        yield from _of_container(container, writable)
    if manifest["kind"] == "Deployment":
        yield from _of_deployment(manifest, pod)


def _of_container(container: Manifest, writable: set[str]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}) or not {"cpu", "memory"} <= resources.get("requests", {}).keys():
        yield "has no limits"
    if not re.search(r"@sha256:[0-9a-f]{64}$|:(?!latest$)[\w.-]+$", container["image"]):
        yield "has an image without a version"
    if any(not mount.get("readOnly") and mount["name"] not in writable for mount in container.get("volumeMounts", [])):
        yield "may write to a volume that outlives it"
    if any("value" in entry and re.search("KEY$|TOKEN$", entry["name"]) for entry in container.get("env", [])):
        yield "holds a key in the open"
    names = [entry["name"] for entry in container.get("env", [])]
    if len(names) != len(set(names)):
        yield "sets a variable twice"


def _of_deployment(manifest: Manifest, pod: Manifest) -> Iterator[str]:
    (container,) = pod["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    stops_in_s = float(environment["VALENCE_DRAIN_S"]) + float(environment["VALENCE_SHUTDOWN_GRACE_S"])
    if pod.get("terminationGracePeriodSeconds", 30) < stops_in_s + 2:
        yield "is killed before it has stopped"
    asked = [container.get(name, {}).get("httpGet", {}).get("path") for name in PROBES]
    if asked != ["/health", "/health", "/ready"]:
        yield "lacks a probe"
    else:
        readiness = container["readinessProbe"]
        if float(environment["VALENCE_DRAIN_S"]) < readiness["periodSeconds"] * readiness["failureThreshold"]:
            yield "closes its doors before a probe has seen that it drains"
    selected = manifest["spec"]["selector"]["matchLabels"].items()
    if not selected <= manifest["spec"]["template"]["metadata"]["labels"].items():
        yield "does not select its own pods"
    mounted = {mount["name"] for one in [*pod.get("initContainers", []), container] for mount in one["volumeMounts"]}
    if mounted != {volume["name"] for volume in pod["volumes"]}:
        yield "mounts other volumes than it has"


def _of_all(manifests: Sequence[Manifest]) -> Iterator[str]:
    by_kind: dict[str, Any] = {manifest["kind"]: manifest for manifest in manifests}
    deployment = by_kind.get("Deployment")
    if deployment is None:
        return
    scaled = by_kind.get("ScaledObject") or by_kind.get("HorizontalPodAutoscaler")
    replicas = deployment["spec"].get("replicas")
    if (replicas is None) != (scaled is not None):
        yield "has no number of pods, or two"
    if scaled is not None:
        if scaled["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
            yield "scales something else"
        replicas = scaled["spec"].get("minReplicas", scaled["spec"].get("minReplicaCount"))
        if not replicas:
            yield "can't wake from zero pods"
    if "PodDisruptionBudget" in by_kind and (replicas or 0) < 2:
        yield "blocks every drain"
    if any(len(manifest["metadata"]["name"]) > 63 for manifest in manifests):
        yield "has too long a name"
    if len({(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}) != len(manifests):
        yield "has two of one name"
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [by_kind["Service"]["spec"]["selector"]]
    selectors += [by_kind[kind]["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget",) if kind in by_kind]
    selectors += [by_kind[kind]["spec"]["podSelector"]["matchLabels"] for kind in ("NetworkPolicy",) if kind in by_kind]
    if not all(selector.items() <= labels for selector in selectors):
        yield "leaves its pods out"


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def pod_of(manifest: Manifest) -> Manifest | None:
    """The spec of the pods that a manifest makes, if it makes any."""
    if manifest["kind"] == "Pod":
        return dict(manifest["spec"])
    return dict(manifest["spec"]["template"]["spec"]) if manifest["kind"] == "Deployment" else None
