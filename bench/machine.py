"""A running machine: Strongroom's `vm backup` against virtnbdbackup, how long the guest is frozen, and what fio in the
guest loses meanwhile.

The machine is the tiny test guest with the benchmark's image as a qcow2 disk on an XFS that can clone files. There is
one per run, named bench-machine, and it is gone afterwards.
"""

import json
import os
import shutil
import subprocess
import time

from measure import Failed, measure, stored_bytes, version
from peers import fresh

NAME = "bench-machine"
PIECE = 64 << 10
RESTORED = "bench-restored"
FREEZES = 5
# A pre- and a post-script that do nothing, as Azure's framework wants them.
SCRIPTS = """umask 077; mkdir -p /etc/azure; cd /etc/azure
printf '#!/bin/sh\nexit 0\n' > pre.sh; cp pre.sh post.sh; chmod 700 pre.sh post.sh
printf '{"preScriptLocation": "/etc/azure/pre.sh", "postScriptLocation": "/etc/azure/post.sh"}' > VMSnapshotScriptPluginConfig.json"""
FIO_SECONDS = 45
FIO_ALONE_SECONDS = 12
FIO_STEP_MS = 250
FIO = ["--name=bench", "--filename=/mnt/vda/fio", "--size=64m", "--rw=randwrite", "--bs=4k", "--direct=1",
       "--ioengine=psync", "--time_based"]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class CloningFileSystem:
    """XFS with reflink in a file of its own, mounted for as long as the context lasts."""

    def __init__(self, directory, size):
        self.file = directory / "xfs.img"
        self.mount = directory / "xfs"
        self.size = size

    def __enter__(self):
        self.mount.mkdir(parents=True, exist_ok=True)
        run("truncate", "-s", self.size, self.file)
        run("mkfs.xfs", "-q", "-f", "-m", "reflink=1", self.file)
        run("mount", "-o", "loop", self.file, self.mount)
        return self.mount

    def __exit__(self, *_):
        for _ in range(10):
            if subprocess.run(["umount", self.mount], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(1)
        self.file.unlink(missing_ok=True)


class Machine:
    """The guest, defined and started; undefined at the end with its checkpoints."""

    def __init__(self, bench, directory, disks, format_="none", memory=256):
        self.bench = bench
        guests = bench.here.parent / "tests" / "guests"
        self.agent_tool = guests / "agent"
        run(guests / "make-tiny")
        arguments = [a for disk in disks for a in ("--disk", disk)]
        xml = run(guests / "define-tiny", NAME, "--dir", directory, "--format", format_, "--memory", memory, *arguments)
        self.directory = directory
        self.xml = directory / "machine.xml"
        self.xml.write_text(xml)

    def __enter__(self):
        self.remove()
        run("virsh", "-q", "define", self.xml)
        run("virsh", "-q", "start", NAME)
        run(self.agent_tool, "wait", NAME, "180")
        return self

    def __exit__(self, *_):
        self.remove()

    @staticmethod
    def remove():
        for arguments in (["destroy", NAME], ["undefine", NAME, "--checkpoints-metadata"], ["undefine", RESTORED]):
            subprocess.run(["virsh", "-q", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def guest(self, *command):
        return run(self.agent_tool, "exec", NAME, *command)

    def change(self):
        """Writes the changed image's pieces into the running machine's first disk, through QEMU: dirty bitmaps see it."""
        import libvirt  # python3-libvirt, which virtnbdbackup brings along
        import libvirt_qemu
        connection = libvirt.open("qemu:///system")
        domain = connection.lookupByName(NAME)
        monitor = lambda text: libvirt_qemu.qemuMonitorCommand(
            domain, text, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        device = "/machine/peripheral/virtio-disk0/virtio-backend"
        piece = self.directory / "piece"
        with open(self.bench.changed_bytes, "rb") as source:
            for extent in json.loads(self.bench.extents.read_text()):
                for at in range(0, extent["length"], PIECE):
                    piece.write_bytes(source.read(PIECE))
                    piece.chmod(0o644)
                    said = monitor(f'qemu-io -d {device} "write -s {piece} {extent["offset"] + at} {PIECE}"')
                    # It tells of success on QEMU's own output; the backup's size shows whether it is true.
                    if said.strip():
                        raise Failed(f"the monitor said: {said}")
        connection.close()
        piece.unlink()


class VirtNbdBackup:
    name = "virtnbdbackup"

    def __init__(self, bench):
        self.bench = bench
        self.version = version(["virtnbdbackup", "--version"])
        self.out = bench.out / self.name

    def run(self, record, machine):
        fresh(self.out)
        scratch = fresh(self.out / "scratch")
        scratch.chmod(0o777)
        backup = self.out / "backup"
        for what, level in (("vm_full", "full"), ("vm_changed", "inc")):
            if level == "inc":
                machine.change()
            before = stored_bytes(backup)
            figures, _ = measure(["virtnbdbackup", "-n", "-d", NAME, "-l", level, "-z", "-S", scratch, "-o", backup],
                                 sync_directory=self.out)
            figures["stored_bytes"] = stored_bytes(backup) - before
            if level == "inc":
                check_size(self.bench, figures)
            record(what, figures)
        shutil.rmtree(self.out)


def check_size(bench, figures):
    """What was changed is random: an incremental of less has not seen it."""
    changed = bench.changed_bytes.stat().st_size
    if figures["stored_bytes"] < 0.95 * changed:
        raise Failed(f"{changed} bytes were changed in the machine, the backup stored {figures['stored_bytes']}")


class OurMachines:
    """Strongroom on the same machine."""
    name = "strongroom"

    def __init__(self, us):
        self.us = us

    def backup(self):
        us = self.us
        before = stored_bytes(us.vault)
        figures, text = us.measured("rescue", "vm", "backup", NAME, "--vault", us.vault)
        figures["stored_bytes"] = stored_bytes(us.vault) - before
        timings = json.loads(text)["timings"]
        for key in ("frozen_ms", "suspended_ms", "snapshot_ms"):
            # Left out where it was not done.
            if key in timings:
                figures[key] = timings[key]
        return figures

    def run(self, record, machine):
        fresh(self.us.out)
        self.us.init(self.us.vault)
        record("vm_full", self.backup())
        record("vm_restore", self.restore(machine))
        machine.change()
        figures = self.backup()
        check_size(self.us.bench, figures)
        record("vm_changed", figures)
        record("vm_no_change", self.backup())
        shutil.rmtree(self.us.out)

    def restore(self, machine):
        """As a new machine, beside the old one."""
        place = fresh(machine.directory / "restored")
        place.chmod(0o711)
        figures, _ = self.us.measured("rescue", "vm", "restore", f"{NAME}@latest", "--vault", self.us.vault, "--as", RESTORED,
                                      "--storage", place)
        figures["stored_bytes"] = stored_bytes(place)
        run("virsh", "-q", "undefine", RESTORED)
        shutil.rmtree(place)
        return figures

    def freezes(self, record, machine):
        """A guest with a mounted file system: how long it stood still. Without scripts, then with some that do nothing."""
        fresh(self.us.out)
        self.us.init(self.us.vault)
        # The first one brings the extension into the guest.
        self.backup()
        for what in ("vm_freeze", "vm_scripts"):
            for n in range(FREEZES):
                machine.guest("/bin/sh", "-c", f"dd if=/dev/urandom of=/mnt/vda/file{n} bs=64k count=64 2>/dev/null")
                record(what, self.backup())
            machine.guest("/bin/sh", "-c", SCRIPTS)
        shutil.rmtree(self.us.out)

    def four_disks(self, record, machine):
        """Four disks of 1 TiB with nothing on them."""
        fresh(self.us.out)
        self.us.init(self.us.vault)
        record("vm_four_tib_full", self.backup())
        for _ in range(FREEZES):
            record("vm_four_tib", self.backup())
        shutil.rmtree(self.us.out)

    def fio(self, record, machine):
        """Random writes in the guest, with a backup in the middle: operations a second before and during it."""
        fresh(self.us.out)
        self.us.init(self.us.vault)
        # The file is laid out first. The agent takes no commands while it freezes, so fio runs by itself.
        machine.guest("/mnt/vdb/run-fio", *FIO, "--runtime=1")
        command = " ".join(["cd /tmp && /mnt/vdb/run-fio", *FIO, f"--runtime={FIO_SECONDS}", "--write_iops_log=/tmp/fio",
                            f"--log_avg_msec={FIO_STEP_MS}"])
        machine.guest("/bin/sh", "-c", f"({command}) >/tmp/fio.out 2>&1 &")
        began = time.monotonic()
        time.sleep(FIO_ALONE_SECONDS)
        start = time.monotonic() - began
        figures = self.backup()
        end = time.monotonic() - began
        time.sleep(max(0, FIO_SECONDS + 3 - end))
        steps = []
        for line in machine.guest("/bin/cat", "/tmp/fio_iops.1.log").split("\n"):
            if line.strip():
                at_ms, rate = line.split(",")[:2]
                steps.append((int(at_ms) / 1000, float(rate)))
        # Steps that lie wholly inside, with room for fio's own start.
        step = FIO_STEP_MS / 1000
        alone = [rate for at, rate in steps if 1 < at < start - 1]
        beside = [rate for at, rate in steps if start + 2 * step < at < min(end, FIO_SECONDS) - step]
        if not alone or not beside:
            raise Failed(f"a backup of {end - start:.1f} s is too short to see fio beside it")
        alone, beside = sum(alone) / len(alone), sum(beside) / len(beside)
        figures.update(iops_alone=round(alone, 1), iops_beside=round(beside, 1), loss=round(1 - beside / alone, 3))
        record("vm_fio", figures)
        shutil.rmtree(self.us.out)


def fio_disk(path):
    """A small ext4 with the host's fio and the libraries it needs, for a guest that has neither."""
    staging = fresh(path.parent / "fio-files")
    binary = shutil.which("fio")
    for line in run("ldd", binary).split("\n"):
        library = next((w for w in line.split() if w.startswith("/")), None)
        if library:
            shutil.copy(library, staging)
    shutil.copy(binary, staging / "fio")
    starter = staging / "run-fio"
    starter.write_text("#!/bin/sh\nexec /mnt/vdb/ld-linux-x86-64.so.2 --library-path /mnt/vdb /mnt/vdb/fio \"$@\"\n")
    starter.chmod(0o755)
    run("mke2fs", "-q", "-t", "ext4", "-d", staging, path, "256M")
    shutil.rmtree(staging)


def convert(record, disk):
    """What QEMU itself takes to copy a machine's disk."""
    copy = disk.parent / "copy.qcow2"
    figures, _ = measure(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", disk, copy], sync_directory=disk.parent)
    figures["stored_bytes"] = stored_bytes(copy)
    record("vm_convert", figures)
    copy.unlink()


def run_all(bench, us, recorder):
    """Everything with a machine in it."""
    libvirt_up = bench.here.parent / "tests" / "lib" / "libvirt-up"
    run(libvirt_up, "--for", os.getpid())
    with CloningFileSystem(bench.work, "40G") as mount:
        for contender in (VirtNbdBackup(bench), OurMachines(us) if us else None):
            if contender is None:
                continue
            directory = fresh(mount / "disks")
            disk = directory / "disk.qcow2"
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", bench.image, disk)
            with Machine(bench, directory, [f"vda:qcow2:@{disk}"]) as machine:
                contender.run(recorder(contender.name), machine)
                if contender.name == OurMachines.name:
                    convert(recorder("qemu-img"), disk)
            shutil.rmtree(directory)
        if us is None:
            return
        ours = OurMachines(us)
        directory = fresh(mount / "disks")
        with Machine(bench, directory, ["vda:qcow2:1G"], format_="vda") as machine:
            ours.freezes(recorder(ours.name), machine)
        shutil.rmtree(directory)
        directory = fresh(mount / "disks")
        with Machine(bench, directory, [f"vd{letter}:qcow2:1T" for letter in "abcd"]) as machine:
            ours.four_disks(recorder(ours.name), machine)
        shutil.rmtree(directory)
        directory = fresh(mount / "disks")
        big = directory / "big.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", bench.image, big)
        fio_disk(directory / "fio.raw")
        disks = ["vda:qcow2:1G", f"vdb:raw:@{directory / 'fio.raw'}", f"vdc:qcow2:@{big}"]
        with Machine(bench, directory, disks, format_="vda") as machine:
            ours.fio(recorder(ours.name), machine)
