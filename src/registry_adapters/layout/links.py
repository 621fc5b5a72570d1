"""Symbolic links inside a directory tree, followed step by step and never out of the tree.

Each component is opened relative to its open parent directory and without following it, so no link can replace it in
between. The text of a link is read and its components are opened in the same way, from the directory of the link.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import DIRECTORY_FLAGS, NO_BLOCK, NO_FOLLOW, READ_FLAGS
from registry_core.content.safe_files import open_directory
from registry_core.errors import LayoutError

__all__ = ["FOLLOW_HINT", "open_inside"]

# What an error about a link says where links are not followed.
FOLLOW_HINT: Final = "; open the layout with follow_symlinks=True to read through links that stay inside its directory"

# As the kernel of Linux limits them for one path.
_MAX_LINKS: Final = 40

# Directories that are open at a time, one for each component.
_MAX_DEPTH: Final = 256


def open_inside(root: Path, path: str) -> int:
    """Open a file or directory below a root directory for reading, through symbolic links that stay below it.

    Args:
        root: Path of the root directory, which may itself lead through links.
        path: Path relative to the root.

    Returns:
        A descriptor, which is closed by the caller.

    Raises:
        LayoutError: A link leads out of the root directory, there are too many links, or the path is too deep.
        FileNotFoundError: The path does not exist, or a link is dangling.
        OSError: The path cannot be opened.
    """
    pending = _reversed_parts(path)
    opened = [os.open(root, DIRECTORY_FLAGS & ~NO_FOLLOW)]
    links, link = 0, ""
    try:
        while pending:
            checkpoint()
            part = pending.pop()
            target = None if part == ".." else _link_target(part, opened[-1])
            if target is not None:
                links, link = links + 1, target
                if links > _MAX_LINKS:
                    raise LayoutError(f"{path}: more than {_MAX_LINKS} symbolic links, perhaps in a cycle")
                if target.startswith("/"):
                    parts = _parts_below(root, target)
                    if parts is None:
                        raise _leaves(path, target)
                    _close(opened, keep=1)
                    pending += parts
                else:
                    pending += _reversed_parts(target)
            elif part == "..":
                if len(opened) == 1:
                    raise _leaves(path, link)
                os.close(opened.pop())
            elif pending:
                if len(opened) > _MAX_DEPTH:
                    raise LayoutError(f"{path}: more than {_MAX_DEPTH} directories deep")
                opened.append(open_directory(part, inside=opened[-1]))
            else:
                return os.open(part, READ_FLAGS | NO_FOLLOW | NO_BLOCK, dir_fd=opened[-1])
        return os.dup(opened[-1])
    finally:
        _close(opened)


def _link_target(name: str, directory: int) -> str | None:
    """The text of a symbolic link; ``None`` if the name belongs to something else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _parts_below(root: Path, target: str) -> list[str] | None:
    """The components of an absolute link below the root, in reverse; ``None`` if it leads elsewhere."""
    parts = _reversed_parts(target)
    for start in (str(root), os.path.realpath(root)):
        prefix = _reversed_parts(start)
        if parts[len(parts) - len(prefix) :] == prefix and len(parts) >= len(prefix):
            return parts[: len(parts) - len(prefix)]
    return None


def _reversed_parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _leaves(path: str, target: str) -> LayoutError:
    return LayoutError(
        f"{path}: symbolic link to {target!r:.200}, out of the root directory; with follow_symlinks=True, links are"
        " followed inside it only: open a directory that contains the target, too"
    )


def _close(opened: list[int], *, keep: int = 0) -> None:
    while len(opened) > keep:
        os.close(opened.pop())
