"""testcontainers-python against a real engine: generic containers, waiting for logs, ports and HTTP, networks, exec.

Its ryuk container, which removes what a killed test run left, would have to be pulled; it is switched off as its
documentation says, by TESTCONTAINERS_RYUK_DISABLED.
"""

from __future__ import annotations

import gc
import urllib.request
import warnings
from collections.abc import Iterator
from types import ModuleType

import harness
import pytest

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def library(daemon: harness.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("DOCKER_HOST", daemon.environment["PYSTACK_HOST"])
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core import config

    monkeypatch.setattr(config.testcontainers_config, "ryuk_disabled", True)
    from testcontainers.core import container

    yield container
    with warnings.catch_warnings():  # docker-py leaves the sockets of its streams to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_web_server_waited_for_by_http(library: ModuleType) -> None:
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    serve = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8000 -h /www"
    web = library.DockerContainer("busybox", command=["sh", "-c", serve]).with_exposed_ports(8000)
    web = web.with_env("A", "b").waiting_for(HttpWaitStrategy(8000).for_status_code(200))
    with web:
        url = f"http://{web.get_container_host_ip()}:{web.get_exposed_port(8000)}/"
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert reply.read() == b"hello\n"
        found = web.exec(["sh", "-c", "echo $A"])
        assert (found.exit_code, found.output) == (0, b"b\n")
        identity = web.get_wrapped_container().id
    client = library.DockerClient().client
    assert identity not in [item.id for item in client.containers.list(all=True)]
    client.close()


def test_logs_are_waited_for_and_containers_find_each_other(library: ModuleType) -> None:
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    with Network() as network:
        server = library.DockerContainer(
            "busybox", command=["sh", "-c", "echo ready; exec nc -lk -p 7 -e cat"]
        )
        server = server.with_network(network).with_network_aliases("echo")
        server = server.waiting_for(LogMessageWaitStrategy("ready"))
        ask = "sleep 0.2; echo hi | nc -w 5 echo 7; echo done; sleep 1000"
        client = library.DockerContainer("busybox", command=["sh", "-c", ask]).with_network(network)
        client = client.waiting_for(LogMessageWaitStrategy("done"))
        with server, client:
            out, err = client.get_logs()
            assert out == b"hi\ndone\n", err
            assert server.get_logs()[0].startswith(b"ready\n")


def test_a_message_that_never_comes(library: ModuleType) -> None:
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    never = LogMessageWaitStrategy("never").with_startup_timeout(1)
    made = library.DockerContainer("busybox", command=["sleep", "1000"]).waiting_for(never)
    try:
        with pytest.raises(TimeoutError):
            made.start()
    finally:
        made.stop()
