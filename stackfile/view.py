"""How a stack file is to be printed: `View` names the steps that `pystack config` can leave out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """docker compose config's --no-interpolate, --no-path-resolution, --no-normalize, --no-consistency, --no-env-resolution."""

    interpolate: bool = True
    paths: bool = True
    normalize: bool = True
    consistency: bool = True
    environment: bool = True


WHOLE = View()
