"""Limits that Linux control groups (cgroups v1 or v2) set for this process; imports no torch."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MEMORY = (  # files with the limit and the use in bytes, and the key in memory.stat of what is given up first
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def processors() -> float:
    """CPU quota of the strictest group in processors, such as 2.5; infinite without a limit."""
    found = [math.inf]
    for folder in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            allowed, of = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            found += [allowed / of] if allowed > 0 else []  # -1: no limit
    return min(found)


def memory() -> float:
    """Bytes left before a group reaches its limit, not counting cached files; infinite without a limit."""
    found = [math.inf]
    for folder in _groups("memory"):
        for limit, used, cached in MEMORY:
            with contextlib.suppress(OSError, ValueError):
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                found.append(max(0, left + int(statistics.get(cached, 0))))
    return min(found)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's group and its ancestors; a container may not see its own."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):  # version 2 has one tree for all
            root, own = MOUNT / (controller if controllers else ""), PurePosixPath(path.lstrip("/"))
            yield from (root / group for group in (own, *own.parents))
