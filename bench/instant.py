"""A machine that is started from the vault at once, against its original disks: how long until the guest agent answers.

The machine is the Debian test guest, which boots from its own disk. Each time is from the command to the agent's first answer;
what both read is in the page cache. Afterwards all its data is moved in while it runs, and that is measured too.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from machine import run
from measure import Failed
from peers import fresh

NAME, NEW = "bench-original", "bench-instant"
BOOT_LIMIT_S = 300


def virsh(*arguments):
    return run("virsh", "-q", "-c", "qemu:///system", *arguments)


def does(*arguments):
    return subprocess.run(["virsh", "-q", "-c", "qemu:///system", *arguments], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def remove(name):
    does("destroy", name)
    does("undefine", name, "--checkpoints-metadata")


def wait_until(what, is_so, limit_s=BOOT_LIMIT_S):
    until = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {limit_s} s")
        time.sleep(0.1)


def wait_agent(name):
    wait_until(f"the agent of {name} answers",
               lambda: does("qemu-agent-command", "--timeout", "1", name, '{"execute":"guest-ping"}'))


def shut_down(name):
    virsh("shutdown", name)
    wait_until(f"{name} is off", lambda: "shut off" in virsh("domstate", name))


class Office:
    """A data directory with a vault, and the service over it."""

    def __init__(self, binary, directory, place):
        self.binary = binary
        config = directory / "strongroom.toml"
        config.write_text(f'[[hosts]]\nname = "local"\n\n[[restore_directories]]\nname = "place"\npath = "{place}"\n')
        self.environment = os.environ | {"STRONGROOM_DATA": str(directory / "data"), "STRONGROOM_CONFIG": str(config)}

    def command(self, *arguments):
        return json.loads(run(self.binary, *arguments, "--json", env=self.environment))

    def __enter__(self):
        self.service = subprocess.Popen([self.binary, "serve", "--listen", "127.0.0.1:0", "-q"], env=self.environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        socket = Path(self.environment["STRONGROOM_DATA"], "strongroom.sock")

        def listens():
            if self.service.poll() is not None:
                raise Failed("the service did not start")
            return socket.exists()

        wait_until("the service listens", listens, 30)
        return self

    def __exit__(self, *_):
        self.service.terminate()
        self.service.wait()


def run_all(bench, us, recorder, rounds):
    guests = bench.here.parent / "tests" / "guests"
    run(bench.here.parent / "tests" / "lib" / "libvirt-up", "--for", os.getpid())
    directory = fresh(us.out)
    # QEMU runs as its own user: it may pass through.
    for path in (bench.out, directory):
        path.chmod(0o711)
    disks = directory / "disks"
    remove(NAME)
    remove(NEW)
    (directory / "machine.xml").write_text(run(guests / "define-debian", NAME, "--dir", disks))
    virsh("define", directory / "machine.xml")
    try:
        # Once to settle what a first boot does.
        virsh("start", NAME)
        wait_agent(NAME)
        shut_down(NAME)
        with Office(us.binary, directory, disks) as office:
            office.command("vault", "create", "main")
            office.command("vm", "list", "--refresh")
            office.command("vm", "protect", NAME)
            office.command("vm", "backup", NAME)
            for _ in range(rounds):
                one_round(office, disks, recorder(us.name))
    finally:
        remove(NEW)
        remove(NAME)
        shutil.rmtree(directory, ignore_errors=True)


def one_round(office, disks, record):
    nothing = {"cpu_s": 0.0, "peak_mib": 0.0}
    began = time.monotonic()
    virsh("start", NAME)
    wait_agent(NAME)
    record("boot_original", {"wall_s": round(time.monotonic() - began, 2), **nothing})
    shut_down(NAME)
    began = time.monotonic()
    begun = office.command("vm", "restore", NAME, "--instant", "--as", NEW, "--place", "place", "--no-wait")
    wait_until(f"{NEW} runs", lambda: does("domid", NEW))
    wait_agent(NEW)
    record("boot_instant", {"wall_s": round(time.monotonic() - began, 2), **nothing})
    began = time.monotonic()
    done = office.command("job", "watch", begun["job"]["job"])
    if done["status"] != "Completed":
        raise Failed(f"the restore ended as {done}")
    images = list(disks.glob(f"{NEW}-*.qcow2"))
    known = [json.loads(run("qemu-img", "info", "-U", "--output=json", image)) for image in images]
    if not known or any("backing-filename" in image for image in known):
        raise Failed("an image still names the vault")
    record("boot_instant_moved_in", {"wall_s": round(time.monotonic() - began, 2), **nothing,
                                     "stored_bytes": sum(image["actual-size"] for image in known)})
    remove(NEW)
    for image in images:
        image.unlink()
