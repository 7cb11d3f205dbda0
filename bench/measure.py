"""Runs a command and says what it took: wall and CPU seconds, peak memory, and how busy the machine was with other things."""

import ctypes
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A measured command that did not end well; the message holds the end of what it said."""


def busy_seconds():
    """CPU seconds the whole machine has spent working since boot."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def settle(directory):
    """Lets earlier writes reach the disk, so that they don't burden the next measurement."""
    with open_dir(directory) as fd:
        _libc.syncfs(fd.number)


class open_dir:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.number = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *_):
        os.close(self.number)


def warm(*paths):
    """Reads files into the page cache: every contender finds its source there. Holes are not read."""
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            at = 0
            while at < size:
                try:
                    at = os.lseek(f.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
                while at < end:
                    at += len(os.pread(f.fileno(), min(8 << 20, end - at), at)) or size


def measure(command, cwd=None, env=None, sync_directory=None):
    """Runs `command`; returns a dict of figures and its standard output.

    wall_s; cpu_s: user and system of it and its children; peak_mib: the most memory the kernel saw one of its processes
    hold; others_cpu_s: CPU time that everything else on the machine took meanwhile; sync_s: what a sync of
    `sync_directory`'s file system took right afterwards, for those that leave writing to later.
    """
    if sync_directory:
        settle(sync_directory)
    # A child's peak begins with that of the process that forked it: a small one in between keeps ours out of it.
    peak_note = tempfile.NamedTemporaryFile()
    command = ["/usr/bin/time", "-q", "-f", "%M", "-o", peak_note.name, *map(str, command)]
    busy = busy_seconds()
    start = time.monotonic()
    child = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    said = {}

    def listen(pipe, name):
        with pipe:
            said[name] = pipe.read().decode(errors="replace")

    readers = [threading.Thread(target=listen, args=pair) for pair in ((child.stdout, "out"), (child.stderr, "err"))]
    for reader in readers:
        reader.start()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    busy = busy_seconds() - busy
    for reader in readers:
        reader.join()
    if child.returncode != 0:
        raise Failed(f"{' '.join(command[6:])}: exit status {child.returncode}\n{said['out'][-1000:]}{said['err'][-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    figures = {
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "peak_mib": round(int(peak_note.read()) / 1024, 1),
        "others_cpu_s": round(max(0.0, busy - cpu), 2),
    }
    if sync_directory:
        start = time.monotonic()
        settle(sync_directory)
        figures["sync_s"] = round(time.monotonic() - start, 3)
    return figures, said["out"]


def stored_bytes(path):
    """Disk space a file or directory takes, without what a vault sets aside for when the disk is full."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_blocks * 512
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            if name == ".reserve":
                continue
            total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def version(command, pattern=r"\d+(\.\d+)+[\w+-]*"):
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError:
        return None
    found = re.search(pattern, out)
    return found[0] if found else out.strip().split("\n")[0]


def machine(work):
    """What the figures were taken on. Names no host."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_kib = int(re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)[1])
    fs = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", work], stdout=subprocess.PIPE, text=True).stdout.strip()
    release = Path("/etc/os-release").read_text()
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "kernel": re.match(r"[\d.]*\d", platform.release())[0],
        "system": re.search(r'^PRETTY_NAME="?([^"\n]+)', release, re.M)[1],
        "file_system": fs,
    }
