"""The manifests of `deploy/kubernetes`: valid for Kubernetes, and what the program means."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.life import STOP_SECONDS
from app.settings import PREFIX, Settings
from app.settings.settings import SECRETS

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
BASE, EXAMPLE = FOLDER / "base", FOLDER / "overlays" / "example"
# Kinds of other projects, whose schemas no package ships.
FOREIGN = {"ServiceMonitor", "ScaledObject"}
KUBERNETES = "1.31"


def documents(folder: Path) -> list[dict[str, Any]]:
    """All objects that a kustomization names."""
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [
        document
        for name in named
        if (folder / name).is_file()
        for document in yaml.safe_load_all((folder / name).read_text())
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in documents(BASE) + documents(EXAMPLE) if one["kind"] == kind]


def component(name: str) -> dict[str, Any]:
    (found,) = [one for one in of_kind("Deployment") if one["metadata"]["name"].endswith(name)]
    return found


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_every_file_is_named_and_every_name_is_a_file(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = {(folder / name).resolve() for name in kustomization["resources"]}
    there = {file.resolve() for file in folder.glob("*.yaml")} - {
        (folder / "kustomization.yaml").resolve()
    }
    assert there == {path for path in named if path.suffix == ".yaml"}
    assert all(path.exists() for path in named)


def test_every_object_is_valid_strictly() -> None:
    checked = 0
    for document in documents(BASE) + documents(EXAMPLE):
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            checked += 1
    assert checked >= 9
    wrong = component("worker")
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_every_variable_is_a_setting_and_every_secret_a_file() -> None:
    fields = Settings.model_fields
    secrets, optional = set(), set()
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        for variable in pod["containers"][0]["env"]:
            name = variable["name"].removeprefix(PREFIX).lower()
            assert name.removesuffix("_file") in fields, variable["name"]
            if name.endswith("_file"):
                secrets.add(variable["value"].removeprefix("/secrets/"))
            if "valueFrom" in variable:
                assert name in SECRETS
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference == {
                    "name": "dialwatch", "key": name.replace("_", "-"), "optional": True,
                }  # fmt: skip
                optional.add(reference["key"])
    assert secrets | optional == {name.replace("_", "-") for name in SECRETS}
    # A console without it runs on, and says that WeChat isn't set up.
    assert secrets & optional == {"wechat-app-secret"}
    text = (EXAMPLE / "kustomization.yaml").read_text()
    assert all(name in text for name in optional)
    kustomization = yaml.safe_load(text)
    (generated,) = kustomization["secretGenerator"]
    assert {Path(file).name for file in generated["files"]} == secrets
    (plain,) = kustomization["configMapGenerator"]
    for literal in plain["literals"]:
        assert literal.partition("=")[0].removeprefix(PREFIX).lower() in fields


def test_the_console_has_what_its_explanations_need() -> None:
    """The plain settings are common; of the secrets it reads one: is WeChat set up?"""
    needed = {"wechat_app_secret", "kafka_sasl_password", "redis_url", "web_token"}
    (container,) = component("console")["spec"]["template"]["spec"]["containers"]
    names = {one["name"].removeprefix(PREFIX).lower() for one in container["env"]}
    assert needed <= {name.removesuffix("_file") for name in names}


def test_a_stop_has_the_time_it_takes() -> None:
    grace = component("worker")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= 2 * STOP_SECONDS + 10


def test_pods_are_not_root_write_nowhere_else_and_have_limits() -> None:
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "memory" in container["resources"]["limits"]
        assert pod["enableServiceLinks"] is False
        probes = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
        assert probes == {
            "startupProbe": "/health",
            "livenessProbe": "/health",
            "readinessProbe": "/ready",
        }


def test_workers_never_outnumber_the_partitions() -> None:
    (scaled,) = of_kind("ScaledObject")
    text = (EXAMPLE / "kustomization.yaml").read_text()
    partitions = int((re.search(r"DIALWATCH_PARTITIONS=(\d+)", text) or ["", "0"])[1])
    assert 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"] <= partitions
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["allowIdleConsumers"] == "false"
    assert scaled["spec"]["scaleTargetRef"]["name"] == component("worker")["metadata"]["name"]


def test_services_and_policies_select_the_pods() -> None:
    for service in of_kind("Service"):
        selector = service["spec"]["selector"]
        deployment = component(selector["app.kubernetes.io/component"])
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()
        (port,) = service["spec"]["ports"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert port["targetPort"] == container["ports"][0]["name"]
        assert port["port"] == container["ports"][0]["containerPort"]
