"""Why two configurations differ, in words: `environment LOG_LEVEL: "info" -> "debug"`.

In come two plain documents (see `planner.hashing`); out come phrases, one per attribute that differs. Values that look
like secrets are never shown, nor the content of secrets and configs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: Parts of a variable's name that say its value is nobody's business.
_SECRET_NAME = re.compile(
    r"pass|secret|token|key|credential|auth|private|dsn|cookie|salt|signature", re.IGNORECASE
)
#: `scheme://user:password@host`
_SECRET_VALUE = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_LONGEST = 60
#: Attributes whose entries are named; the differences are told entry by entry.
_BY_KEY: Mapping[str, tuple[str, ...]] = {
    "mounts": ("target",),
    "ports": ("host_ip", "host_port", "container_port", "protocol"),
    "files": ("target",),
}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Phrases for all that differs, in order of attribute."""
    found: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name in _BY_KEY:
            found += _entries(name, before or [], after or [])
        elif isinstance(before, Mapping | None) and isinstance(after, Mapping | None):
            found += _keys(name, before or {}, after or {})
        else:
            found.append(f"{name}: {show(name, before)} -> {show(name, after)}")
    return found


def _keys(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {key}: {_at(name, key, before)} -> {_at(name, key, after)}"
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    ]


def _at(name: str, key: str, values: Mapping[str, Any]) -> str:
    return show(f"{name} {key}" if name == "environment" else name, values[key]) if key in values else "unset"


def _entries(name: str, before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]) -> list[str]:
    old = {_entry(name, item): item for item in before}
    new = {_entry(name, item): item for item in after}
    found = []
    for key in sorted(old.keys() | new.keys()):
        singular = name.removesuffix("s") if name != "files" else _kind(old.get(key) or new[key])
        if key not in new:
            found.append(f"{singular} {key} removed")
        elif key not in old:
            found.append(f"{singular} {key} added")
        elif old[key] != new[key]:
            what = [
                part
                for part in sorted(old[key].keys() | new[key].keys())
                if old[key].get(part) != new[key].get(part)
            ]
            found.append(f"{singular} {key}: {', '.join(what)} changed")
    return found


def _kind(reference: Mapping[str, Any]) -> str:
    return str(reference.get("kind", "file"))


def _entry(name: str, item: Mapping[str, Any]) -> str:
    if name == "ports":
        host = ":".join(str(item[part]) for part in ("host_ip", "host_port") if item.get(part))
        inner = f"{item['container_port']}/{item.get('protocol', 'tcp')}"
        return f"{host}:{inner}" if host else inner
    return ":".join(str(item.get(part, "")) for part in _BY_KEY[name])


def show(name: str, value: Any) -> str:
    """A value as JSON, shortened; a secret one as `(hidden)`."""
    if value is None:
        return "unset"
    text = json.dumps(value, ensure_ascii=False)
    if _SECRET_VALUE.search(text) or _SECRET_NAME.search(name.partition(" ")[2]):
        return "(hidden)"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def sentence(found: list[str]) -> str:
    """At most three phrases, and how many more there are."""
    if len(found) <= 3:
        return "; ".join(found)
    return "; ".join(found[:3]) + f"; and {len(found) - 3} more"
