#!/usr/bin/python3
"""A machine that is started from the vault at once, against its original disks: how long until the guest agent answers.

    bench/instant.py [--strongroom BINARY] [--rounds N] [--dir DIRECTORY] [--json]

The machine is the Debian test guest, which boots from its own disk. It is booted from its disks, backed up while it is off, and
restored with `vm restore --instant`, in turn; each time is from the command to the agent's first answer. Both have their
bytes in the page cache. Afterwards all data is moved in: that time, and its rate, are shown too. Needs root.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUESTS = HERE.parent / "tests" / "guests"
NAME, NEW = "bench-original", "bench-instant"
BOOT_LIMIT = 300


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"bench/instant: {' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def virsh(*arguments):
    return run("virsh", "-q", "-c", "qemu:///system", *arguments)


def remove(name):
    for arguments in (["destroy", name], ["undefine", name, "--checkpoints-metadata"]):
        subprocess.run(["virsh", "-q", "-c", "qemu:///system", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_agent(name):
    until = time.monotonic() + BOOT_LIMIT
    while subprocess.run(["virsh", "-q", "-c", "qemu:///system", "qemu-agent-command", "--timeout", "1", name,
                          '{"execute":"guest-ping"}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > until:
            sys.exit(f"bench/instant: the agent of {name} did not answer within {BOOT_LIMIT} s")
        time.sleep(0.1)


def shut_down(name):
    virsh("shutdown", name)
    until = time.monotonic() + 120
    while "shut off" not in virsh("domstate", name):
        if time.monotonic() > until:
            return virsh("destroy", "--graceful", name)
        time.sleep(0.2)


class Office:
    """A data directory, and the service over it."""

    def __init__(self, binary, directory, place):
        self.binary = binary
        config = directory / "strongroom.toml"
        config.write_text(f'[[hosts]]\nname = "local"\n\n[[restore_directories]]\nname = "place"\npath = "{place}"\n')
        self.environment = os.environ | {"STRONGROOM_DATA": str(directory / "data"), "STRONGROOM_CONFIG": str(config)}

    def command(self, *arguments):
        return json.loads(run(self.binary, *arguments, "--json", env=self.environment))

    def __enter__(self):
        self.service = subprocess.Popen([self.binary, "serve", "--listen", "127.0.0.1:0", "-q"], env=self.environment,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        socket = Path(self.environment["STRONGROOM_DATA"], "strongroom.sock")
        while not socket.exists():
            if self.service.poll() is not None:
                sys.exit("bench/instant: the service did not start")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.service.terminate()
        self.service.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strongroom", default="target/release/strongroom")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    run(HERE.parent / "tests" / "lib" / "libvirt-up", "--for", os.getpid())
    figures = {"original_s": [], "instant_s": [], "moved_in_s": [], "moved_mib": 0}
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=options.dir) as name:
        directory = Path(name)
        directory.chmod(0o711)
        disks = directory / "disks"
        definition = directory / "machine.xml"
        remove(NAME)
        definition.write_text(run(GUESTS / "define-debian", NAME, "--dir", disks))
        virsh("define", definition)
        try:
            boot(options, directory, disks, figures)
        finally:
            remove(NAME)
            remove(NEW)
    original, instant = statistics.median(figures["original_s"]), statistics.median(figures["instant_s"])
    figures["ratio"] = round(instant / original, 2)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    shown = lambda times: ", ".join(f"{t:.1f}" for t in times)
    print(f"original disks, start to guest agent: {shown(figures['original_s'])} s")
    print(f"from the vault, command to guest agent: {shown(figures['instant_s'])} s, {figures['ratio']} x (medians)")
    moved = statistics.median(figures["moved_in_s"])
    print(f"all of {figures['moved_mib']} MiB moved in, the guest running: {shown(figures['moved_in_s'])} s, "
          f"{figures['moved_mib'] / moved:.0f} MiB/s")


def boot(options, directory, disks, figures):
    # Once to settle what a first boot does.
    virsh("start", NAME)
    wait_agent(NAME)
    shut_down(NAME)
    office = Office(Path(options.strongroom).absolute(), directory, disks)
    office.command("vault", "create", "main")
    office.command("vm", "protect", NAME)
    office.command("vm", "backup", NAME)
    with office:
        for _ in range(options.rounds):
            began = time.monotonic()
            virsh("start", NAME)
            wait_agent(NAME)
            figures["original_s"].append(round(time.monotonic() - began, 2))
            shut_down(NAME)
            began = time.monotonic()
            job = office.command("vm", "restore", NAME, "--instant", "--as", NEW, "--place", "place", "--no-wait")["job"]["job"]
            while subprocess.run(["virsh", "-q", "-c", "qemu:///system", "domid", NEW], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL).returncode:
                time.sleep(0.05)
            wait_agent(NEW)
            figures["instant_s"].append(round(time.monotonic() - began, 2))
            began = time.monotonic()
            done = office.command("job", "watch", job)
            figures["moved_in_s"].append(round(time.monotonic() - began, 2))
            if done["status"] != "Completed":
                sys.exit(f"bench/instant: the restore ended as {done}")
            images = list(disks.glob(f"{NEW}-*"))
            sizes = [json.loads(run("qemu-img", "info", "-U", "--output=json", image)) for image in images]
            if any("backing-filename" in size for size in sizes):
                sys.exit("bench/instant: an image still names the vault")
            figures["moved_mib"] = sum(size["virtual-size"] for size in sizes) >> 20
            remove(NEW)
            for image in images:
                image.unlink()
    shutil.rmtree(directory / "data")


if __name__ == "__main__":
    main()
