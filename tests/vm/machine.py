"""A virtual machine for what this host's kernel does not have: Debian's cloud kernel in plain emulation, no disk.

In: Python code and the trees it needs. Out: what it printed on the console. The initial RAM file system holds Debian's
/usr/bin/python3 with the modules that the engine's kernel layer uses, the checkout's packages, and the code as /init, so
there is nothing to mount and no kernel module to load: pure cgroup v2 with every controller, AppArmor on, in seconds.
Kernel and emulator come from Debian's archive once; the kernel stays in ~/.cache/pystack/vm.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pystack" / "vm"
PYTHON = Path("/usr/bin/python3")
EXTENSIONS = ("_ctypes", "_json", "_asyncio", "_contextvars", "_queue", "mmap", "resource", "termios")
#: Loaded in this order.
MODULES = (
    "overlay.ko",
    "configfs.ko",
    "null_blk.ko",
    "bfq.ko",
    "nfnetlink.ko",
    "libcrc32c.ko",
    "nf_tables.ko",
)
KEPT = f"complete-{len(MODULES)}-{zlib.crc32(' '.join(MODULES).encode()):08x}"
#: What whole engines import besides the checkout: whatever this finds is put into the machine, too.
ENGINE = "import pystack.engine.engine, pystack.engine.logs, sqlite3, asyncio.subprocess"
SKIPPED = re.compile(
    r"/(test|idlelib|lib2to3|distutils|ensurepip|tkinter|turtledemo|pydoc_data|unittest|wsgiref|xml|xmlrpc|sqlite3|curses"
    r"|dbm|venv|email|http|multiprocessing|config-[^/]*|dist-packages|lib-dynload)(/|$)"
)

PRELUDE = """#!/usr/bin/python3 -IS
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
# The initial RAM file system itself cannot be pivoted away from: work on a bind mount of it.
os.mkdir("/top")
assert libc.mount(b"/", b"/top", None, 0x1000, None) == 0
os.chdir("/top")
assert libc.mount(b".", b"/", None, 0x2000, None) == 0
os.chroot(".")
for source, target, kind in (
    ("proc", "/proc", "proc"), ("sysfs", "/sys", "sysfs"), ("dev", "/dev", "devtmpfs"), ("tmp", "/tmp", "tmpfs"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2"), ("securityfs", "/sys/kernel/security", "securityfs"),
):
    os.makedirs(target, exist_ok=True)
    assert libc.mount(source.encode(), target.encode(), kind.encode(), 0, None) == 0, (target, ctypes.get_errno())
os.environ.update(PATH="/usr/sbin:/usr/bin", HOME="/root")
sys.path.insert(0, "/checkout")
sys.path[1:1] = ["/tests", "/support", "/site"]
for name in sorted(os.listdir("/modules")):
    assert libc.syscall(313, os.open("/modules/" + name, os.O_RDONLY), b"", 0) == 0, (name, ctypes.get_errno())
try:
    exec(compile(open("/main.py").read(), "/main.py", "exec"))
except BaseException:
    import traceback
    traceback.print_exc()
sys.stdout.flush()
print("pystack-vm-end", flush=True)
libc.reboot(ctypes.c_uint(0x4321FEDC))
"""


class MachineMissing(Exception):
    """There is no emulator or kernel and none can be installed; says why."""


def _run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def _emulator() -> str:
    found = shutil.which("qemu-system-x86_64")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "qemu-system-x86", timeout=300)
        found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise MachineMissing("no qemu-system-x86_64: apt-get install qemu-system-x86")
    return found


def _kernel() -> Path:
    """A directory with `vmlinuz` and the modules of Debian's cloud kernel, fetched once."""
    kept = sorted(place for place in CACHE.glob("linux-*") if (place / KEPT).exists())
    if kept:
        return kept[-1]
    depends = (
        _run("apt-cache", "depends", "linux-image-cloud-amd64").stdout if shutil.which("apt-cache") else ""
    )
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        raise MachineMissing("no Debian kernel package to fetch: apt-cache knows no linux-image-cloud-amd64")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fetched = _run("apt-get", "download", "-qq", package[1], cwd=scratch, timeout=300)
        archives = list(Path(scratch).glob("*.deb"))
        if not archives:
            raise MachineMissing(f"cannot fetch {package[1]}: {fetched.stderr.strip()[-200:]}")
        target = CACHE / package[1].replace("linux-image", "linux")
        target.mkdir(exist_ok=True)
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archives[0]], stdout=subprocess.PIPE) as unpack:
            assert unpack.stdout is not None
            _take(unpack.stdout, target)
    return target


