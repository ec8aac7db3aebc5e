"""Seccomp profiles: what the compiled filter decides, by an interpreter (beside libseccomp: tests/differential)."""

import json
import time

import pytest
from bpf import AARCH64, ARM, I386, X32, X86_64, run

from pystack.kernel import capabilities, seccomp
from pystack.model.errors import InvalidInput

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050000 | 38
KILL = {0, 0x80000000}


def call(name, *arguments, program=None, arch=X86_64, table="x86_64"):
    return run(program or DEFAULT, arch, seccomp.numbers()[table][name], *arguments)


DEFAULT = seccomp.compile_profile(seccomp.default_profile(), capabilities.DEFAULT, (6, 1), "x86_64")


def test_the_default_profile_on_x86_64():
    assert call("read") == call("openat2") == call("chroot") == ALLOW
    for name in (
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "userfaultfd",
        "set_mempolicy",
        "kcmp",
        "iopl",
    ):
        assert call(name) == EPERM, name
    for name in (
        "pidfd_getfd",
        "bpf",
        "mount",
        "unshare",
        "pivot_root",
        "kexec_load",
        "reboot",
        "init_module",
    ):
        assert call(name) == EPERM, name
    assert call("clone3") == ENOSYS
    assert run(DEFAULT, X86_64, 1000) == ENOSYS
    assert run(DEFAULT, X86_64, 0x3FFFFFFF) == ENOSYS


def test_arguments_are_compared_in_both_halves():
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert call("personality", value) == ALLOW
        assert call("personality", value | 1 << 32) == EPERM
    assert call("personality", 0x40000) == EPERM
    assert call("clone", 0x00000011) == ALLOW
    assert call("clone", 1 << 40 | 0x11) == ALLOW
    for flag in (0x10000000, 0x20000, 0x02000000, 0x40000000):
        assert call("clone", flag | 0x11) == EPERM
    assert call("socket", 2) == ALLOW
    assert call("socket", 40) == EPERM
    assert call("socket", 1 << 32 | 40) == EPERM  # the kernel cuts it to 40


def test_other_architectures_are_told_apart():
    numbers = seccomp.numbers()
    assert call("unshare", arch=I386, table="i386") == EPERM
    assert call("read", arch=I386, table="i386") == ALLOW
    assert call("socket", 40, arch=I386, table="i386") == EPERM
    assert call("unshare", table="x32") == EPERM
    assert numbers["x32"]["read"] == X32
    assert call("read", table="x32") == ALLOW
    assert run(DEFAULT, X86_64, X32 | 1000) == ENOSYS
    assert run(DEFAULT, AARCH64, numbers["aarch64"]["read"]) in KILL
    arm = seccomp.compile_profile(seccomp.default_profile(), capabilities.DEFAULT, (6, 1), "aarch64")
    assert call("read", program=arm, arch=AARCH64, table="aarch64") == ALLOW
    assert call("unshare", program=arm, arch=AARCH64, table="aarch64") == EPERM
    assert call("sync_file_range2", program=arm, arch=ARM, table="arm") == ALLOW
    assert call("read", program=arm) in KILL


def test_x32_is_refused_where_the_profile_does_not_name_it():
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }
    program = seccomp.compile_profile(profile, 0, (6, 1), "x86_64")
    assert call("read", program=program) == ALLOW
    assert run(program, X86_64, X32) in KILL
    assert run(program, I386, 3) in KILL


def test_conditions_on_the_container_and_the_host():
    profile = seccomp.default_profile()
    admin = seccomp.compile_profile(profile, capabilities.bit("SYS_ADMIN"), (6, 1), "x86_64")
    assert (
        call("unshare", program=admin) == call("clone3", program=admin) == call("bpf", program=admin) == ALLOW
    )
    assert call("clone", 0x10000000, program=admin) == ALLOW
    assert call("chroot", program=admin) == EPERM
    old = seccomp.compile_profile(profile, capabilities.DEFAULT, (4, 7), "x86_64")
    assert call("ptrace") == ALLOW
    assert call("ptrace", program=old) == EPERM
    for cap, name in (
        ("BPF", "bpf"),
        ("PERFMON", "perf_event_open"),
        ("SYSLOG", "syslog"),
        ("SYS_NICE", "mbind"),
    ):
        one = seccomp.compile_profile(profile, capabilities.bit(cap), (6, 1), "x86_64")
        assert (call(name, program=one), call(name)) == (ALLOW, EPERM)


def test_compiling_is_fast_and_cached():
    started = time.perf_counter()
    seccomp._compile(seccomp.default_profile(), capabilities.bit("SYS_TIME"), (6, 1), "x86_64")
    took = time.perf_counter() - started
    print(f"default profile: {took * 1e3:.2f} ms, {len(DEFAULT) // 8} instructions")
    assert took < 0.05
    assert (
        seccomp.compile_profile(seccomp.default_profile(), capabilities.DEFAULT, (6, 1), "x86_64") is DEFAULT
    )


def with_argument(argument):
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [argument]}
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[]", "not a JSON object"),
        ('{"defaultAction": "SCMP_ACT_MAYBE"}', "invalid seccomp action: 'SCMP_ACT_MAYBE'"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "X"}]}',
            "invalid seccomp action: 'X'",
        ),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "invalid seccomp action"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["a"], "archMap": [{}]}',
            "use either of them",
        ),
        (with_argument({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}), "invalid seccomp argument"),
        (with_argument({"index": 0, "value": 0, "op": "EQ"}), "invalid seccomp argument"),
        (with_argument({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}), "invalid seccomp argument"),
    ],
)
def test_profiles_that_cannot_be_used(text, message):
    with pytest.raises(InvalidInput, match=message):
        seccomp.load_profile(text)


def test_a_users_profile():
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
                {"name": "rmdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["unlink"], "action": "SCMP_ACT_KILL_PROCESS"},
                {
                    "names": ["dup2"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [
                        {"index": 0, "value": 5, "op": "SCMP_CMP_LT"},
                        {"index": 0, "value": 9, "op": "SCMP_CMP_GT"},
                    ],
                },
            ],
        }
    )
    program = seccomp.compile_profile(seccomp.load_profile(text), 0, (6, 1), "x86_64")
    assert call("mkdir", program=program) == call("mkdirat", program=program) == EPERM
    assert call("rmdir", program=program) == 0x00050000 | 13
    assert call("unlink", program=program) == 0x80000000
    assert run(program, X86_64, 5000) == ALLOW
    # two conditions on one argument are alternatives
    assert [call("dup2", n, program=program) for n in (4, 5, 9, 10)] == [EPERM, ALLOW, ALLOW, EPERM]
