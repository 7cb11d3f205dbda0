#!/usr/bin/env python3
"""The snapshot tier with a real machine on storage that clones files (XFS, btrfs), and a vault that comes and goes.

    snapshots.py STRONGROOM [xfs|btrfs [PHASE…]]

A transfer that is interrupted 20 times, by the vault's location and by the service's end, while the machine is shut off,
started and moved, still becomes the right point; points are restored from their snapshot while the vault is away; what is
cancelled leaves nothing; space that is needed is given up by the oldest that are safe, never by the only copy; snapshots
expire, and one whose transfer failed for good stays, and says so.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from lab import Machines, Service, Vault, atexit, binary, check, local_host, main, number, run, say, seeded, wait_until

GROUP = "srtest"
DONE = {"Completed", "CompletedWithWarnings"}


def days_before(time_text, days):
    """A time as the catalog writes it, so many days earlier."""
    whole, dot, rest = time_text.rstrip("Z").partition(".")
    then = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S") - timedelta(days=days)
    return then.strftime("%Y-%m-%dT%H:%M:%S") + dot + rest + "Z"


def days_between(early, late):
    return (datetime.fromisoformat(late.replace("Z", "+00:00")) - datetime.fromisoformat(early.replace("Z", "+00:00"))) / timedelta(days=1)


class FileSystem:
    """A file system of its own in a file, mounted in a directory."""

    def __init__(self, directory, name, kind, mib):
        self.image, self.path = directory / f"{name}.image", directory / name
        with open(self.image, "wb") as image:
            image.truncate(mib << 20)
        make = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"], "ext4": ["mkfs.ext4", "-q", "-m", "0"]}
        run(*make[kind], self.image)
        self.path.mkdir()
        self.mount()
        atexit.register(self.remove)

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)
        self.path.chmod(0o711)

    def unmount(self):
        # What has just let go of it may take a moment.
        wait_until(f"{self.path} is unmounted",
                   lambda: not self.path.is_mount() or subprocess.run(["umount", self.path], capture_output=True).returncode == 0, 30)

    def remove(self):
        if self.path.is_mount():
            subprocess.run(["umount", "-l", self.path], capture_output=True)


class Lab:
    def __init__(self, directory, kind):
        self.machines = Machines("snap")
        base = self.machines.directory
        # Registered after the machines: removed before them, which is too early; so the machine is removed by hand.
        self.disks = FileSystem(base, "disks", kind, 900)
        atexit.register(self.machines.remove)
        self.vaults = FileSystem(base, "vaults", "ext4", 400)
        self.restores = self.disks.path / "restores"
        self.restores.mkdir(mode=0o711)
        self.machines.directory = self.disks.path
        self.machine, self.disk = self.machines.define("m", noise_mib=24, seed=1)
        self.machines.directory = base
        self.machines.start(self.machine)
        self.service = Service(binary(), directory / "data", f"""
