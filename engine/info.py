"""Docker's /version and /info bodies. Flows in: facts about the host, counts. Flows out: JSON objects."""

from __future__ import annotations

import asyncio
import os
import platform
import time

from pystack import __version__
from pystack.engine import clock
from pystack.engine.logdrivers import options as logdrivers
from pystack.engine.services import Services
from pystack.kernel import sysctl
from pystack.kernel.host import facts, file_system_of
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
    return {
        "ID": services.instance.id,
        "Images": images,
        **_containers(services),
        **_host(services),
        **_features(services),
        **_engine(services),
        **_NOT_HERE,
    }


def _containers(services: Services) -> dict[str, object]:
    states = [c.record.state for c in services.registry]
    stopped = {ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD}
    return {
        "Containers": len(states),
        "ContainersRunning": states.count(ContainerState.RUNNING) + states.count(ContainerState.RESTARTING),
        "ContainersPaused": states.count(ContainerState.PAUSED),
        "ContainersStopped": sum(state in stopped for state in states),
    }


def _host(services: Services) -> dict[str, object]:
    host = facts()
    return {
        "Name": host.hostname,
        "KernelVersion": host.kernel_release,
        "OperatingSystem": host.operating_system,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": host.machine,
        "NCPU": host.cpu_count,
        "MemTotal": host.memory,
        "SystemTime": clock.format_ns(time.time_ns()),
        "NFd": len(os.listdir("/dev/fd")),
        "SecurityOptions": host.security_options(),
        "CgroupVersion": "2" if services.cgroups.hierarchy.mode == "v2" else "1",
        "CgroupDriver": "cgroupfs",
    }


def _features(services: Services) -> dict[str, object]:
    features = services.cgroups.features
    return {
        "MemoryLimit": features.memory_limit,
        "SwapLimit": features.swap_limit,
        "OomKillDisable": features.oom_kill_disable,
        "CpuCfsPeriod": features.cpu_cfs,
        "CpuCfsQuota": features.cpu_cfs,
        "CPUShares": features.cpu_shares,
        "CPUSet": features.cpuset,
        "PidsLimit": features.pids_limit,
        "IPv4Forwarding": sysctl.get("ipv4/ip_forward", "0") == "1",
        "BridgeNfIptables": sysctl.get("bridge/bridge-nf-call-iptables", "0") == "1",
        "BridgeNfIp6tables": sysctl.get("bridge/bridge-nf-call-ip6tables", "0") == "1",
    }


def _engine(services: Services) -> dict[str, object]:
    return {
        "ServerVersion": DOCKER_VERSION,
        "DockerRootDir": services.instance.root,
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", file_system_of(services.instance.root)]],
        "LoggingDriver": services.settings.log.driver,
        "LiveRestoreEnabled": services.settings.live_restore,
        "Debug": services.settings.debug,
        "Labels": list(services.settings.labels),
        "NGoroutines": len(asyncio.all_tasks()),
        "NEventsListener": services.events.listeners,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": list(services.settings.authorization_plugins) or None,
            "Log": list(logdrivers.NAMES),
        },
        "Runtimes": {"pystack": {"path": "pystack"}, "runc": {"path": "pystack"}},
        "DefaultRuntime": "runc",  # what clients compare with; pystack runs it all the same
        "InitBinary": "docker-init",
        "FirewallBackend": {"Driver": "nftables"},
        "IndexServerAddress": _INDEX,
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}
            },
            "Mirrors": None,
        },
    }


_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}

#: What Docker tells of and this engine does not have.
_NOT_HERE: dict[str, object] = {
    "Swarm": _SWARM,
    "GenericResources": None,
    "HttpProxy": "",
    "HttpsProxy": "",
    "NoProxy": "",
    "ExperimentalBuild": False,
    "Isolation": "",
    "ContainerdCommit": {"ID": ""},
    "RuncCommit": {"ID": ""},
    "InitCommit": {"ID": ""},
    "CDISpecDirs": [],
    "Warnings": [],
}
