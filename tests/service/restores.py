#!/usr/bin/env python3
"""Restores in every kind: what they write, and SIGKILL and cancelling in random moments of them.

    restores.py STRONGROOM [SEED]

Disks are replaced on storage that clones files (XFS) and on storage that does not (ext4). After each kill a machine has its
old disks or the point's, never some of each; a second try succeeds; nothing half is left. The seed is printed.
"""

import atexit
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lab import Failure, Machines, Service, Vault, binary, check, local_host, main, number, run, say, seeded, wait_until

GROUP = "srtest"
DONE = {"Completed", "CompletedWithWarnings"}
KILLS = int(os.environ.get("STRONGROOM_RESTORE_KILLS", number(2, 20)))
CANCELS = int(os.environ.get("STRONGROOM_RESTORE_CANCELS", number(2, 10)))
MIB = 1 << 20


class Storage:
    """A file system of its own, in a file."""

    def __init__(self, kind, size):
        self.kind = kind
        self.directory = Path(tempfile.mkdtemp(prefix="srtest-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.path = self.directory / "fs"
        self.path.mkdir()
        image = self.directory / "image"
        with open(image, "wb") as file:
            file.truncate(size)
        run(*{"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "ext4": ["mkfs.ext4", "-q"]}[kind], image)
        self.device = run("losetup", "--find", "--show", image).strip()
        atexit.register(self.remove)
        run("mount", self.device, self.path)
        self.path.chmod(0o711)

    def written(self):
        """Bytes that the device was made to write so far."""
        os.sync()
        return int(Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()[6]) * 512

    def hidden(self):
        return sorted(p.name for p in self.path.iterdir()
                      if p.name.startswith(".") and ("strongroom-new" in p.name or "partial" in p.name))

    def remove(self):
        for _ in range(50):
            if subprocess.run(["umount", self.path], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        subprocess.run(["losetup", "-d", self.device], capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def noise(path, disk_format, at, size, seed):
    """Writes `size` bytes of noise at `at` of an image that nobody else has open."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as raw:
        source = random.Random(seed)
        for done in range(0, size, 64 * MIB):
            raw.write(source.randbytes(min(64 * MIB, size - done)))
        raw.flush()
        run("qemu-io", "-f", disk_format, "-c", f"write -s {raw.name} {at} {size}", path)


class Disk:
    """A disk of a machine, and copies of what it held."""

    def __init__(self, path, disk_format, target, keep):
        self.path, self.format, self.target, self.keep = path, disk_format, target, keep
        self.copies = {}

    def remember(self, name):
        copy = self.keep / f"{self.path.name}.{name}"
        run("qemu-img", "convert", "-f", self.format, "-O", "raw", self.path, copy)
        self.copies[name] = copy

    def holds(self, path=None, disk_format=None):
        """Which of the remembered contents it holds."""
        path = path or self.path
        for name, copy in self.copies.items():
            done = subprocess.run(["qemu-img", "compare", "-U", "-f", disk_format or self.format, "-F", "raw", path, copy],
                                  capture_output=True)
            if done.returncode == 0:
                return name
        return None


class Lab:
    def __init__(self, directory, random_source):
        self.random, self.directory = random_source, directory
        self.machines = Machines("restores")
        self.copies = directory / "copies"
        self.copies.mkdir()
        self.places = directory / "places"
        self.places.mkdir(mode=0o711)
        self.storages = {}
        self.pool = f"srtest-pool-{os.getpid()}"
        self.pool_path = directory / "pool"
        self.pool_path.mkdir(mode=0o711)
        self.machines.virsh("pool-create-as", self.pool, "dir", "--target", self.pool_path)
        atexit.register(lambda: self.machines.virsh("pool-destroy", self.pool, check_it=False))
        self.service = Service(binary(), directory / "data", f"""
{local_host(GROUP, places=self.places)}
[[restore_directories]]
name = "vhds"
path = "{self.places}"
format = "vhd"
group = "{GROUP}"
location = "local"

[snapshots]
keep = false
""").start()
        self.vault = Vault(self.service, GROUP, "restores").create()

    def keep_snapshots(self, keep):
        """From here on points come from beside the disks where the storage can, or from the vault alone."""
        self.service.stop()
        text = self.service.config.read_text()
        self.service.config.write_text(text.replace(f"keep = {str(not keep).lower()}", f"keep = {str(keep).lower()}"))
        self.service.start()

    def storage(self, kind):
        if kind not in self.storages:
            self.storages[kind] = Storage(kind, 16 << 30)
        return self.storages[kind]

    def machine(self, what, where, disks):
        """A machine that is off; `disks`: (format, size in bytes)."""
        name = f"{self.machines.prefix}-{what}"
        made = []
        for (disk_format, size), target in zip(disks, ("vda", "vdb", "vdc")):
            path = where / f"{name}-{target}.{disk_format}"
            run("qemu-img", "create", "-q", "-f", disk_format, path, str(size))
            made.append(Disk(path, disk_format, target, self.copies))
        rows = "".join(f"""<disk type='file' device='disk'><driver name='qemu' type='{d.format}' discard='unmap'/>
            <source file='{d.path}'/><target dev='{d.target}' bus='virtio'/></disk>""" for d in made)
        xml = self.directory / f"{name}.xml"
        xml.write_text(f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
            <devices>{rows}</devices></domain>""")
        self.machines.virsh("define", xml)
        self.machines.names.append(name)
        return name, made

    def protect(self, name):
        wait_until("it can be protected", lambda: self.vault.protect(name).status in (200, 202), 30, 0.5)

    def backup(self, name):
        """The new point's name."""
        before = {p["name"] for p in self.vault.points(name)}
        answer = self.vault.backup(name)
        check(answer.status == 202, answer)
        self.vault.settle()
        new = [p["name"] for p in self.vault.points(name) if p["name"] not in before]
        check(len(new) == 1, "points:", new, self.vault.jobs()[0])
        return new[0]

    def restore(self, name, point, kind, **more):
        p = {"objectType": "IaasVMRestoreRequest", "recoveryPointId": point, "recoveryType": kind,
             "sourceResourceId": self.vault.machine(name), "region": "local"}
        if "account" in more:
            group = f"/subscriptions/{self.service.subscription}/resourceGroups/{GROUP}"
            p["storageAccountId"] = f"{group}/providers/Microsoft.Storage/storageAccounts/{more['account']}"
        if "new" in more:
            p["targetVirtualMachineId"] = self.vault.machine(more["new"])
            p["targetResourceGroupId"] = f"/subscriptions/{self.service.subscription}/resourceGroups/{GROUP}"
        if "format" in more:
            p["diskFormat"] = more["format"]
        return self.service.request("POST", f"{self.vault.item(name)}/recoveryPoints/{point}/restore", {"properties": p})

    def newest(self, operation="Restore"):
        jobs = [j for j in self.vault.jobs() if j["properties"]["operation"] == operation]
        return self.service.get(f"{self.vault.path}/backupJobs/{jobs[0]['name']}") if jobs else None

    def done(self, answer, status=DONE):
        check(answer.status == 202, answer)
        self.vault.settle(300)
        job = self.newest()
        check(job["properties"]["status"] in status, job)
        return job

    def kill_during(self, begin, duration):
        answers = []

        def ask():
            try:
                answers.append(begin())
            except (OSError, Failure):
                pass

        after = self.random.uniform(0, duration)
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(after)
        self.service.kill()
        thread.join()
        return after, answers


def bag(job):
    return job["properties"]["extendedInfo"]["propertyBag"]


def replace_measured(lab):
    """Bytes written stay within one and a half times what differs."""
    size = 10 << 30
    for kind, disk_format in (("xfs", "qcow2"), ("xfs", "raw"), ("ext4", "qcow2"), ("ext4", "raw")):
        storage = lab.storage(kind)
        name, (disk,) = lab.machine(f"big-{kind}-{disk_format}", storage.path, [(disk_format, size)])
        noise(disk.path, disk_format, 0, 288 * MIB, 1)
        disk.remember("then")
        lab.protect(name)
        point = lab.backup(name)
        # One per cent, in a hundred places, some of them where nothing was.
        for n in range(100):
            noise(disk.path, disk_format, (n * 3 if n % 4 else 5000 + n * 40) * MIB, 1 * MIB, 1000 + n)
        # What is noise again; the rest becomes holes.
        differs = 72 * MIB
        before = storage.written()
        began = time.monotonic()
        job = lab.done(lab.restore(name, point, "OriginalLocation"))
        took = time.monotonic() - began
        written = storage.written() - before
        said = {k: int(v) for k, v in bag(job).items() if k.startswith("Bytes")}
        say(f"{kind}, {disk_format}: 10 GiB, {differs >> 20} MiB to be written: {written >> 20} MiB were, in {took:.1f} s; {said}")
        check(disk.holds() == "then", "the disk is not the point's")
        check(written <= 1.5 * differs, "written:", written)
        check(not storage.hidden(), storage.hidden())
        points = lab.vault.points(name)
        check(len(points) == 2, "what was there before is a point:", points)
        # And back again.
        job = lab.done(lab.restore(name, points[0]["name"], "OriginalLocation"))
        check(disk.holds() is None)
        lab.machines.virsh("start", name)
        refused = lab.restore(name, point, "OriginalLocation")
        check(refused.status == 400 and refused.code == "UserErrorVmNotInDesirableState", refused)
        lab.machines.virsh("destroy", name)
        lab.machines.virsh("undefine", name, "--checkpoints-metadata")
        disk.path.unlink()
        for copy in disk.copies.values():
            copy.unlink()


def replace_mixture(lab, kind, what="vault", kills=KILLS, cancels=CANCELS):
    """Killed and cancelled in random moments: the old disks or the point's."""
    storage = lab.storage(kind)
    name, disks = lab.machine(f"two-{kind}-{what}", storage.path, [("qcow2", 256 * MIB), ("raw", 256 * MIB)])
    for n, disk in enumerate(disks):
        noise(disk.path, disk.format, 0, 200 * MIB, n)
        disk.remember("point")
    lab.protect(name)
    point = lab.backup(name)

    def change(seed):
        for disk in disks:
            disk.copies.pop("before", None)
            # Less than half, so that it is worth while to rewrite.
            for n in range(6):
                noise(disk.path, disk.format, n * 32 * MIB, 12 * MIB, seed + n)
            disk.remember("before")

    def begin():
        return lab.restore(name, point, "OriginalLocation")

    change(7000)
    began = time.monotonic()
    job = lab.done(begin())
    duration = time.monotonic() - began
    check([d.holds() for d in disks] == ["point", "point"])
    check(bag(job)["Restored from"] == f"the {what}", job)
    seen = {}
    for n in range(kills + cancels):
        change(8000 + 10 * n)
        if n < kills:
            after, answers = lab.kill_during(begin, duration * 1.1)
            # What a machine that was started now would find.
            there = [d.path.exists() for d in disks]
            holds = [d.holds() if t else "away" for d, t in zip(disks, there)]
            check("away" in holds or holds in (["before"] * 2, ["point"] * 2), "a mixture that boots:", holds)
            lab.service.start()
            lab.vault.settle(120)
            job = lab.newest()
            word = "killed"
        else:
            answer = begin()
            check(answer.status == 202, answer)
            after = lab.random.uniform(0, duration)
            time.sleep(after)
            running = lab.newest()
            asked = lab.service.request("POST", f"{lab.vault.path}/backupJobs/{running['name']}/cancel")
            holds = asked.status
            lab.vault.settle(120)
            job = lab.newest()
            word = "cancelled"
        status = job["properties"]["status"]
        now = [d.holds() for d in disks]
        check(now == (["point"] * 2 if status in DONE else ["before"] * 2) or now == ["point"] * 2 == holds or
              (word == "killed" and not answers and now == ["before"] * 2),
              word, "after", after, "the job is", status, "and the disks hold", now)
        check(not storage.hidden(), storage.hidden())
        seen[(word, str(holds), status)] = seen.get((word, str(holds), status), 0) + 1
        if now != ["point", "point"]:
            lab.done(begin())
            check([d.holds() for d in disks] == ["point", "point"], "the second try")
    for (word, holds, status), count in sorted(seen.items()):
        say(f"replace on {kind} from the {what}: {count} times {word} with {holds}: {status}")


def into_places(lab):
    """Directories and pools, in all formats; killed and cancelled."""
    name, disks = lab.machine("places", lab.directory, [("qcow2", 65 * MIB + 512), ("raw", 64 * MIB)])
    for n, disk in enumerate(disks):
        noise(disk.path, disk.format, 0, 40 * MIB, 50 + n)
        disk.remember("point")
    lab.protect(name)
    point = lab.backup(name)

    def look(job, directory, in_pool):
        container = directory / bag(job)["Config Blob Container Name"]
        config = json.loads((container / bag(job)["Config Blob Name"]).read_text())
        check([d["target"] for d in config["disks"]] == ["vda", "vdb"], config)
        paths = [(directory if in_pool else container) / d["file"] for d in config["disks"]]
        definition = (container / config["definition"]).read_text()
        for path, entry, disk in zip(paths, config["disks"], disks):
            check(str(path) in definition, "the definition does not name", path)
            if entry["format"] == "vpc":
                info = json.loads(run("qemu-img", "info", "--output=json", "-f", "vpc", path))
                size = info["virtual-size"]
                check(size % MIB == 0 and path.stat().st_size == size + 512, info)
                padded = path.with_name("padded")
                shutil.copyfile(disk.copies["point"], padded)
                os.truncate(padded, size)
                run("qemu-img", "compare", "-f", "vpc", "-F", "raw", path, padded)
                padded.unlink()
            else:
                check(disk.holds(path, entry["format"]) == "point", path)
        return paths, definition

    for account, more, directory in (("places", {}, lab.places), ("vhds", {}, lab.places),
                                     ("places", {"format": "raw"}, lab.places),
                                     (lab.pool, {"format": "qcow2"}, lab.pool_path),
                                     (lab.pool, {"format": "vhd"}, lab.pool_path)):
        in_pool = account == lab.pool
        job = lab.done(lab.restore(name, point, "RestoreDisks", account=account, **more))
        paths, definition = look(job, directory, in_pool)
        if in_pool:
            volumes = lab.machines.virsh("vol-list", lab.pool)
            check(all(path.name in volumes for path in paths), volumes)
        # The definition takes another name, and is a machine then.
        xml = lab.directory / "restored.xml"
        new = f"{lab.machines.prefix}-of-disks"
        xml.write_text(definition.replace(f"<name>{name}-restored</name>", f"<name>{new}</name>"))
        lab.machines.virsh("define", xml)
        lab.machines.virsh("start", new)
        lab.machines.virsh("destroy", new)
        lab.machines.virsh("undefine", new)
    refused = lab.restore(name, point, "RestoreDisks", account="places", format="vmdk")
    check(refused.status == 400, refused)
    say("disks: qcow2, raw and VHD into a directory and a pool, and the machine of each starts")

    began = time.monotonic()
    lab.done(lab.restore(name, point, "RestoreDisks", account=lab.pool))
    duration = time.monotonic() - began
    count = {}
    for n in range(KILLS + CANCELS):
        listed = {p.name for p in lab.pool_path.iterdir()}
        begin = lambda: lab.restore(name, point, "RestoreDisks", account=lab.pool)
        known = {j["name"] for j in lab.vault.jobs()}
        if n < KILLS:
            lab.kill_during(begin, duration * 1.2)
            lab.service.start()
        else:
            check(begin().status == 202)
            time.sleep(lab.random.uniform(0, duration))
            lab.service.request("POST", f"{lab.vault.path}/backupJobs/{lab.newest()['name']}/cancel")
        jobs = [j for j in lab.vault.settle() if j["name"] not in known]
        new = {p.name for p in lab.pool_path.iterdir()} - listed
        if not jobs:
            check(not new, "no job, and", new)
            continue
        job = lab.service.get(f"{lab.vault.path}/backupJobs/{jobs[0]['name']}")
        status = job["properties"]["status"]
        count[status] = count.get(status, 0) + 1
        if status in DONE:
            look(job, lab.pool_path, True)
            check(len(new) == 3, new)
        else:
            check(not new, status, "and left:", new)
    say(f"disks: {KILLS} kills and {CANCELS} cancels: {count}, nothing half is left")
    lab.done(lab.restore(name, point, "RestoreDisks", account=lab.pool))
    return name, point, disks


def new_machines(lab, name, point, disks):
    """A machine, or nothing; also where no place was named."""
    where = disks[0].path.parent
    began = time.monotonic()
    new = f"{lab.machines.prefix}-new"
    lab.machines.names.append(new)
    job = lab.done(lab.restore(name, point, "AlternateLocation", new=new))
    duration = time.monotonic() - began
    notes = bag(job)["Notes"]
    say("new machine:", notes)
    check("not started" in notes and "MAC" not in notes, "a machine without interfaces has no addresses:", notes)

    def files():
        return sorted(p.name for p in where.iterdir() if new in p.name)

    def gone():
        lab.machines.virsh("undefine", new)
        for file in files():
            (where / file).unlink()
        lab.service.request("POST", f"/subscriptions/{lab.service.subscription}/providers/Strongroom.Backup/discover")

    check(files() == [f"{new}-vda.qcow2", f"{new}-vdb.raw"], files())
    check([d.holds(where / f) for d, f in zip(disks, files())] == ["point", "point"])
    gone()
    count = {}
    for n in range(KILLS + CANCELS):
        known = {j["name"] for j in lab.vault.jobs()}
        begin = lambda: lab.restore(name, point, "AlternateLocation", new=new)
        if n < KILLS:
            lab.kill_during(begin, duration * 1.2)
            lab.service.start()
        else:
            check(begin().status == 202)
            time.sleep(lab.random.uniform(0, duration))
            lab.service.request("POST", f"{lab.vault.path}/backupJobs/{lab.newest()['name']}/cancel")
        jobs = [j["properties"] for j in lab.vault.settle() if j["name"] not in known]
        defined = new in lab.machines.virsh("list", "--all", "--name").split()
        status = jobs[0]["status"] if jobs else "no job"
        count[status] = count.get(status, 0) + 1
        check(defined == (status in DONE), "the job is", status, "and the machine", "there" if defined else "not there")
        if defined:
            check([d.holds(where / f) for d, f in zip(disks, files())] == ["point", "point"])
            gone()
        check(not files(), status, "and left:", files())
    say(f"new machine: {KILLS} kills and {CANCELS} cancels: {count}, nothing half is left")
    lab.done(begin())
    gone()


def tpm(lab, name):
    """Where libvirt keeps what an emulated TPM remembers."""
    return Path("/var/lib/libvirt/swtpm") / lab.machines.virsh("domuuid", name).strip() / "tpm2/tpm2-00.permall"


def names(lab):
    """Disks that are named are the point's, whatever the machine has by now, or whether it is there at all."""
    def define(name, disks):
        for seed, disk in enumerate(disks):
            noise(disk.path, disk.format, 0, 8 * MIB, seed)
            disk.remember("point")
        discover()
        lab.protect(name)
        lab.backup(name)
        shown = lab.service.run("point", "show", name, "latest")["disks"]
        check(shown == [{"lun": at - 1, "name": d.target, "size_bytes": 16 * MIB, "encrypted": False} for at, d in enumerate(disks)], shown)

    def run_it(*arguments):
        return subprocess.run([lab.service.binary, "vm", "restore", *arguments, "--data", lab.service.data, "--json"],
                              capture_output=True, timeout=120)

    def restored(name, disk):
        done = run_it(name, "--to", "places", "--disk", disk.target)
        check(done.returncode == 0, done.stderr.decode())
        details = json.loads(done.stdout)["job"]["details"]
        container = lab.places / details["Config Blob Container Name"]
        config = json.loads((container / details["Config Blob Name"]).read_text())
        check([d["target"] for d in config["disks"]] == [disk.target], config)
        entry = config["disks"][0]
        check(disk.holds(container / entry["file"], entry["format"]) == "point", disk.target, "was not restored")

    def refused(name, *arguments, there):
        done = run_it(name, *arguments)
        told = json.loads(done.stderr)["error"]["message"]
        check(done.returncode == 1 and "the point has no disk `" in told and f"it has: {there}" in told, told)

    def discover():
        lab.service.request("POST", f"/subscriptions/{lab.service.subscription}/providers/Strongroom.Backup/discover")

    # One is taken away, then the machine is.
    name, disks = lab.machine("fewer", lab.directory, [("qcow2", 16 * MIB)] * 3)
    define(name, disks)
    lab.machines.virsh("detach-disk", name, "vdb", "--config")
    discover()
    for _ in ("detached", "undefined"):
        restored(name, disks[2])
        restored(name, disks[1])
        refused(name, "--to", "places", "--disk", "vdd", there="vda, vdb, vdc")
        lab.machines.virsh("undefine", name, "--checkpoints-metadata", check_it=False)
        discover()

    # One comes in between.
    name, (first, between, last) = lab.machine("more", lab.directory, [("raw", 16 * MIB)] * 3)
    lab.machines.virsh("detach-disk", name, "vdb", "--config")
    noise(between.path, "raw", 0, 8 * MIB, 99)
    between.remember("point")
    define(name, [first, last])
    lab.machines.virsh("attach-disk", name, between.path, "vdb", "--config", "--targetbus", "virtio")
    for disk in (first, between, last):
        noise(disk.path, "raw", 4 * MIB, MIB, 100)
        disk.remember("now")
    before = {disk.path: (os.stat(disk.path).st_ino, os.stat(disk.path).st_mtime_ns) for disk in (first, between, last)}
    refused(name, "--replace", "--disk", "vdb", there="vda, vdc")
    check({path: (os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in before} == before, "a disk was touched")
    restored(name, last)
    # Backed up before anybody has seen it, the new disk has a number of its own.
    lab.backup(name)
    luns = {d["name"]: d["lun"] for d in lab.service.run("point", "show", name, "latest")["disks"]}
    check(len(luns) == 3 and len(set(luns.values())) == 3, luns)
    for disk in (between, last):
        disk.copies["point"] = disk.copies["now"]
        restored(name, disk)
    say("disks are named as the point has them")


def uefi(lab):
    """A machine with UEFI, a TPM, an order of booting and a seed of cloud-init: all of it is kept, its identity is new, and the job says what
    is to be done after."""
    where, name = lab.directory, f"{lab.machines.prefix}-uefi"
    template, variables, seed = Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), where / f"{name}.fd", where / f"{name}-seed.iso"
    disk = Disk(where / f"{name}-vda.qcow2", "qcow2", "vda", lab.copies)
    run("qemu-img", "create", "-q", "-f", "qcow2", disk.path, "32M")
    noise(disk.path, "qcow2", 0, 4 * MIB, 77)
    disk.remember("point")
    seed.write_bytes(b"\0" * MIB)
    xml = where / f"{name}.xml"
    xml.write_text(f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>2</vcpu>
        <genid>5f2ef83a-6a3c-4b0e-8f1c-1d4a3a1f2b11</genid>
        <os><type arch='x86_64' machine='q35'>hvm</type>
        <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
        <nvram template='{template}'>{variables}</nvram></os><features><acpi/></features>
        <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk.path}'/>
        <target dev='vda' bus='virtio'/><boot order='2'/></disk>
        <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{seed}'/>
        <target dev='sda' bus='sata'/><readonly/><boot order='1'/></disk>
        <interface type='user'><model type='virtio'/></interface>
        <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>""")
    lab.machines.virsh("define", xml)
    lab.machines.names.append(name)
    # The firmware notes there what it found, at its first start.
    lab.machines.virsh("start", name)
    wait_until("the firmware writes its variables",
               lambda: variables.exists() and variables.read_bytes() != template.read_bytes(), 120, 0.5)
    lab.machines.virsh("destroy", name)
    kept = variables.read_bytes()
    remembered = tpm(lab, name).read_bytes()
    check(len(remembered) > 1000, "the TPM remembers", len(remembered), "bytes")
    lab.protect(name)
    point = lab.backup(name)

    def look(definition, path):
        for part in ("<vcpu placement='static'>2</vcpu>", "OVMF_CODE_4M.fd", "<boot order='2'/>", "<boot order='1'/>",
                     f"<source file='{seed}'/>", f"template='{template}'"):
            check(part in definition, part, "is not in", definition)
        check("5f2ef83a" not in definition and f">{variables}<" not in definition, definition)
        found = definition.split("<nvram", 1)[1].split(">", 1)[1].split("<", 1)[0]
        check(Path(found) == path, "the UEFI variables are at", found)
        check(path.read_bytes() == kept, "the UEFI variables of", path, "are not those of the point")

    new = f"{name}-new"
    lab.machines.names.append(new)
    job = lab.done(lab.restore(name, point, "AlternateLocation", new=new))
    notes = bag(job)["Notes"]
    for word in ("not started", "MAC", "cloud-init"):
        check(word in notes, word, "is not in", notes)
    shown = lab.service.run("job", "show", job["name"])
    check(notes in json.dumps(shown, ensure_ascii=False), "the command line does not show the notes:", shown)
    look(lab.machines.virsh("dumpxml", new), where / f"{new}-uefi-variables.fd")
    check(disk.holds(where / f"{new}-vda.qcow2") == "point")
    check("TPM" not in notes, notes)
    state = tpm(lab, new)
    check(state != tpm(lab, name) and state.read_bytes() == remembered, "the TPM does not remember what the old one did")
    check([p.name for p in state.parent.parent.iterdir()] == ["tpm2"], list(state.parent.parent.iterdir()))
    lab.machines.virsh("start", new)
    # libvirt makes a TPM anew where it finds none, and swtpm says so.
    log = Path("/var/log/swtpm/libvirt/qemu") / f"{new}-swtpm.log"
    check(not log.exists() or "manufactur" not in log.read_text(), "the TPM was made anew")
    lab.machines.virsh("destroy", new)
    lab.machines.virsh("undefine", new, "--nvram")
    check(not state.exists(), state, "is left")

    job = lab.done(lab.restore(name, point, "RestoreDisks", account="places"))
    container = lab.places / bag(job)["Config Blob Container Name"]
    xml.write_text((container / f"{name}.xml").read_text())
    lab.machines.virsh("define", xml)
    of_disks = f"{name}-restored"
    lab.machines.names.append(of_disks)
    look(lab.machines.virsh("dumpxml", of_disks), container / f"{name}-uefi-variables.fd")
    lab.machines.virsh("start", of_disks)
    lab.machines.virsh("destroy", of_disks)
    lab.machines.virsh("undefine", of_disks, "--nvram")
    lab.machines.virsh("undefine", name, "--nvram", "--checkpoints-metadata")
    say("UEFI: firmware, variables, TPM, order of booting and cloud-init's seed are kept; notes:", notes)


def under_its_own_name(lab, name, point, disks):
    """The original is deleted and restored under its own name: it goes on being protected, with its history."""
    before = [p["name"] for p in lab.vault.points(name)]
    lab.machines.virsh("undefine", name, "--checkpoints-metadata")
    for disk in disks:
        disk.path.unlink()
    lab.service.request("POST", f"/subscriptions/{lab.service.subscription}/providers/Strongroom.Backup/discover")
    lab.done(lab.restore(name, point, "AlternateLocation", new=name))
    check(len([i for i in lab.service.rows("items") if i["machine_name"] == name]) == 1)
    item = lab.service.get(lab.vault.item(name))["properties"]
    check(item["protectionState"] == "Protected", item)
    lab.backup(name)
    after = [p["name"] for p in lab.vault.points(name)]
    check(after[1:] == before, "the history:", before, after)
    lab.service.stop()
    lab.service.start()
    lab.machines.virsh("start", name)
    lab.machines.virsh("destroy", name)
    say("restored under its own name it goes on being protected")


def body(directory):
    seed = seeded(2)
    lab = Lab(directory, random.Random(seed))
    phases = os.environ.get("STRONGROOM_RESTORE_PHASES", "measured names xfs ext4 snapshots uefi places machines own").split()
    if "measured" in phases:
        replace_measured(lab)
    if "names" in phases:
        names(lab)
    for kind in ("xfs", "ext4"):
        if kind in phases:
            replace_mixture(lab, kind)
    if "snapshots" in phases:
        lab.keep_snapshots(True)
        replace_mixture(lab, "xfs", "snapshot", (KILLS + 1) // 2, CANCELS // 2)
        lab.keep_snapshots(False)
    if "uefi" in phases:
        uefi(lab)
    if "places" in phases:
        name, point, disks = into_places(lab)
        if "machines" in phases:
            new_machines(lab, name, point, disks)
        if "own" in phases:
            under_its_own_name(lab, name, point, disks)
    vault = next(v for v in lab.service.rows("vaults") if v["name"] == lab.vault.name)
    lab.service.stop()
    check(not lab.service.panics(), lab.service.panics())
    run(lab.service.binary, "rescue", "vault", "check", vault["store_location"], "--read-data",
        "--key-file", lab.service.data / "keys" / f"{vault['id']}.key", timeout=300)


main(body, "restores")
