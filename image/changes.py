"""`--change` of commit and import: lines of a Dockerfile over an image's config. JSON objects and text in, JSON out. Pure.

The config is the `config` object of an OCI image with Docker's additions (Healthcheck, OnBuild, Shell). Which instructions
there are, their defaults and messages: moby `builder/dockerfile`, buildkit `instructions/parse.go`.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pystack.image.shellwords import expand, split
from pystack.model.durations import parse_duration
from pystack.model.errors import InvalidInput

Config = dict[str, Any]

_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(?:.*:)?([0-9]+)(?:-([0-9]+))?\Z")
_PERIODS = {
    "interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "start-interval": "StartInterval",
}  # fmt: skip
_LINES_MAX = 1 << 20


def apply(config: Mapping[str, Any], changes: Sequence[str]) -> Config:
    """The config after the changes. InvalidInput, in Docker's words, when one cannot be carried out."""
    text = "\n".join(changes)
    if not changes:
        return dict(config)
    if len(text) > _LINES_MAX:
        raise InvalidInput("cannot apply the changes: they are too long")
    work = _Changes(config)
    lines = _instructions(text)
    if not lines:
        raise InvalidInput("file with no instructions")
    for line in lines:
        work.carry_out(line)
    return work.config


def _instructions(text: str) -> list[str]:
    """Lines without comments, those that end in a backslash joined with the next."""
    found: list[str] = []
    open_line = ""
    for raw in text.splitlines():
        line = raw.strip() if not open_line else raw.rstrip()
        if line.strip().startswith("#") or not line.strip():
            continue
        if line.endswith("\\"):
            open_line += line[:-1]
            continue
        found.append((open_line + line).strip())
        open_line = ""
    return [*found, open_line.strip()] if open_line.strip() else found


