"""Tests of the removal of trees with mounts and links: nothing outside of the tree may change.

Everything runs in namespaces of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.private_namespace import needs_namespace, run_python

pytestmark = needs_namespace

#: Defines ``assert_harmless(prepare)``: runs a function in a new tree, removes the tree, and
#: compares the mounts and files outside of it.
_COMMON = r"""
import os, random, shutil, subprocess, sys
from shell_runner.remote.files.remove_tree import remove_tree

folder = sys.argv[1]
outside, tree = folder + "/outside", folder + "/tree"

def run(command):
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True).returncode

def list_mounts():
    with open("/proc/self/mountinfo") as lines:
        return sorted(line.split()[0] for line in lines)

def list_files():
    return sorted(os.path.join(top, name) for top, dirs, files in os.walk(outside)
                  for name in dirs + files)

assert run("mkdir -p outside/mounted outside/d && touch outside/d/file outside/file"
           " && mount -t tmpfs none outside/mounted && touch outside/mounted/file") == 0

def assert_harmless(prepare, what):
    before = list_mounts(), list_files()
    os.mkdir(tree)
    prepare()
    remove_tree(tree)
    assert not os.path.lexists(tree), what
    assert (list_mounts(), list_files()) == before, what
"""

PREPARATIONS = [
    "rmdir tree; ln -s / tree",
    "rmdir tree; ln -s outside tree",
    "rmdir tree; ln -s outside/mounted tree",
    "rmdir tree; ln -s /nowhere tree",
    "rmdir tree; touch tree; mount --bind outside/file tree",
    "ln -s / tree/x",
    "ln -s ../outside/mounted tree/x",
    "mount --bind outside tree",
    "mount --rbind outside tree",
    "mkdir tree/a && mount --bind outside tree/a",
    "mkdir tree/a && mount --bind outside tree/a && mount --bind outside/d tree/a && ls tree/a",
    "mkdir -p tree/a/b && mount --bind / tree/a/b",
    "mkdir -p tree/a/b && mount --rbind / tree/a/b",
    "touch tree/f && mount --bind outside/file tree/f",
    "mkdir tree/a && mount -t tmpfs none tree/a && mkdir tree/a/b && mount -t tmpfs n tree/a/b",
    # A mount below a mount that is hidden by a third one with a link in its place.
    "mkdir tree/a && mount -t tmpfs n tree/a && mkdir -p tree/a/x/mounted"
    " && mount -t tmpfs n tree/a/x/mounted && mount -t tmpfs n tree/a"
    " && ln -s ../../outside tree/a/x",
    'mkdir "tree/a b" && mount --bind outside "tree/a b"',
    "n=$(printf 'tree/a\\nb\\\\040') && mkdir \"$n\" && mount --bind outside \"$n\"",
    "mkdir -p tree/a/b && mount --bind tree/a tree/a/b",
    "mount --bind tree tree",
    "mkdir -p tree/a/b && touch tree/a/b/f && chmod 0 tree/a/b tree/a tree",
    "mkdir -p tree/a && mount --bind outside tree/a && mount -o remount,ro,bind tree/a",
    "mkdir tree/proc && mount -t proc none tree/proc",
    # A recursive bind of a shared tree: unmounting in it is propagated to the original.
    "mount --make-rshared / && mkdir tree/a && mount --rbind / tree/a",
    "mount --make-rshared / && mount --rbind / tree",
    "mount --make-rshared / && mkdir tree/a && mount --rbind outside tree/a",
]  # fmt: skip


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_nothing_outside_is_unmounted_or_removed(preparation: str, tmp_path: Path) -> None:
    code = "assert_harmless(lambda: check(run(sys.argv[2]) == 0), sys.argv[2])"
    run_python(f"{_COMMON}\ndef check(ok): assert ok\n{code}", tmp_path, preparation)


#: Random trees: directories, links, binds, flags and modes at random places.
_RANDOM = r"""
for seed in range(60):
    chooser = random.Random(seed)
    def prepare():
        places, log = ["tree"], []
        for number in range(chooser.randrange(1, 14)):
            place = "%s/%d" % (chooser.choice(places), number)
            command = chooser.choice([
                "mkdir {0}", "mkdir {0}", "mkdir {0} && mount -t tmpfs n {0}",
                "mkdir {0} && mount --bind outside {0}", "mkdir {0} && mount --rbind / {0}",
                "touch {0} && mount --bind outside/file {0}", "ln -s / {0}",
                "ln -s $PWD/outside/mounted {0}", "mv $(dirname {0}) {0}", "mkfifo {0}",
                "mkdir {0} && mount --bind tree {0}", "chmod 0 $(dirname {0})",
                "mount --make-shared $(dirname {0})", "chattr +i $(dirname {0})",
            ]).format(place)
            if any(place.startswith(bad + "/") for bad in foreign):
                continue
            if run(command) == 0 and command.startswith("mkdir"):
                places.append(place)
                if "outside" in command or "rbind" in command:
                    foreign.append(place)
            log.append(command)
        print(seed, log)
    foreign = []
    assert_harmless(prepare, seed)
"""


def test_random_trees_do_no_harm(tmp_path: Path) -> None:
    run_python(_COMMON + _RANDOM, tmp_path)
