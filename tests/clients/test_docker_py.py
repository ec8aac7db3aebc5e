"""docker-py 7 against a real engine: what test suites and scripts use of it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import docker
import docker.errors
import harness
import pytest
from docker.types import Mount

pytestmark = [pytest.mark.clients, pytest.mark.timeout(60)]


@pytest.fixture
def client(daemon: harness.Engine) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=daemon.environment["PYSTACK_HOST"])
    try:
        yield made
    finally:
        made.close()
        with warnings.catch_warnings():  # docker-py leaves the sockets of its streams to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def test_negotiation(client: docker.DockerClient) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.50"
    assert client.info()["OSType"] == "linux"


def test_run(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", "sh -c 'echo no >&2; exit 3'", remove=True)
    assert caught.value.exit_status == 3


def test_detached(client: docker.DockerClient) -> None:
    made = client.containers.run(
        "busybox",
        ["sleep", "1000"],
        detach=True,
        name="py",
        environment={"A": "b"},
        labels={"x": "y"},
        ports={"80/tcp": ("127.0.0.1", None)},
        mounts=[Mount("/scratch", "", type="tmpfs")],
        ulimits=[docker.types.Ulimit(name="nofile", soft=64, hard=64)],
        mem_limit="32m",
    )
    assert made.status == "created"
    made.reload()
    assert made.status == "running"
    assert made.labels["x"] == "y"
    assert made.attrs["HostConfig"]["Memory"] == 32 << 20
    assert made.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    assert [c.name for c in client.containers.list(filters={"label": "x=y"})] == ["py"]
    code, output = made.exec_run(["sh", "-c", "echo $A; ulimit -n"])
    assert (code, output) == (0, b"b\n64\n")
    code, (out, err) = made.exec_run(["sh", "-c", "echo o; echo e >&2; exit 2"], demux=True)
    assert (code, out, err) == (2, b"o\n", b"e\n")
    sample = made.stats(stream=False)
    assert sample["memory_stats"]["limit"] == 32 << 20
    assert made.top()["Titles"]
    made.stop(timeout=1)
    assert made.wait()["StatusCode"] == 137
    made.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("py")


def test_logs_stream(client: docker.DockerClient) -> None:
    made = client.containers.run("busybox", ["sh", "-c", "echo a; sleep 0.2; echo b"], detach=True)
    assert b"".join(made.logs(stream=True, follow=True)) == b"a\nb\n"
    assert made.logs(tail=1) == b"b\n"


def test_attach_socket(client: docker.DockerClient) -> None:
    made = client.containers.create("busybox", ["cat"], stdin_open=True, tty=True)
    stream = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    made.start()
    stream._sock.sendall(b"hi\n")
    seen = b""
    while b"hi\r\nhi\r\n" not in seen:
        piece = stream._sock.recv(100)
        assert piece, seen
        seen += piece
    stream.close()
    made.remove(force=True)


def test_images_networks_volumes(client: docker.DockerClient) -> None:
    assert "busybox:latest" in {tag for image in client.images.list() for tag in image.tags}
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(docker.errors.NotFound):
        client.images.pull("nosuch", tag="1")
    network = client.networks.create("pynet", driver="bridge", internal=True)
    assert client.networks.get("pynet").attrs["Internal"] is True
    network.remove()
    volume = client.volumes.create("pyvol", labels={"a": "b"})
    assert client.volumes.get("pyvol").attrs["Labels"] == {"a": "b"}
    volume.remove()


def test_events(client: docker.DockerClient) -> None:
    stream = client.events(decode=True, filters={"type": "container", "event": "die"})
    client.containers.run("busybox", ["sh", "-c", "exit 9"], detach=True, name="dies", labels={"k": "v"})
    event = next(stream)
    assert (event["Action"], event["Actor"]["Attributes"]["exitCode"]) == ("die", "9")
    assert event["Actor"]["Attributes"]["k"] == "v"
    stream.close()
