"""Short forms -> long forms, so that every later step sees one form of each attribute.

In: one document after interpolation. Out: the same document where lists of `K=V` are mappings, `ports`, `volumes`,
`secrets`, `configs`, `devices` and `env_file` are lists of mappings, `depends_on` and `networks` are mappings, and
`command` is a list. What has a wrong shape is passed on as it is: `schema` says what was expected.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from collections.abc import Mapping as Map

from pystack.stackfile.document import (
    Mapping,
    Node,
    Path,
    Reporter,
    Scalar,
    Sequence,
    mapping_at,
    scalar_at,
    sequence_at,
    text_of,
    with_items,
)
from pystack.stackfile.portsyntax import MAX_PORTS, PortSyntaxError, parse_ports
from pystack.stackfile.volumesyntax import VolumeSyntaxError, parse_volume

_MAX_VOLUMES = 10_000  # of one service
_MAX_NAMED = 100_000  # dependencies, networks and models of all services
_MAX_ENTRIES = 10_000  # of a list whose texts become mappings: env_file, secrets, configs

Convert = Callable[[Node, Path, Reporter], Node]


def canonical(document: Node, reporter: Reporter) -> Node:
    """The document with every short form expanded. Syntax errors in short forms are reported."""
    return _convert(document, (), reporter, _TOP)


def _convert(node: Node, path: Path, reporter: Reporter, table: Map[str, Convert]) -> Node:
    """The mapping with each attribute that the table names converted."""
    if not isinstance(node, Mapping):
        return node
    changed: dict[str, Node] = {}
    for key, value in node.items.items():
        if (convert := table.get(key)) and (after := convert(value, (*path, key), reporter)) is not value:
            changed[key] = after
    if not changed:
        return node
    return Mapping({**node.items, **changed}, node.keys, node.source, node.line, node.column, node.tag)


def _below(table: Map[str, Convert]) -> Convert:
    return lambda node, path, reporter: _convert(node, path, reporter, table)


def _each(convert: Convert) -> Convert:
    """Applies a conversion to every value of a mapping."""

    def every(node: Node, path: Path, reporter: Reporter) -> Node:
        if not isinstance(node, Mapping):
            return node
        items = {key: convert(value, (*path, key), reporter) for key, value in node.items.items()}
        if all(items[key] is value for key, value in node.items.items()):
            return node
        return Mapping(items, node.keys, node.source, node.line, node.column, node.tag)

    return every


def _list_or_map(node: Node, path: Path, reporter: Reporter) -> Node:
    """["K=V", "K"] -> {K: V, K: null}; a later entry replaces an earlier one."""
    if not isinstance(node, Sequence):
        return node
    items: dict[str, Node] = {}
    keys: dict[str, Scalar] = {}
    for index, item in enumerate(node.items):
        if not isinstance(item, Scalar) or item.value is None:
            reporter.error(
                item, "wrong-type", f"{path[-1]} takes KEY=value texts in a list", path=(*path, index)
            )
            continue
        name, equals, value = text_of(item.value).partition("=")
        items[name] = Scalar(
            value if equals else None, item.text, item.source, item.line, item.column, item.plain
        )
        keys[name] = Scalar(name, name, item.source, item.line, item.column)
    return Mapping(items, keys, node.source, node.line, node.column, node.tag)


def _listed(node: Node, _path: Path, _reporter: Reporter) -> Node:
    """One value -> a list of it."""
    if isinstance(node, Scalar) and node.value is not None:
        bare = Scalar(node.value, node.text, node.source, node.line, node.column, node.plain)
        return sequence_at([bare], node)
    return node


def _command(node: Node, path: Path, reporter: Reporter) -> Node:
    """A command line -> its words, split as a shell does (no variables, no globs)."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return node
    if reporter.is_template(node.value):
        return node
    try:
        words = shlex.split(node.value)
    except ValueError as error:
        reporter.error(node, "bad-command", f"cannot split {path[-1]} into words: {error}", path=path)
        return sequence_at([], node)
    return sequence_at([scalar_at(word, node) for word in words], node)