vault_storage = "{self.vaults.path}"
{local_host(GROUP, restores=self.restores)}
[snapshots]
retry_seconds = 1
reserve_percent = 20
""").start()
        self.service.stop()
        self.service.trust_clock()
        self.service.start()
        self.vault = Vault(self.service, GROUP, "main").create()
        self.discover()
        answer = self.vault.protect(self.machine)
        check(answer.status in (200, 202), answer)
        wait_until("it is protected", lambda: self.service.rows("items"))
        self.writes = 0

    def discover(self):
        self.service.call("POST", f"/subscriptions/{self.service.subscription}/providers/Strongroom.Backup/discover")

    def write(self, mib=1):
        """Something new on the running machine's disk."""
        self.writes += 1
        where = 30 + self.writes % 20
        line = (f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend '
                f'"write -P {self.writes % 250 + 1} {where}M {mib}M"')
        answer = self.machines.virsh("qemu-monitor-command", self.machine, "--hmp", line)
        check("error" not in answer.lower() and "failed" not in answer, answer)

    def now(self):
        """What the disk holds now, as a file to compare with."""
        # The machine writes nothing by itself.
        copy = self.machines.directory / f"model-{self.writes}"
        run("qemu-img", "convert", "-U", "-O", "raw", self.disk, copy)
        return copy

    def points(self):
        """Azure's points, the newest first."""
        return self.vault.points(self.machine)

    def row(self, name):
        return next(p for p in self.service.rows("recovery_points") if p["name"] == name)

    def job(self, id):
        return next(j for j in self.service.rows("jobs") if j["id"] == id)

    def kept(self):
        return sorted(p.name for p in self.disks.path.rglob("*.kept.json"))

    def begin(self):
        """Begins a backup and waits until its point is there; the point's name and its job."""
        before = {p["name"] for p in self.points()}
        answer = self.vault.backup(self.machine)
        check(answer.status == 202, answer)
        new = wait_until("the point is there", lambda: [p["name"] for p in self.points() if p["name"] not in before], 30)
        check(len(new) == 1, new)
        return new[0], self.row(new[0])["job"]

    def shown(self, name):
        return next(p for p in self.points() if p["name"] == name)["properties"]

    def tiers(self, name):
        return [(t["type"], t["status"]) for t in self.shown(name)["recoveryPointTierDetails"]]

    def ask_restore(self, machine, point, kind, **more):
        group = f"/subscriptions/{self.service.subscription}/resourceGroups/{GROUP}"
        body = {"objectType": "IaasVMRestoreRequest", "recoveryPointId": point, "recoveryType": kind,
                "sourceResourceId": self.vault.machine(machine), "region": "local", **more}
        if kind == "AlternateLocation":
            body["targetResourceGroupId"] = group
        return self.service.request("POST", f"{self.vault.item(machine)}/recoveryPoints/{point}/restore",
                                    {"properties": body})

    def restored(self, answer, seconds=60):
        """Waits for a restore that was asked for; its row."""
        check(answer.status == 202, answer)
        job = wait_until("the restore is over", lambda: self.over("Restore"), seconds)
        check(job["status"] in ("completed", "completed_with_warnings"), job)
        return job

    def restore(self, point, model, source):
        job = self.restored(self.vault.restore_disks(self.machine, point, "restores"))
        told = dict(job["properties"])
        check(told["restored_from"] == source, told)
        directory = next(p for p in self.restores.iterdir() if job["id"].replace("-", "") in p.name)
        disk = next(directory.glob("*-vda.qcow2"))
        check("identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, model), "restored bytes differ")
        if source == "the snapshot":
            self.check_shared(disk)
        run("rm", "-r", directory)

    @staticmethod
    def check_shared(disk):
        told = run("filefrag", "-v", disk)
        check("shared" in told, "it was copied, not cloned:", told)

    def over(self, operation):
        jobs = [j for j in self.service.rows("jobs") if j["operation"] == operation.lower()]
        newest = max(jobs, key=lambda j: j["started_at"])
        return newest if newest["ended_at"] else None

    def finish(self, job, status=DONE):
        """Waits for a job's end; its row."""
        found = wait_until("the job is over", lambda: (lambda j: j if j["ended_at"] else None)(self.job(job)), 90)
        azure = "".join(w.capitalize() for w in found["status"].split("_"))
        check(azure in status, found)
        return found

    def change(self, table, id, **values):
        """Changes a row behind the service's back. It must not run."""
        check(self.service.process is None)
        with sqlite3.connect(self.service.data / "catalog.db", timeout=30) as catalog:
            (doc,) = catalog.execute(f"SELECT doc FROM {table} WHERE id = ?", (id,)).fetchone()
            doc = json.loads(doc)
            for path, value in values.items():
                at = doc
                *parents, last = path.split("__")
                for parent in parents:
                    at = at[parent]
                at[last] = value
            catalog.execute(f"UPDATE {table} SET doc = ?, version = version + 1 WHERE id = ?", (json.dumps(doc), id))
        catalog.close()

    def hurry(self, job):
        """As if the pause before the next try were over, and had been a short one. The service must not run."""
        self.change("jobs", job, not_before=None, request__failures=0)

    def finish_soon(self, job):
        self.service.stop()
        self.hurry(job)
        self.service.start()
        return self.finish(job)

    def vault_away(self):
        """The vault's file system goes, as seen by a service that has just started."""
        wait_until("nothing is under way", lambda: all(j["ended_at"] for j in self.service.rows("jobs")), 60)
        self.service.stop()
        self.vaults.unmount()
        self.service.start()

    @staticmethod
    def seconds(job):
        return days_between(job["started_at"][:26].rstrip("Z") + "Z", job["ended_at"][:26].rstrip("Z") + "Z") * 86400

    @staticmethod
    def room(path):
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, filler):
        """Takes all the room that there is, to the last block."""
        run("fallocate", "-l", str(self.room(filler.parent) - (1 << 20)), filler)
        with open(filler, "ab", buffering=0) as rest:
            try:
                while True:
                    rest.write(bytes(4096))
            except OSError:
                pass

    def move(self):
        """The machine, which is off, finds its disk elsewhere."""
        definition = self.machines.virsh("dumpxml", self.machine)
        elsewhere = self.disks.path / "elsewhere"
        elsewhere.mkdir(mode=0o711)
        new = elsewhere / self.disk.name
        self.disk.rename(new)
        for kept in self.disks.path.glob(".strongroom-*"):
            kept.rename(elsewhere / kept.name)
        xml = self.machines.directory / "moved.xml"
        xml.write_text(definition.replace(str(self.disk), str(new)))
        self.machines.virsh("define", xml)
        self.disk = new

    def manifest(self, name):
        """What the vault says of a point."""
        vault = next(v for v in self.service.rows("vaults") if v["name"] == self.vault.name)
        return json.loads(run(self.service.binary, "rescue", "point", "show", self.row(name)["id"], "--json", "--vault",
                              vault["store_location"], "--key-file", self.service.data / "keys" / f"{vault['id']}.key"))

    def checkpoints(self):
        return self.machines.virsh("checkpoint-list", self.machine, "--name").split()


