"""The compiled seccomp filters beside libseccomp's on the same rules: both decide the same."""

import ctypes
import random
import tempfile

import pytest
from bpf import I386, X32, X86_64, run

from pystack.kernel import capabilities, seccomp


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
