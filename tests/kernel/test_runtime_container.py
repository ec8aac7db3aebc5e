"""What a container is: isolation, identity, limits and exit codes, seen from inside, for PID 1 and for an exec alike."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import Box, box, collect, process

from pystack.engine.runtime import record
from pystack.engine.runtime.bundle import Process
from pystack.model.errors import StartError

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path) as it:
        yield it


async def both(made: Box, proc: Process, **changes) -> list[str]:
    """Standard output of `proc` as PID 1, and as an exec in a container like it."""
    code, first, errors = await made.run(proc, **changes)
    assert code == 0, errors
    sleeper = {**proc, "argv": ["sleep", "100"], "user": "", "cwd": "/"}
    shim = await made.start(made.bundle(sleeper, **changes))
    running = await shim.exec(proc)
    output = await collect(running)
    assert await running.exited == 0, output
    return [first, output["stdout"].decode()]


async def test_capabilities_signals_and_groups(made: Box) -> None:
    script = "grep -E '^(Cap|Sig(Ign|Blk)|Groups|NoNewPrivs|Umask)' /proc/self/status"
    for text in await both(made, process("sh", "-c", script)):
        fields = dict(line.split(":\t") for line in text.splitlines())
        assert fields["CapEff"] == fields["CapPrm"] == fields["CapBnd"] == "00000000a80425fb"
        assert fields["CapInh"] == fields["CapAmb"] == fields["SigIgn"] == fields["SigBlk"] == "0" * 16
        assert fields["Groups"].split() == ["0"]
        assert fields["NoNewPrivs"] == "0"
        assert fields["Umask"] == "0022"


async def test_a_user_has_no_capabilities_and_the_groups_of_the_container(made: Box) -> None:
    script = "id; grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status; echo $HOME; echo again > /dev/stdout"
    for text in await both(made, process("sh", "-c", script, user="alice")):
        assert "uid=1000(alice) gid=1000(alice) groups=1000(alice),29(audio),100(users)" in text
        assert re.findall(r"Cap\w+:\t(\w+)", text) == ["0" * 16, "0" * 16, "00000000a80425fb"]
        assert text.endswith("/home/alice\nagain\n")


async def test_an_explicit_group_is_the_only_one(made: Box) -> None:
    proc = process("id", user="1000:1000", group_add=["audio", "777"])
    for text in await both(made, proc):
        assert "groups=1000(alice),29(audio),777" in text


async def test_no_new_privileges_and_seccomp(made: Box) -> None:
    # BPF: mkdir and mkdirat → EPERM, everything else allowed. struct sock_filter {code, jt, jf, k}
    program = b"".join(
        struct.pack("<HBBI", *row)
        for row in (
            (0x20, 0, 0, 0),
            (0x15, 2, 0, 83),
            (0x15, 1, 0, 258),
            (6, 0, 0, 0x7FFF0000),
            (6, 0, 0, 0x50001),
        )
    )
    script = "mkdir /x; mkdir /x 2>&1; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"
    for nnp in (False, True):
        proc = process("sh", "-c", script, seccomp=base64.b64encode(program).decode(), no_new_privileges=nnp)
        for text in await both(made, proc):
            assert "Operation not permitted" in text
            assert "Seccomp:\t2" in text
            assert f"NoNewPrivs:\t{int(nnp)}" in text


async def test_descriptors_and_environment(made: Box) -> None:
    for text in await both(made, process("sh", "-c", "ls -l /proc/self/fd | tail -n +2; env")):
        descriptors = re.findall(r" (\d+) -> (\S+)", text)
        assert [number for number, _ in descriptors] == ["0", "1", "2", "3"]
        assert descriptors[0][1] == "/dev/null"
        assert descriptors[3][1].endswith("/fd")
        names = set(re.findall(r"^(\w+)=", text, re.MULTILINE))
        assert names - {"PWD", "SHLVL", "_"} == {"PATH", "HOSTNAME", "HOME"}


async def test_every_namespace_is_new_and_mounts_are_private(made: Box) -> None:
    script = "readlink /proc/self/ns/{mnt,pid,net,ipc,uts}; hostname; ls /sys/class/net; cut -d' ' -f5- /proc/self/mountinfo"
    code, text, errors = await made.run(process("bash", "-c", script))
    assert code == 0, errors
    lines = text.splitlines()
    assert len(lines[:5]) == 5
    assert not set(lines[:5]) & {
        os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts")
    }
    assert lines[5] == "box"
    assert lines[6] == "lo"
    targets = [line.split()[0] for line in lines[7:]]
    assert all(target == "/" or target.startswith(("/usr", "/proc", "/sys", "/dev")) for target in targets)
    assert "shared:" not in text


async def test_kernel_file_systems_are_guarded(made: Box) -> None:
    script = (
        "for f in kcore keys timer_list interrupts; do [ -e /proc/$f ] && head -c 64 /proc/$f; done; ls -A /sys/firmware;"
        "( : >> /proc/sys/kernel/core_pattern ) 2>&1; ( : >> /proc/irq/default_smp_affinity ) 2>&1; mkdir /sys/fs/x 2>&1;"
        "umount /proc/sys 2>&1; ls -A /dev | tr '\\n' ' '; stat -c '%t:%T %a' /dev/null; ls /dev/pts"
    )
    code, text, _ = await made.run(process("sh", "-c", script))
    assert code == 0
    lines = text.splitlines()
    assert lines[0].endswith("Read-only file system")
    assert lines[1].endswith("Read-only file system")
    assert "Read-only" in lines[2]
    assert "umount" in lines[3]
    nodes = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert lines[4].replace("core ", "") == f"{nodes} 1:3 666"
    assert lines[5:] == ["ptmx"]


async def test_a_root_that_cannot_be_left_by_chroot(made: Box) -> None:
    script = (
        "import os; os.mkdir('/x'); os.chroot('/x'); [os.chdir('..') for _ in range(64)]; os.chroot('.');"
    )
    code, text, errors = await made.run(process("python3", "-c", script + "print(sorted(os.listdir('/')))"))
    assert code == 0, errors
    assert "work" not in text
    assert "x" in text


@pytest.mark.parametrize(
    ("argv", "exit_code", "message"),
    [
        (["nope"], 127, 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 127, 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["passwd-data"], 126, 'exec: "passwd-data": permission denied'),
    ],
)
async def test_programs_that_cannot_start(made: Box, argv: list[str], exit_code: int, message: str) -> None:
    (made.lower / "etc/passwd-data").write_text("no program")
    proc = process(*argv, env=["PATH=/usr/bin:/etc"])
    for init in (False, True):
        bundle = made.bundle(proc, init=init)
        shim = await made.launcher.launch(bundle)
        made.shims.append(shim)
        await shim.go()
        with pytest.raises(StartError) as caught:
            await shim.wait_started()
        assert (caught.value.exit_code, caught.value.message) == (exit_code, message)
        assert (await shim.exited)["exit_code"] == exit_code
        await shim.closed
        saved = record.load(bundle["directory"])
        assert saved
        assert (saved["exit_code"], saved["error"]) == (exit_code, message)
    shim = await made.start(made.bundle(process("sleep", "100")))
    with pytest.raises(StartError) as caught:
        await shim.exec(proc)
    assert (caught.value.exit_code, caught.value.message) == (exit_code, message)


async def test_a_set_up_that_fails_names_the_step(made: Box) -> None:
    bundle = made.bundle(process("true"), mounts=[{"kind": "bind", "source": "/nope", "target": "/usr"}])
    shim = await made.launcher.launch(bundle)
    await shim.go()
    with pytest.raises(
        StartError, match="cannot open the sources of the mounts: /nope No such file"
    ) as caught:
        await shim.wait_started()
    assert caught.value.exit_code == 125
    await shim.closed


@pytest.mark.parametrize("init", [False, True])
async def test_exit_codes(made: Box, init: bool) -> None:
    assert (await made.run(process("sh", "-c", "exit 42"), init=init))[0] == 42
    assert (await made.run(process("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), init=init))[0] == 137


async def test_signals_end_an_init_and_its_program(made: Box) -> None:
    bundle = made.bundle(process("sleep", "100"), init=True)
    shim = await made.start(bundle)
    await shim.signal(15)
    exited = await asyncio.wait_for(shim.exited, 5)
    assert (exited["exit_code"], exited["signal"]) == (143, 0)  # the init's own exit code, as with Docker's
    shim = await made.start(made.bundle(process("sleep", "100")))
    await shim.signal(9)
    assert (await asyncio.wait_for(shim.exited, 5))["exit_code"] == 137


async def test_an_init_in_python_where_the_program_cannot_be_executed(made: Box) -> None:
    """A seccomp profile that forbids execveat: the same behaviour from the loop in Python."""
    program = b"".join(
        struct.pack("<HBBI", *row)
        for row in ((0x20, 0, 0, 0), (0x15, 1, 0, 322), (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50001))
    )
    proc = process("sh", "-c", "exit 4", seccomp=base64.b64encode(program).decode())
    assert (await made.run(proc, init=True))[0] == 4
    proc = {**proc, "argv": ["sleep", "100"]}
    shim = await made.start(made.bundle(proc, init=True))
    await shim.signal(15)
    assert (await asyncio.wait_for(shim.exited, 5))["exit_code"] == 143


async def test_init_reaps_orphans(made: Box) -> None:
    script = "(sh -c 'sleep 0.05 & exec true' &); sleep 0.3; grep -h '^State' /proc/[0-9]*/status"
    code, text, _ = await made.run(process("sh", "-c", script), init=True)
    assert code == 0
    assert "Z (zombie)" not in text


async def test_users_that_cannot_be_resolved(made: Box) -> None:
    for user in ("nobody-here", "4294967296", "2147483648", "-1", "0:nogroup"):
        shim = await made.launcher.launch(made.bundle(process("true", user=user)))
        await shim.go()
        with pytest.raises(StartError):
            await shim.wait_started()
        await shim.closed


async def test_the_working_directory_is_made_and_never_outside(made: Box) -> None:
    assert (await made.run(process("pwd", cwd="/made/for/me")))[1] == "/made/for/me\n"
    for number in range(3, 12):
        shim = await made.launcher.launch(made.bundle(process("pwd", cwd=f"/proc/self/fd/{number}")))
        await shim.go()
        with pytest.raises(StartError):
            await shim.wait_started()
        await shim.closed
    shim = await made.start(made.bundle(process("sleep", "100")))
    with pytest.raises(StartError, match="no such file or directory"):
        await shim.exec(process("pwd", cwd="/nope"))


async def test_symlinks_of_the_image_lead_nowhere_else(made: Box, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "token").write_text("secret")
    for name in ("evil", "dev-link"):
        (made.lower / name).symlink_to(canary)
    mounts = [
        *made.bundle(process())["mounts"],
        {"kind": "bind", "source": str(made.lower / "etc"), "target": "/evil/new"},
        {"kind": "fs", "fstype": "tmpfs", "target": "/evil/tmpfs", "flags": 0, "data": ""},
    ]
    code, _, _ = await made.run(process("pwd", cwd="/evil/cwd"), mounts=mounts)
    assert code == 0
    assert sorted(os.listdir(canary)) == ["token"]
    for name in ("dev", "proc", "sys"):
        (made.lower / name).symlink_to(canary)
        shim = await made.launcher.launch(made.bundle(process("true")))
        await shim.go()
        with pytest.raises(StartError, match="must be an ordinary directory"):
            await shim.wait_started()
        await shim.closed
        (made.lower / name).unlink()
    assert sorted(os.listdir(canary)) == ["token"]


async def test_mounts_over_proc_are_refused(made: Box) -> None:
    for target in ("/proc", "/proc/self/attr", "/proc/1/fd"):
        mounts = [*made.bundle(process())["mounts"], {"kind": "bind", "source": "/usr", "target": target}]
        shim = await made.launcher.launch(made.bundle(process("true"), mounts=mounts))
        await shim.go()
        with pytest.raises(StartError, match=r"inside /proc|cannot mount"):
            await shim.wait_started()
        await shim.closed


async def test_mount_options(made: Box, tmp_path: Path) -> None:
    volume, file = tmp_path / "volume", tmp_path / "file"
    volume.mkdir()
    file.write_text("content")
    mounts = [
        *made.bundle(process())["mounts"],
        {"kind": "bind", "source": str(volume), "target": "/v"},
        {"kind": "bind", "source": str(volume), "target": "/ro", "readonly": True},
        {"kind": "bind", "source": str(file), "target": "/deep/er/file"},
        {"kind": "fs", "fstype": "tmpfs", "target": "/t", "flags": 2 | 4 | 8, "data": "size=1m,mode=1777"},
    ]
    script = "echo x > /v/x; touch /ro/y 2>&1; cat /deep/er/file; grep ' /t ' /proc/mounts; touch /z 2>&1"
    rootfs = {**made.bundle(process())["rootfs"], "readonly": True}
    code, text, _ = await made.run(process("sh", "-c", script), mounts=mounts, rootfs=rootfs)
    assert code == 1
    assert (volume / "x").read_text() == "x\n"
    assert text.count("Read-only file system") == 2
    assert "content" in text
    assert "rw,nosuid,nodev,noexec,relatime,size=1024k" in text


async def test_many_layers(made: Box, tmp_path: Path) -> None:
    lower = [str(made.lower)]
    for number in range(124):
        layer = tmp_path / "layers" / f"{number:064d}"
        (layer / "layers").mkdir(parents=True)
        (layer / "layers" / str(number)).touch()
        lower.append(str(layer))
    bundle_rootfs = {**made.bundle(process())["rootfs"], "lower": lower}
    code, text, _ = await made.run(process("ls", "/layers"), rootfs=bundle_rootfs)
    assert code == 0
    assert len(text.split()) == 124


async def test_limits_and_sysctls(made: Box) -> None:
    proc = process(
        "sh", "-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start",
        rlimits=[{"name": "nofile", "soft": 100, "hard": 200}], oom_score_adj=7,
    )  # fmt: skip
    for text in await both(made, proc, sysctls={"net.ipv4.ip_unprivileged_port_start": "0"}):
        assert text.split() == ["100", "200", "7", "0"]


async def test_a_limit_that_cannot_be_raised_is_kept_with_a_warning(made: Box) -> None:
    huge = {"name": "nofile", "soft": 2**30, "hard": 2**30 + 2**29}
    shim = await made.start(made.bundle(process("sleep", "1", rlimits=[huge], oom_score_adj=-900)))
    assert any("nofile" in warning for warning in shim.warnings) or shim.warnings == []
    assert shim.started_at


async def test_cgroups_are_entered_before_the_program_runs(made: Box) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if not (memory / "tasks").exists():
        pytest.skip("no cgroup v1 memory controller here")
    name = f"pystack-test-{os.getpid()}"
    groups = [Path("/sys/fs/cgroup") / kind / name for kind in ("memory", "pids")]
    try:
        for group in groups:
            group.mkdir()
        (groups[0] / "memory.limit_in_bytes").write_text(str(32 << 20))
        cgroups = [str(group) for group in groups]
        script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory/x 2>&1; mkdir /sys/fs/cgroup/y 2>&1"
        _, text, _ = await made.run(process("sh", "-c", script), cgroups=cgroups)
        assert text.count(f"/{name}") == 2
        assert "memory\npids" in text
        assert text.count("Read-only file system") == 2
        bundle = made.bundle(process("sleep", "100"), cgroups=cgroups)
        shim = await made.start(bundle)
        hog = await shim.exec(process("python3", "-c", "x = b'1' * (200 << 20)"))
        assert await hog.exited == 137
        await shim.signal(9)
        assert (await shim.exited)["oom_killed"]
        namespaces = {**bundle["namespaces"], "cgroup": "new"}
        _, text, _ = await made.run(
            process("cat", "/proc/self/cgroup"), cgroups=cgroups, namespaces=namespaces
        )
        assert "memory:/\n" in text
    finally:
        for shim in made.shims:
            if not shim.closed.done():
                await shim.signal(9)
                await shim.closed
        for group in groups:
            group.rmdir()


async def test_a_v2_cgroup_is_where_the_process_is_born(made: Box) -> None:
    top = next(
        (
            path
            for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
            if os.path.exists(f"{path}/cgroup.procs")
        ),
        "",
    )
    if not top or os.path.exists(f"{top}/tasks"):
        pytest.skip("no cgroup2 mounted here")
    group = Path(top) / f"pystack-test-{os.getpid()}"
    group.mkdir()
    try:
        for text in await both(made, process("grep", "^0:", "/proc/self/cgroup"), cgroups=[str(group)]):
            assert text == f"0::/{group.name}\n"
        namespaces = {**made.bundle(process())["namespaces"], "cgroup": "new"}
        script = "grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>&1"
        _, text, _ = await made.run(process("sh", "-c", script), cgroups=[str(group)], namespaces=namespaces)
        assert text.startswith("0::/\n")
        assert "1" in text.split()
        assert "Read-only file system" in text
    finally:
        await made.close()
        group.rmdir()


async def test_namespaces_that_are_joined(made: Box) -> None:
    first = await made.start(made.bundle(process("sleep", "100")))
    fds = [os.open(f"/proc/{first.pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "ipc", "pid", "uts")]
    namespaces = {
        **made.bundle(process())["namespaces"],
        "net": "fd:0",
        "ipc": "fd:1",
        "pid": "fd:2",
        "uts": "fd:3",
    }
    bundle = made.bundle(process("sleep", "100"), namespaces=namespaces, hostname="")
    try:
        second = await made.launcher.launch(bundle, fds)
        made.shims.append(second)
        await second.go()
        await second.wait_started()
        for kind in ("net", "ipc", "pid", "uts"):
            assert os.readlink(f"/proc/{first.pid}/ns/{kind}") == os.readlink(f"/proc/{second.pid}/ns/{kind}")
        running = await second.exec(process("sh", "-c", "hostname; readlink /proc/self/ns/pid"))
        inner = os.readlink(f"/proc/{first.pid}/ns/pid").encode()
        async with asyncio.timeout(5):
            assert (await collect(running))["stdout"] == b"box\n" + inner + b"\n"
    finally:
        for fd in fds:
            os.close(fd)


async def test_the_runtime_cannot_be_reached_from_inside(made: Box) -> None:
    """CVE-2019-5736, CVE-2016-9962: nothing of the runtime can be opened while it enters the container."""
    watcher = (
        "import os, time\n"
        "caught = []\n"
        "print('on', flush=True)\n"
        "end = time.time() + 2\n"
        "while time.time() < end:\n"
        "  for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n"
        "      exe = os.readlink(f'/proc/{pid}/exe')\n"
        "      if exe.startswith('/usr/bin/'): continue\n"
        "      fd = os.open(f'/proc/{pid}/exe', os.O_RDONLY); caught.append(exe)\n"
        "      os.open(f'/proc/self/fd/{fd}', os.O_WRONLY); caught.append('WRITABLE ' + exe)\n"
        "    except OSError: pass\n"
        "print([c for c in caught if 'WRITABLE' in c or 'memfd' not in c])\n"
    )
    shim = await made.launcher.launch(made.bundle(process("python3", "-c", watcher)))
    made.shims.append(shim)
    session = await shim.attach(stdin=False, stdout=True, stderr=True)
    await shim.go()
    assert (await session.receive()) == ("stdout", b"on\n")
    while not shim.exited.done():
        try:
            running = await shim.exec(process("true"))
            await running.exited
            await running.close()
        except Exception:  # the container has just ended
            break
    assert (await collect(session))["stdout"] == b"[]\n"
