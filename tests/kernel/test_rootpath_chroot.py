"""Resolution in-root is the same as the kernel's own in a chroot, over random trees of links."""

import json
import os
import random

import pytest

from pystack.kernel.rootpath import Root

pytestmark = pytest.mark.kernel

NAMES = ("a", "b", "c", "..", ".", "link1", "link2")


def random_tree(rng, top):
    places = [top]
    for _ in range(25):
        place = os.path.join(rng.choice(places), rng.choice("abc"))
        if not os.path.lexists(place) and rng.random() < 0.8:
            os.mkdir(place)
            places.append(place)
    for _ in range(20):
        place = os.path.join(rng.choice(places), rng.choice(("link1", "link2")))
        if not os.path.lexists(place):
            os.symlink(random_path(rng), place)


def random_path(rng):
    return rng.choice(("", "/")) + "/".join(rng.choice(NAMES) for _ in range(rng.randint(1, 6)))


def outcome(call, path):
    try:
        return call(path).st_ino
    except OSError as error:
        return -error.errno


def in_chroot(top, paths):
    """[stat, lstat] inode or -errno of each path, as a process confined to `top` sees it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.chroot(top)
        os.chdir("/")
        answers = [[outcome(os.stat, path), outcome(os.lstat, path)] for path in paths]
        with os.fdopen(writer, "w") as file:
            file.write(json.dumps(answers))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answers = json.load(file)
    assert os.waitpid(child, 0)[1] == 0
    return answers


@pytest.mark.parametrize("seed", range(4))
def test_same_as_chroot(tmp_path, seed):
    rng = random.Random(seed)
    random_tree(rng, str(tmp_path))
    paths = [random_path(rng) for _ in range(400)]
    with Root.open_host(tmp_path) as root:
        ours = [[outcome(root.stat, path), outcome(root.lstat, path)] for path in paths]
    theirs = in_chroot(tmp_path, paths)
    assert ours == theirs
    found = sum(each[0] > 0 for each in ours)
    assert 20 < found < 380
