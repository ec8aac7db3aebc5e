"""The default filter on the running kernel: a child installs it and tries system calls, isolation facts by errno."""

import base64
import json
import subprocess
import sys

import pytest

from pystack.kernel import capabilities, seccomp

pytestmark = pytest.mark.kernel

#: Reads {program, probes}, installs the filter without no_new_privs (as PID 1 of a container does), prints errnos.
CHILD = r"""
import base64, ctypes, json, mmap, os, sys
asked = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.argtypes, syscall.restype = [ctypes.c_long] + [ctypes.c_uint64] * 6, ctypes.c_long
program = base64.b64decode(asked["program"])
code = ctypes.create_string_buffer(program, len(program))
class Prog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))
prog = Prog(len(program) // 8, ctypes.addressof(code))
# int 0x80 with eax = edi, ebx = esi
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\x53\x89\xf8\x89\xf3\xcd\x80\x5b\x48\x98\xc3")
int80 = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_uint, ctypes.c_uint)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
def probe(kind, number, *arguments):
    if kind == "i386":
        return max(-int80(number, *arguments), 0)
    padded = list(arguments) + [0] * (6 - len(arguments))
    ctypes.set_errno(0)
    return ctypes.get_errno() if syscall(number, *padded) < 0 else 0
json.dumps([1])
assert syscall(317, 1, 0, ctypes.addressof(prog), 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
results = [probe(*each) for each in asked["probes"]]
status = [line for line in open("/proc/self/status") if line.startswith("Seccomp:")]
print(json.dumps([results, status]))
"""
X32 = 0x40000000
NEWUSER, NEWUTS = 0x10000000, 0x04000000


def errnos(program, *probes):
    asked = json.dumps({"program": base64.b64encode(program).decode(), "probes": probes})
    command = [sys.executable, "-I", "-S", "-c", CHILD]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    results, status = json.loads(done.stdout)
    assert status == ["Seccomp:\t2\n"]
    return results


def default(caps=capabilities.DEFAULT):
    return seccomp.compile_profile(seccomp.default_profile(), caps)


def test_what_must_not_work_does_not():
    probes = {
        "keyctl": (250, 0, 0xFFFFFFFFFFFFFFFD, 0),
        "add_key": (248,),
        "request_key": (249,),
        "unshare user": (272, NEWUSER),
        "clone user": (56, NEWUSER | 17),
        "AF_VSOCK": (41, 40, 1, 0),
        "AF_VSOCK with dirt above": (41, 1 << 32 | 40, 1, 0),
        "io_uring_setup": (425, 1, 0),
        "userfaultfd": (323, 1),
        "set_mempolicy": (238, 0),
        "pidfd_getfd": (438,),
        "kcmp": (312,),
        "iopl": (172, 0),
        "bpf": (321, 99, 0, 0),
        "personality": (135, 0x40000),
        "mount": (165,),
        "open_by_handle_at": (304,),
        "perf_event_open": (298,),
        "setns": (308,),
    }
    found = errnos(default(), *(("x86_64", *each) for each in probes.values()))
    assert dict(zip(probes, found, strict=True)) == dict.fromkeys(probes, 1)


def test_what_must_work_or_say_enosys():
    found = errnos(
        default(),
        ("x86_64", 135, 0xFFFFFFFF),
        ("x86_64", 135, 8),
        ("x86_64", 135, 0),
        ("x86_64", 41, 2, 1, 0),
        ("x86_64", 39),
        ("x86_64", 435),
        ("x86_64", 1000),
    )
    assert found == [0, 0, 0, 0, 0, 38, 38]


def test_other_ways_in_are_closed():
    found = errnos(
        default(),
        ("i386", 310, NEWUSER),
        ("i386", 20, 0),
        ("i386", 4000, 0),
        ("x86_64", X32 | 272, NEWUSER),
        ("x86_64", X32 | 1000),
    )
    assert found[0] != 0
    assert found[1] == 0 or found[1] == 38  # getpid, where the kernel has the 32-bit entry
    assert found[2] == 38
    assert found[3:] == [1, 38]


def test_capabilities_open_their_groups():
    found = errnos(
        default(capabilities.DEFAULT | capabilities.bit("SYS_ADMIN")),
        ("x86_64", 272, NEWUTS),
        ("x86_64", 250),
    )
    assert found == [0, 1]


def test_a_users_profile_refuses_mkdir():
    text = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat", "nope"], "action": "SCMP_ACT_ERRNO"}]}'
    program = seccomp.compile_profile(seccomp.load_profile(text), capabilities.DEFAULT)
    assert errnos(program, ("x86_64", 83), ("x86_64", 258), ("x86_64", 272, NEWUTS)) == [1, 1, 0]
