"""KServe's manifests: against the fields that KServe has, our rules for pods, and the chart beside them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from service import __version__
from tests.deploy.manifests import PROBES, validate, violations

ROOT = Path(__file__).parents[2]
RUNTIME: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kserve/cluster-serving-runtime.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kserve/inference-service.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/helm/valence/values.yaml").read_text())


@pytest.mark.parametrize("manifest", [RUNTIME, SERVICE], ids=["runtime", "service"])
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    validate(manifest)


def test_the_runtime_makes_pods_that_keep_our_rules() -> None:
    """As KServe makes them: what concerns a pod is the container's here, since a runtime has no such fields."""
    (container,) = RUNTIME["spec"]["containers"]
    security = container["securityContext"]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sentiment-predictor"},
        "spec": {
            "automountServiceAccountToken": SERVICE["spec"]["predictor"]["automountServiceAccountToken"],
            "enableServiceLinks": False,
            "securityContext": {name: security[name] for name in ("runAsNonRoot", "runAsUser", "seccompProfile")},
            "containers": [container],
            "volumes": RUNTIME["spec"]["volumes"],
        },
    }
    validate(made)
    assert violations([made]) == set()


def test_the_service_names_a_format_and_a_protocol_of_the_runtime() -> None:
    model = SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"]["name"] in [known["name"] for known in RUNTIME["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


def test_the_runtime_is_fitted_as_the_chart_is() -> None:
    (container,) = RUNTIME["spec"]["containers"]
    assert container["image"] == f"valence:{__version__}"
    assert container["resources"] == VALUES["resources"]
    for name in PROBES:
        expected = VALUES["probes"][name.removesuffix("Probe")]
        assert {key: value for key, value in container[name].items() if key != "httpGet"} == expected
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    # Without a field for it the pods have Kubernetes' default.
    assert float(environment["VALENCE_DRAIN_S"]) + float(environment["VALENCE_SHUTDOWN_GRACE_S"]) < 30
    (metric,) = SERVICE["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["external"]["target"]["value"] == "1"
    assert metric["external"]["metric"]["query"].endswith(
        f"/ scalar(log2(vector(1 + {VALUES['autoscaling']['targetInFlight']})))"
    )
