"""Whether an API server of each Kubernetes would know what an object says, down to the last field."""

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import crds
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource
from rendered import Object, title

# The oldest one that the documents promise.
OLDEST = (1, 30)


def versions() -> list[str]:
    """Every Kubernetes from the oldest that is supported to the newest that there are schemas of."""
    known = {tuple(map(int, version.split(".")[:2])) for version in all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(known) if (major, minor) >= OLDEST]


def problems(objects: tuple[Object, ...]) -> Iterator[str]:
    """What some version does not know, or refuses."""
    for one in objects:
        yield from _problems(json.dumps(one, sort_keys=True))


# Most objects are the same in many services.
@functools.cache
def _problems(text: str) -> list[str]:
    one = json.loads(text)
    group, _, version = one["apiVersion"].rpartition("/")
    if definition := crds.schema(group, version, one["kind"]):
        return list(_against(Draft202012Validator(definition), one, ""))
    return [problem for kubernetes in versions() for problem in _built_in(kubernetes, one)]


def _built_in(kubernetes: str, one: Object) -> Iterator[str]:
    validator = _validator(kubernetes, one["apiVersion"], one["kind"])
    if validator is None:
        yield f"{title(one)}: Kubernetes {kubernetes} knows no {one['apiVersion']} {one['kind']}"
    else:
        yield from _against(validator, one, f" (Kubernetes {kubernetes})")


def _against(validator: Draft202012Validator, one: Object, where: str) -> Iterator[str]:
    for error in validator.iter_errors(one):
        path = ".".join(map(str, error.absolute_path))
        yield f"{title(one)}, {path or 'the object'}: {error.message}{where}"


@functools.cache
def _validator(kubernetes: str, api_version: str, kind: str) -> Draft202012Validator | None:
    """The schema of a kind, which refuses fields that it does not name."""
    group, _, version = api_version.rpartition("/")
    file = "-".join(filter(None, (kind, group.partition(".")[0], version))).lower()
    schema = _file(kubernetes, file)
    if schema is None:
        return None
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(kubernetes))


@functools.cache
def _definitions(kubernetes: str) -> Registry[Any]:
    definitions = _file(kubernetes, "_definitions")
    assert definitions
    return Resource.from_contents(definitions) @ Registry()


def _file(kubernetes: str, name: str) -> Mapping[str, Any] | None:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
