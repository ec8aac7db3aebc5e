"""`pystack ps`: the stack's containers, as a table, as JSON lines with Compose's keys, or as ids."""

from __future__ import annotations

import json
from typing import Any

from pystack.cli.instance import connect
from pystack.cli.output import table
from pystack.cli.stack import PROJECT, SERVICE, containers, resolve

HEADER = ("NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS")


def ports(item: dict[str, Any]) -> str:
    """Published and exposed ports as Docker prints them: `0.0.0.0:8080->80/tcp, 443/tcp`."""
    texts = []
    for port in item.get("Ports") or []:
        inner = f"{port['PrivatePort']}/{port['Type']}"
        host = port.get("IP", "")
        host = f"[{host}]" if ":" in host else host
        texts.append(f"{host}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner)
    return ", ".join(dict.fromkeys(texts))


def _publishers(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "URL": p.get("IP", ""),
            "TargetPort": p["PrivatePort"],
            "PublishedPort": p.get("PublicPort", 0),
            "Protocol": p["Type"],
        }
        for p in item.get("Ports") or []
    ]


def _age(created: int) -> str:
    import time

    seconds = max(0, int(time.time() - created))
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = seconds // size
            return f"{number} {unit}{'s' if number != 1 else ''} ago"
    return f"{seconds} second{'s' if seconds != 1 else ''} ago"


def _health(item: dict[str, Any]) -> str:
    status = item["Status"]
    for word in ("unhealthy", "healthy", "starting"):
        if f"({word})" in status or f"(health: {word})" in status:
            return word
    return ""


def _json(item: dict[str, Any]) -> dict[str, Any]:
    labels = item["Labels"]
    return {
        "Command": json.dumps(item["Command"]),
        "CreatedAt": item["Created"],
        "Health": _health(item),
        "ID": item["Id"],
        "Image": item["Image"],
        "Labels": ",".join(f"{key}={value}" for key, value in labels.items()),
        "Name": item["Names"][0][1:],
        "Names": item["Names"][0][1:],
        "Networks": ",".join((item.get("NetworkSettings") or {}).get("Networks") or {}),
        "Ports": ports(item),
        "Project": labels.get(PROJECT, ""),
        "Publishers": _publishers(item),
        "RunningFor": _age(item["Created"]),
        "Service": labels.get(SERVICE, ""),
        "State": item["State"],
        "Status": item["Status"],
    }


def _shortened(command: str, whole: bool) -> str:
    return json.dumps(command if whole or len(command) <= 20 else command[:19] + "…", ensure_ascii=False)


def run(options: Any) -> int:
    client = connect()
    project, _ = resolve(client, options)
    found = [
        item
        for item in containers(client, project, all=options.all)
        if not options.services or item["Labels"].get(SERVICE) in options.services
    ]
    if options.quiet:
        lines = [item["Id"] for item in found]
    elif options.format == "json":
        lines = [json.dumps(_json(item)) for item in found]
    else:
        rows = [
            (
                item["Names"][0][1:],
                item["Image"],
                _shortened(item["Command"], options.no_trunc),
                item["Labels"].get(SERVICE, ""),
                _age(item["Created"]),
                item["Status"],
                ports(item),
            )
            for item in found
        ]
        lines = [table(HEADER, rows)]
    if lines:
        print("\n".join(lines))
    return 0
