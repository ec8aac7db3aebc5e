"""A daemon with a configuration file and a TCP listener: the docker client over mutual TLS, reload by SIGHUP, systemd's units."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import images
import pytest
import trustme

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

UNITS = Path(__file__).resolve().parents[2] / "contrib" / "systemd"


class Certificates:
    """What a daemon and its client need, in files named as the docker client wants them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1")
        client = authority.issue_cert("client@pystack.test")
        authority.cert_pem.write_to_path(place / "ca.pem")
        server.cert_chain_pems[0].write_to_path(place / "server.pem")
        server.private_key_pem.write_to_path(place / "server-key.pem")
        client.cert_chain_pems[0].write_to_path(place / "cert.pem")
        client.private_key_pem.write_to_path(place / "key.pem")
        (place / "server-key.pem").chmod(0o600)

    def context(self, *, certificate: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.place / "ca.pem"))
        if certificate:
            context.load_cert_chain(self.place / "cert.pem", self.place / "key.pem")
        return context


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Daemon:
    """`pystack daemon` in the foreground, with a file of its own."""

    def __init__(self, engine: harness.Engine) -> None:
        self.engine = engine
        self.file = Path(engine.instance.root, "daemon.json")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, **configuration: Any) -> None:
        self.write(**configuration)
        with open(f"{self.engine.instance.run}/daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pystack", "daemon", *flags],
                env=self.engine.environment,
                stdout=log,
                stderr=log,
            )
        harness.wait_until(self.answers, within=30, what=f"an answer\n{self.engine.log()}")

    def write(self, **configuration: Any) -> None:
        self.file.write_text(json.dumps({name.replace("_", "-"): v for name, v in configuration.items()}))

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.engine.log()
        try:
            return bool(self.engine.pid())
        except (harness.EngineUnreachable, OSError):
            return False

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture
def listening(engine: harness.Engine) -> Iterator[Daemon]:
    made = Daemon(engine)
    yield made
    made.file.unlink(missing_ok=True)
    if made.process is not None and made.process.poll() is None:
        made.engine.remove_everything()
    made.stop()


def _answered(port: int, context: ssl.SSLContext) -> bool:
    """Whether the daemon answers a client with this context. With TLS 1.3 its refusal comes after the handshake."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            return tls.recv(4) == b"HTTP"
    except (ssl.SSLError, ConnectionError):
        return False


def test_the_docker_client_over_mutual_tls(listening: Daemon, tmp_path: Path) -> None:
    certificates, port = Certificates(tmp_path), free_port()
    listening.start(
        "--host",
        f"tcp://127.0.0.1:{port}",
        "--tlsverify",
        *(
            f"--{flag}={tmp_path}/{name}"
            for flag, name in (("tlscacert", "ca.pem"), ("tlscert", "server.pem"))
        ),
        f"--tlskey={tmp_path}/server-key.pem",
        labels=["place=test"],
    )
    engine = listening.engine
    images.busybox_archive(tmp_path / "busybox.tar")

    def docker(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "--tlsverify", *arguments],
            env={
                **engine.environment,
                "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
                "DOCKER_CERT_PATH": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    assert docker("load", "-q", "-i", str(tmp_path / "busybox.tar")).returncode == 0
    shown = docker("info", "--format", "{{json .Labels}} {{.LiveRestoreEnabled}}")
    assert shown.stdout.strip() == '["place=test"] true', shown.stderr
    # End of input is TLS's close_notify; what the program says after it must still arrive.
    said = docker(
        "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; sleep 0.3; echo after; exit 3",
        input="hello\n" * 20000,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (3, "hello\n" * 20000 + "after\n"), said.stderr
    assert not _answered(port, certificates.context(certificate=False)), "a client without a certificate"
    assert _answered(port, certificates.context(certificate=True))
    with socket.create_connection(("127.0.0.1", port), 10) as plain, plain.makefile("rb") as answer:
        plain.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in answer.read(100)
    assert engine.pid(), "the own socket of the instance is there, too"


def test_tcp_without_tls_is_refused_with_the_reason(engine: harness.Engine, tmp_path: Path) -> None:
    done = engine.run("daemon", "--host", "tcp://127.0.0.1:2375", check=False)
    assert done.returncode == 1
    assert (
        "cannot listen on tcp://127.0.0.1:2375 without tlsverify: whoever reaches the API is root"
        in done.stderr
    )
    file = tmp_path / "d.json"
    file.write_text('{"live-restor": true}')
    wrong = engine.run("daemon", "--validate", "--config-file", str(file), check=False)
    assert (wrong.returncode, "did you mean 'live-restore'?" in wrong.stderr) == (1, True), wrong.stderr
    file.write_text('{"live-restore": true}')
    assert "configuration OK" in engine.run("daemon", "--validate", "--config-file", str(file)).stdout


def test_reload_and_defaults_and_an_end_with_the_containers(listening: Daemon, tmp_path: Path) -> None:
    engine = listening.engine
    first = {
        "log_driver": "none",
        "default_ulimits": {"nofile": {"Name": "nofile", "Hard": 222, "Soft": 111}},
        "default_shm_size": "7m",
        "default_address_pools": [{"base": "10.213.64.0/20", "size": 26}],
    }
    listening.start(**first)
    images.busybox_archive(tmp_path / "busybox.tar")
    engine.docker("load", "-q", "-i", str(tmp_path / "busybox.tar"))
    said = engine.docker(
        "run", "--name", "one", "--network", "none", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn; df -k /dev/shm",
    ).stdout.split()  # fmt: skip
    assert said[:2] == ["111", "222"]
    assert str(7 << 10) in said
    assert engine.inspect("one")["HostConfig"]["LogConfig"]["Type"] == "none"
    engine.docker("network", "create", "pooled")
    subnet = engine.docker("network", "inspect", "pooled", "--format", "{{(index .IPAM.Config 0).Subnet}}")
    assert subnet.stdout.startswith("10.213.6"), subnet.stdout
    assert subnet.stdout.strip().endswith("/26")
    events = subprocess.Popen(
        ["docker", "events", "--filter", "type=daemon", "--format", "{{.Action}} {{json .Actor.Attributes}}"],
        env=engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    harness.wait_until(lambda: engine.client.get("/info")["NEventsListener"], what="the listener")
    assert listening.process is not None
    listening.file.write_text('{"debg": true}')
    listening.process.send_signal(signal.SIGHUP)
    harness.wait_until(lambda: "going on with the old configuration" in engine.log(), what="the refusal")
    listening.write(**first | {"live_restore": False, "labels": ["a=b"], "log_driver": "json-file"})
    listening.process.send_signal(signal.SIGHUP)
    harness.wait_until(lambda: engine.client.get("/info")["Labels"] == ["a=b"], what="the reload")
    assert events.stdout is not None
    action, attributes = events.stdout.readline().split(" ", 1)
    assert (action, json.loads(attributes)["live-restore"]) == ("reload", "false")
    events.terminate()
    events.wait(10)
    events.stdout.close()
    assert engine.client.get("/info")["LiveRestoreEnabled"] is False
    for name, policy in (("keeps", "unless-stopped"), ("ends", "no")):
        engine.docker(
            "run", "-d", "--name", name, "--restart", policy, "--network", "none", "busybox", "sleep", "1000"
        )
    listening.stop()
    listening.start(live_restore=True)
    harness.wait_until(lambda: engine.inspect("keeps")["State"]["Running"], what="the policy's restart")
    assert engine.inspect("ends")["State"]["Status"] == "exited"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/pystack ", f"{sys.executable} -m pystack ")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS.iterdir())],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "pystack" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
