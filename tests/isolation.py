"""A hostile busybox: the image, programs and reports with which the isolation tests look out of a container.

`probe` makes raw system calls and prints their errnos; `watch` grabs at every process that the engine starts beside it;
`/report` prints everything that confines the process it runs in, as `== name` sections. The same report is taken from
PID 1, from an exec, from a health probe and from an exec after a restart of the daemon, and must always say the same.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import images
import pytest

#: `probe serial` prints the session keyring's serial, `probe uid` the user. `probe SPEC…`: SPEC is [i|x]NUMBER[,ARGUMENT…] for x86-64, int 0x80 and x32. One line for each: errno, 0, or sigN.
_PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "serial")) { printf("%ld\n", syscall(250, 0, -3, 0)); return 0; }
    if (argc > 1 && !strcmp(argv[1], "uid")) { printf("euid=%d\n", geteuid()); return 0; }
    for (int i = 1; i < argc; i++) {
        char *at = argv[i], kind = 0;
        if (*at == 'i' || *at == 'x') kind = *at++;
        unsigned long a[7] = {0};
        for (int n = 0; n < 7 && *at; n++) { a[n] = strtoul(at, &at, 0); if (*at == ',') at++; }
        pid_t pid = fork();
        if (pid == 0) {
            long r;
            if (kind == 'i') {
                __asm__ volatile("push %%rbx; mov %2, %%ebx; int $0x80; pop %%rbx" : "=a"(r)
                    : "a"(a[0]), "r"((unsigned)a[1]), "c"(a[2]), "d"(a[3]) : "memory", "r8", "r9", "r10", "r11");
                r = (int)r;
                _exit(r < 0 ? -r : 0);
            }
            r = syscall(kind == 'x' ? 0x40000000UL | a[0] : a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
            _exit(r == -1 ? errno : 0);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status)) printf("sig%d\n", WTERMSIG(status));
        else printf("%d\n", WEXITSTATUS(status));
    }
    return 0;
}
"""

#: `watch SECONDS CANARY`: what could be had of processes that do not run a program of the container. A process is ours
#: when its exe can be read and lies below /bin; while it is not, each of its doors is tried.
_WATCH = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static long denied, foreign;
static int hidden(const char *exe) {
    int fd = open(exe, O_RDONLY);
    if (fd >= 0) { close(fd); return 0; }
    return errno == EACCES || errno == EPERM;
}
static void look(const char *pid, const char *canary) {
    char path[512], link[512], name[64];
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(name, link, sizeof link - 1);
        link[n < 0 ? 0 : n] = 0;
        if (strncmp(link, "/bin/", 5) == 0 || strncmp(link, "/memfd:init", 11) == 0) { close(fd); return; }
        foreign++;
        int again = open(name, O_WRONLY | O_APPEND);
        printf("exe %s errno=%d seals=%d\n", link, again < 0 ? errno : 0, fcntl(fd, F_GET_SEALS));
        if (again >= 0) close(again);
        close(fd);
    } else if (errno == EACCES || errno == EPERM) denied++;
    else return;
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(link, sizeof link, status))
        if (!strncmp(link, "CapEff:", 7)) printf("caps %s", link + 8);
    if (status) fclose(status);
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    static const char *doors[] = {"environ", "fd/0", "fd/1", "fd/2", "fd/3", "fd/4", "fd/5", "fd/6", "cwd/.", "root/.",
        "maps", "mem", 0};
    for (int i = 0; doors[i]; i++) {
        char door[512];
        snprintf(door, sizeof door, "/proc/%s/%s", pid, doors[i]);
        int got = open(door, O_RDONLY);
        if (got < 0) continue;
        if (fd < 0 && hidden(path)) printf("door %s\n", doors[i]);
        close(got);
    }
    snprintf(path, sizeof path, "/proc/%s/root%s", pid, canary);
    if ((fd = open(path, O_RDONLY)) >= 0) { printf("CANARY\n"); close(fd); }
}
int main(int argc, char **argv) {
    struct timespec begin, now;
    char self[16], first[2] = "1";
    snprintf(self, sizeof self, "%d", getpid());
    clock_gettime(CLOCK_MONOTONIC, &begin);
    setvbuf(stdout, 0, _IOFBF, 1 << 16);
    do {
        DIR *d = opendir("/proc");
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] >= '0' && e->d_name[0] <= '9' && strcmp(e->d_name, self) && strcmp(e->d_name, first))
                look(e->d_name, argv[2]);
        closedir(d);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < atof(argv[1]) && access("/stop", F_OK));
    printf("denied %ld\nforeign %ld\n", denied, foreign);
    return 0;
}
"""

#: System calls by name, and the errno that the default profile must give (docs/security.md names the sources).
DEFAULT_ERRNOS: Mapping[str, tuple[str, str]] = {
    "keyctl": ("250,0,0xfffffffffffffffd,0", "1"),
    "add_key": ("248", "1"),
    "request_key": ("249", "1"),
    "clone newuser": ("56,0x10000011", "1"),
    "clone newns": ("56,0x00020011", "1"),
    "clone3": ("435", "38"),
    "unshare newuser": ("272,0x10000000", "1"),
    "unknown call": ("1000", "38"),
    "AF_VSOCK": ("41,40,1,0", "1"),
    "AF_VSOCK with dirt above": ("41,0x100000028,1,0", "1"),
    "io_uring_setup": ("425,1,0", "1"),
    "userfaultfd": ("323,1", "1"),
    "set_mempolicy": ("238,0", "1"),
    "pidfd_getfd": ("438", "1"),
    "kcmp": ("312", "1"),
    "iopl": ("172,0", "1"),
    "bpf": ("321,99,0,0", "1"),
    "perf_event_open": ("298", "1"),
    "personality no-randomize": ("135,0x40000", "1"),
    "personality query": ("135,0xffffffff", "0"),
    "mount": ("165,0,0,0,0", "1"),
    "umount2": ("166,0,0", "1"),
    "open_tree": ("428,0,0,0", "1"),
    "pivot_root": ("155,0,0", "1"),
    "setns": ("308,0,0", "1"),
    "swapon": ("167,0,0", "1"),
    "kexec_load": ("246", "1"),
    "init_module": ("175,0,0,0", "1"),
    "open_by_handle_at": ("304,0,0,0", "1"),
    "reboot": ("169,0,0,0", "1"),
    "syslog": ("103,10,0,0", "1"),
    "settimeofday": ("164,0,0", "1"),
    "acct": ("163,0", "1"),
    "vhangup": ("153", "1"),
    "quotactl": ("179,0,0,0", "1"),
}

#: Other ways to the same calls: anything but 0 will do.
CLOSED_DOORS = {"unshare by int 0x80": "i310,0x10000000", "unshare by x32": "x272,0x10000000"}

_MASKED = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"

REPORT = rf"""#!/bin/sh
section() {{ echo "== $1"; }}
section status; grep -E '^(Cap|Sig(Ign|Blk|Cgt)|Groups|Uid|Gid|NoNewPrivs|Umask|Seccomp:)' /proc/self/status
section first; grep -E '^Sig(Ign|Blk)' /proc/1/status
section limits; grep -E 'open files|core file|processes' /proc/self/limits
section oom; cat /proc/self/oom_score_adj
section cgroup; cat /proc/self/cgroup
section namespaces; for n in mnt pid net uts ipc cgroup user; do readlink /proc/self/ns/$n; done
section environment; env | grep -v ^SHLVL=
section cwd; readlink /proc/self/cwd
section fds; for n in /proc/$$/fd/*; do [ -L $n ] && echo "${{n##*/}} $(readlink $n)"; done
section errnos; /bin/probe {" ".join(spec for spec, _ in DEFAULT_ERRNOS.values())}
section doors; /bin/probe {" ".join(CLOSED_DOORS.values())}
section masked; for f in {_MASKED}; do
 [ -d /proc/$f ] && ls -A /proc/$f; [ -f /proc/$f ] && head -c 64 /proc/$f; [ -c /proc/$f ] && head -c 64 /proc/$f; done
 ls -A /sys/firmware; [ -d /sys/devices/virtual/powercap ] && ls -A /sys/devices/virtual/powercap
