# Ten thousand files below /data: "create", "rename", "delete", or "check" them. What each
# is like follows from its number; tests/files.rs looks for the same from the host's side.
import os
import stat
import sys

COUNT = 10_000
WORKERS = 4
MODES = [0o644, 0o600, 0o755, 0o4711, 0o2750, 0o1777, 0o000]


def directory(i, stage):
    return f"/data/{stage}{i // 100:02}"


def content(i):
    return f"file {i}\n".encode() * (1 + i % 50)


def mtime_ns(i):
    return (1_600_000_000 + i) * 1_000_000_000 + i * 1000


def prepare_create(i):
    os.mkdir(directory(i, "d"))


def create(i):
    folder = directory(i, "d")
    path = f"{folder}/f{i:05}"
    with open(path, "xb") as file:
        file.write(content(i))
    os.chown(path, 1000 + i % 7, 2000 + i % 5)
    os.chmod(path, MODES[i % len(MODES)])
    if i % 10 == 0:
        os.setxattr(path, "user.number", str(i).encode())
    if i % 10 == 1:
        os.link(path, f"{folder}/hard{i:05}")
    if i % 10 == 2:
        os.symlink(f"f{i:05}", f"{folder}/soft{i:05}")
        os.chown(f"{folder}/soft{i:05}", 3000, 3001, follow_symlinks=False)
    if i % 10 == 3:
        os.symlink("/no/such\nplace", f"{folder}/soft{i:05}")
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


def check(i):
    path = final(i)
    if i % 3 == 0:
        assert not os.path.lexists(path), path
        return
    found = os.stat(path)
    with open(path, "rb") as file:
        assert file.read() == content(i), path
    assert stat.S_IMODE(found.st_mode) == MODES[i % len(MODES)], (path, found)
    assert (found.st_uid, found.st_gid) == (1000 + i % 7, 2000 + i % 5), (path, found)
    assert found.st_mtime_ns == mtime_ns(i), (path, found)
    assert found.st_nlink == (2 if i % 10 == 1 else 1), (path, found)
    if i % 10 == 0:
        assert os.getxattr(path, "user.number") == str(i).encode(), path


step = sys.argv[1]
prepare = globals().get(f"prepare_{step}")
if prepare:
    for number in range(0, COUNT, 100):
        prepare(number)

# Several at a time, as programs do, and none waits for the others' requests.
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
