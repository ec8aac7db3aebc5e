"""Seccomp profiles: what the compiled filter decides, by an interpreter, and the same as libseccomp's on the same rules."""

import ctypes
import ctypes.util
import json
import random
import struct
import tempfile
import time

import pytest

from pystack.kernel import capabilities, seccomp
from pystack.model.errors import InvalidInput

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x40000000
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050000 | 38
KILL = {0, 0x80000000}


def run(program, arch, number, *arguments):
    """Classic BPF as the kernel runs it on a struct seccomp_data; an instruction it does not know fails the test."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    at = accumulator = index = 0
    while True:
        code, jt, jf, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, k)[0]
            case 0x05:
                at += k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x25:
                at += jt if accumulator > k else jf
            case 0x35:
                at += jt if accumulator >= k else jf
            case 0x54:
                accumulator &= k
            case 0x06:
                return k
            case 0x02 | 0x60 | 0x07 | 0x87:  # scratch memory and X, libseccomp's
                assert code == 0x07, hex(code)
                index = accumulator
            case _:
                raise AssertionError(hex(code), index)


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


# Against libseccomp


class _ArgCmp(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
LIB_ARCHES = {"SCMP_ARCH_X86_64": X86_64, "SCMP_ARCH_X86": I386, "SCMP_ARCH_X32": 0x4000003E}


@pytest.fixture(scope="module")
def library():
    try:
        found = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed")
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    for name in ("seccomp_release", "seccomp_export_bpf", "seccomp_arch_add", "seccomp_rule_add_array"):
        getattr(found, name).argtypes = {
            "seccomp_release": [ctypes.c_void_p],
            "seccomp_export_bpf": [ctypes.c_void_p, ctypes.c_int],
            "seccomp_arch_add": [ctypes.c_void_p, ctypes.c_uint32],
            "seccomp_rule_add_array": [
                ctypes.c_void_p,
                ctypes.c_uint32,
                ctypes.c_int,
                ctypes.c_uint,
                ctypes.POINTER(_ArgCmp),
            ],
        }[name]
    return found


def reference(library, profile, groups, arches):
    """The filter that libseccomp makes of the same groups, fed as runc feeds them."""
    default = seccomp._action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    for name in arches:
        library.seccomp_arch_add(context, LIB_ARCHES[name])
    known = set()
    for group in groups:
        action = seccomp._action(group["action"], group.get("errnoRet"))
        for name in group["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                continue
            known.add(name)
            if action == default:
                continue
            for conditions in seccomp._conditions(group):
                array = (_ArgCmp * len(conditions))(
                    *((c.index, OPERATORS.index(c.operator) + 1, c.value, c.value_two) for c in conditions)
                )
                result = library.seccomp_rule_add_array(context, action, number, len(conditions), array)
                assert result == 0, (name, result)
    with tempfile.TemporaryFile() as file:
        assert library.seccomp_export_bpf(context, file.fileno()) == 0
        file.seek(0)
        program = file.read()
    library.seccomp_release(context)
    return program, known


def interesting(rng, groups, name):
    """Arguments near the values that the rules of this call compare with."""
    found = [rng.getrandbits(64) for _ in range(6)]
    values = [a for group in groups if name in group["names"] for a in group.get("args") or ()]
    for argument in values:
        near = argument["value"] if rng.random() < 0.5 else argument.get("valueTwo", 0)
        found[argument["index"]] = (
            near + rng.choice((-1, 0, 0, 0, 1)) ^ rng.choice((0, 0, 0, 1 << 32, 1 << 63))
        ) % (1 << 64)
    return found


@pytest.mark.parametrize("caps", [capabilities.DEFAULT, 0, (1 << 41) - 1, 1 << 21, 1 << 39])
def test_the_default_profile_decides_as_libseccomp(library, caps):
    profile = seccomp.default_profile()
    held = frozenset(capabilities.names(caps))
    groups = [group for group in profile["syscalls"] if seccomp._applies(group, held, (6, 1), "amd64")]
    theirs, known = reference(library, profile, groups, LIB_ARCHES)
    ours = seccomp.compile_profile(profile, caps, (6, 1), "x86_64")
    rng = random.Random(caps)
    compared = 0
    for table, arch in (("x86_64", X86_64), ("i386", I386), ("x32", X86_64)):
        numbers = seccomp.numbers()[table]
        names = {number: name for name, number in numbers.items()}
        newest = seccomp._newest(groups, numbers)
        base = X32 if table == "x32" else 0
        for number in range(base, newest + 1):
            name = names.get(number, "")
            if name and name not in known and any(name in group["names"] for group in groups):
                continue  # newer than this libseccomp
            compares = any(name in group["names"] and group.get("args") for group in groups)
            for _ in range(60 if compares else 1):
                arguments = interesting(rng, groups, name)
                if table != "x86_64" or name == "socket":  # libseccomp's width, and ours for socket
                    arguments = [argument & 0xFFFFFFFF for argument in arguments]
                a, b = run(ours, arch, number, *arguments), run(theirs, arch, number, *arguments)
                assert a == b, (table, number, name, arguments)
                compared += 1
    assert compared > 1500


@pytest.mark.parametrize("seed", range(12))
def test_random_rules_decide_as_libseccomp(library, seed):
    rng = random.Random(seed)
    names = ["read", "write", "openat", "ioctl", "fcntl", "prctl", "mmap", "kill", "dup3", "futex"]

    def argument(index):
        value = rng.choice((0, 1, 5, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, rng.getrandbits(40)))
        op = rng.choice(OPERATORS)
        two = rng.getrandbits(64) & value if op == "MASKED_EQ" else 0
        return {"index": index, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{op}"}

    groups = []
    for name in names:
        for _ in range(rng.choice((1, 1, 2))):
            indexes = rng.sample(range(6), rng.choice((0, 1, 1, 2)))
            groups.append(
                {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument(index) for index in indexes]}
            )
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": groups, "architectures": ["SCMP_ARCH_X86_64"]}
    theirs, _ = reference(library, profile, groups, ["SCMP_ARCH_X86_64"])
    ours = seccomp.compile_profile(profile, 0, (6, 1), "x86_64")
    for name in names:
        number = seccomp.numbers()["x86_64"][name]
        for _ in range(100):
            arguments = interesting(rng, groups, name)
            assert run(ours, X86_64, number, *arguments) == run(theirs, X86_64, number, *arguments), (
                name,
                arguments,
            )
