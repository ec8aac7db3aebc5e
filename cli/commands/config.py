"""`pystack config`: check a stack file and print it merged, interpolated and resolved, or one aspect of it."""

from __future__ import annotations

import json
import sys
from typing import Any

from pystack.cli.client import ApiError, Client
from pystack.cli.instance import connect
from pystack.cli.output import fail, note, printable, table
from pystack.cli.stack import envelope
from pystack.cli.yamltext import dump


def _images(answer: dict[str, Any]) -> list[str]:
    """Each service's image; a built one without a name is called as Compose calls it."""
    config = answer["config"]
    return [
        s.get("image") or f"{config['name']}-{name}" for name, s in (config.get("services") or {}).items()
    ]


def _variables(answer: dict[str, Any], options: Any) -> str:
    found: dict[str, dict[str, Any]] = answer["variables"]
    if options.format == "json":
        return json.dumps(found, indent=4)
    head = ("NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE")
    rows = [
        (name, "true" if v["Required"] else "false", v["DefaultValue"], v["PresenceValue"])
        for name, v in found.items()
    ]
    return table(head, rows)


def _hashes(answer: dict[str, Any], wanted: str) -> str:
    hashes: dict[str, str] = answer["hashes"]
    names = list(hashes) if wanted == "*" else wanted.split(",")
    for name in names:
        if name not in hashes:
            fail(f"no such service: {name}")
    return "\n".join(f"{name} {hashes[name]}" for name in names)


def _pin(client: Client, config: dict[str, Any], *, only: bool) -> dict[str, Any]:
    """The configuration with each image by its digest, as the engine's images have it; with `only`, nothing else."""
    pinned: dict[str, Any] = {}
    for name, service in (config.get("services") or {}).items():
        image = service.get("image")
        if not image or "@sha256:" in image:
            continue
        pinned[name] = {**service, "image": _digest(client, image)}
    if only:
        return {"services": {name: {"image": service["image"]} for name, service in pinned.items()}}
    return {**config, "services": {**config["services"], **pinned}}


def _digest(client: Client, image: str) -> str:
    try:
        digests = client.get(f"/images/{image}/json").get("RepoDigests") or []
    except ApiError as error:
        fail(f"cannot resolve the digest of {image}: {error.message}", hint="pull the image first")
    if not digests:
        fail(f"cannot resolve the digest of {image}: it was not pulled from a registry")
    tagged = image if ":" in image.rsplit("/", 1)[-1] else f"{image}:latest"
    return f"{tagged}@{str(digests[0]).partition('@')[2]}"


def _text(answer: dict[str, Any], options: Any, client: Client) -> str:
    config = answer["config"]
    for flag, key in (
        ("list_services", "services"),
        ("list_volumes", "volumes"),
        ("list_networks", "networks"),
        ("list_models", "models"),
    ):
        if getattr(options, flag):
            return "\n".join(config.get(key) or {})
    if options.list_images:
        return "\n".join(_images(answer))
    if options.list_profiles:
        return "\n".join(answer["profiles"])
    if options.hash:
        return _hashes(answer, options.hash)
    if options.environment:
        return "\n".join(f"{name}={value}" for name, value in sorted(answer["environment"].items()))
    if options.variables:
        return _variables(answer, options)
    if options.lock_image_digests or options.resolve_image_digests:
        config = _pin(client, config, only=options.lock_image_digests)
    if options.format == "json":
        return json.dumps(config, indent=2, ensure_ascii=False)
    for service in (config.get("services") or {}).values():
        for name in ("command", "entrypoint"):  # null in compose's JSON, absent in its YAML
            if name in service and service[name] is None:
                del service[name]
    return dump(config).rstrip("\n")


def _view(options: Any) -> dict[str, bool]:
    return {
        "interpolate": not options.no_interpolate and not options.variables,
        "paths": not options.no_path_resolution,
        "normalize": not options.no_normalize,
        "consistency": not options.no_consistency,
        "environment": not options.no_env_resolution,
    }


def _ask(client: Client, options: Any) -> dict[str, Any]:
    """The daemon's answer. With `--format json`, what is wrong with the file goes to stdout as JSON."""
    try:
        answer: dict[str, Any] = client.post("/stacks/config", {**envelope(options), "view": _view(options)})
    except ApiError as error:
        if options.format != "json":
            raise
        body = {"message": error.message, "hint": error.hint or None, "diagnostics": error.diagnostics}
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        fail(error.message if not error.diagnostics else "cannot use the stack file")
    return answer


def run(options: Any) -> int:
    client = connect()
    answer = _ask(client, options)
    for warning in answer.get("warnings") or []:
        note(f"warning: {printable(warning['message'] if isinstance(warning, dict) else warning)}")
    if options.quiet:
        return 0
    text = _text(answer, options, client)
    if not options.output:
        if text:
            sys.stdout.write(text + "\n")
        return 0
    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        fail(f"cannot write {options.output}: {error.strerror}")
    return 0
