# Says what the machine consists of, one "key: value..." a line.
import os
import re
import subprocess
import time


def user_ticks():
    with open("/proc/stat") as stat:
        return [int(line.split()[1]) for line in stat if re.match(r"cpu\d", line)]


cpus = sorted(os.sched_getaffinity(0))
print("cpus:", *cpus)

# As many busy processes as processors, left to the scheduler.
before = user_ticks()
children = []
for _ in cpus:
    child = os.fork()
    if child == 0:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print("busy:", *(b - a for a, b in zip(before, user_ticks())))

# Field 39 of stat is the processor that a process runs on.
where = "cut -d' ' -f39 /proc/self/stat"
pinned = [
    subprocess.check_output(["taskset", "-c", str(cpu), "sh", "-c", where], text=True)
    for cpu in cpus
]
print("pinned:", *(line.strip() for line in pinned))

with open("/proc/meminfo") as meminfo:
    print("memory:", meminfo.readline().split()[1])

bus = "/sys/bus/virtio/devices"
drivers = []
places = set()
for device in os.listdir(bus):
    driver = os.path.realpath(f"{bus}/{device}/driver")
    drivers.append(os.path.basename(driver))
    places.add("pci" if "/pci0000:00/" in os.path.realpath(f"{bus}/{device}") else "mmio")
print("drivers:", *sorted(drivers))
print("transport:", *places)

with open("/shared/file") as file:
    print("share:", file.read())
with open("/dev/vda", "rb") as disk:
    print("disk:", disk.read(4).decode())
with open("/dev/hwrng", "rb", buffering=0) as random:
    print("random:", len(random.read(16)))
ping = subprocess.run(["ping", "-q", "-c", "1", "-w", "5", "10.77.0.1"], capture_output=True)
print("network:", ping.returncode)
