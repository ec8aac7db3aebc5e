"""The daemon's configuration file and flags: what is taken, what is refused and how; addresses; the units of systemd."""

from __future__ import annotations

import configparser
import json
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest

from pystack.api import listeners
from pystack.api.configuration import Listening, file_of, load
from pystack.api.systemd import Notifier, passed_sockets
from pystack.api.tls import context_of
from pystack.engine.defaults import with_defaults
from pystack.model.container import ContainerSpec, LogConfig, Resources, Ulimit
from pystack.model.errors import EngineError, InvalidInput, PystackError
from pystack.model.names import Instance
from pystack.model.settings import AddressPool, Settings
from pystack.network.ipam import choose_pool, subnetted

UNITS = Path(__file__).resolve().parents[2] / "contrib" / "systemd"


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_every_key_is_carried_over(tmp_path: Path) -> None:
    path = write(
        tmp_path / "daemon.json",
        {
            "hosts": ["unix:///run/x.sock"],
            "group": "adm",
            "debug": True,
            "labels": ["a=b"],
            "live-restore": False,
            "shutdown-timeout": 3,
            "log-driver": "none",
            "log-opts": {"max-size": "1m"},
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 9, "Soft": 8}},
            "default-shm-size": "16m",
            "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}],
            "init": True,
            "no-new-privileges": True,
            "dns": ["192.0.2.1"],
            "dns-search": ["x.test"],
            "dns-opts": ["ndots:1"],
            "authorization-plugins": ["p"],
            "plugin-directories": ["/p"],
        },
    )
    found = load(path, {"tlsverify": True})
    assert found.listening == Listening(hosts=("unix:///run/x.sock",), group="adm", tls_verify=True)
    assert found.settings == Settings(
        debug=True,
        labels=("a=b",),
        live_restore=False,
        shutdown_timeout=3,
        log=LogConfig(driver="none", options={"max-size": "1m"}),
        default_ulimits=(Ulimit(name="nofile", soft=8, hard=9),),
        default_shm_size=16 << 20,
        default_address_pools=(AddressPool(base="10.9.0.0/16", size=24),),
        init=True,
        no_new_privileges=True,
        dns=("192.0.2.1",),
        dns_search=("x.test",),
        dns_options=("ndots:1",),
        authorization_plugins=("p",),
        plugin_directories=("/p",),
    )
    assert load("", {}).settings == Settings()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ({"live_restore": 1}, "unknown key 'live_restore'", "did you mean 'live-restore'?"),
        ({"log-drivers": "x"}, "unknown key 'log-drivers'", "did you mean 'log-driver'?"),
        ({"debug": "yes"}, "debug: Input should be a valid boolean", None),
        ({"labels": ["a"]}, "'a': it is not key=value", None),
        ({"labels": ["a=1", "a=2"]}, "a has two values", None),
        ({"tls": True}, "tls without tlsverify would let anybody in", None),
        ({"shutdown-timeout": -2}, "shutdown-timeout", None),
        ({"default-ulimits": {"a": {"Name": "b", "Hard": 1, "Soft": 1}}}, "the entry 'a' has the name 'b'", None),
        ({"default-address-pools": [{"base": "10.0.0.1/16", "size": 24}]}, "has host bits set", None),
        ({"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}, "between 16 and 30", None),
        ({"default-shm-size": "much"}, "invalid size", None),
        ("{", "invalid JSON", None),
        ("[]", "not a JSON object", None),
        ('{"debug": true} {}', "unexpected content", None),
        ({"hosts": []}, "hosts given as a flag and in", "say it in one place"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path: Path, text: Any, message: str, hint: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(write(tmp_path / "d.json", text), {"hosts": ["fd://"]})
    assert message in caught.value.message
    assert hint is None or caught.value.hint == hint
    with pytest.raises(EngineError, match="cannot read the configuration file"):
        load(str(tmp_path / "none.json"), {})


def test_an_engine_reads_the_file_in_its_own_root(tmp_path: Path) -> None:
    instance = Instance(root=str(tmp_path), run="/r", socket="/r/s")
    assert file_of(instance) == ""
    assert file_of(instance) != write(tmp_path / "daemon.json", "{}")
    assert file_of(instance) == str(tmp_path / "daemon.json")


def test_defaults_fill_what_a_request_leaves_out() -> None:
    settings = Settings(
        log=LogConfig(driver="json-file", options={"max-size": "1m", "max-file": "2"}),
        default_ulimits=(Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=0, hard=0)),
        default_shm_size=5,
        init=True,
        no_new_privileges=True,
        dns=("192.0.2.1",),
    )
    plain = with_defaults(ContainerSpec(image="x"), settings)
    assert plain.log == settings.log
    assert (plain.shm_size, plain.init, plain.dns) == (5, True, ("192.0.2.1",))
    assert plain.security_opt == ("no-new-privileges",)
    assert plain.resources.ulimits == settings.default_ulimits
    own = ContainerSpec(
        image="x",
        log=LogConfig(driver="none"),
        shm_size=7,
        init=False,
        dns=("192.0.2.2",),
        security_opt=("no-new-privileges=false",),
        resources=Resources(ulimits=(Ulimit(name="nofile", soft=9, hard=9),)),
    )
    asked = with_defaults(own, settings)
    assert (asked.log, asked.shm_size, asked.init) == (own.log, 7, False)
    assert (asked.dns, asked.security_opt) == (own.dns, own.security_opt)
    assert [(u.name, u.soft) for u in asked.resources.ulimits] == [("nofile", 9), ("core", 0)]
    sized = with_defaults(ContainerSpec(image="x", log=LogConfig(options={"max-size": "9m"})), settings)
    assert sized.log.options == {"max-size": "9m", "max-file": "2"}
    assert with_defaults(ContainerSpec(image="x"), Settings()).init is None


def test_address_pools_are_cut_in_order() -> None:
    pools = subnetted([AddressPool(base="10.9.0.0/16", size=24), AddressPool(base="10.8.0.0/24", size=25)])
    assert [str(p) for p in (pools[0], pools[1], pools[-1])] == [
        "10.9.0.0/24",
        "10.9.1.0/24",
        "10.8.0.128/25",
    ]
    assert choose_pool([pools[0]], pools) == pools[1]


@pytest.mark.parametrize(
    "host", ["tcp://127.0.0.1/path", "http://x", "unix://relative", "tcp://h:port", "fd://"]
)
def test_addresses_that_are_refused_leave_nothing_open(tmp_path: Path, host: str) -> None:
    own = str(tmp_path / "s")
    with pytest.raises(PystackError, match="cannot listen"):
        listeners.open_all(own, Listening(hosts=(host,), group=""), [])
    assert os.listdir(tmp_path) == []


def test_sockets_have_their_mode_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.rename

    def watch(source: str, target: str) -> None:
        seen.append((os.path.exists(target), stat.S_IMODE(os.stat(source).st_mode)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watch)
    own, other = str(tmp_path / "a.sock"), str(tmp_path / "b.sock")
    mine = Listening(hosts=(f"unix://{own}", f"unix://{other}"), group=str(os.getgid()))
    opened = listeners.open_all(own, mine, [])
    try:
        assert [listener.path for listener in opened] == [own, other]
        assert seen == [(False, 0o660)] * 2
        for path in (own, other):
            assert (os.stat(path).st_gid, stat.S_IMODE(os.stat(path).st_mode)) == (os.getgid(), 0o660)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
    finally:
        listeners.close_all(opened)
    assert os.listdir(tmp_path) == []
    with pytest.raises(EngineError, match="there is none"):
        listeners.group_of("nosuch-group")


def test_tls_needs_every_file_and_asks_for_certificates(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    paths = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    issued.private_key_pem.write_to_path(paths["key"])
    full = {"tls_ca": paths["ca"], "tls_certificate": paths["cert"], "tls_key": paths["key"]}
    context = context_of(Listening(tls_verify=True, **full), "tcp://x")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(InvalidInput, match="without tlsverify: whoever reaches the API is root"):
        context_of(Listening(**full), "tcp://x")
    for left_out in full:
        with pytest.raises(InvalidInput, match="cannot listen on tcp://x without"):
            context_of(Listening(tls_verify=True, **{**full, left_out: ""}), "tcp://x")
    with pytest.raises(EngineError, match="the TLS files"):
        context_of(Listening(tls_verify=True, **{**full, "tls_key": paths["ca"]}), "tcp://x")


def test_what_systemd_says_is_taken_out_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "n"))
        for name, value in {
            "NOTIFY_SOCKET": str(tmp_path / "n"),
            "WATCHDOG_USEC": "3000000",
            "WATCHDOG_PID": str(os.getpid()),
            "LISTEN_FDS": "1",
            "LISTEN_PID": "1",
        }.items():
            monkeypatch.setenv(name, value)
        notify = Notifier()
        assert notify.watchdog == 3.0
        assert passed_sockets() == [], "they are of another process"
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"} & set(os.environ)
        notify.reloading()
        assert heard.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_units_of_systemd() -> None:
    """Where systemd is installed tests/kernel/test_api_listeners.py has it verify them."""

    def unit(name: str) -> configparser.ConfigParser:
        parser = configparser.ConfigParser(strict=True)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(UNITS / name)
        return parser

    service, sock = unit("pystack.service"), unit("pystack.socket")
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["KillMode"] == "process", "or stopping the daemon would kill the containers"
    assert service["Service"]["Delegate"] == "yes"
    assert service["Service"]["ExecStart"].endswith("pystack daemon --host fd://")
    assert float(service["Service"]["WatchdogSec"]) > 0
    assert service["Unit"]["Requires"] == "pystack.socket"
    assert sock["Socket"]["ListenStream"] == "/run/pystack/pystack.sock"
    assert sock["Socket"]["SocketMode"] == "0660"