def _test(node: Node, _path: Path, _reporter: Reporter) -> Node:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return sequence_at([scalar_at("CMD-SHELL", node), scalar_at(node.value, node)], node)
    return node


def _depends_on(node: Node, path: Path, reporter: Reporter) -> Node:
    return _names(node, path, reporter, lambda item: mapping_at({}, item))


def _networks(node: Node, path: Path, reporter: Reporter) -> Node:
    return _names(node, path, reporter, lambda item: scalar_at(None, item))


def _names(node: Node, path: Path, reporter: Reporter, value: Callable[[Node], Node]) -> Node:
    """A list of names -> a mapping from each name to `value`."""
    reporter.named += 0 if isinstance(node, Scalar) else len(node.items)
    if reporter.named > _MAX_NAMED:
        message = f"services cannot name more than {_MAX_NAMED:,} dependencies and networks together"
        reporter.error(node, "too-many-entries", message, path=path)
        reporter.findings.raise_errors()
    if not isinstance(node, Sequence):
        return node
    items: dict[str, Node] = {}
    keys: dict[str, Scalar] = {}
    for index, item in enumerate(node.items):
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            reporter.error(item, "wrong-type", f"{path[-1]} takes a list of names", path=(*path, index))
            continue
        if item.value in items:
            message = f"{path[-1]} lists `{item.value}` twice"
            reporter.error(item, "wrong-type", message, path=(*path, index))
        items[item.value] = value(item)
        keys[item.value] = item
    return Mapping(items, keys, node.source, node.line, node.column, node.tag)


def _ports(node: Node, path: Path, reporter: Reporter) -> Node:
    if not isinstance(node, Sequence):
        return node
    out: list[Node] = []
    for index, item in enumerate(node.items):
        if isinstance(item, Mapping):
            filled = {"mode": scalar_at("ingress", item), "protocol": scalar_at("tcp", item), **item.items}
            out.append(with_items(item, filled))
            continue
        if not isinstance(item, Scalar) or isinstance(item.value, bool) or item.value is None:
            out.append(item)
            continue
        hint = ""
        if isinstance(item.value, int) and item.text != str(item.value):
            hint = f'YAML reads {item.text} as {item.value}; put it in quotes: "{item.text}"'
        try:
            parsed = parse_ports(text_of(item.value))
        except PortSyntaxError as error:
            if reporter.is_template(item.text):
                out.append(item)
                continue
            reporter.error(item, "bad-port", str(error), path=(*path, index), help=hint or error.hint)
            continue
        reporter.ports += len(parsed)
        if reporter.ports > MAX_PORTS:
            message = f"cannot publish more than {MAX_PORTS:,} ports"
            reporter.error(item, "too-many-ports", message, path=(*path, index))
            break
        out += [mapping_at({k: scalar_at(v, item) for k, v in port.items()}, item) for port in parsed]
    return sequence_at(out, node)


def _volumes(node: Node, path: Path, reporter: Reporter) -> Node:
    if not isinstance(node, Sequence):
        return node
    if len(node.items) > _MAX_VOLUMES:
        reporter.error(
            node, "too-many-volumes", f"cannot mount more than {_MAX_VOLUMES:,} volumes", path=path
        )
        return sequence_at([], node)
    out: list[Node] = []
    for index, item in enumerate(node.items):
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            out.append(_convert(_clean_target(item), (*path, index), reporter, _VOLUME))
            continue
        try:
            volume, unknown = parse_volume(item.value)
        except VolumeSyntaxError as error:
            if reporter.is_template(item.text):
                out.append(item)
                continue
            reporter.error(item, "bad-volume", str(error), path=(*path, index), help=error.hint)
            continue
        for option in unknown:
            reporter.warn(
                item,
                "volume-option",
                f"volume option `{option}` is not known and ignored",
                path=(*path, index),
            )
        out.append(_nested(volume, item))
    return sequence_at(out, node)


