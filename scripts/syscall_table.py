"""Write kernel/syscall-numbers.json: for each name its number on five architectures (null: it does not exist there).

In: the host's libseccomp and <asm/unistd_64.h> names, plus the unified numbers that are newer than that library.
Run it when Linux gains system calls; needs libseccomp2 and linux-libc-dev.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path

ARCHES = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "x32": 0x4000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
#: One number on every architecture (since Linux 5.1); include/uapi/asm-generic/unistd.h.
UNIFIED = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
    "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465,
    "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}  # fmt: skip
#: Names under which libseccomp hides a direct call behind a multiplexer; the headers of this host have the real numbers.
HEADERS = {"x86_64": "unistd_64.h", "i386": "unistd_32.h", "x32": "unistd_x32.h"}
ARM_ONLY = {"sync_file_range2": 341}  # arch/arm/tools/syscall.tbl: arm_sync_file_range
X86_64_ONLY = {"uretprobe": 335, "uprobe": 336}
X32_BIT = 0x40000000


def names() -> set[str]:
    """Every name known to a header of this host or to the default profile."""
    found: set[str] = set()
    for header in (*Path("/usr/include").glob("**/asm*/unistd*.h"),):
        found |= set(re.findall(r"#define __NR(?:3264)?_(\w+)", header.read_text()))
    profile = json.loads((Path(__file__).parent.parent / "kernel/seccomp-default.json").read_text())
    for group in profile["syscalls"]:
        found |= set(group["names"])
    return found


def from_header(header: Path) -> dict[str, int]:
    """Numbers of one <asm/unistd_*.h>; x32's are written as an offset to its bit."""
    pattern = r"#define __NR_(\w+) (\(__X32_SYSCALL_BIT \+ )?(\d+)"
    rows = re.findall(pattern, header.read_text())
    return {name: int(number) | (X32_BIT if offset else 0) for name, offset, number in rows}


def main() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    table: dict[str, dict[str, int]] = {}
    for arch, token in ARCHES.items():
        numbers = {name: resolve(token, name.encode()) for name in names()}
        numbers = {name: number for name, number in numbers.items() if number >= 0}
        if arch in HEADERS:
            numbers |= from_header(Path("/usr/include/x86_64-linux-gnu/asm") / HEADERS[arch])
        extra = dict(UNIFIED) | (ARM_ONLY if arch == "arm" else {})
        if arch == "x86_64":
            extra |= X86_64_ONLY
        elif arch == "x32":
            del extra["map_shadow_stack"]
        for name, number in extra.items():
            numbers.setdefault(name, number | (X32_BIT if arch == "x32" else 0))
        table[arch] = dict(sorted(numbers.items(), key=lambda item: item[1]))
    lines = [f'  "{arch}": {json.dumps(numbers, separators=(",", ":"))}' for arch, numbers in table.items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