section writes; for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run
 do [ -e $f ] && (: >> $f) 2>&1 | grep -v 'Read-only file system'; done
 for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo "made $d/x"; done
 for d in /proc/sys /proc/bus /proc/irq /sys /sys/fs/cgroup; do mount -o remount,rw,bind $d 2>/dev/null && echo "remounted $d"; done
 for d in /proc/kcore /proc/keys /proc/sys /sys/firmware; do umount $d 2>/dev/null && echo "unmounted $d"; done
section devices; cd $(mktemp -d); for n in "c 1 1" "c 1 11" "c 10 229" "c 10 232" "b $(awk 'NR>2 {{print $1, $2; exit}}' /proc/partitions)"
 do mknod n $n && head -c 1 n 2>&1; echo; rm -f n; done; cd /
section dev; ls -A /dev; stat -c '%n %t:%T %a %u:%g' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
section pts; ls /dev/pts
section mounts; cut -d' ' -f2-4 /proc/mounts | sed 's|^/ overlay .*|/ overlay rw|'
section points; cut -d' ' -f5 /proc/self/mountinfo
section shared; grep -c shared: /proc/self/mountinfo
section links; ls /sys/class/net
section keyring; cat /proc/keys | wc -l
"""


def program(name: str) -> bytes:
    """A static program of these tests, compiled once and kept."""
    source = {"probe": _PROBE, "watch": _WATCH}[name]
    kept = images.CACHE / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if not kept.exists():
        images.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=images.CACHE) as place:
            Path(place, "p.c").write_text(source)
            command = ["gcc", "-static", "-O1", "-s", "-w", "-o", "p", "p.c"]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"gcc cannot build {name}: {done.stderr[-300:]}")
            Path(place, "p").rename(kept)
    return kept.read_bytes()


def layer() -> bytes:
    """busybox's layer with the programs of these tests."""
    return images.tar(
        [
            images.directory("bin"),
            images.member("bin/probe", program("probe"), mode=0o755),
            images.member("bin/watch", program("watch"), mode=0o755),
            images.member("report", REPORT.encode(), mode=0o755),
        ]
    )


def archive(*variants: tuple[str, Iterable[Any], Mapping[str, Any]]) -> bytes:
    """A docker-archive with one image for each (tag, further members, config): busybox, the programs, the members."""
    base = [images.busybox_layer(), layer()]
    files: dict[str, bytes] = {}
    manifest = []
    for tag, members, config in variants:
        layers = [*base, images.tar(members)]
        text = images.image_config(layers, {**images.BUSYBOX_CONFIG, **config})
        files |= {f"blobs/sha256/{images.digest(blob)[7:]}": blob for blob in [*layers, text]}
        names = [f"blobs/sha256/{images.digest(blob)[7:]}" for blob in (text, *layers)]
        manifest.append({"Config": names[0], "RepoTags": [tag], "Layers": names[1:]})
    import json

    files["manifest.json"] = json.dumps(manifest).encode()
    return images.tar([images.member(name, blob) for name, blob in files.items()])


def sections(text: str) -> dict[str, list[str]]:
    """A report as lines by section."""
    found: dict[str, list[str]] = {}
    for part in text.split("== ")[1:]:
        name, *lines = part.splitlines()
        found[name] = lines
    return found


def fields(lines: list[str]) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