def _clean_target(node: Node) -> Node:
    """Long syntax: the target without a slash at its end or `..` inside."""
    target = node.items.get("target") if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or not isinstance(target, Scalar) or not isinstance(target.value, str):
        return node
    clean = posixpath.normpath(target.value) if target.value else ""
    if clean == target.value:
        return node
    return with_items(node, {**node.items, "target": scalar_at(clean, target)})


def _nested(value: Map[str, object], near: Node) -> Node:
    items: dict[str, Node] = {}
    for key, part in value.items():
        if isinstance(part, dict):
            items[key] = _nested(part, near)
        else:
            assert part is None or isinstance(part, (str, bool, int))
            items[key] = scalar_at(part, near)
    return mapping_at(items, near)


def _items_from_text(key: str) -> Convert:
    """A list whose items may be a bare text -> a list of mappings with the text at `key`."""

    def convert(node: Node, path: Path, reporter: Reporter) -> Node:
        listed = _listed(node, path, reporter)
        if not isinstance(listed, Sequence):
            return listed
        if len(listed.items) > _MAX_ENTRIES:
            message = f"{path[-1]} cannot have more than {_MAX_ENTRIES:,} entries"
            reporter.error(listed, "too-many-entries", message, path=path)
            return sequence_at([], listed)
        out: list[Node] = []
        for item in listed.items:
            if isinstance(item, Scalar) and isinstance(item.value, str):
                out.append(mapping_at({key: scalar_at(item.value, item)}, item))
            else:
                out.append(item)
        return sequence_at(out, listed)

    return convert


def _devices(node: Node, path: Path, reporter: Reporter) -> Node:
    if not isinstance(node, Sequence):
        return node
    out: list[Node] = []
    for index, item in enumerate(node.items):
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            out.append(item)
            continue
        parts = [item.value] if "=" in item.value else item.value.split(":")
        if reporter.is_template(item.value):
            out.append(item)
            continue
        if not 1 <= len(parts) <= 3 or not all(parts):
            message = f"cannot read device `{item.value}`"
            reporter.error(
                item,
                "bad-device",
                message,
                path=(*path, index),
                help="write /dev/host[:/dev/container[:rwm]]",
            )
            continue
        source, target, permissions = (*parts, *([parts[0], "rwm"] if len(parts) == 1 else ["rwm"]))[:3]
        device = {"source": source, "target": target, "permissions": permissions}
        out.append(mapping_at({k: scalar_at(v, item) for k, v in device.items()}, item))
    return sequence_at(out, node)


def _extra_hosts(node: Node, path: Path, reporter: Reporter) -> Node:
    """{host: ip | [ip]} or ["host:ip"] -> ["host=ip"]."""
    out: list[Node] = []
    if isinstance(node, Mapping):
        for host, value in node.items.items():
            listed = value.items if isinstance(value, Sequence) else [value]
            out += [
                scalar_at(f"{host}={_unbracketed(text_of(item.value))}", item)
                for item in listed
                if isinstance(item, Scalar)
            ]
        return sequence_at(out, node)
    if not isinstance(node, Sequence):
        return node
    for index, item in enumerate(node.items):
        text = item.value if isinstance(item, Scalar) and isinstance(item.value, str) else ""
        host, separator, address = text.partition("=" if "=" in text else ":")
        if reporter.is_template(text):
            out.append(item)
            continue
        if not separator or not host or not address:
            message = f"cannot read `{text}` as a host and an address"
            reporter.error(item, "bad-host", message, path=(*path, index), help='write "name=192.0.2.1"')
            continue
        out.append(scalar_at(f"{host}={_unbracketed(address)}", item))
    return sequence_at(out, node)


def _unbracketed(address: str) -> str:
    return address[1:-1] if re.match(r"\[.*\]\Z", address) else address


def _external(node: Node, _path: Path, _reporter: Reporter) -> Node:
    """The old `external: {name: x}` -> `external: true` with `name: x`."""
    if not isinstance(node, Mapping):
        return node
    external = node.items.get("external")
    if isinstance(external, Mapping):
        items = {**node.items, "external": scalar_at(True, external)}
        if name := external.items.get("name"):
            items["name"] = name
        return with_items(node, items)
    return node


