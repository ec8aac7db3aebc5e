"""Requests for the Engine API made from its OpenAPI document: schemathesis' cases, and many more recombined from them.

In: the document (`swagger-v1.50.yaml` beside the checkout) and a seed. Out: requests that are as odd as the schema and a
mutator make them, but tame: nothing in them reaches the host (`tame`), whatever the generators say.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

SWAGGER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "swagger-v1.50.yaml"

#: Answered as by a daemon that is in no swarm, whatever is asked: one plain case of each is enough.
SWARM = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request: `body` is a JSON value or bytes or None; `raw` replaces its encoding."""

    method: str
    template: str
    path: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    raw: bytes | None = None
    content_type: str = "application/json"
    version: str = ""
    sound: bool = False  # it keeps to the schema


def operations(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(method, path template) of everything in the document."""
    return [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "head", "post", "put", "delete", "options"}
    ]


def corpus(path: Path, positive: int, negative: int) -> list[Case]:
    """What schemathesis makes of the document: `positive` cases that keep to it and `negative` ones for each operation."""
    import schemathesis
    from schemathesis.generation import GenerationMode

    found: list[Case] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_path(str(path))
        for result in schema.get_all_operations():
            operation = result.ok()
            found.append(Case(method=operation.method.upper(), template=operation.path))
            if not operation.path.startswith(SWARM):
                found += _generated(operation, GenerationMode.POSITIVE, positive)
                found += _generated(operation, GenerationMode.NEGATIVE, negative)
    return found


def _generated(operation: Any, mode: Any, number: int) -> list[Case]:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.errors import SerializationNotPossible
    from schemathesis.generation import GenerationMode

    found: list[Case] = []

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def collect(case: Any) -> None:
        made = _case(operation.method.upper(), operation.path, case)
        found.append(replace(made, sound=mode is GenerationMode.POSITIVE))

    try:
        collect()
    except (Unsatisfiable, SerializationNotPossible):
        pass  # nothing to negate; or a tar, for which the mutator sends what is none
    return found


def _case(method: str, template: str, case: Any) -> Case:
    body = case.body if isinstance(case.body, dict | list | str | int | float | type(None)) else None
    return Case(
        method=method,
        template=template,
        path=_plain(dict(case.path_parameters or {})),
        query=_plain(dict(case.query or {})),
        body=_plain(body),
    )


def _plain(value: Any) -> Any:
    """JSON's own types, for the generators' special ones."""
    return json.loads(json.dumps(value, default=str))


METHODS = ("GET", "HEAD", "OPTIONS", "PATCH", "DELETE", "POST", "PUT")
VERSIONS = ("/v1.50", "/v1.44", "/v1.24", "/v1.41", "/v1.99", "/v1", "/vx", "/v1.43.1")
KINDS = ("text/plain", "", "application/x-tar", "application/json; charset=utf-8")
FILTERS = (
    "id", "name", "label", "label!", "exited", "status", "ancestor", "before", "since", "until", "volume", "network",
    "publish", "expose", "health", "is-task", "dangling", "reference", "driver", "type", "scope", "all", "event",
    "container", "image", "nosuch",
)  # fmt: skip
#: Bodies that are no JSON, too much of it, or JSON that only some parsers take. None of them can mean anything.
RAW = (
    b"{",
    b"{}{}",
    b"null",
    b"\xff\xfe",
    b"[" * 20000,
    b'{"a":NaN}',
    b'{"\\ud800":1}',
    b" ",
    b'{"Image":"\\ud800"}',
)
HELP: dict[str, dict[str, list[Any]]] = {
    "/containers/create": {"Image": ["busybox", "busybox", "nosuch"], "Cmd": [["sleep", "1000"], ["true"], "x"]},
    "/containers/{id}/exec": {"Cmd": [["true"], ["sleep", "1"], []]},
    "/networks/create": {"Name": ["a", "b.c", "n-1", ""], "Driver": ["bridge"], "ConfigOnly": [False], "Scope": ["local"]},
    "/networks/{id}/connect": {"Container": ["fuzz-up", "fuzz-down"]},
    "/networks/{id}/disconnect": {"Container": ["fuzz-up", "fuzz-down"]},
    "/volumes/create": {"Name": ["", "vol-a", "vol-b"], "Driver": ["local"], "ClusterVolumeSpec": [None]},
}  # fmt: skip


class Mutator:
    """Cases from cases. `known` names living objects by path parameter and prefix, so that most requests hit something."""

    def __init__(self, cases: list[Case], known: Mapping[str, list[str]], seed: int) -> None:
        self.random = random.Random(seed)
        self.cases = cases
        self.known = known
        self.by_operation: dict[tuple[str, str], list[Case]] = {}
        for case in cases:
            self.by_operation.setdefault((case.method, case.template), []).append(case)
        self.operations = [key for key in self.by_operation if not key[1].startswith(SWARM)]

    def next(self) -> Case:
        """Half of them keep to the schema and name living objects, so that they do something; the rest is odd."""
        r = self.random
        method, template = r.choice(self.operations if r.random() < 0.98 else list(self.by_operation))
        same = self.by_operation[method, template]
        if r.random() < 0.5:
            case = r.choice([case for case in same if case.sound] or same)
            living = 0.2 if method == "DELETE" else 0.97  # what is gone is no target any more
            sound = {name: self._path(name, template, None, living) for name in _names(template)}
            return replace(case, path=sound, body=self._helped(template, case.body))
        case = r.choice(same)
        query = dict(case.query)
        if r.random() < 0.5:
            query |= r.choice(same).query
        if query and r.random() < 0.3:
            query[r.choice(list(query))] = self.junk_text()
        if r.random() < 0.25:
            query["filters"] = self._filters()
        odd = r.random()
        return Case(
            method=method if r.random() < 0.97 else r.choice(METHODS),
            template=template,
            path={name: self._path(name, template, case.path.get(name), 0.75) for name in _names(template)},
            query=query,
            body=self._body(case, same),
            raw=r.choice(RAW) if odd < 0.04 else None,
            content_type=r.choice(KINDS) if 0.04 < odd < 0.07 else "application/json",
            version=r.choice(VERSIONS) if odd > 0.8 else "",
        )

    def _body(self, case: Case, same: list[Case]) -> Any:
        """The case's body with parts of another one's, and with a few things changed."""
        r = self.random
        body = case.body
        if isinstance(body, dict):
            other = r.choice(same).body
            if isinstance(other, dict) and r.random() < 0.5:
                body = {**body, **{k: v for k, v in other.items() if r.random() < 0.5}}
            body = self._helped(case.template, body)
            for _ in range(r.choice((0, 1, 1, 3))):
                body = self._change(body)
        elif body is None and case.method in {"POST", "PUT"} and r.random() < 0.3:
            body = self.junk()
        return body

    def _helped(self, template: str, body: Any) -> Any:
        """What a schema cannot say and a request needs to get anywhere."""
        if not isinstance(body, dict) or template not in HELP:
            return body
        return {**body, **{name: self.random.choice(values) for name, values in HELP[template].items()}}

    def _path(self, name: str, template: str, generated: object, living_share: float) -> str:
        r = self.random
        chance = r.random()
        living = self.known.get(template.split("/")[1], [])
        if living and chance < living_share:
            return r.choice(living)
        if chance < 0.9 and generated is not None:
            return str(generated)
        return self.junk_text() or "x"

    def _filters(self) -> str:
        r = self.random
        values: Any = r.choice(
            (["a"], ["true"], {"a": True}, {"false": True}, ["running", "exited"], ["0"], [], {}, [1], "x", None, 5,
             ["80/tcp"], ["1-99999999"], ["("], ["10m"], [self.junk_text()])
        )  # fmt: skip
        found = {r.choice(FILTERS): values for _ in range(r.choice((1, 1, 2)))}
        return json.dumps(found) if r.random() < 0.95 else self.junk_text()

    def junk(self) -> Any:
        r = self.random
        return r.choice(
            (None, True, False, 0, -1, 1, 2**31, -(2**31), 2**63, 2**64, 10**400, 1.5, 1e300, "", self.junk_text(), [], {},
             [None], [[]], {"a": None}, [1, "a"], {"": ""}, ["a", "b"], {"a": "b"})
        )  # fmt: skip

    def junk_text(self) -> str:
        r = self.random
        return r.choice(
            ("", "0", "-1", "9" * 30, "1.5", "true", "x" * 3000, "a\0b", "../../etc/passwd", "\U0001f433", "%s%n",
             "a b", "/", "//", ".", "..", "\ufffd", "10s", "2020-13-45", "sha256:" + "0" * 64,
             "a=b", "*", "(", "\r\nX: y", "".join(r.choices(string.printable, k=8)))
        )  # fmt: skip

    def _change(self, value: Any) -> Any:
        """A copy of `value` with one thing in it changed, at some depth."""
        r = self.random
        if isinstance(value, dict) and value and r.random() < 0.85:
            key = r.choice(list(value))
            if r.random() < 0.1:
                return {k: v for k, v in value.items() if k != key}
            return {**value, key: self._change(value[key])}
        if isinstance(value, list) and value and r.random() < 0.7:
            index = r.randrange(len(value))
            return [*value[:index], self._change(value[index]), *value[index + 1 :]]
        return self.junk()


def _names(template: str) -> list[str]:
    return re.findall(r"{(\w+)}", template)


# Taming: whatever a request says, it must stay inside the engine under test.

_TEXT = (str, type(None))
#: HostConfig's doors to the host. What is not named here cannot leave the container.
_DOORS = (
    "Binds", "Mounts", "Devices", "DeviceRequests", "DeviceCgroupRules", "Privileged", "CapAdd", "CgroupParent",
    "PidMode", "UTSMode", "UsernsMode", "CgroupnsMode", "Cgroup", "SecurityOpt", "MaskedPaths", "ReadonlyPaths", "Runtime",
    "VolumeDriver", "PortBindings", "PublishAllPorts", "OomScoreAdj", "StorageOpt", "BlkioWeightDevice",
    "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "OomKillDisable",
    "RestartPolicy",
)  # fmt: skip


def _door(name: str, value: Any) -> Any:
    """A value for a door that is odd in type at most: lists and maps stay empty, texts are of no namespace of the host."""
    if isinstance(value, dict | list) and value:
        if name == "PortBindings":
            return {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        if name == "Mounts":
            return [
                {"Type": "tmpfs", "Target": "/t"},
                {"Type": "volume", "Source": "fuzz-volume", "Target": "/v"},
            ]
        return []
    if isinstance(value, bool | int | float):
        return False if name in {"Privileged", "OomKillDisable"} else min(max(value, 0), 2**40)
    if isinstance(value, str):
        return "" if len(value) % 2 else "nosuch"
    return value


def _host_config(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    tame = dict(config)
    for name, value in config.items():
        if name in _DOORS:
            tame[name] = _door(name, value)
        elif name in {"NetworkMode", "IpcMode"} and isinstance(value, str):
            tame[name] = value if value in {"none", "bridge", "default", "private", "fuzz-net"} else "none"
        elif name == "LogConfig" and isinstance(value, dict):
            kind = value.get("Type")
            tame[name] = {**value, "Type": kind if kind in {"json-file", "none", "local", 5} else "json-file"}
        elif name == "Tmpfs" and isinstance(value, dict):
            tame[name] = {"/t": "size=64k", **({"/x": None} if len(value) > 1 else {})}
    return tame


def _network(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    tame = dict(body)
    ipam = tame.get("IPAM")
    if isinstance(ipam, dict) and isinstance(ipam.get("Config"), list):
        pools = [
            {**pool, **{k: _address(k, v) for k, v in pool.items()}} if isinstance(pool, dict) else pool
            for pool in ipam["Config"]
        ]
        tame["IPAM"] = {**ipam, "Config": pools}
    if isinstance(tame.get("Driver"), str):
        tame["Driver"] = tame["Driver"] if tame["Driver"] in {"bridge", "", "null", "host"} else "nosuch"
    if isinstance(tame.get("Options"), dict):
        tame["Options"] = {
            k: v for k, v in tame["Options"].items() if "parent" not in k and "bridge.name" not in k
        }
    return tame


def _address(key: str, value: Any) -> Any:
    """A pool of documentation addresses (RFC 5737), which no host uses; odd texts stay odd."""
    texts = {"Subnet": "198.51.100.0/28", "IPRange": "198.51.100.8/29", "Gateway": "198.51.100.1"}
    if isinstance(value, str) and key in texts:
        return value if len(value) < 2 or not value[0].isdigit() else texts[key]
    return {} if isinstance(value, dict) else value


def tame(case: Case, images: list[str]) -> Case:
    """The case with every way out of the engine closed: host paths, devices, namespaces, addresses, registries."""
    body: Any = case.body
    query = dict(case.query)
    if case.template in {"/containers/create", "/containers/{id}/update", "/commit"} and isinstance(
        body, dict
    ):
        body = {**_host_config(body)}
        if "HostConfig" in body:
            body["HostConfig"] = _host_config(body["HostConfig"])
        for name in ("Cmd", "Entrypoint"):
            if isinstance(body.get(name), list | str) and body[name]:
                body[name] = ["sleep", "1000"] if name == "Cmd" else None
        if isinstance(body.get("Healthcheck"), dict):
            body["Healthcheck"] = {**body["Healthcheck"], "Test": ["CMD", "true"]}
        if isinstance(body.get("Image"), str) and len(body["Image"]) % 4:
            body["Image"] = images[len(body["Image"]) % len(images)]
    if case.template == "/containers/{id}/exec" and isinstance(body, dict):
        body = {**body, "Privileged": None, **({"Cmd": ["true"]} if body.get("Cmd") else {})}
    if case.template == "/networks/create":
        body = _network(body)
    if case.template == "/volumes/create" and isinstance(body, dict):
        body = {
            **body,
            "DriverOpts": {} if isinstance(body.get("DriverOpts"), dict) else body.get("DriverOpts"),
        }
    if case.template == "/auth" and isinstance(body, dict):
        body = {**body, "serveraddress": "127.0.0.1:1"}
    for name in ("fromImage", "fromSrc", "remote", "term", "repo"):
        if name in query and isinstance(query[name], str):
            query[name] = {"fromImage": images[0], "term": "x"}.get(name, "127.0.0.1:1/x")
    path = dict(case.path)
    if case.template in {"/images/{name}/push", "/distribution/{name}/json", "/plugins/{name}/push"}:
        path["name"] = "127.0.0.1:1/x"
    if case.template in {"/containers/{id}/stop", "/containers/{id}/restart"} and "t" in query:
        query["t"] = query["t"] if not str(query["t"]).strip("-").isdigit() else "1"
    return replace(case, path=path, query=query, body=body)


def wire(case: Case) -> bytes:
    """The request as bytes on a connection that stays open."""
    path = case.template
    for name, value in case.path.items():
        path = path.replace("{" + name + "}", quote(str(value), safe="", errors="replace"))
    query = [(name, _text(value)) for name, values in case.query.items() for value in _many(values)]
    target = f"{case.version}{path}" + (f"?{urlencode(query, errors='replace')}" if query else "")
    body = case.raw
    if body is None:
        body = b"" if case.body is None else case.body if isinstance(case.body, bytes) else _json(case.body)
    head = [f"{case.method} {target} HTTP/1.1", "Host: fuzz", f"Content-Length: {len(body)}"]
    if body and case.content_type:
        head.append(f"Content-Type: {case.content_type}")
    head.append("X-Registry-Auth: " + base64.urlsafe_b64encode(b"{}").decode())
    return "\r\n".join([*head, "", ""]).encode("ascii", "replace") + body


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, default=str)
