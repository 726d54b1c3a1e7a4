"""The memory of this process."""

import ctypes
import sys


def release() -> None:
    """Gives freed memory back to the system, where the C library is glibc, which keeps much of it.

    What passes of a network leave behind can be hundreds of megabytes; worth it before something large is allocated.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
