"""The rule that a symbolic link stays inside its tree.

Must not access the file system: callers pass a function that reads a link.  Paths are bytes, since
the meaning of a name must not depend on the locale.
"""

from typing import Callable, List, Optional, Sequence

#: Maximum number of links that are followed for one link; Linux stops after 40.
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

    ``folder``: the path of the link's folder as parts; none of them is a link itself.
    ``read_link`` returns the target of the link with this path, None if it is not a link; without
    it, only the text of ``target`` is judged.  ``count_step`` is called for each part of a path
    that is looked up, and may raise.

    A link with more steps than a kernel follows leads nowhere, and so not out of the tree.
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
