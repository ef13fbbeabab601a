"""The number of files and sockets that this process may open."""

from __future__ import annotations

import sys

MOST = 1 << 16
"""More are not asked for: some systems reserve memory for each."""


def raise_limit() -> int:
    """Raises the process's soft limit as far as its hard limit allows, and returns it."""
    if sys.platform == "win32":
        return MOST  # Windows has no such limit on sockets
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS allows less than its hard limit says
        return soft
    return wanted
