"""An interpreter for seccomp filters: what does this program decide about this call?"""

import struct

#: AUDIT_ARCH_* of <linux/audit.h>, and the bit that marks a call of x32.
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x40000000


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