def _exec_form(text: str) -> list[str] | None:
    """The words of a JSON array of strings; None when it is none."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else None


def _duration(name: str, text: str) -> int:
    found = parse_duration(text)
    if found is None:
        raise InvalidInput(f'time: invalid duration "{text}"')
    if 0 < found < 1_000_000:
        raise InvalidInput(f'Interval "{name}" cannot be less than 1ms')
    return found


class _Changes:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: Config = dict(config)
        self._command_set = False
        self._known: dict[str, Callable[[str], None]] = {
            "CMD": self._cmd,
            "ENTRYPOINT": self._entrypoint,
            "ENV": self._env,
            "EXPOSE": self._expose,
            "HEALTHCHECK": self._healthcheck,
            "LABEL": self._label,
            "ONBUILD": self._onbuild,
            "STOPSIGNAL": self._stopsignal,
            "USER": self._user,
            "VOLUME": self._volume,
            "WORKDIR": self._workdir,
        }

    def carry_out(self, line: str) -> None:
        name, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        act = self._known.get(name.upper())
        if act is None:
            raise InvalidInput(
                f"{name.upper()} is not a valid change command",
                hint=f"changes are {', '.join(sorted(self._known))}",
            )
        act(rest.strip())

    def _expand(self, text: str) -> str:
        variables = dict(entry.partition("=")[::2] for entry in self.config.get("Env") or ())
        return expand(text, variables)

    def _words(self, name: str, text: str) -> list[str]:
        words = [self._expand(word) for word in split(text)]
        if not words:
            raise InvalidInput(f"{name} requires at least one argument")
        return words

    def _one(self, name: str, text: str) -> str:
        if not text:
            raise InvalidInput(f"{name} requires exactly one argument")
        return self._expand(text)

    def _pairs(self, name: str, text: str) -> list[tuple[str, str]]:
        """`a=b c="d e"`, or the old form `a all the rest`."""
        words = split(text)
        if not words:
            raise InvalidInput(f"{name} requires at least one argument")
        if "=" not in words[0]:
            key, _, value = text.partition(" ")
            if not value.strip():
                raise InvalidInput(f"{name} must have two arguments")
            pairs = [(key, value.strip())]
        else:
            bad = next((word for word in words if "=" not in word), None)
            if bad is not None:
                raise InvalidInput(
                    f'Syntax error - can\'t find = in "{bad}". Must be of the form: name=value'
                )
            pairs = [word.partition("=")[::2] for word in words]
        found = [(self._expand(key), self._expand(value)) for key, value in pairs]
        if not all(key for key, _ in found):
            raise InvalidInput(f"{name} names can not be blank")
        return found

    def _env(self, text: str) -> None:
        env: list[str] = list(self.config.get("Env") or ())
        for key, value in self._pairs("ENV", text):
            entry = f"{key}={value}"
            at = next((i for i, old in enumerate(env) if old.partition("=")[0] == key), None)
            if at is None:
                env.append(entry)
            else:
                env[at] = entry
        self.config["Env"] = env

    def _label(self, text: str) -> None:
        self.config["Labels"] = dict(self.config.get("Labels") or {}) | dict(self._pairs("LABEL", text))

    def _command(self, text: str) -> list[str]:
        words = _exec_form(text)
        if words is not None:
            return words
        return [*(self.config.get("Shell") or _SHELL), *([text] if text else [])]

    def _cmd(self, text: str) -> None:
        self.config["Cmd"] = self._command(text)
        self._command_set = True

    def _entrypoint(self, text: str) -> None:
        words = self._command(text)
        self.config["Entrypoint"] = words if text and words else None
        if not self._command_set:
            self.config["Cmd"] = None  # it was meant for another program

    def _expose(self, text: str) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in self._words("EXPOSE", text):
            numbers, slash, protocol = word.partition("/")
            match = _PORT.match(numbers)
            if protocol.lower() not in {"tcp", "udp", "sctp"} and slash:
                raise InvalidInput(f"Invalid proto: {protocol}")
            low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if not (match and 0 <= low <= high <= 65535):
                raise InvalidInput(f"Invalid containerPort: {numbers}")
            for port in range(low, high + 1):
                ports[f"{port}/{protocol.lower() or 'tcp'}"] = {}
        self.config["ExposedPorts"] = ports

    def _volume(self, text: str) -> None:
        words = _exec_form(text)
        if words is None:
            words = split(text)
        if not words:
            raise InvalidInput("VOLUME requires at least one argument")
        paths = [self._expand(word).strip() for word in words]
        if not all(paths):
            raise InvalidInput("VOLUME specified can not be an empty string")
        self.config["Volumes"] = dict(self.config.get("Volumes") or {}) | {path: {} for path in paths}

    def _user(self, text: str) -> None:
        self.config["User"] = self._one("USER", text)

    def _workdir(self, text: str) -> None:
        path = self._one("WORKDIR", text)
        path = posixpath.normpath(posixpath.join("/", self.config.get("WorkingDir") or "/", path))
        self.config["WorkingDir"] = "/" + path.lstrip("/")

    def _stopsignal(self, text: str) -> None:
        name = self._one("STOPSIGNAL", text)
        if not _is_signal(name):
            raise InvalidInput(f"invalid signal: {name}")
        self.config["StopSignal"] = name

    def _onbuild(self, text: str) -> None:
        trigger = text.split(maxsplit=1)[0].upper() if text else ""
        if not trigger:
            raise InvalidInput("ONBUILD requires at least one argument")
        if trigger == "ONBUILD":
            raise InvalidInput("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        if trigger in {"FROM", "MAINTAINER"}:
            raise InvalidInput(f"{trigger} isn't allowed as an ONBUILD trigger")
        self.config["OnBuild"] = [*(self.config.get("OnBuild") or ()), text]

    def _healthcheck(self, text: str) -> None:
        health: Config = {}
        while text.startswith("--"):
            flag, _, text = text.partition(" ")
            name, _, value = flag[2:].partition("=")
            text = text.strip()
            if name in _PERIODS:
                health[_PERIODS[name]] = _duration(name, value)
            elif name == "retries":
                if not value.lstrip("-").isdecimal():
                    raise InvalidInput(f'strconv.ParseInt: parsing "{value}": invalid syntax')
                if int(value) < 0:
                    raise InvalidInput(f"--retries cannot be negative ({value})")
                health["Retries"] = int(value)
            else:
                raise InvalidInput(f"unknown flag: {name}")
        kind, _, rest = text.partition(" ")
        self.config["Healthcheck"] = {k: v for k, v in health.items() if v} | {
            "Test": _probe(kind, rest.strip())
        }


def _probe(kind: str, rest: str) -> list[str]:
    if kind.upper() == "NONE":
        if rest:
            raise InvalidInput("HEALTHCHECK NONE takes no arguments")
        return ["NONE"]
    if not kind:
        raise InvalidInput("HEALTHCHECK requires at least one argument")
    if kind.upper() != "CMD":
        raise InvalidInput(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not rest:
        raise InvalidInput("Missing command after HEALTHCHECK CMD")
    words = _exec_form(rest)
    return ["CMD", *words] if words else ["CMD-SHELL", rest]


def _is_signal(name: str) -> bool:
    """A signal's number or name, with SIG or without, and RTMIN+3 or RTMAX-2."""
    if name.isdecimal():
        return 0 < int(name) <= signal.SIGRTMAX
    text = name.upper().removeprefix("SIG")
    if re.fullmatch(r"RT(?:MIN\+|MAX-)[0-9]{1,2}", text):
        return int(re.split(r"[+-]", text)[1]) <= signal.SIGRTMAX - signal.SIGRTMIN
    return f"SIG{text}" in signal.Signals.__members__
