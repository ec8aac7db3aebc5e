"""Options of the log drivers: a `LogConfig` in; nothing, or InvalidInput in Docker's words, out. Pure.

Source: moby daemon/logger/factory.go and each driver's ValidateLogOpt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pystack.model.container import LogConfig
from pystack.model.errors import InvalidInput

#: Written by the shim to files, and no further.
FILE_DRIVERS = frozenset({"json-file", "local"})
#: Sent on by the daemon.
REMOTE_DRIVERS = frozenset({"syslog", "journald", "gelf", "fluentd"})
#: Docker's, of clouds that this engine does not serve.
REFUSED_DRIVERS = frozenset({"awslogs", "splunk", "gcplogs", "etwlogs"})
NAMES = tuple(sorted(FILE_DRIVERS | REMOTE_DRIVERS | {"none"}))

_COMMON = frozenset(
    {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
)
_EXTRA = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_OWN = {
    "json-file": _EXTRA | {"max-size", "max-file", "compress"},
    "local": frozenset({"max-size", "max-file", "compress"}),
    "journald": _EXTRA,
    "syslog": _EXTRA
    | {
        "syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert",
        "syslog-tls-key", "syslog-tls-skip-verify",
    },
    "gelf": _EXTRA
    | {
        "gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    },
    "fluentd": _EXTRA
    | {
        "fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit",
        "fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision",
        "fluentd-write-timeout",
    },
}  # fmt: skip
FACILITIES = {
    name: number
    for number, name in enumerate(
        "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()  # noqa: SIM905
    )
} | {f"local{n}": 16 + n for n in range(8)}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)i?b?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a driver sends: `kind` is udp, tcp, tls, unix (a stream) or unixgram."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""


def boolean(options: Mapping[str, str], key: str, default: bool) -> bool:
    """Go's strconv.ParseBool."""
    text = options.get(key, "")
    if not text:
        return default
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise InvalidInput(f"invalid value for option {key}: {text}", hint="give true or false")


def size(options: Mapping[str, str], key: str, default: int) -> int:
    """Bytes; "-1" is no limit."""
    text = options.get(key, "").strip().lower()
    if not text:
        return default
    if text == "-1":
        return -1
    match = _SIZE.match(text)
    if match is None:
        raise InvalidInput(f"invalid size: '{options[key]}' of log opt {key}", hint="write it like 10m")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def whole(options: Mapping[str, str], key: str, default: int | None) -> int | None:
    text = options.get(key, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise InvalidInput(f"invalid value for log opt '{key}': {text!r} is not a whole number")
    return int(text)


def seconds(options: Mapping[str, str], key: str, default: float) -> float:
    """Of a Go duration, such as 500ms."""
    text = options.get(key, "")
    if not text:
        return default
    if re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+", text) is None:
        raise InvalidInput(f'time: invalid duration "{text}" of log opt {key}', hint="write it like 500ms")
    return sum(float(n) * _UNITS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text))


def _network(address: str, kinds: Mapping[str, str], port: int, bad: str) -> Target:
    parts = urlsplit(address)
    if parts.scheme not in kinds:
        raise InvalidInput(bad)
    kind = kinds[parts.scheme]
    if kind.startswith("unix"):
        if not parts.path.startswith("/"):
            raise InvalidInput(f"{address}: cannot use it: give the socket's absolute path")
        return Target(kind=kind, path=parts.path)
    try:
        number = parts.port
    except ValueError:
        raise InvalidInput(f"invalid port in log address {address}") from None
    if parts.path not in {"", "/"}:
        raise InvalidInput(f"should not have a path: {address}")
    return Target(kind=kind, host=parts.hostname or "localhost", port=number or port)


def syslog_target(options: Mapping[str, str]) -> Target:
    """Port 514 unless the address says otherwise; without an address the host's own socket."""
    address = options.get("syslog-address", "")
    if not address:
        return Target(kind="unixgram", path="/dev/log")
    kinds = {"udp": "udp", "tcp": "tcp", "tcp+tls": "tls", "unix": "unix", "unixgram": "unixgram"}
    bad = f"unsupported scheme: '{urlsplit(address).scheme}'"
    return _network(address, kinds, 514, bad)


def gelf_target(options: Mapping[str, str]) -> Target:
    address = options.get("gelf-address", "")
    if not address:
        raise InvalidInput("gelf-address is a required parameter")
    target = _network(address, {"udp": "udp", "tcp": "tcp"}, 0, "gelf: endpoint needs to be TCP or UDP")
    if not target.port:
        raise InvalidInput(f"gelf: please provide gelf-address as proto://host:port: {address}")
    return target


def fluentd_target(options: Mapping[str, str]) -> Target:
    address = options.get("fluentd-address", "") or "tcp://localhost:24224"
    if "://" not in address:
        address = f"tcp://{address}"
    kinds = {"tcp": "tcp", "tls": "tls", "unix": "unix"}
    return _network(address, kinds, 24224, f"unsupported scheme: '{urlsplit(address).scheme}'")


