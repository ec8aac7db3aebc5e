"""Starting a container: every step registers its undo at once, and a failure anywhere undoes them in reverse.

Order: sandbox (addresses, ports) → files → cgroup → bundle → launch → wire the netns while the child mounts → go →
started. The caller holds the container's lock and has recorded the intent (`starting`) durably.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack

from pystack.engine import bundles, remap
from pystack.engine.container import Container
from pystack.engine.ports import ShimPort
from pystack.engine.resources import limits_of
from pystack.engine.runtime.bundle import Namespaces, RootFilesystem
from pystack.engine.services import Services
from pystack.kernel import process
from pystack.kernel.devices import container_devices
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ContainerSpec
from pystack.model.errors import Conflict, EngineError, InvalidInput
from pystack.model.states import ContainerState
from pystack.network.service import Sandbox, SandboxRequest
from pystack.volume import binds

_NETWORK_FILES = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv.conf"}


def sandbox_request(container: Container) -> SandboxRequest:
    config = container.config
    return SandboxRequest(
        container_id=container.id,
        name=container.name,
        hostname=config.hostname,
        domainname=config.domainname,
        network_mode=config.network_mode,
        endpoints=config.endpoints,
        ports=config.ports,
        publish_all=config.publish_all_ports,
        exposed=config.exposed_ports,
        dns=config.dns,
        dns_search=config.dns_search,
        dns_options=config.dns_options,
        extra_hosts=config.extra_hosts,
    )


def write_file(path: str, content: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
    """Write a file of the engine's own in place: a container may have its inode mounted."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if uid or gid:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def write_network_files(container: Container, sandbox: Sandbox) -> None:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, in place: they may be mounted."""
    directory = container.run_directory
    write_file(f"{directory}/hosts", sandbox.hosts_text.encode())
    write_file(f"{directory}/hostname", sandbox.hostname_text.encode())
    write_file(f"{directory}/resolv.conf", sandbox.resolv_conf_text.encode())
    failpoint("engine.start.files")


def _shares_ipc(mode: str) -> bool:
    return mode in {"shareable", "host"} or mode.startswith("container:")


