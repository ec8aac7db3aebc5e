"""The short syntax of `volumes`: text -> a long-form mapping.

Grammar (Compose Specification 05-services "volumes", compose-go `format/volume.go`): `[SOURCE:]TARGET[:OPTIONS]`. A source
that begins with `.`, `/` or `~` (or a drive letter) is a path of the host, any other names a volume.
"""

from __future__ import annotations

import posixpath

_PROPAGATION = {"rprivate", "private", "rshared", "shared", "rslave", "slave"}
_CONSISTENCY = {"cached", "delegated", "consistent"}


class VolumeSyntaxError(ValueError):
    def __init__(
        self, message: str, hint: str = 'write "name:/path", "./directory:/path" or "./directory:/path:ro"'
    ) -> None:
        super().__init__(message)
        self.hint = hint


def parse_volume(text: str) -> tuple[dict[str, object], list[str]]:
    """The long form, and the options that are not known."""
    sections = _sections(text)
    if not text.strip():
        raise VolumeSyntaxError("a volume must not be empty")
    if not all(sections):
        raise VolumeSyntaxError(f"volume `{text}` has an empty section between its colons")
    if len(sections) > 3:
        raise VolumeSyntaxError(f"volume `{text}` has too many colons")
    if len(sections) == 1:
        return {"type": "volume", "target": posixpath.normpath(sections[0]), "volume": {}}, []
    source, target = sections[:2]
    options = sections[2].split(",") if len(sections) == 3 else []
    volume: dict[str, object] = {"source": source, "target": posixpath.normpath(target)}
    block: dict[str, object] = {}
    bind = source[0] in "./~" or _is_drive(source)
    if bind:
        block["create_host_path"] = True
    unknown = _options(options, volume, block, bind=bind)
    volume["type"] = "bind" if bind else "volume"
    volume["bind" if bind else "volume"] = block
    return volume, unknown


def _options(
    options: list[str], volume: dict[str, object], block: dict[str, object], *, bind: bool
) -> list[str]:
    unknown: list[str] = []
    for option in options:
        if option in ("ro", "rw"):
            if option == "ro":
                volume["read_only"] = True
        elif option == "nocopy" and not bind:
            block["nocopy"] = True
        elif option in _PROPAGATION and bind:
            block["propagation"] = option
        elif option in ("z", "Z"):
            if bind:
                block["selinux"] = option
            else:
                volume["bind"] = {"selinux": option}  # where compose-go puts a named volume's label, too
        elif option not in _CONSISTENCY:  # which only Docker Desktop ever heeded
            unknown.append(option)
    return unknown


def _sections(text: str) -> list[str]:
    """Splits at colons, except the one after a single letter (a Windows drive, as compose-go reads it)."""
    sections: list[str] = []
    current = ""
    for character in text:
        if character == ":" and not (len(current) == 1 and current.isalpha()):
            sections.append(current)
            current = ""
        else:
            current += character
    return [*sections, current]


def _is_drive(source: str) -> bool:
    return len(source) > 1 and source[0].isalpha() and source[1] == ":"
