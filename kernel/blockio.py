"""Block device limits of a container: devices by path go in, lines for blkio.* (v1) and io.* (v2) files come out.

See the kernel's Documentation/admin-guide/cgroup-v1/blkio-controller.rst and cgroup-v2.rst, "IO". Devices are looked up
(stat(2)) each time: their numbers may change between two runs.
"""

from __future__ import annotations

from pystack.kernel.devices import block_number
from pystack.model.container import DeviceLimit, Resources

#: Field of `Resources` -> v1 file, key of v2's io.max.
_RATES = (
    ("blkio_device_read_bps", "blkio.throttle.read_bps_device", "rbps"),
    ("blkio_device_write_bps", "blkio.throttle.write_bps_device", "wbps"),
    ("blkio_device_read_iops", "blkio.throttle.read_iops_device", "riops"),
    ("blkio_device_write_iops", "blkio.throttle.write_iops_device", "wiops"),
)


def io_weight(weight: int) -> int:
    """io.weight 1..10000 for a blkio weight of 10..1000 (the conversion of runc)."""
    return 1 + (weight - 10) * 9999 // 990


def _lines(limits: tuple[DeviceLimit, ...]) -> list[tuple[str, int]]:
    return [(block_number(limit.path), limit.value) for limit in limits]


def v1_settings(resources: Resources) -> list[tuple[str, str]]:
    """(file, line) in the order of writing. Of the two weight files a kernel has one or none."""
    found = []
    if resources.blkio_weight:
        found += [(name, str(resources.blkio_weight)) for name in ("blkio.weight", "blkio.bfq.weight")]
    for number, weight in _lines(resources.blkio_weight_device):
        found += [(name, f"{number} {weight}") for name in ("blkio.weight_device", "blkio.bfq.weight_device")]
    for field, name, _ in _RATES:
        found += [(name, f"{number} {rate}") for number, rate in _lines(getattr(resources, field))]
    return found


def v2_settings(resources: Resources) -> list[tuple[str, str]]:
    """(file, line) in the order of writing; the rates of one device go in together."""
    found = []
    if resources.blkio_weight:
        found.append(("io.bfq.weight", str(resources.blkio_weight)))
        found.append(("io.weight", f"default {io_weight(resources.blkio_weight)}"))
    for number, weight in _lines(resources.blkio_weight_device):
        found.append(("io.bfq.weight", f"{number} {weight}"))
        found.append(("io.weight", f"{number} {io_weight(weight)}"))
    rates: dict[str, list[str]] = {}
    for field, _, key in _RATES:
        for number, rate in _lines(getattr(resources, field)):
            rates.setdefault(number, []).append(f"{key}={rate or 'max'}")
    found += [("io.max", f"{number} {' '.join(pairs)}") for number, pairs in rates.items()]
    return found