class Starter:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def start(self, container: Container) -> tuple[ShimPort, Sandbox | None]:
        """Bring the process up. Raises StartError or EngineError with everything undone."""
        services, config = self._services, container.config
        async with AsyncExitStack() as undo:
            remap.check(services.remap, config)
            for mount in container.record.mounts:
                binds.check_propagation(mount.view.source, mount.spec.propagation)
            namespaces, fds = self._namespaces(container, undo)
            os.makedirs(container.run_directory, mode=0o700, exist_ok=True)
            failpoint("engine.start.directory")
            sandbox = await self._sandbox(container, undo)
            cgroups = services.cgroups.create(container.id, limits_of(config), config.cgroup_parent)
            undo.push_async_callback(services.cgroups.remove, container.id)
            failpoint("engine.start.cgroup")
            _, rules = container_devices(
                config.privileged, config.resources.devices, config.resources.device_cgroup_rules
            )
            services.cgroups.set_devices(container.id, rules)
            bundle = bundles.build(container, self._surroundings(container, namespaces, cgroups))
            shim = await services.launcher.launch(bundle, fds)
            undo.callback(self._abandon, container, shim)
            failpoint("engine.start.launched")
            if sandbox is not None and shim.netns_fd >= 0:
                await services.networks.wire(sandbox, shim.netns_fd)
            failpoint("engine.start.wired")
            try:
                await self.bind_sessions(container, shim)
            except Conflict:
                await shim.wait_started()  # the child has failed already: that is the error to tell
                raise
            await shim.go()
            await shim.wait_started()
            failpoint("engine.start.started")
            undo.pop_all()
        for fd in fds:
            os.close(fd)
        return shim, sandbox

    def _abandon(self, container: Container, shim: ShimPort) -> None:
        shim.close()
        self._services.cgroups.kill(container.id)

    def _namespaces(self, container: Container, undo: AsyncExitStack) -> tuple[Namespaces, list[int]]:
        """The namespaces of the bundle and the descriptors that go with it; theirs is the caller to close."""
        config = container.config
        fds: list[int] = []

        def shared(kind: str, mode: str) -> str:
            fd = self._namespace_of(mode.removeprefix("container:"), kind)
            undo.callback(os.close, fd)
            fds.append(fd)
            return f"fd:{len(fds) - 1}"

        def choose(kind: str, mode: str) -> str:
            return (
                "host" if mode == "host" else shared(kind, mode) if mode.startswith("container:") else "new"
            )

        cgroupns = config.cgroupns_mode or (
            "host" if self._services.cgroups.hierarchy.mode != "v2" else "private"
        )
        return (
            Namespaces(
                mnt="new",
                pid=choose("pid", config.pid_mode),
                net=choose("net", config.network_mode),
                ipc=choose("ipc", config.ipc_mode),
                uts=choose("uts", config.uts_mode),
                cgroup="host" if cgroupns == "host" else "new",
                shm=self._shm(config.ipc_mode, shared),
                user=self._user(config, shared),
            ),
            fds,
        )

    def _user(self, config: ContainerSpec, shared: Callable[[str, str], str]) -> str:
        """A user namespace of its own; with the one that a joined namespace belongs to, or it would have no right there."""
        if remap.remapped(self._services.remap, config) is None:
            return "host"
        for mode in (config.network_mode, config.pid_mode, config.ipc_mode):
            if mode.startswith("container:"):
                target = self._services.registry.get(mode.removeprefix("container:"))
                if target.shim is not None and process.has_user_namespace(target.shim.pid):
                    return shared("user", mode)
        return "new"

    def _shm(self, mode: str, shared: Callable[[str, str], str]) -> str:
        """What /dev/shm shows: who shares the IPC namespace shares it, too, by way of the other's mount namespace."""
        if mode.startswith("container:"):
            return shared("mnt", mode)
        return "none" if mode == "none" else "new"

    def _namespace_of(self, ref: str, kind: str) -> int:
        """A namespace of another, running container. Conflict when it does not run."""
        target = self._services.registry.get(ref)
        if target.record.state is ContainerState.RESTARTING:
            raise Conflict(f"Container {target.id} is restarting, wait until the container is running")
        if kind == "net":
            ended = f"cannot join network of a non running container: {target.id}"
        else:
            ended = f"failed to join {kind.upper()} namespace: container {target.id} is not running"
        if not target.running or target.shim is None:
            raise Conflict(ended)
        if kind == "ipc" and not _shares_ipc(target.config.ipc_mode):
            raise InvalidInput(
                f"failed to join IPC namespace: container {target.id}: non-shareable IPC "
                "(hint: use IpcMode:shareable for the donor container)"
            )
        fd = process.open_namespace(target.shim.pid, kind)
        # The pid may have been reused between the exit and the open: the pidfd knows (isolation.md, "container:" modes).
        if not process.is_alive(target.shim.pidfd):
            os.close(fd)
            raise Conflict(ended)
        return fd

    async def _sandbox(self, container: Container, undo: AsyncExitStack) -> Sandbox | None:
        """Addresses and ports, and the three files that Docker mounts. None with another container's network."""
        services = self._services
        if container.config.network_mode.startswith("container:"):
            return None
        undo.push_async_callback(services.networks.release, container.id)
        sandbox = await services.networks.prepare(sandbox_request(container))
        failpoint("engine.start.sandbox")
        write_network_files(container, sandbox)
        return sandbox

    def _surroundings(
        self, container: Container, namespaces: Namespaces, cgroups: list[str]
    ) -> bundles.Surroundings:
        snapshot = self._services.images.snapshots.prepare(container.id, container.record.image_id)
        owner = container
        if container.config.network_mode.startswith("container:"):
            owner = self._services.registry.get(container.config.network_mode.removeprefix("container:"))
        return bundles.Surroundings(
            rootfs=RootFilesystem(
                lower=list(snapshot.lower),
                upper=snapshot.upper,
                work=snapshot.work,
                top=self._services.instance.root,
                mountpoint=snapshot.mountpoint,
                readonly=container.config.read_only_rootfs,
            ),
            root_binds=tuple(snapshot.binds),
            namespaces=namespaces,
            cgroups=cgroups,
            ids=remap.remapped(self._services.remap, container.config),
            network_files={
                target: f"{owner.run_directory}/{name}" for target, name in _NETWORK_FILES.items()
            },
            image_layers={
                mount.view.source: self._services.images.snapshots.layers(mount.view.source)
                for mount in container.record.mounts
                if mount.spec.type == "image"
            },
        )

    async def bind_sessions(self, container: Container, shim: ShimPort) -> None:
        """Give those who attached before the start their streams: before `go`, so that they see the first byte."""
        waiting, container.awaiting_start = container.awaiting_start, []
        for session in waiting:
            if session.open:
                stdin, stdout, stderr = session.wants
                session.bind(await shim.attach(stdin=stdin, stdout=stdout, stderr=stderr))


def discard_shim_dir(container: Container) -> None:
    """Remove the files of a run that has ended. Idempotent; a directory among them is a fault."""
    directory = container.run_directory
    try:
        for name in os.listdir(directory):
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue  # the shim has removed its socket itself
        os.rmdir(directory)
    except FileNotFoundError:
        pass  # never made, or done before
    except OSError as error:
        raise EngineError(f"cannot remove {directory}: {error.strerror}") from error