def _check_common(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in {"", "blocking", "non-blocking"}:
        raise InvalidInput(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidInput("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        size(options, "max-buffer-size", 0)
    boolean(options, "cache-disabled", False)
    check_rotation(options, "cache-", size_default=20 << 20, count=5, compress=True)


def check_rotation(
    options: Mapping[str, str], prefix: str, *, size_default: int, count: int, compress: bool
) -> tuple[int, int, bool]:
    """(max_size, max_file, compress) by the options that begin with `prefix`."""
    limit = size(options, f"{prefix}max-size", size_default)
    files = whole(options, f"{prefix}max-file", count) or 0
    pack = boolean(options, f"{prefix}compress", compress and files > 1)
    if files < 1:
        raise InvalidInput("max-file cannot be less than 1")
    if limit < 0 and files > 1:
        raise InvalidInput("cannot use max-file without max-size", hint="give max-size, too")
    if pack and (limit < 0 or files < 2):
        raise InvalidInput("compress cannot be true when max-file is less than 2 or max-size is not set")
    return limit, files, pack


def rotation(log: LogConfig) -> tuple[int, int, bool]:
    """(max_size, max_file, compress) of the files that the shim writes for this driver."""
    if log.driver == "json-file":
        return check_rotation(log.options, "", size_default=-1, count=1, compress=False)
    prefix = "" if log.driver == "local" else "cache-"
    return check_rotation(log.options, prefix, size_default=20 << 20, count=5, compress=True)


def readable(log: LogConfig) -> bool:
    """Whether `docker logs` works: from the driver's own files, or from what is kept beside a remote one."""
    if log.driver in REMOTE_DRIVERS:
        return not boolean(log.options, "cache-disabled", False)
    return log.driver != "none"


def _check_syslog(options: Mapping[str, str]) -> None:
    syslog_target(options)
    facility = options.get("syslog-facility", "")
    if facility and facility not in FACILITIES and not (facility.isdigit() and int(facility) < 24):
        raise InvalidInput("invalid syslog facility")
    if options.get("syslog-format", "") not in {"", "rfc3164", "rfc5424", "rfc5424micro"}:
        raise InvalidInput("Invalid syslog format")


def _check_gelf(options: Mapping[str, str]) -> None:
    target = gelf_target(options)
    for key in ("gelf-compression-level", "gelf-compression-type"):
        if target.kind == "tcp" and key in options:
            raise InvalidInput("compression is only supported on UDP")
    for key in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if target.kind == "udp" and key in options:
            raise InvalidInput(f'"{key}" is only supported on TCP')
        whole(options, key, 3)
    if options.get("gelf-compression-type", "gzip") not in {"gzip", "zlib", "none"}:
        raise InvalidInput(
            f'gelf: invalid compression type: "{options["gelf-compression-type"]}"', hint="gzip, zlib or none"
        )
    if options.get("gelf-compression-level", "1") not in {str(n) for n in range(-1, 10)}:
        raise InvalidInput(
            f'gelf: invalid compression level: "{options["gelf-compression-level"]}"', hint="-1 to 9"
        )


def _check_fluentd(options: Mapping[str, str]) -> None:
    fluentd_target(options)
    for key in ("fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision"):
        boolean(options, key, False)
    size(options, "fluentd-buffer-limit", 0)
    whole(options, "fluentd-max-retries", None)
    for key in ("fluentd-retry-wait", "fluentd-write-timeout"):
        seconds(options, key, 0)
    interval = seconds(options, "fluentd-async-reconnect-interval", 0)
    if interval and not 0.1 <= interval <= 10:
        raise InvalidInput(
            "invalid value for fluentd-async-reconnect-interval: must be between 100ms and 10s"
        )


_CHECKS = {"syslog": _check_syslog, "gelf": _check_gelf, "fluentd": _check_fluentd}


def check(log: LogConfig) -> None:
    """Everything about a container's log config but its tag. InvalidInput, in Docker's words where there are some."""
    if log.driver == "none":
        return
    _check_common(log.options)
    if log.driver in REFUSED_DRIVERS:
        raise InvalidInput(
            f"logger: no log driver named '{log.driver}' is registered",
            hint=f"this engine does not send logs to that service; it has {', '.join(NAMES)}",
        )
    if log.driver not in _OWN:
        raise InvalidInput(
            f"logger: no log driver named '{log.driver}' is registered", hint=f"there are {', '.join(NAMES)}"
        )
    unknown = set(log.options) - _OWN[log.driver] - _COMMON
    if unknown:
        raise InvalidInput(f"unknown log opt '{min(unknown)}' for {log.driver} log driver")
    for key in ("labels-regex", "env-regex"):
        try:
            re.compile(log.options.get(key, ""))
        except re.error as error:
            raise InvalidInput(f"cannot read log opt {key}: {error}") from None
    if log.driver in _CHECKS:
        _CHECKS[log.driver](log.options)
    rotation(log)