def _resource(table: Map[str, Convert]) -> Convert:
    def convert(node: Node, path: Path, reporter: Reporter) -> Node:
        return _convert(_external(node, path, reporter), path, reporter, table)

    return _each(convert)


def _text_to(key: str, table: Map[str, Convert]) -> Convert:
    """A bare text -> a mapping with the text at `key`; then the mapping's own attributes."""

    def convert(node: Node, path: Path, reporter: Reporter) -> Node:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            node = mapping_at({key: scalar_at(node.value, node)}, node)
        return _convert(node, path, reporter, table)

    return convert


def _items(table: Map[str, Convert]) -> Convert:
    """Applies a table to every mapping of a list."""

    def convert(node: Node, path: Path, reporter: Reporter) -> Node:
        if not isinstance(node, Sequence):
            return node
        items = [_convert(item, (*path, n), reporter, table) for n, item in enumerate(node.items)]
        return sequence_at(items, node)

    return convert


def _gpus(node: Node, path: Path, reporter: Reporter) -> Node:
    """`all` -> one entry that asks for all of them."""
    if isinstance(node, Scalar) and node.value == "all":
        return sequence_at([mapping_at({"count": scalar_at("all", node)}, node)], node)
    return _items({"options": _list_or_map})(node, path, reporter)


_HOOK: dict[str, Convert] = {"command": _command, "environment": _list_or_map}
_HOOKS = _items(_HOOK)

_BUILD: dict[str, Convert] = {
    "args": _list_or_map,
    "labels": _list_or_map,
    "additional_contexts": _list_or_map,
    "extra_hosts": _extra_hosts,
    "secrets": _items_from_text("source"),
    "no_cache_filter": _listed,
    "ssh": lambda node, path, reporter: _list_or_map(_listed(node, path, reporter), path, reporter),
}
_VOLUME: dict[str, Convert] = {"volume": _below({"labels": _list_or_map})}
_RESERVED = {"devices": _items({"options": _list_or_map})}
_DEPLOY: dict[str, Convert] = {
    "labels": _list_or_map,
    "resources": _below({"reservations": _below(_RESERVED)}),
}
_DEVELOP = {"watch": _items({"exec": _below(_HOOK), "ignore": _listed, "include": _listed})}

_SERVICE: dict[str, Convert] = {
    "annotations": _list_or_map,
    "build": _text_to("context", _BUILD),
    "command": _command,
    "configs": _items_from_text("source"),
    "depends_on": _depends_on,
    "deploy": _below(_DEPLOY),
    "develop": _below(_DEVELOP),
    "devices": _devices,
    "dns": _listed,
    "dns_opt": _listed,
    "dns_search": _listed,
    "entrypoint": _command,
    "env_file": _items_from_text("path"),
    "environment": _list_or_map,
    "extends": _text_to("service", {}),
    "extra_hosts": _extra_hosts,
    "gpus": _gpus,
    "healthcheck": _below({"test": _test}),
    "label_file": _listed,
    "labels": _list_or_map,
    "models": _networks,
    "networks": _networks,
    "ports": _ports,
    "post_start": _HOOKS,
    "pre_start": _HOOKS,
    "pre_stop": _HOOKS,
    "secrets": _items_from_text("source"),
    "sysctls": _list_or_map,
    "tmpfs": _listed,
    "volumes": _volumes,
}


def _include(node: Node, path: Path, reporter: Reporter) -> Node:
    """`include: [file, {path: file | [file], env_file: …}]` -> mappings with lists."""
    if not isinstance(node, Sequence):
        return node
    convert = _text_to("path", {"path": _listed, "env_file": _listed})
    return sequence_at([convert(item, (*path, n), reporter) for n, item in enumerate(node.items)], node)


_TOP: dict[str, Convert] = {
    "services": _each(_below(_SERVICE)),
    "networks": _resource({"labels": _list_or_map}),
    "volumes": _resource({"labels": _list_or_map}),
    "secrets": _resource({"labels": _list_or_map}),
    "configs": _resource({"labels": _list_or_map}),
    "include": _include,
}