def _take(stream: IO[bytes], target: Path) -> None:
    """Keep the kernel's image and the wanted modules of a package's content."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name in MODULES or "/boot/vmlinuz-" in member.name:
                content = archive.extractfile(member)
                assert content is not None
                (target / ("vmlinuz" if name.startswith("vmlinuz") else name)).write_bytes(content.read())
    if not (target / "vmlinuz").exists():
        raise MachineMissing("no kernel image in the package")
    (target / KEPT).touch()


class RamFileSystem:
    """An archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: set[str] = set()

    def add(self, path: str, content: bytes, mode: int, mtime: int = 0) -> None:
        path = path.lstrip("/")
        if path in self._seen:
            return
        self._seen.add(path)
        parent = os.path.dirname(path)
        if parent and parent not in self._seen:
            self.add(parent, b"", stat.S_IFDIR | 0o755)
        name = path.encode() + b"\0"
        numbers = (len(self._seen), mode, 0, 0, 1, mtime, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._parts += [head + b"\0" * (-len(head) % 4), content + b"\0" * (-len(content) % 4)]

    def add_file(self, source: Path, path: str | None = None) -> None:
        """With the compiled form of a Python module, where there is one: to compile in the emulator takes half a minute."""
        info = source.stat()
        path = path or str(source)
        self.add(path, source.read_bytes(), info.st_mode, int(info.st_mtime))
        compiled = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        if source.suffix == ".py" and compiled.exists():
            self.add(f"{os.path.dirname(path)}/__pycache__/{compiled.name}", compiled.read_bytes(), 0o100644)

    def write(self, target: Path) -> None:
        self._seen.discard("TRAILER!!!")
        self.add("TRAILER!!!", b"", 0)
        target.write_bytes(b"".join(self._parts))


def _libraries(files: list[Path]) -> Iterator[Path]:
    for found in dict.fromkeys(re.findall(r"(/\S+) \(0x", _run("ldd", *map(str, files)).stdout)):
        yield Path(found).parent.resolve() / Path(found).name


def _add_python(ram: RamFileSystem) -> None:
    if not PYTHON.exists():
        raise MachineMissing("no /usr/bin/python3 for the inside of the machine: apt-get install python3")
    library = Path("/usr/lib") / PYTHON.resolve().name
    binaries = [
        PYTHON.resolve(),
        *(path for name in EXTENSIONS for path in (library / "lib-dynload").glob(f"{name}.*.so")),
    ]
    ram.add_file(PYTHON.resolve(), str(PYTHON))
    for name in ("bin", "lib", "lib64"):
        ram.add(name, f"usr/{name}".encode(), stat.S_IFLNK | 0o777)
    for path in [*binaries[1:], *_libraries(binaries)]:
        ram.add_file(path)
    for path in sorted(library.rglob("*.py*")):
        if path.is_file() and not SKIPPED.search(str(path)):
            ram.add_file(path)


def _add_imports(ram: RamFileSystem) -> None:
    """The modules that an engine imports from the standard library and from this interpreter's site-packages.

    Both Pythons are of one minor version, or extension modules would not load.
    """
    site = next(path for path in sys.path if path.endswith("site-packages"))
    code = f"""import sys
sys.path[:0] = {[str(CHECKOUT / "src"), site]!r}
{ENGINE}
print(sys.version_info[:2] == {sys.version_info[:2]!r})
print(*(f for m in list(sys.modules.values()) if (f := getattr(m, "__file__", None))), sep="\\n")
"""
    done = _run(str(PYTHON), "-c", code)
    same, *files = done.stdout.splitlines() or ["no"]
    if same != "True":
        raise MachineMissing(f"{PYTHON} cannot import what this Python does: {done.stderr.strip()[-200:]}")
    found = [Path(file) for file in files if not file.startswith(str(CHECKOUT / "src"))]
    packages = {Path(site, path.relative_to(site).parts[0]) for path in found if path.is_relative_to(site)}
    later = [path for package in packages if package.is_dir() for path in package.rglob("*.py")]
    for path in (*found, *sorted(later)):  # with what they import only when it is used
        ram.add_file(path, f"/site/{path.relative_to(site)}" if path.is_relative_to(site) else None)
    nftables = next(iter(sorted(Path("/usr/lib").glob("*/libnftables.so.1"))), None)
    if nftables is None:
        raise MachineMissing("no libnftables.so.1: apt-get install libnftables1")
    ram.add_file(nftables)
    for path in _libraries([nftables, *(path for path in found if path.suffix == ".so")]):
        ram.add_file(path)


def boot(code: str, timeout: float = 60) -> str:
    """Run `code` as PID 1; returns the console's text.

    The checkout's packages below the API, and the Python files of tests/vm and tests, can be imported.
    Raises MachineMissing, or AssertionError when the code did not come to its end in time.
    """
    emulator, kernel = _emulator(), _kernel()
    ram = RamFileSystem()
    _add_python(ram)
    _add_imports(ram)
    ram.add("/modules", b"", stat.S_IFDIR | 0o755)
    for number, name in enumerate(MODULES):
        ram.add_file(kernel / name, f"/modules/{number}-{name}")
    ram.add("/init", PRELUDE.encode(), stat.S_IFREG | 0o755)
    ram.add("/main.py", code.encode(), stat.S_IFREG | 0o644)
    trees = {"/tests": CHECKOUT / "tests/vm", "/support": CHECKOUT / "tests"}
    packages = {
        f"/checkout/pystack/{name}": CHECKOUT / name
        for name in (
            "kernel",
            "model",
            "engine",
            "engine/runtime",
            "engine/logdrivers",
            "image",
            "network",
            "volume",
        )
    }
    ram.add_file(CHECKOUT / "src/pystack/__init__.py", "/checkout/pystack/__init__.py")
    for place, directory in {**packages, **trees}.items():
        for path in sorted(directory.iterdir()):
            if path.suffix in {".py", ".json"}:
                ram.add_file(path, f"{place}/{path.name}")
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "initrd"
        ram.write(image)
        command = [
            emulator,
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "768",
            "-nographic",
            "-no-reboot",
        ]
        command += [
            "-nodefaults",
            "-serial",
            "stdio",
            "-kernel",
            str(kernel / "vmlinuz"),
            "-initrd",
            str(image),
        ]
        command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
        try:
            console = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            ).stdout
        except subprocess.TimeoutExpired as error:
            console = (error.stdout or b"").decode(errors="replace")
    assert "pystack-vm-end" in console, console[-3000:]
    return console
