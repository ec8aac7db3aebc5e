"""The engine's cgroups: one parent per hierarchy named after the instance, one child per container below it.

In: container ids, `Resources`, device rules. Out: the directories that a container's processes join (the child writes
itself: moving it from outside waits for RCU, 7-20 ms on v1), limits, statistics, kill and removal. Everything is found
again by name after a crash; nothing here is remembered that a directory does not say. v1 and hybrid hosts use the v1
controllers, others the unified tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
import time
from collections.abc import Sequence

from pystack.kernel import bpf, cgroup_rt, cgroup_v1, cgroup_v2
from pystack.kernel import cgroup_files as files
from pystack.kernel.cgroup_files import Features, Hierarchy, detect
from pystack.kernel.devices import DeviceRule
from pystack.kernel.failpoints import failpoint
from pystack.model.container import Resources
from pystack.model.errors import Conflict, EngineError, InvalidInput
from pystack.model.names import ID

__all__ = ["EngineCgroups", "Features", "Hierarchy", "detect"]

_SUPERVISOR = "supervisor"
#: How long an emptied cgroup may stay busy (the kernel frees the last task a little after its exit), and a freeze last.
_DEADLINE = 5.0


_EITHER = (
    {"blkio.weight", "blkio.bfq.weight"},
    {"blkio.weight_device", "blkio.bfq.weight_device"},
    {"io.weight", "io.bfq.weight"},
)


@functools.cache
def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class EngineCgroups:
    """The cgroups of one engine. `name` is `Instance.cgroup`. Call `prepare` first.

    Not thread-safe; calls are short system calls (a directory costs 0.01 ms), what can wait is async.
    """

    def __init__(self, name: str, hierarchy: Hierarchy | None = None) -> None:
        self.name = name
        self.hierarchy = hierarchy or detect()
        self._unified = self.hierarchy.mode == "v2"
        self._parents: dict[str, str] = {}  # container id -> path below the engine's cgroup, "" or "a/b"

    # Places

    @property
    def _tops(self) -> list[str]:
        return [f"{top}/{self.name}" for top in self.hierarchy.tops]

    def _below(self, container_id: str, top: str) -> str:
        parent = self._parent_of(container_id)
        return f"{top}/{parent}/{container_id}" if parent else f"{top}/{container_id}"

    def _directories(self, container_id: str) -> list[str]:
        return [self._below(container_id, top) for top in self._tops]

    def _by_controller(self, container_id: str) -> dict[str, str]:
        """v1: directory of each controller."""
        mounts = self.hierarchy.mounts.items()
        return {name: self._below(container_id, f"{point}/{self.name}") for name, point in mounts}

    def _main(self, container_id: str) -> str:
        """The directory whose cgroup.procs says who is in: the unified one, or the v1 freezer's."""
        if self._unified:
            return self._directories(container_id)[0]
        places = self._by_controller(container_id)
        return places.get("freezer") or next(iter(places.values()))

    def _parent_of(self, container_id: str) -> str:
        """Where `create` put it; after a restart, where the directory is."""
        known = self._parents.get(container_id)
        if known is not None:
            return known
        for top in self._tops:
            if os.path.isdir(f"{top}/{container_id}"):
                break
            for base, names, _ in os.walk(top):
                if container_id in names:
                    self._parents[container_id] = os.path.relpath(base, top)
                    return self._parents[container_id]
        return ""

    # The engine's own

    def prepare(self) -> None:
        """Make the engine's parents and its supervisor cgroup; may be called again. Nothing that is not ours is moved."""
        for top in self._tops:
            parent = os.path.dirname(top)
            if self._unified:
                cgroup_v2.enable_controllers(parent)
            _mkdir(top)
            self._open(top, parent)
            _mkdir(f"{top}/{_SUPERVISOR}")
            failpoint("cgroup.parent.created")

    def _open(self, directory: str, parent: str) -> None:
        """Make a directory able to hold children."""
        if self._unified:
            cgroup_v2.enable_controllers(directory)
        elif parent.startswith(self.hierarchy.mounts.get("cpuset", "\0")):
            cgroup_v1.open_cpuset(directory, parent)

    @functools.cached_property
    def features(self) -> Features:
        """Which limits this host supports. Needs `prepare`."""
        supervisor = [f"{top}/{_SUPERVISOR}" for top in self._tops]
        if self._unified:
            return cgroup_v2.features(supervisor[0])
        mounts = self.hierarchy.mounts.items()
        return cgroup_v1.features({name: f"{point}/{self.name}/{_SUPERVISOR}" for name, point in mounts})

    def supervisor_dirs(self) -> list[str]:
        """The directories that the launcher joins once; shims inherit them."""
        return [f"{top}/{_SUPERVISOR}" for top in self._tops]

    def teardown(self) -> None:
        """Remove all that `prepare` made. Raises Conflict when a container is still there or a process still in it."""
        for top in self._tops:
            for place in files.subtree(top):
                try:
                    os.rmdir(place)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise Conflict(
                        f"cannot remove cgroup {place}: {error.strerror}", hint="stop its processes first"
                    ) from error
        self._parents.clear()
        self.__dict__.pop("features", None)

    # Containers

    def create(self, container_id: str, resources: Resources, cgroup_parent: str = "") -> list[str]:
        """Make a container's cgroup with its limits; returns its directories, as Bundle.cgroups takes them.

        `cgroup_parent` ("a/b" or "/a/b") is a path below the engine's own cgroup, shared by the containers that name it.
        An empty left-over of the same id is replaced; one with processes is a Conflict. A limit that the kernel has no
        file for is left out (`limits.validate` warned of it); one that it refuses is InvalidInput, and nothing remains.
        """
        parent = _checked_parent(cgroup_parent)
        self._parents[container_id] = parent
        made: list[str] = []
        try:
            for top in self._tops:
                self._make_parents(top, parent)
                place = self._below(container_id, top)
                _make_fresh(place)
                made.append(place)
                failpoint("cgroup.container.created")
            self._write_limits(container_id, resources)
            failpoint("cgroup.limits.written")
        except BaseException:
            for place in made:
                with contextlib.suppress(
                    OSError
                ):  # the first error is the one to tell; recovery sweeps by name
                    os.rmdir(place)
            raise
        return made

    def _make_parents(self, top: str, parent: str) -> None:
        place = top
        for part in filter(None, parent.split("/")):
            above, place = place, f"{place}/{part}"
            _mkdir(place)
            self._open(place, above)

    def _write_limits(
        self, container_id: str, resources: Resources, current_limit: int = 1 << 62
    ) -> list[str]:
        """Write all limits; returns the files that this kernel does not have."""
        if self._unified:
            place = self._directories(container_id)[0]
            rows = [(place, name, value) for name, value in cgroup_v2.settings(resources)]
        else:
            self._lend_realtime(container_id, resources)
            places = self._by_controller(container_id)
            wanted = cgroup_v1.settings(resources, current_limit)
            rows = [(places.get(controller, ""), name, value) for controller, name, value in wanted]
        missing = []
        for place, name, value in rows:
            try:
                if not place or not files.write(place, name, value):
                    missing.append(name)
            except OSError as error:
                raise _refused(container_id, name, value, error) from error
        # Two names of one limit: only both missing means that it does not work.
        for either in _EITHER:
            if not either <= set(missing):
                missing = [name for name in missing if name not in either]
        return missing

    def _cpu_ancestors(self, container_id: str) -> list[str]:
        """v1: the cpu controller's cgroups above the container that are the engine's, outermost first."""
        top = f"{self.hierarchy.mounts['cpu']}/{self.name}"
        parts = self._parent_of(container_id).split("/") if self._parent_of(container_id) else []
        return [top, *("/".join([top, *parts[: n + 1]]) for n in range(len(parts)))]

    def _lend_realtime(self, container_id: str, resources: Resources) -> None:
        if not resources.cpu_realtime_runtime or "cpu" not in self.hierarchy.mounts:
            return
        period = resources.cpu_realtime_period or cgroup_rt.DEFAULT_PERIOD
        more = resources.cpu_realtime_runtime / period - cgroup_rt.share(
            self._by_controller(container_id)["cpu"]
        )
        try:
            cgroup_rt.settle(self._cpu_ancestors(container_id), max(more, 0))
        except OSError as error:
            value = str(resources.cpu_realtime_runtime)
            raise _refused(container_id, "cpu.rt_runtime_us", value, error) from error
        failpoint("cgroup.realtime.lent")

    def update(self, container_id: str, resources: Resources) -> list[str]:
        """Change the limits that are set in `resources`; returns warnings in Docker's words. Errors as `create`."""
        current = 1 << 62
        if not self._unified and resources.memory and resources.memory_and_swap:
            current = files.read_int(
                self._by_controller(container_id)["memory"], "memory.limit_in_bytes", current
            )
        missing = self._write_limits(container_id, resources, current)
        if resources.cpu_realtime_runtime and not self._unified:
            cgroup_rt.settle(self._cpu_ancestors(container_id))
        failpoint("cgroup.limits.updated")
        return cgroup_v1.warnings_of(name for name in missing if not name.endswith(".bfq.weight"))

    def set_devices(self, container_id: str, rules: Sequence[DeviceRule]) -> None:
        """Make these rules the container's, in place of earlier ones. Raises EngineError: never start without them."""
        if self._unified:
            bpf.set_devices(self._directories(container_id)[0], rules)
            return
        place = self._by_controller(container_id).get("devices")
        if place is None:
            raise EngineError(
                f"cannot set device rules of container {container_id[:12]}: the devices controller is not mounted",
                hint="mount it: mount -t cgroup -o devices devices /sys/fs/cgroup/devices",
            )
        try:
            cgroup_v1.set_devices(place, rules)
        except OSError as error:
            raise EngineError(
                f"cannot set device rules of container {container_id[:12]}: {error.strerror}"
            ) from error
        failpoint("cgroup.devices.written")

    def pids(self, container_id: str) -> list[int]:
        """Processes in the container's cgroup and in those that it made below it; numbers of the host."""
        return files.pids_below(self._main(container_id)) or self._pids_anywhere(container_id)

    def _pids_anywhere(self, container_id: str) -> list[int]:
        """On v1 a process joins one hierarchy after the other: one that was stopped half-way is in some of them."""
        if self._unified:
            return []
        return sorted({pid for place in self._directories(container_id) for pid in files.pids_below(place)})

    def is_empty(self, container_id: str) -> bool:
        return not self.pids(container_id)

    def kill(self, container_id: str) -> None:
        """SIGKILL every process of the container, forks in flight included. Nothing there is fine."""
        place = self._main(container_id)
        if self._unified and os.path.isdir(place) and files.write(place, "cgroup.kill", "1"):
            failpoint("cgroup.container.killed")
            return
        # Frozen tasks can neither fork nor exit; a fork that slipped in before is met by the next round.
        for _ in range(10):
            if self.is_empty(container_id):
                return
            self._freezer(container_id, frozen=True)
            try:
                self._kill_each(container_id)
            finally:
                self._freezer(container_id, frozen=False)
            failpoint("cgroup.container.killed")

    def _kill_each(self, container_id: str) -> None:
        """Kill by pidfd, after a second look at the pid's cgroup: the number may have been given to another process."""
        for pid in self.pids(container_id):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                    inside = container_id in file.read()
                if inside:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                continue
            finally:
                os.close(fd)

    def _freezer(self, container_id: str, *, frozen: bool) -> None:
        try:
            if self._unified:
                files.write(self._main(container_id), "cgroup.freeze", "1" if frozen else "0")
            elif "freezer" in self.hierarchy.mounts:
                cgroup_v1.set_frozen(self._by_controller(container_id), frozen)
        except FileNotFoundError:
            return

    def is_frozen(self, container_id: str) -> bool:
        if self._unified:
            return cgroup_v2.is_frozen(self._main(container_id))
        return "freezer" in self.hierarchy.mounts and cgroup_v1.is_frozen(self._by_controller(container_id))

    async def freeze(self, container_id: str) -> None:
        """Stop every process of the container; returns when they stand still. EngineError, thawed, when they do not."""
        if not self._unified and "freezer" not in self.hierarchy.mounts:
            raise EngineError(
                f"cannot pause container {container_id[:12]}: the freezer controller is not mounted"
            )
        self._freezer(container_id, frozen=True)
        deadline = time.monotonic() + _DEADLINE
        pause = 0.0005
        while not self.is_frozen(container_id):
            if time.monotonic() > deadline:
                self._freezer(container_id, frozen=False)
                raise EngineError(f"cannot pause container {container_id[:12]}: its processes do not stop")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        failpoint("cgroup.container.frozen")

    async def thaw(self, container_id: str) -> None:
        self._freezer(container_id, frozen=False)
        failpoint("cgroup.container.thawed")

    async def remove(self, container_id: str) -> None:
        """Remove the container's cgroup with all below it; missing is fine.

        An emptied cgroup stays busy for a moment after the last exit: tried again for 5 s, then Conflict. It does not
        kill: a living process makes it a Conflict, too.
        """
        deadline = time.monotonic() + _DEADLINE
        pause = 0.0005
        self._return_realtime(container_id)
        while busy := self._remove_now(container_id):
            if time.monotonic() > deadline:
                raise Conflict(
                    f"cannot remove cgroup {busy}: it still has processes {files.pids_below(busy)[:8]}",
                    hint="kill them first",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        self._parents.pop(container_id, None)
        failpoint("cgroup.container.removed")

    def _return_realtime(self, container_id: str) -> None:
        """Before the directory goes: the kernel counts a removed cgroup's share for a while (until an RCU grace period)."""
        if self._unified or "cpu" not in self.hierarchy.mounts:
            return
        ancestors = self._cpu_ancestors(container_id)
        if cgroup_rt.runtime_of(ancestors[0]):
            with contextlib.suppress(
                OSError
            ):  # EBUSY: it is not empty; what is not returned goes with the engine's own
                files.write(self._by_controller(container_id)["cpu"], cgroup_rt.RUNTIME, "0")
                cgroup_rt.settle(ancestors)

    def _remove_now(self, container_id: str) -> str:
        """One round over all hierarchies; returns a directory that is still busy, or ""."""
        busy = ""
        for top_place in self._directories(container_id):
            try:
                os.rmdir(top_place)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                busy = _remove_subtree(top_place) or busy
        return busy

    # Facts

    def oom_kills(self, container_id: str) -> int:
        """How many processes of the container the kernel has killed for want of memory."""
        if self._unified:
            return cgroup_v2.oom_kills(self._directories(container_id)[0])
        return cgroup_v1.oom_kills(self._by_controller(container_id))

    def memory_directory(self, container_id: str) -> str:
        """Where the memory controller has the container."""
        return self._main(container_id) if self._unified else self._by_controller(container_id)["memory"]

    def under_oom(self, container_id: str) -> bool:
        """v1: whether its processes wait for memory because the OOM killer is off for them."""
        if self._unified or "memory" not in self.hierarchy.mounts:
            return False
        return cgroup_v1.under_oom(self._by_controller(container_id))

    def stats(self, container_id: str) -> dict[str, dict[str, object]]:
        """Docker's cpu_stats (with system_cpu_usage, online_cpus), memory_stats, blkio_stats, pids_stats; ns and bytes."""
        if self._unified:
            found = cgroup_v2.statistics(self._directories(container_id)[0], _machine_memory())
        else:
            found = cgroup_v1.statistics(self._by_controller(container_id), _machine_memory())
        found["cpu_stats"]["system_cpu_usage"] = system_cpu_usage()
        found["cpu_stats"]["online_cpus"] = os.sysconf("SC_NPROCESSORS_ONLN")
        return found

    def list_containers(self) -> set[str]:
        """Ids of all containers that have a cgroup of this engine in any hierarchy."""
        found: set[str] = set()
        for top in self._tops:
            for _, names, _ in os.walk(top):
                here = [name for name in names if ID.match(name)]
                found.update(here)
                names[:] = [name for name in names if name not in here and name != _SUPERVISOR]
        return found


def system_cpu_usage() -> int:
    """CPU time of the whole host in ns: the first eight numbers of /proc/stat's first line (proc_stat(5)), as Docker sums."""
    with open("/proc/stat", "rb") as file:
        words = file.readline().split()
    return sum(map(int, words[1:9])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def _mkdir(directory: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o755)


def _make_fresh(directory: str) -> None:
    """A new cgroup, with none of the limits that a left-over of the same name had."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        busy = _remove_subtree(directory)
        if busy:
            raise Conflict(
                f"cannot create cgroup {directory}: it still has processes", hint="kill them first"
            ) from None
        os.mkdir(directory, 0o755)


def _remove_subtree(directory: str) -> str:
    """Remove a cgroup and those below it, deepest first; returns one that is busy, or ""."""
    for place in files.subtree(directory):
        try:
            os.rmdir(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return place
    return ""


def _checked_parent(cgroup_parent: str) -> str:
    parts = [part for part in cgroup_parent.split("/") if part]
    if any(
        part in {".", "..", _SUPERVISOR} or ID.match(part) or "\0" in part or "\n" in part for part in parts
    ):
        raise InvalidInput(
            f"cannot use cgroup parent {cgroup_parent!r}", hint='give a plain path such as "batch/low"'
        )
    return "/".join(parts)


def _refused(container_id: str, name: str, value: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return EngineError(f"cannot set {name} of container {container_id[:12]}: its cgroup is gone")
    if name == "memory.limit_in_bytes" and error.errno == errno.EINVAL:
        reason = "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        return Conflict(f"Cannot update container {container_id}: {reason}")  # Docker's text
    hint = "the container uses more than that now" if error.errno == errno.EBUSY else None
    return InvalidInput(
        f"cannot set {name} of container {container_id[:12]} to {value!r}: {error.strerror}", hint=hint
    )
