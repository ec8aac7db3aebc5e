"""Limits through the real docker client: messages, `update` live, `stats`, devices, what is refused and what is warned of."""

from __future__ import annotations

import json

import harness
import pytest

from pystack.kernel.cgroups import detect

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

RUN = ("run", "-d", "--net", "none", "--name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--memory", "5m"), "Minimum memory limit allowed is 6MB"),
        (
            ("--memory", "64m", "--memory-swap", "32m"),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (("--cpus", "1", "--cpu-period", "1000"), "Nano CPUs and CPU Period cannot both be set"),
        (("--cpu-quota", "10"), "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (("--blkio-weight", "5"), "Range of blkio weight is from 10 to 1000"),
        (("--cpuset-cpus", "4000"), "Requested CPUs are not available - requested 4000, available: 0"),
        (("--device-read-bps", "/dev/no-such-disk:1mb"), "cannot limit block device /dev/no-such-disk"),
        (("--device", "/dev/no-such-device"), "/dev/no-such-device"),
        (("--gpus", "all"), 'could not select device driver "" with capabilities: [[gpu]]'),
        (
            ("--storage-opt", "size=1G"),
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
        (("--runtime", "kata"), "unknown or invalid runtime name: kata"),
        (
            ("--annotation", "pystack.cgroup.memory.max=1"),
            "pystack.cgroup" if detect().mode == "v2" else "cgroup v1",
        ),
    ],
)
def test_refused(daemon: harness.Engine, arguments: tuple[str, ...], message: str) -> None:
    done = daemon.docker("create", *arguments, "busybox", "true", check=False)
    assert done.returncode != 0
    assert message in done.stderr


def test_update_and_stats(daemon: harness.Engine) -> None:
    daemon.docker(*RUN, "one", "--memory", "64m", "--cpu-shares", "300", "busybox", "sleep", "1000")
    assert daemon.inspect("one")["HostConfig"]["MemorySwap"] == 128 << 20
    refused = daemon.docker("update", "--memory", "256m", "one", check=False)
    assert "update the memoryswap at the same time" in refused.stderr
    daemon.docker("update", "--memory", "256m", "--memory-swap", "-1", "--pids-limit", "7", "one")
    daemon.docker("update", "--restart", "on-failure:3", "one")
    found = daemon.inspect("one")["HostConfig"]
    assert {name: found[name] for name in ("Memory", "MemorySwap", "PidsLimit", "CpuShares")} == {
        "Memory": 256 << 20,
        "MemorySwap": -1,
        "PidsLimit": 7,
        "CpuShares": 300,
    }
    assert found["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    shown = json.loads(daemon.docker("stats", "--no-stream", "--format", "json", "one").stdout)
    assert shown["MemUsage"].endswith("/ 256MiB")
    assert shown["PIDs"] == "1"
    one_shot = daemon.client.get("/containers/one/stats", {"stream": False, "one-shot": True})
    assert one_shot["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    primed = daemon.client.get("/containers/one/stats", {"stream": False})
    assert primed["precpu_stats"]["system_cpu_usage"] < primed["cpu_stats"]["system_cpu_usage"]
    assert primed["preread"] < primed["read"]
    daemon.docker("stop", "-t", "0", "one")
    stopped = daemon.client.get("/containers/one/stats", {"stream": False})
    assert (stopped["id"], stopped["read"]) == (primed["id"], "0001-01-01T00:00:00Z")
    assert daemon.docker("update", "--restart", "always:2", "one", check=False).returncode != 0
