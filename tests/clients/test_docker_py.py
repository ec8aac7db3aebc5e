"""docker-py 7 against a real engine: what test suites and scripts use of it."""

from __future__ import annotations

import gc
import io
import tarfile
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


def test_files_go_in_and_out(client: docker.DockerClient) -> None:
    made = client.containers.run("busybox", ["sleep", "1000"], detach=True, name="files")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("in.txt")
        info.size, info.mode = 4, 0o640
        archive.addfile(info, io.BytesIO(b"text"))
    assert made.put_archive("/tmp", packed.getvalue()) is True
    assert made.exec_run(["stat", "-c", "%a %s", "/tmp/in.txt"]).output == b"640 4\n"
    pieces, stat = made.get_archive("/tmp/in.txt")
    assert (stat["name"], stat["size"]) == ("in.txt", 4)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        assert archive.extractfile("in.txt").read() == b"text"
    assert {"Path": "/tmp/in.txt", "Kind": 1} in made.diff()
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.export()))) as archive:
        assert "tmp/in.txt" in archive.getnames()
    with pytest.raises(docker.errors.NotFound):
        made.get_archive("/nowhere")


def test_a_committed_image_is_saved_loaded_and_removed(client: docker.DockerClient) -> None:
    made = client.containers.run("busybox", ["sh", "-c", "echo kept >/kept"], detach=True)
    made.wait()
    image = made.commit("pyimage", tag="1", changes='CMD ["cat", "/kept"]')
    assert client.images.get("pyimage:1").id == image.id
    assert client.containers.run("pyimage:1", remove=True) == b"kept\n"
    saved = b"".join(image.save(named="pyimage:1"))
    made.remove()
    client.images.remove("pyimage:1")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("pyimage:1")
    assert client.images.load(saved)[0].tags == ["pyimage:1"]
    assert client.containers.run("pyimage:1", remove=True) == b"kept\n"
    assert client.images.get("pyimage:1").tag("again", tag="2") is True
    client.images.remove("again:2")
    client.images.remove("pyimage:1")


def test_life_and_networks(client: docker.DockerClient) -> None:
    network = client.networks.create("pynet", labels={"n": "1"})
    made = client.containers.run("busybox", ["sleep", "1000"], detach=True, name="life", network="pynet")
    made.pause()
    made.reload()
    assert made.status == "paused"
    made.unpause()
    made.rename("lives")
    made.update(mem_limit="64m", memswap_limit="64m")
    made.restart(timeout=0)
    made.reload()
    assert (made.name, made.status, made.attrs["HostConfig"]["Memory"]) == ("lives", "running", 64 << 20)
    other = client.networks.create("pynet2")
    other.connect(made, aliases=["friend"])
    made.reload()
    assert set(made.attrs["NetworkSettings"]["Networks"]) == {"pynet", "pynet2"}
    assert [c.name for c in client.networks.get("pynet2").containers] == ["lives"]
    with pytest.raises(docker.errors.APIError, match="active endpoints"):
        other.remove()
    other.disconnect(made)
    other.remove()
    with pytest.raises(docker.errors.APIError) as caught:
        made.remove()
    assert caught.value.status_code == 409
    made.kill(signal="KILL")
    assert made.wait(condition="not-running")["StatusCode"] == 137
    made.remove()
    network.remove()


def test_prunes_take_what_is_unused(client: docker.DockerClient) -> None:
    kept = client.containers.run("busybox", ["sleep", "1000"], detach=True, volumes=["pykept:/data"])
    ended = client.containers.run("busybox", ["true"], detach=True, labels={"gone": "1"})
    ended.wait()
    client.networks.create("pyunused")
    client.volumes.create("pyunused")
    assert client.containers.prune()["ContainersDeleted"] == [ended.id]
    assert client.networks.prune()["NetworksDeleted"] == ["pyunused"]
    assert client.volumes.prune(filters={"all": True})["VolumesDeleted"] == ["pyunused"]
    assert [v["Name"] for v in client.df()["Volumes"]] == ["pykept"]
    kept.remove(force=True)
    client.volumes.get("pykept").remove()
