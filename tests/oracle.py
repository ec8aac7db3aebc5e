"""The leak oracle: everything on this host that belongs to one engine instance, as sets of lines to compare.

An instance's kernel objects carry its id in their names, its files lie below its root and run directories. `snapshot`
collects both; what is there after a test and was not there before has leaked. It looks at the host itself and never
asks the engine, whose word is what is being tested.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from pystack.model.names import Instance

#: Files that an engine keeps on purpose when no stack is left: its database, its log, its images and its lock.
KEPT = re.compile(
    r"^(state\.db.*|daemon\.log|daemon\.pid|daemon\.lock|images(/.*)?|layers(/.*)?|base(/.*)?)$"
)


@dataclass
class Snapshot:
    """One observation: kind -> the things of that kind."""

    things: dict[str, set[str]] = field(default_factory=dict)

    def leaked_since(self, before: Snapshot) -> list[str]:
        """What is here and was not there before, one line each."""
        return [
            f"{kind}: {thing}"
            for kind, now in sorted(self.things.items())
            for thing in sorted(now - before.things.get(kind, set()))
        ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _processes(instance: Instance) -> tuple[set[str], set[str], set[str]]:
    """(processes, their mounts of ours, network namespaces that hold our interfaces' peers) by looking at all of /proc."""
    processes, mounts = set(), set()
    spaces = set()
    me = os.readlink("/proc/self/ns/net")
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        command = _read(f"/proc/{entry}/cmdline").replace("\0", " ").strip()
        ours = (
            instance.cgroup in _read(f"/proc/{entry}/cgroup")
            or instance.run in command
            or instance.root in command
        )
        environment = _read(f"/proc/{entry}/environ")
        ours = ours or f"PYSTACK_RUN={instance.run}\0" in environment
        state = re.search(r"^State:\s+(\S)", _read(f"/proc/{entry}/status"), re.MULTILINE)
        if ours:
            processes.add(f"{entry} {command or '?'} ({state[1] if state else '?'})")
            try:
                space = os.readlink(f"/proc/{entry}/ns/net")
            except OSError:
                space = me
            if space != me:
                spaces.add(space)
        for line in _read(f"/proc/{entry}/mountinfo").splitlines():
            if instance.root in line or instance.run in line:
                mounts.add(f"in {entry}: {line.split(' ', 3)[3]}")
    for line in _read("/proc/self/mountinfo").splitlines():
        if instance.root in line or instance.run in line:
            mounts.add(f"here: {line.split(' ', 3)[3]}")
    return processes, mounts, spaces


def nft_tables() -> set[str]:
    """Names of all nftables tables, through libnftables."""
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    for name in (
        "nft_ctx_free",
        "nft_ctx_buffer_output",
        "nft_ctx_get_output_buffer",
        "nft_ctx_buffer_error",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    context = library.nft_ctx_new(0)
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        assert library.nft_run_cmd_from_buffer(context, b"list tables") == 0
        return set(library.nft_ctx_get_output_buffer(context).decode().splitlines())
    finally:
        library.nft_ctx_free(context)


def _cgroups(instance: Instance) -> set[str]:
    found = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        depth = directory.count("/") - "/sys/fs/cgroup".count("/")
        found |= {
            os.path.join(directory, name)
            for name in names
            if instance.cgroup in os.path.join(directory, name)
        }
        if depth > 3:
            names.clear()
    return found


def _files(instance: Instance) -> set[str]:
    found = set()
    for top in (instance.root, instance.run):
        for directory, names, files in os.walk(top):
            relative = os.path.relpath(directory, top)
            for name in [*names, *files]:
                path = os.path.normpath(os.path.join(relative, name))
                if not KEPT.match(path):
                    found.add(os.path.join(top, path))
    return found


def snapshot(instance: Instance) -> Snapshot:
    """Everything of this instance, now."""
    processes, mounts, spaces = _processes(instance)
    links = {name for name in os.listdir("/sys/class/net") if name.startswith(instance.link_prefix)}
    sockets = {
        line.split()[-1]
        for line in _read("/proc/net/unix").splitlines()
        if instance.run in line.split()[-1] or instance.root in line.split()[-1]
    }
    return Snapshot(
        {
            "process": processes,
            "mount": mounts,
            "network namespace": spaces,
            "link": links,
            "nftables table": {line for line in nft_tables() if instance.nft_table in line},
            "cgroup": _cgroups(instance),
            "socket": sockets,
            "file": _files(instance),
        }
    )


def wait_for_nothing_leaked(instance: Instance, before: Snapshot, *, within: float = 10.0) -> None:
    """Assert that all that came since `before` is gone, giving the kernel and the engine `within` seconds for it."""
    deadline = time.monotonic() + within
    while leaked := snapshot(instance).leaked_since(before):
        if time.monotonic() > deadline:
            raise AssertionError("leaked:\n" + "\n".join(leaked))
        time.sleep(0.05)


def describe(snapshot_: Snapshot) -> str:
    return json.dumps({kind: sorted(things) for kind, things in snapshot_.things.items()}, indent=1)
