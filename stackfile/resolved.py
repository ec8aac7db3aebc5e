"""`Resolved`: a stack file after every step but the last, with the marks still at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pystack.stackfile.diagnostics import Diagnostic
from pystack.stackfile.document import Node
from pystack.stackfile.interpolate import Mention, mentions
from pystack.stackfile.schema import Parts, ServicePart
from pystack.stackfile.view import WHOLE, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`document` is the merged document in long form, `parts` its validated form, `enabled` the services that count.

    `environments` and `labels` hold each enabled service's with its files merged in. `variables` are those of
    interpolation, `templates` the values of the request's own files that hold a `$`, `profiles` all that services name.
    """

    name: str
    working_dir: str
    config_files: tuple[str, ...]
    document: Node
    parts: Parts
    enabled: Mapping[str, ServicePart]
    environments: Mapping[str, Mapping[str, str | None]]
    labels: Mapping[str, Mapping[str, str]]
    variables: Mapping[str, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    view: View = WHOLE
    warnings: tuple[Diagnostic, ...] = field(default=())

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """What the request's own files say of variables."""
        return tuple(mentions(self.templates))

    @property
    def disabled(self) -> tuple[str, ...]:
        """The services that no chosen profile enables."""
        return tuple(name for name in self.parts.services if name not in self.enabled)
