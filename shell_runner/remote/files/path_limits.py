"""The limits of paths that a host, a test, a manifest or a tree supplies.

Must not access the file system: a path is judged by its text alone.
"""

#: Maximum number of components of a path: less than the folders that an archive may nest, and
#: far less than recursion allows.
MAX_PATH_COMPONENTS = 200
#: Maximum number of bytes of a path, as of the kernel's PATH_MAX.
MAX_PATH_BYTES = 4096
#: Characters of a path that has at most MAX_PATH_BYTES whatever they are: UTF-8 has up to 4 bytes.
_MAX_UNMEASURED_CHARS = MAX_PATH_BYTES // 4
#: Characters of a path that are shown in an error.
_MAX_SHOWN_CHARS = 100


def describe_path_excess(path: str) -> str:
    """Return which limit a path exceeds, with the limit and the path; empty if it exceeds none."""
    if path.count("/") < MAX_PATH_COMPONENTS and len(path) <= _MAX_UNMEASURED_CHARS:
        return ""
    # JSON can contain surrogates that no file name has; they must not raise here.
    size, count = len(path.encode("utf-8", "surrogatepass")), path.count("/") + 1
    shown = repr(path[:_MAX_SHOWN_CHARS])
    if size > MAX_PATH_BYTES:
        return "the path has %d bytes; at most %d are allowed: %s" % (size, MAX_PATH_BYTES, shown)
    if count > MAX_PATH_COMPONENTS:
        message = "the path has %d components; at most %d are allowed: %s"
        return message % (count, MAX_PATH_COMPONENTS, shown)
    return ""
