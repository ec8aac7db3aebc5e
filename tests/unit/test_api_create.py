"""Create requests: Docker's JSON to the engine's spec, and back through inspect to the same spec."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pystack.api import jsons
from pystack.api.docker.container import config_json, host_config_json
from pystack.api.docker.create import exec_of, restart_of, spec_of
from pystack.api.docker.mounts import bind_of
from pystack.api.docker.ports import bindings_of
from pystack.api.docker.resources import update_of
from pystack.api.docker.wire import ContainerBody, ExecBody, PortBindingBody, RestartPolicyBody, UpdateBody
from pystack.model.container import (
    ContainerSpec,
    Device,
    EndpointSpec,
    Healthcheck,
    LogConfig,
    Mount,
    PortBinding,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pystack.model.errors import InvalidInput, Unsupported


def spec(**body: Any) -> ContainerSpec:
    return spec_of(jsons.validate(ContainerBody, {"Image": "busybox", **body}))


def host(**body: Any) -> ContainerSpec:
    return spec(HostConfig=body)


#: What docker CLI 28.2.2 sends for `docker run -it -p 8080:80 -v /srv:/srv:ro -v data:/data -e A=b --name x busybox sh`,
#: with the nulls and defaults that it does not leave out.
CLI_BODY: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": True,
    "AttachStdout": True,
    "AttachStderr": True,
    "ExposedPorts": {"80/tcp": {}},
    "Tty": True,
    "OpenStdin": True,
    "StdinOnce": True,
    "Env": ["A=b"],
    "Cmd": ["sh"],
    "Image": "busybox",
    "Volumes": {"/anonymous": {}},
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": {},
    "HostConfig": {
        "Binds": ["/srv:/srv:ro", "data:/data"],
        "ContainerIDFile": "",
        "LogConfig": {"Type": "", "Config": {}},
        "NetworkMode": "default",
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [40, 120],
        "CapAdd": None,
        "CapDrop": None,
        "CgroupnsMode": "",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": None,
        "GroupAdd": None,
        "IpcMode": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": False,
        "MemorySwappiness": -1,
        "OomKillDisable": False,
        "PidsLimit": 0,
        "Ulimits": [],
        "BlkioDeviceReadBps": [],
        "DeviceRequests": None,
        "MaskedPaths": None,
        "ReadonlyPaths": None,
    },
    "NetworkingConfig": {
        "EndpointsConfig": {"default": {"IPAMConfig": None, "Aliases": None, "MacAddress": ""}}
    },
}


def test_body_of_the_docker_cli() -> None:
    found = spec_of(jsons.validate(ContainerBody, CLI_BODY))
    assert found == ContainerSpec(
        image="busybox",
        attach_stdin=True,
        attach_stdout=True,
        attach_stderr=True,
        tty=True,
        open_stdin=True,
        stdin_once=True,
        env=("A=b",),
        command=("sh",),
        exposed_ports=("80/tcp",),
        volumes=("/anonymous",),
        mounts=(
            Mount(type="bind", source="/srv", target="/srv", read_only=True, create_host_path=True),
            Mount(type="volume", source="data", target="/data"),
        ),
        ports=(PortBinding(container_port=80, host_port=8080),),
        network_mode="bridge",
        console_size=(40, 120),
        endpoints=(EndpointSpec(network="bridge"),),
        log=LogConfig(),
    )


FULL = {
    "Hostname": "h",
    "Domainname": "d",
    "User": "1:2",
    "Env": ["A=1", "B"],
    "Cmd": ["a", "b"],
    "Entrypoint": ["e"],
    "WorkingDir": "/w",
    "Labels": {"l": "v"},
    "StopSignal": "SIGINT",
    "StopTimeout": 3,
    "ExposedPorts": {"53/udp": {}},
    "Volumes": {"/v": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2000000, "Retries": 2, "StartInterval": 1000000},
    "HostConfig": {
        "Binds": ["/a:/b:rshared", "/c:/d:ro,bind", "vol:/e:nocopy"],
        "Mounts": [
            {"Type": "bind", "Source": "/m", "Target": "/n", "ReadOnly": True},
            {
                "Type": "volume",
                "Source": "w",
                "Target": "/o",
                "VolumeOptions": {
                    "Labels": {"k": "v"},
                    "Subpath": "s",
                    "NoCopy": True,
                    "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}},
                },
            },
            {
                "Type": "tmpfs",
                "Target": "/p",
                "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o1777, "Options": [["noexec"]]},
            },
        ],
        "Tmpfs": {"/q": "size=1m"},
        "PortBindings": {
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5300-5310"}],
            "80/tcp": [{"HostPort": ""}],
        },
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["ALL"],
        "Dns": ["1.1.1.1"],
        "DnsSearch": ["x"],
        "DnsOptions": ["ndots:1"],
        "ExtraHosts": ["a:1.2.3.4"],
        "GroupAdd": ["7"],
        "IpcMode": "host",
        "PidMode": "host",
        "UTSMode": "host",
        "CgroupnsMode": "host",
        "CgroupParent": "/p",
        "Privileged": True,
        "PublishAllPorts": True,
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges"],
        "ShmSize": 4096,
        "Sysctls": {"net.core.somaxconn": "9"},
        "Init": True,
        "OomScoreAdj": 5,
        "MaskedPaths": [],
        "ReadonlyPaths": ["/x"],
        "Annotations": {"an": "no"},
        "VolumesFrom": ["other:ro"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Memory": 8388608,
        "MemorySwap": 16777216,
        "CpuRealtimeRuntime": 3,
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 5}],
        "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 50}],
        "StorageOpt": {"size": "1G"},
        "NanoCpus": 5,
        "PidsLimit": 9,
        "MemorySwappiness": 10,
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "r"}],
        "DeviceCgroupRules": ["c 1:3 r"],
        "NetworkMode": "net",
    },
}


def test_everything_survives_the_way_through_inspect() -> None:
    found = spec_of(jsons.validate(ContainerBody, {"Image": "i", **FULL}))
    assert found.healthcheck == Healthcheck(
        test=("CMD", "true"), interval=2_000_000, retries=2, start_interval=1_000_000
    )
    assert found.mounts[0].propagation == "rshared"
    assert found.mounts[1] == Mount(
        type="bind", source="/c", target="/d", read_only=True, recursive=False, create_host_path=True
    )
    assert found.mounts[3] == Mount(type="bind", source="/m", target="/n", read_only=True)
    assert found.ports[0] == PortBinding(
        container_port=53, protocol="udp", host_ip="127.0.0.1", host_port=5300, host_port_end=5310
    )
    assert found.resources.ulimits == (Ulimit(name="nofile", soft=1, hard=2),)
    assert found.resources.devices == (
        Device(path_on_host="/dev/fuse", path_in_container="/dev/f", cgroup_permissions="r"),
    )
    assert found.restart == RestartPolicy(name="on-failure", maximum_retry_count=3)
    assert found.masked_paths == ()
    shown = config_json(found) | {"HostConfig": host_config_json(found)}
    again = spec_of(jsons.validate(ContainerBody, jsons.parse(jsons.dumps(shown))))
    assert sorted(again.mounts, key=lambda m: m.target) == sorted(found.mounts, key=lambda m: m.target)
    assert dataclasses.replace(again, mounts=()) == dataclasses.replace(found, mounts=(), endpoints=())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ([], None), ("", None), ("sh -c", ("sh -c",)), ([""], ("",)), (["a"], ("a",))],
)
def test_commands(value: object, expected: tuple[str, ...] | None) -> None:
    assert spec(Cmd=["x"], Entrypoint=value).entrypoint == expected


@pytest.mark.parametrize(
    "body",
    [
        {"Env": "A=b"},
        {"Tty": "yes"},
        {"Cmd": 5},
        {"Labels": {"a": 1}},
        {"HostConfig": {"Memory": "512m"}},
        {"HostConfig": {"Memory": 1.5}},
        {"HostConfig": []},
        {"HostConfig": {"PortBindings": {"80/tcp": {}}}},
    ],
)
def test_wrong_types_are_refused_without_repeating_them(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="invalid JSON: ") as caught:
        spec(**body)
    assert "512m" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"RestartPolicy": {"Name": "sometimes"}}, "unknown policy 'sometimes'"),
        ({"PortBindings": {"0/tcp": []}}, "invalid port"),
        ({"PortBindings": {"80/icmp": []}}, "invalid port"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}, "invalid port"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "nowhere"}]}}, "invalid host address"),
        ({"Binds": ["/a:/b:bogus"]}, "invalid mode: bogus"),
        ({"Binds": ["/a:/"]}, "destination can't be '/'"),
        ({"Binds": ["./a:/b"]}, "use absolute path"),
        ({"Binds": ["/a:/b", "/c:/b"]}, "Duplicate mount point: /b"),
        ({"Mounts": [{"Type": "bind", "Target": "/b"}]}, 'type "bind": field Source must not be empty'),
        (
            {"Mounts": [{"Type": "tmpfs", "Target": "/b", "Source": "x"}]},
            "field Source must not be specified",
        ),
        ({"Mounts": [{"Type": "bogus", "Target": "/b"}]}, "mount type unknown"),
    ],
)
def test_refusals(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        host(**body)


def test_what_is_not_done_is_said() -> None:
    with pytest.raises(Unsupported, match="cannot"):
        host(Links=["a:b"])
    with pytest.raises(Unsupported) as refused:
        host(DeviceRequests=[{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu", "compute"]]}])
    assert str(refused.value) == 'could not select device driver "nvidia" with capabilities: [[gpu compute]]'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"IOMaximumIOps": 1}, "Invalid QoS settings: linux does not support Maximum IO Bandwidth"),
        ({"CpuCount": 1}, "cannot use CpuCount: it is for Windows containers"),
        ({"Isolation": "hyperv"}, r"invalid isolation \(hyperv\): linux only supports 'default'"),
        ({"BlkioDeviceReadBps": [{"Path": "sda", "Rate": 1}]}, "must be absolute"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": -1}]}, "-1 is negative"),
    ],
)
def test_limits_that_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        host(**body)


def test_what_an_update_sets() -> None:
    def asked(**body: Any) -> Resources | None:
        return update_of(jsons.validate(UpdateBody, body))

    assert asked(Memory=0, CpuShares=0, Devices=None, RestartPolicy={"Name": "always"}) is None
    assert asked(PidsLimit=-5, CpusetCpus="0") == Resources(pids_limit=0, cpuset_cpus="0")
    for field, value in (
        ("Devices", [{}]),
        ("Ulimits", [{}]),
        ("MemorySwappiness", 5),
        ("CgroupParent", "a"),
    ):
        with pytest.raises(InvalidInput, match=f"cannot update {field} of a container"):
            asked(**{field: value})


def test_bind_strings() -> None:
    assert bind_of("/data") == Mount(type="volume", target="/data")
    assert bind_of("/a/../b:/c/") == Mount(type="bind", source="/b", target="/c", create_host_path=True)
    assert bind_of("v:/c:z,cached", "nfs") == Mount(type="volume", source="v", target="/c", driver="nfs")
    for text in ("", ":", "a:b:c:d", "/a:b", "/a:ro", "v:/c:rshared", "/a:/b:ro,rw"):
        with pytest.raises(InvalidInput):
            bind_of(text)


def test_ephemeral_ports() -> None:
    assert bindings_of({"80": [PortBindingBody(HostPort="0"), PortBindingBody()], "81/tcp": None}) == (
        PortBinding(container_port=80),
        PortBinding(container_port=80),
    )


def test_networks() -> None:
    found = spec(
        MacAddress="02:42:ac:11:00:02",
        HostConfig={"NetworkMode": "front"},
        NetworkingConfig={
            "EndpointsConfig": {
                "front": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.1.0.5"}},
                "back": None,
            }
        },
    )
    assert found.network_mode == "front"
    assert found.endpoints == (
        EndpointSpec(
            network="front", aliases=("web",), ipv4_address="10.1.0.5", mac_address="02:42:ac:11:00:02"
        ),
        EndpointSpec(network="back"),
    )
    assert spec(NetworkDisabled=True).network_mode == "none"
    with pytest.raises(InvalidInput, match="conflicting options"):
        spec(HostConfig={"NetworkMode": "host"}, NetworkingConfig={"EndpointsConfig": {"front": None}})


def test_exec_and_restart_defaults() -> None:
    assert exec_of(
        jsons.validate(ExecBody, {"Cmd": ["ls"], "Tty": None, "ConsoleSize": [1, 2]})
    ).console_size == (1, 2)
    with pytest.raises(InvalidInput, match="No exec command specified"):
        exec_of(jsons.validate(ExecBody, {}))
    assert restart_of(RestartPolicyBody(Name="")) == restart_of(None) == RestartPolicy()


def test_an_empty_create_request_is_refused() -> None:
    with pytest.raises(InvalidInput, match="config cannot be empty"):
        spec_of(jsons.validate(ContainerBody, {}))
