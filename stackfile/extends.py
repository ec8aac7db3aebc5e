"""`services.*.extends` -> services with what they extend laid beneath them.

In: one document in long form, and how to load another file in the same form. Out: the document without `extends`. Rules:
Compose Specification 05-services "extends", compose-go `loader/extends.go`: relative paths belong to the extended file's
directory, nothing but the service is taken from it, a circle is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pystack.stackfile.diagnostics import did_you_mean
from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, child, with_items
from pystack.stackfile.merge import merge

#: Absolute path and the node that asks -> the file's document in long form, or None after reporting why not.
LoadFile = Callable[[str, Node], Node | None]

_MAX_DEPTH = 32


def extend(document: Node, load_file: LoadFile, reporter: Reporter) -> Node:
    """The document with every `extends` carried out."""
    services = child(document, "services")
    if not isinstance(document, Mapping) or not isinstance(services, Mapping):
        return document
    if not any(isinstance(s, Mapping) and "extends" in s.items for s in services.items.values()):
        return document
    extender = _Extender(load_file, reporter)
    items = {name: extender.service(document, name, ()) or node for name, node in services.items.items()}
    return with_items(document, {**document.items, "services": with_items(services, items)}, document.keys)


@dataclass(slots=True)
class _Extender:
    load_file: LoadFile
    reporter: Reporter
    done: dict[tuple[int, str], Node] = field(default_factory=dict)
    failed: set[tuple[int, str]] = field(default_factory=set)  # what is wrong with them is reported
    circles: set[frozenset[tuple[str, str]]] = field(default_factory=set)

    def service(self, document: Node, name: str, trail: tuple[tuple[str, str], ...]) -> Node | None:
        """The service with its bases beneath it; None after reporting what is wrong."""
        node = child(document, "services", name)
        if not isinstance(node, Mapping) or "extends" not in node.items:
            return node
        identity = (id(document), name)
        if identity in self.failed or self.reporter.full:
            return None
        if identity not in self.done:
            here = (node.source.display, name)
            found = self._extended(document, name, node, (*trail, here), circle=here in trail)
            if found is None:
                self.failed.add(identity)
                return None
            self.done[identity] = found
        return self.done[identity]

    def _extended(
        self, document: Node, name: str, node: Mapping, trail: tuple[tuple[str, str], ...], *, circle: bool
    ) -> Node | None:
        extends = node.items["extends"]
        path = ("services", name, "extends")
        if circle or len(trail) > _MAX_DEPTH:
            if frozenset(trail) in self.circles:
                return None  # reported from another of its members
            self.circles.add(frozenset(trail))
            if not circle:
                message = f"cannot follow more than {_MAX_DEPTH} services that extend each other"
                self.reporter.error(extends, "extends-depth", message, path=path)
                return None
            steps = " -> ".join(f"{service} ({file})" for file, service in trail)
            self.reporter.error(
                extends, "extends-cycle", f"services extend each other in a circle: {steps}", path=path
            )
            return None
        wanted, file = child(extends, "service"), child(extends, "file")
        if not isinstance(wanted, Scalar) or not isinstance(wanted.value, str):
            self.reporter.error(
                extends, "bad-extends", f"services.{name}.extends must name a service", path=path
            )
            return None
        other: Node | None = document
        if isinstance(file, Scalar) and isinstance(file.value, str):
            other = self.load_file(file.value, file)
            if other is None:
                return None
        base = self.service(other, wanted.value, trail) if other else None
        if base is None:
            self._undefined(other, name, wanted)
            return None
        rest = {key: value for key, value in node.items.items() if key != "extends"}
        return merge(base, with_items(node, rest), self.reporter, ("services", name))

    def _undefined(self, other: Node | None, name: str, wanted: Scalar) -> None:
        services = child(other, "services")
        known = services.items if isinstance(services, Mapping) else {}
        if wanted.value in known:
            return  # it is there and has an error of its own, which is reported
        where = other.source.display if other else "the file"
        self.reporter.error(
            wanted,
            "undefined-service",
            f"service `{name}` extends `{wanted.value}`, which is not defined in {where}",
            path=("services", name, "extends", "service"),
            help=did_you_mean(str(wanted.value), known),
        )
