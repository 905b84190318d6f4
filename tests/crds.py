"""The definitions of the custom resources that a service may use, from the projects that define them.

`tools/crds/go.mod` pins the projects. Go downloads them and compares them with `go.sum`; nothing of them is built.
"""

import functools
import json
import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import needs
import pytest
import yaml
from conftest import ROOT

PINS = ROOT / "tools" / "crds"

# Where each project keeps its definitions, one a file.
FOLDERS: Mapping[str, str] = {
    "github.com/argoproj/argo-cd/v3": "manifests/crds",
    "github.com/argoproj/argo-rollouts": "manifests/crds",
    "github.com/chaos-mesh/chaos-mesh": "config/crd/bases",
    "github.com/external-secrets/external-secrets": "config/crds/bases",  # pragma: allowlist secret - a folder
    "github.com/prometheus-operator/prometheus-operator": "example/prometheus-operator-crd",
    "sigs.k8s.io/gateway-api": "config/crd/standard",
}


@functools.cache
def archives() -> Mapping[str, Path]:
    """The downloaded archive of each project."""
    go = needs.go()
    if go is None:
        pytest.fail(f"Go for the definitions of custom resources: {needs.NO_GO}", pytrace=False)
    environment = os.environ | {"GOFLAGS": "", "GOWORK": "off"}
    command = [str(go), "mod", "download", "-json"]
    done = subprocess.run(command, cwd=PINS, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{PINS}: {done.stderr}{done.stdout}", pytrace=False)
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), {}
    while text:
        module, end = decoder.raw_decode(text)
        found[module["Path"]] = Path(module["Zip"])
        text = text[end:].strip()
    return found


@functools.cache
def definition(group: str, kind: str) -> str | None:
    """The text of the definition of a kind, if one of the projects defines it."""
    for project, archive in archives().items():
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                folder, _, file = name.partition("@")[2].partition("/")[2].rpartition("/")
                if folder != FOLDERS[project] or kind.lower() not in file.replace("-", ""):
                    continue
                text = files.read(name).decode()
                names = yaml.load(text, yaml.CSafeLoader)["spec"]
                if (names["group"], names["names"]["kind"]) == (group, kind):
                    return text
    return None


@functools.cache
def schema(group: str, version: str, kind: str) -> Mapping[str, Any] | None:
    """The schema of a kind, which refuses what it does not name."""
    text = definition(group, kind)
    if text is None:
        return None
    for served in yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]:
        if served["name"] == version and served["served"]:
            spec = served["schema"]["openAPIV3Schema"]
            # An API server knows these of each object, whatever its definition says of them.
            spec["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
            spec["properties"]["metadata"] = {"type": "object"}
            return strict(spec)
    return None


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema as a JSON schema: unknown fields refused, nulls and numbers as Kubernetes means them."""
    result = {word: value for word, value in schema.items() if not word.startswith("x-kubernetes-")}
    properties, values = schema.get("properties", {}), schema.get("additionalProperties")
    if properties:
        result["properties"] = {name: strict(value) for name, value in properties.items()}
    if isinstance(values, dict):
        result["additionalProperties"] = strict(values)
    elif properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = strict(schema["items"])
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    # They repeat parts of the fields above, to say which go together: no unknown ones are to be refused there.
    for word in ("allOf", "anyOf", "oneOf"):
        if word in schema:
            result[word] = list(schema[word])
    return result
