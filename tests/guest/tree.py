# Ten thousand files below /data: "create", "rename", "delete", or "check" them. What each
# is like follows from its number; tests/files looks for the same from the host's side.
import os
import stat
import sys

COUNT = 10_000
WORKERS = 4
MODES = [0o644, 0o600, 0o755, 0o440, 0o666]
SPECIAL_MODES = [0o4711, 0o2750, 0o1777, 0o000]


def directory(i, stage):
    return f"/data/{stage}{i // 100:02}"


def content(i):
    return f"file {i}\n".encode() * (1 + i % 50)


# Every tenth file is changed after it was made: owner, mode, time, an attribute.
def is_special(i):
    return i % 10 == 0


def owner(i):
    return (3000 + i % 7, 4000 + i % 5) if is_special(i) else (1000 + i % WORKERS, 2000 + i % WORKERS)


def mode(i):
    return SPECIAL_MODES[i // 10 % 4] if is_special(i) else MODES[i % len(MODES)]


def mtime_ns(i):
    return (1_600_000_000 + i) * 1_000_000_000 + i * 1000


def prepare_create(i):
    os.mkdir(directory(i, "d"))
    os.chmod(directory(i, "d"), 0o777)


def create(i):
    path = directory(i, "d") + f"/f{i:05}"
    # The users of ordinary files make them themselves.
    if not is_special(i):
        os.setegid(owner(i)[1])
        os.seteuid(owner(i)[0])
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode(i))
    os.write(file, content(i))
    os.close(file)
    if i % 10 == 1:
        os.link(path, directory(i, "d") + f"/hard{i:05}")
    if i % 10 == 2:
        os.symlink(f"f{i:05}", directory(i, "d") + f"/soft{i:05}")
    if i % 10 == 3:
        os.symlink("/no/such\nplace", directory(i, "d") + f"/soft{i:05}")
    os.seteuid(0)
    os.setegid(0)
    if is_special(i):
        os.chown(path, *owner(i))
        os.chmod(path, mode(i))
        os.setxattr(path, "user.number", str(i).encode())
        os.utime(path, ns=(mtime_ns(i) + 1_000_000_000, mtime_ns(i)))


def prepare_rename(i):
    os.rename(directory(i, "d"), directory(i, "e"))


def rename(i):
    os.rename(directory(i, "e") + f"/f{i:05}", final(i))


def final(i):
    # Every other one moves to the next directory.
    return directory((i + 100 * (i % 2)) % COUNT, "e") + f"/g{i:05}"


def delete(i):
    if i % 3 == 0:
        os.unlink(final(i))


# Of those that are left, a quarter is enough: the host has looked at all.
def check(i):
    path = final(i)
    if i % 3 == 0:
        assert not os.path.lexists(path), path
    elif i % 8 < 2:
        found = os.stat(path)
        assert stat.S_IMODE(found.st_mode) == mode(i), (path, found)
        assert (found.st_uid, found.st_gid) == owner(i), (path, found)
        assert found.st_nlink == (2 if i % 10 == 1 else 1), (path, found)
        with open(path, "rb") as file:
            assert file.read() == content(i), path
        if is_special(i):
            assert found.st_mtime_ns == mtime_ns(i), (path, found)
            assert os.getxattr(path, "user.number") == str(i).encode(), path


step = sys.argv[1]
prepare = globals().get(f"prepare_{step}")
if prepare:
    for number in range(0, COUNT, 100):
        prepare(number)

# Several at a time, as programs do.
os.umask(0)
children = {}
for worker in range(WORKERS):
    child = os.fork()
    if child == 0:
        for number in range(worker, COUNT, WORKERS):
            globals()[step](number)
        os._exit(0)
    children[child] = worker
for child in children:
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(f"worker {children[child]} failed")
