"""The rule that a symbolic link stays inside the tree that it is part of.

Must not touch the file system: callers hand in how a link is read.  Paths are bytes, since what a
name means must not depend on the locale.
"""

from typing import Callable, List, Optional, Sequence

#: Links that are followed on the way of one link; Linux gives up after 40.
_MAX_FOLLOWED_LINKS = 64


def _no_link(_: List[bytes]) -> Optional[bytes]:
    return None


def _no_limit() -> None:
    pass


def is_link_inside(
    folder: Sequence[bytes],
    target: bytes,
    read_link: Callable[[List[bytes]], Optional[bytes]] = _no_link,
    count_step: Callable[[], None] = _no_limit,
) -> bool:
    """Return whether a link in ``folder`` that points to ``target`` never leads out of the tree.

    ``folder``: the parts of the path of the link's folder, which is reached through no link.
    ``read_link`` returns the target of the link with the path of these parts, None if there is no
    link; without it, ``target`` is judged by its text alone.  ``count_step`` is called for each
    part of a path that is looked up, and may raise.

    A link that no kernel follows to its end leads nowhere, and so not out of the tree either.
    """
    if target.startswith(b"/") or b"\0" in target:
        return False
    resolved, pending, followed = list(folder), target.split(b"/")[::-1], 1
    while pending and followed <= _MAX_FOLLOWED_LINKS:
        count_step()
        part = pending.pop()
        if part == b"..":
            if not resolved:
                return False
            resolved.pop()
        elif part not in (b"", b"."):
            next_target = read_link([*resolved, part])
            if next_target is None:
                resolved.append(part)
            elif next_target.startswith(b"/"):
                return False
            else:
                followed += 1
                pending.extend(reversed(next_target.split(b"/")))
    return True
