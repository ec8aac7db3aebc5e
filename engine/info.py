"""Docker's /version and /info bodies. Flows in: facts about the host, counts. Flows out: JSON objects."""

from __future__ import annotations

import os
import platform
import time

from pystack import __version__
from pystack.engine import clock
from pystack.engine.services import Services
from pystack.kernel.host import facts
from pystack.model.states import ContainerState

API_VERSION = "1.50"
MIN_API_VERSION = "1.24"
#: What clients compare when they choose features: the Docker release whose API this engine serves.
DOCKER_VERSION = "28.2.2"

_INDEX = "https://index.docker.io/v1/"


def version() -> dict[str, object]:
    """The /version body: fields of the engine in both the old flat form and `Components`."""
    host = facts()
    details = {
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "Arch": host.architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": __version__,
        "GoVersion": f"none (Python {platform.python_version()})",
        "KernelVersion": host.kernel_release,
        "Os": "linux",
    }
    return {
        "Platform": {"Name": "pystack"},
        "Components": [{"Name": "Engine", "Version": DOCKER_VERSION, "Details": details}],
        "Version": DOCKER_VERSION,
        **{
            key: details[key]
            for key in ("ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os", "Arch")
        },
        "KernelVersion": host.kernel_release,
        "BuildTime": "",
        "PystackVersion": __version__,
    }


def info(services: Services, images: int) -> dict[str, object]:
    """The /info body; `images` is how many there are."""
    host = facts()
    features = services.cgroups.features
    states = [c.record.state for c in services.registry]
    cgroup_version = "2" if services.cgroups.hierarchy.mode == "v2" else "1"
    return {
        "ID": services.instance.id,
        "Containers": len(states),
        "ContainersRunning": states.count(ContainerState.RUNNING) + states.count(ContainerState.RESTARTING),
        "ContainersPaused": states.count(ContainerState.PAUSED),
        "ContainersStopped": sum(
            s in {ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD} for s in states
        ),
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", "extfs"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": features.memory_limit,
        "SwapLimit": features.swap_limit,
        "OomKillDisable": features.oom_kill_disable,
        "CpuCfsPeriod": features.cpu_cfs,
        "CpuCfsQuota": features.cpu_cfs,
        "CPUShares": features.cpu_shares,
        "CPUSet": features.cpuset,
        "PidsLimit": features.pids_limit,
        "IPv4Forwarding": True,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "Debug": False,
        "NFd": len(os.listdir("/dev/fd")),
        "NGoroutines": 1,
        "SystemTime": clock.format_ns(time.time_ns()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup_version,
        "NEventsListener": 0,
        "KernelVersion": host.kernel_release,
        "OperatingSystem": host.operating_system,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": host.machine,
        "IndexServerAddress": _INDEX,
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}
            },
            "Mirrors": None,
        },
        "NCPU": host.cpu_count,
        "MemTotal": host.memory,
        "GenericResources": None,
        "DockerRootDir": services.instance.root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": host.hostname,
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": DOCKER_VERSION,
        "Runtimes": {"pystack": {"path": "pystack"}, "runc": {"path": "pystack"}},
        "DefaultRuntime": "runc",
        "Swarm": _SWARM,
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": host.security_options(),
        "FirewallBackend": {"Driver": "nftables"},
        "CDISpecDirs": [],
        "Warnings": [],
    }


_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}