def usual(lab):
    """With the vault there: both tiers, and both give the right bytes."""
    model = lab.now()
    began = time.monotonic()
    first, job = lab.begin()
    say(f"the point was there after {time.monotonic() - began:.2f} s")
    done = lab.finish(job)
    check(done["status"] == "completed", done)
    check(lab.tiers(first) == [("InstantRP", "Valid"), ("HardenedRP", "Valid")], lab.tiers(first))
    check(len(lab.kept()) == 1, lab.kept())
    shown = lab.shown(first)
    kept_days = days_between(shown["recoveryPointTime"], shown["strongroomTier"]["snapshotExpiryTime"])
    check(abs(kept_days - 2) < 0.001, "the default policy keeps snapshots 2 days:", shown)
    lab.write()
    lab.restore(first, model, "the snapshot")
    # A clone that can no longer be relied upon: the vault has it too.
    clone = next(lab.disks.path.glob(".*-vda-*.kept"))
    os.utime(clone)
    lab.restore(first, model, "the vault")
    return first


def new_machine(lab):
    """A machine of its own from a snapshot alone: a file clone, and it starts."""
    lab.vault_away()
    lab.write()
    model = lab.now()
    point, job = lab.begin()
    new = f"{lab.machines.prefix}-new"
    lab.machines.names.append(new)
    done = lab.restored(lab.ask_restore(lab.machine, point, "AlternateLocation",
                                        targetVirtualMachineId=lab.vault.machine(new)))
    check(dict(done["properties"])["restored_from"] == "the snapshot", done)
    disk = lab.disk.with_name(f"{new}-vda.qcow2")
    lab.check_shared(disk)
    check("identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, model), "restored bytes differ")
    lab.machines.start(new)
    lab.machines.virsh("destroy", new)
    lab.machines.virsh("undefine", new, "--checkpoints-metadata")
    disk.unlink()
    lab.vaults.mount()
    lab.finish_soon(job)


def replaced(lab):
    """The machine's disks are replaced by a snapshot's: a file clone, whatever the size; and back again."""
    name, disk, raw = f"{lab.machines.prefix}-large", lab.disks.path / "large.qcow2", lab.disks.path / "large.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "100G")
    run("qemu-img", "create", "-q", "-f", "raw", raw, "10G")
    places = [("qcow2", disk, n * 12) for n in range(8)] + [("raw", raw, n * 3) for n in range(3)]

    def io(command, *options):
        return "".join(run("qemu-io", *options, "-f", kind, "-c", f"{command} {at}G 2M", path)
                       for kind, path, at in places)

    def write(pattern):
        io(f"write -P {pattern}")

    def holds(pattern):
        return "Pattern verification failed" not in io(f"read -P {pattern}", "-U", "-r")

    write(1)
    lab.machines.define_with(name, disk, "qcow2")
    lab.machines.virsh("attach-disk", name, raw, "vdb", "--config", "--targetbus", "virtio", "--subdriver", "raw")
    lab.discover()
    wait_until("it is protected", lambda: lab.vault.protect(name).status in (200, 202), 30, 0.5)
    check(lab.vault.backup(name).status == 202)
    lab.vault.settle()
    (point,) = [p["name"] for p in lab.vault.points(name)]
    write(2)
    answer = lab.ask_restore(name, point, "OriginalLocation")
    job = lab.restored(answer)
    told = dict(job["properties"])
    check(told["restored_from"] == "the snapshot" and told["written_bytes"] == "0", told)
    check(holds(1), "the disk is not the point's")
    lab.check_shared(disk)
    lab.check_shared(raw)
    say(f"replacing 110 GiB (sparse) took {lab.seconds(job):.2f} s, the point of what was there before included")
    lab.vault.settle()
    before = [p["name"] for p in lab.vault.points(name)]
    check(len(before) == 2 and before[1] == point, before)
    lab.restored(lab.ask_restore(name, before[0], "OriginalLocation"))
    check(holds(2), "the disk is not what it was before")
    # What follows is backed up rightly, whatever was put back meanwhile.
    write(3)
    lab.vault.settle()
    check(lab.vault.backup(name).status == 202)
    lab.vault.settle()
    lab.service.stop()
    for clone in lab.disks.path.rglob("*.kept"):
        os.utime(clone)
    lab.service.start()
    newest = lab.vault.points(name)[0]["name"]
    write(4)
    done = lab.restored(lab.ask_restore(name, newest, "OriginalLocation"))
    check(dict(done["properties"])["restored_from"] == "the vault", done)
    check(holds(3), "the disk is not the last point's")
    lab.vault.settle()


def elsewhere(lab):
    """On storage that does not clone files points go straight to the vault, and say why."""
    name, _ = lab.machines.define("plain", noise_mib=1, seed=2)
    lab.discover()
    wait_until("it is protected", lambda: lab.vault.protect(name).status in (200, 202), 30, 0.5)
    check(lab.vault.backup(name).status == 202)
    lab.vault.settle()
    (point,) = lab.vault.points(name)
    tiers = [(t["type"], t["status"]) for t in point["properties"]["recoveryPointTierDetails"]]
    check(tiers == [("HardenedRP", "Valid")], tiers)
    why = point["properties"]["strongroomTier"]["noSnapshotReason"]
    check("cannot clone files" in why, why)


def interrupted(lab, rounds, source):
    """The transfer is interrupted again and again, and the machine is pushed around meanwhile."""
    lab.vault_away()
    lab.write()
    model = lab.now()
    name, job = lab.begin()
    check(lab.tiers(name) == [("InstantRP", "Valid")], lab.tiers(name))
    tasks = {t["id"]: t["status"] for t in lab.job(job)["tasks"]}
    check(tasks["Take Snapshot"] == "completed" and tasks["Transfer data to vault"] == "in_progress", tasks)
    lab.write()
    lab.restore(name, model, "the snapshot")
    for n in range(rounds):
        if n % 3 == 0:
            # The vault is there for a moment, and its storage is full.
            lab.vaults.mount()
            filler = lab.vaults.path / "filler"
            lab.fill(filler)
            time.sleep(source.uniform(0.5, 2))
            lab.service.kill()
            filler.unlink()
            lab.vaults.unmount()
            lab.hurry(job)
            lab.service.start()
        elif n % 3 == 1:
            lab.service.kill()
            lab.hurry(job)
            lab.service.start()
            time.sleep(source.uniform(0, 1.5))
        else:
            lab.service.stop()
            lab.hurry(job)
            lab.service.start()
            wait_until("another try fails", lambda: lab.job(job)["request"]["failures"] > 0, 20)
        row = lab.job(job)
        check(not row["ended_at"], "it must still be at it:", row)
        if n == rounds // 4:
            lab.machines.virsh("destroy", lab.machine)
        if n == rounds // 2:
            lab.move()
        if n == rounds * 3 // 4:
            lab.machines.start(lab.machine)
            lab.write()
    check(lab.row(name)["transfer"]["state"] == "pending")
    # A second backup of the machine has to wait; a scheduled one is skipped.
    check(lab.vault.backup(lab.machine).code == "UserErrorBackupOperationInProgress")
    lab.vaults.mount()
    done = lab.finish_soon(job)
    check(any("The transfer to the vault failed" in w for w in done["warnings"]), done["warnings"])
    check(lab.tiers(name) == [("InstantRP", "Valid"), ("HardenedRP", "Valid")], lab.tiers(name))
    lab.service.stop()
    for clone in lab.disks.path.rglob("*.kept"):
        os.utime(clone)
    lab.service.start()
    lab.restore(name, model, "the vault")
    say(f"interrupted {rounds} times, and the point is right")
    # The next one builds upon it.
    lab.write()
    model = lab.now()
    following, job = lab.begin()
    lab.finish(job)
    manifest = lab.manifest(following)
    check(manifest["disks"][0]["attributes"]["incremental"], manifest)
    lab.restore(following, model, "the snapshot")


def cancelled(lab):
    """Nobody wants its point any more: nothing of it stays, and the chain goes on."""
    before, checkpoints = lab.kept(), lab.checkpoints()
    lab.vault_away()
    lab.write()
    name, job = lab.begin()
    check(len(lab.checkpoints()) == len(checkpoints) + 1)
    wait_until("a try has failed", lambda: lab.job(job)["request"]["failures"] > 0, 20)
    answer = lab.service.request("POST", f"{lab.vault.path}/backupJobs/{job}/cancel")
    check(answer.status == 202, answer)
    lab.finish(job, {"Cancelled"})
    wait_until("it is gone", lambda: lab.kept() == before and lab.checkpoints() == checkpoints, 20)
    check(name not in {p["name"] for p in lab.points()})
    lab.vaults.mount()
    lab.write()
    following, job = lab.begin()
    lab.finish(job)
    check(lab.manifest(following)["disks"][0]["attributes"]["incremental"])


def failed_for_good(lab):
    """After a day the backup has failed; its snapshot stays, marked, and can be restored."""
    lab.vault_away()
    lab.write()
    model = lab.now()
    name, job = lab.begin()
    lab.service.stop()
    started = lab.job(job)["started_at"]
    lab.change("jobs", job, started_at=str(int(started[:4]) - 1) + started[4:])
    lab.service.start()
    failed = lab.finish(job, {"Failed"})
    check(failed["errors"] and failed["errors"][0]["recommendation"], failed)
    row = lab.row(name)
    check(row["transfer"]["state"] == "failed" and row["transfer"]["reason"], row)
    check(lab.tiers(name) == [("InstantRP", "Valid")], lab.tiers(name))
    lab.restore(name, model, "the snapshot")
    lab.vaults.mount()
    lab.write()
    following, job = lab.begin()
    lab.finish(job)
    check(lab.manifest(following)["disks"][0]["attributes"]["incremental"])
    return name


def expired(lab, failed):
    """Snapshots whose time is over go: of points in the vault the snapshot, of one that is not the point."""
    names = [p["name"] for p in lab.points()]
    lab.service.stop()
    lab.service.trust_clock()
    for name in names[1:]:
        row = lab.row(name)
        if row["snapshot"]:
            lab.change("recovery_points", row["id"], taken_at=days_before(row["taken_at"], 6))
    lab.service.start()
    wait_until("they go", lambda: len(lab.kept()) == 1, 30)
    check([p["name"] for p in lab.points()] == [n for n in names if n != failed], "points:", lab.points())
    check(lab.tiers(names[-1]) == [("InstantRP", "Deleted"), ("HardenedRP", "Valid")], lab.tiers(names[-1]))
    check(lab.tiers(names[0])[0] == ("InstantRP", "Valid"))


def reserve(lab):
    """The oldest that are safe go first; the only copy never does."""
    safe, there = [], len(lab.kept())
    for _ in range(2):
        lab.write()
        name, job = lab.begin()
        lab.finish(job)
        safe.append(name)
    lab.vault_away()
    lab.write()
    only, job = lab.begin()
    check(len(lab.kept()) == there + 3, lab.kept())
    total = os.statvfs(lab.disks.path)
    total = total.f_blocks * total.f_frsize
    filler = lab.disks.path / "filler"
    # Just below what is to stay free.
    run("fallocate", "-l", str(lab.room(lab.disks.path) - total // 5 + (1 << 20)), filler)
    wait_until("snapshots go", lambda: len(lab.kept()) < there + 3, 40)
    wait_until("only the one that is nowhere else is left, or the reserve is free again",
               lambda: len(lab.kept()) == 1 or lab.room(lab.disks.path) >= total // 5, 40)
    left = lab.kept()
    rows = {n: lab.row(n) for n in safe}
    check(lab.row(only)["snapshot"], "the only copy")
    # The oldest first: none is left that is older than one that went.
    state = [bool(rows[n]["snapshot"]) for n in safe]
    check(state in ([False, False], [False, True]), state, left)
    check("was needed" in rows[safe[0]]["no_snapshot"], rows[safe[0]])
    # More than all: what is not in the vault stays all the same.
    run("fallocate", "-l", str(lab.room(lab.disks.path) // 2), lab.disks.path / "filler2")
    wait_until("all that are safe go", lambda: len(lab.kept()) == 1, 40)
    check(lab.row(only)["snapshot"] and lab.tiers(only) == [("InstantRP", "Valid")])
    lab.vaults.mount()
    lab.finish_soon(job)
    # There is no room for another: the next goes straight to the vault, and says why.
    wait_until("that one goes too, now that it is safe", lambda: not lab.kept(), 60)
    lab.write()
    answer = lab.vault.backup(lab.machine)
    check(answer.status == 202, answer)
    wait_until("it is over", lambda: lab.over("Backup"), 60)
    newest = lab.points()[0]
    check(lab.tiers(newest["name"]) == [("HardenedRP", "Valid")], newest)
    check("are to stay free" in newest["properties"]["strongroomTier"]["noSnapshotReason"], newest)
    filler.unlink()
    (lab.disks.path / "filler2").unlink()
    run("sync", "-f", lab.disks.path)
    wait_until("the reserve is free again", lambda: lab.room(lab.disks.path) >= total // 5 + (64 << 20), 60)


def orphans(lab):
    """Files that no point has go, but not somebody else's."""
    lab.write()
    name, job = lab.begin()
    lab.finish(job)
    record = next(lab.disks.path.rglob("*.kept.json"))
    foreign = json.loads(record.read_text())
    foreign["owner"] = "somebody else"
    other = record.with_name(record.name.replace("strongroom-0", "strongroom-f"))
    foreign["records"] = [str(other)]
    other.write_text(json.dumps(foreign))
    lab.service.stop()
    row = lab.row(name)
    lab.change("recovery_points", row["id"], snapshot=None)
    lab.service.start()
    wait_until("the orphan goes", lambda: not record.exists(), 30)
    check(other.exists())
    other.unlink()


def body(directory):
    kind = sys.argv[2] if len(sys.argv) > 2 else "xfs"
    wanted = sys.argv[3:]
    seed = seeded(len(sys.argv))
    lab = Lab(directory, kind)
    failed = None
    for phase in (usual, elsewhere, new_machine, interrupted, cancelled, failed_for_good, expired, reserve, orphans, replaced):
        if wanted and phase.__name__ not in wanted:
            continue
        say(phase.__name__)
        if phase is interrupted:
            phase(lab, number(8 if kind == "xfs" else 6, 20), random.Random(seed))
        elif phase is expired:
            phase(lab, failed)
        else:
            made = phase(lab)
            failed = made if phase is failed_for_good else failed
    lab.service.stop()
    check(not lab.service.panics(), lab.service.panics())
    vault = next(v for v in lab.service.rows("vaults") if v["name"] == lab.vault.name)
    run(lab.service.binary, "rescue", "vault", "check", vault["store_location"], "--read-data",
        "--key-file", lab.service.data / "keys" / f"{vault['id']}.key", timeout=300)


main(body, "snapshots")
