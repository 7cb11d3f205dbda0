#!/usr/bin/env python3
"""SIGKILL of the service in 50 random moments (in `make test`: 19) of discovery, configuring, backups, restores and retention.

    kill.py STRONGROOM [SEED]

After each: every job ends in a true state, no point is lost or there twice, nothing goes on running, the machine runs
on, and what the next backup leaves behind is what a backup leaves. The seed is printed; the moments follow from it.
"""

import random
import sys
import threading
import time

from lab import Failure, Machines, Service, Vault, binary, check, local_host, main, number, run, say, seeded, wait_until

ROUNDS = {"discovery": number(2, 8), "configure": number(4, 10), "backup": number(6, 16), "restore": number(3, 8),
          "retention": number(4, 8)}
OVER = {"Completed", "CompletedWithWarnings", "Failed", "Cancelled"}
DONE = {"Completed", "CompletedWithWarnings"}
GROUP = "srtest"


def moment(text):
    """Azure's times leave trailing zeroes of the fraction out."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


class Lab:
    def __init__(self, directory, random_source):
        self.random = random_source
        self.machines = Machines("kill")
        self.restores = directory / "restores"
        self.restores.mkdir()
        self.service = Service(binary(), directory / "data", local_host(GROUP, restores=self.restores)).start()
        self.service.stop()
        self.service.trust_clock()
        self.service.start()
        self.on, self.on_disk = self.machines.define("on", noise_mib=24, seed=1)
        self.off, self.off_disk = self.machines.define("off", noise_mib=24, seed=2)
        self.machines.start(self.on)
        self.vault = Vault(self.service, GROUP, "killed").create()
        self.writes = 0
        # What must still be there: Azure's name of each point, by machine.
        self.kept = {self.on: set(), self.off: set()}
        self.expiring = set()

    def discover(self):
        return self.service.request(
            "POST", f"/subscriptions/{self.service.subscription}/providers/Strongroom.Backup/discover")

    def write(self):
        """Something new on the running machine's disk."""
        self.writes += 1
        where = self.random.randrange(0, 40) << 20
        line = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P {self.writes % 250 + 1} {where} 2M"'
        answer = self.machines.virsh("qemu-monitor-command", self.on, "--hmp", line)
        check("error" not in answer.lower() and "failed" not in answer, answer)

    def kill_during(self, what, begin, duration):
        """Begins something, kills the service in a random moment of it, and starts it again. What was answered, if
        anything was."""
        answers = []

        def ask():
            try:
                answers.extend(begin())
            except (OSError, Failure):
                pass  # Its server is dead.

        after = self.random.uniform(0, duration)
        thread = threading.Thread(target=ask)
        began = time.monotonic()
        thread.start()
        time.sleep(after)
        self.service.kill()
        thread.join()
        say(f"{what}: killed after {1000 * after:.0f} ms of {1000 * duration:.0f}, "
            f"answered {[a.status for a in answers]}")
        check(time.monotonic() - began < 60)
        self.service.start()
        return answers

    def jobs_of_catalog(self):
        return {job["id"]: job for job in self.service.rows("jobs")}

    def check_truth(self, answers=()):
        """All that must hold after every restart."""
        jobs = {job["name"]: job["properties"] for job in self.vault.settle()}
        rows = self.jobs_of_catalog()
        check(set(jobs) == set(rows), "the listed jobs are not the catalog's")
        for name, job in jobs.items():
            check(job["status"] in OVER and moment(job["endTime"]) >= moment(job["startTime"]), name, job)
            check((job["status"] == "Failed") <= bool(job.get("errorDetails")), "a failure without a reason:", job)
            check(rows[name]["lease"] is None, "a job that is over has a lease")
        for answer in answers:
            check(answer.status < 500, answer)

        points = self.service.rows("recovery_points")
        # In the vault, as files; in the catalog; and as the API lists them.
        vault = next(v for v in self.service.rows("vaults") if v["name"] == self.vault.name)
        there = sorted(p.name for p in (self.service.data / "vaults" / vault["id"] / "points").glob("*/*"))
        check(sorted(p["id"] for p in points) == there, "catalog:", sorted(p["id"] for p in points), "vault:", there)
        items = {i["id"]: i["machine_name"] for i in self.service.rows("items")}
        check(len(set(items.values())) == len(items), "an item is there twice")
        for item, machine in items.items():
            own = {p["name"] for p in points if p["item"] == item}
            listed = [p["name"] for p in self.vault.points(machine)]
            check(set(listed) == own and len(listed) == len(own), machine, listed, own)
            lost = self.kept[machine] - own
            check(not lost, "points were lost:", machine, lost)
        # Each backup that is told to be done has its one point, and no other has any.
        of_jobs = [p["job"] for p in points if p["job"]]
        check(len(of_jobs) == len(set(of_jobs)), "a backup made two points")
        for name, job in jobs.items():
            if job["operation"] == "Backup" and name not in self.expired_jobs:
                check((job["status"] in DONE) == (name in of_jobs), "the job says", job["status"], "of", name,
                      "and the point is", "there" if name in of_jobs else "not there")
        check(self.machines.virsh("domstate", self.on).strip() == "running", "the machine does not run on")
        hidden = [p.name for p in self.restores.iterdir() if p.name.startswith(".")]
        check(not hidden, "left of a restore:", hidden)
        return jobs, points

    expired_jobs = frozenset()

    def finished_backup(self, machine, keep_seconds=86400):
        answer = self.vault.backup(machine, keep_seconds)
        check(answer.status == 202, answer)
        jobs = self.vault.settle()
        newest = max((j["properties"] for j in jobs if j["properties"]["operation"] == "Backup"
                      and j["properties"]["entityFriendlyName"] == machine), key=lambda j: moment(j["startTime"]))
        check(newest["status"] in DONE, newest)
        names = {p["name"] for p in self.vault.points(machine)}
        if keep_seconds > 3600:
            self.kept[machine] |= names - self.expiring
        return names

    def leftovers(self):
        """What a backup leaves with the machines: checkpoints, bitmaps in the images, and hidden files."""
        checkpoints = self.machines.virsh("checkpoint-list", self.on, "--name").split()
        hidden = sorted(p.name for p in self.machines.directory.iterdir() if ".strongroom-" in p.name)
        servers = [line for line in run("ps", "-eo", "args").splitlines()
                   if line.startswith("qemu-nbd") and str(self.machines.directory) in line]
        job = self.machines.virsh("domjobinfo", self.on)
        return len(checkpoints), len(hidden), len(servers), "None" in job

    def measure(self, begin, over):
        began = time.monotonic()
        for answer in begin():
            check(answer.status < 300, answer)
        over()
        return time.monotonic() - began


def discovery(lab, rounds):
    duration = lab.measure(lambda: [lab.discover()], lambda: None)
    for n in range(rounds):
        # One comes and one goes each time.
        name, _ = lab.machines.define(f"new{n}", size="1M")
        if n:
            lab.machines.virsh("undefine", f"{lab.machines.prefix}-new{n - 1}")
        lab.kill_during("discovery", lambda: [lab.discover()], duration * 1.1)
        check(lab.discover().status < 300)
        listed = [m["name"] for m in lab.service.list(
            f"/subscriptions/{lab.service.subscription}/resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines")]
        own = sorted(m for m in listed if m.startswith(lab.machines.prefix))
        check(own == sorted([lab.on, lab.off, name]), "discovered:", own)
        machines = [m for m in lab.service.rows("machines") if m["name"].startswith(lab.machines.prefix)]
        check(len({m["host_uuid"] for m in machines}) == len(machines), "a machine is there twice")
        gone = [m["name"] for m in machines if m["gone_at"]]
        check(len(gone) == n, "gone:", gone)
        lab.check_truth()


def configure(lab, rounds):
    def unprotect():
        for machine in (lab.on, lab.off):
            answer = lab.service.request("DELETE", lab.vault.item(machine))
            check(answer.status in (200, 202, 204), answer)
        # What is deleted without a grace goes at once.
        wait_until("the items are gone", lambda: not lab.service.rows("items"), 60)

    def protect():
        return [lab.vault.protect(lab.on), lab.vault.protect(lab.off, "EnhancedPolicy")]

    duration = lab.measure(protect, lambda: None)
    for n in range(rounds):
        if n % 2:
            # Deleting is configuring as well: the items go, or are there as before, never half.
            lab.kill_during("configure", lambda: [lab.service.request("DELETE", lab.vault.item(lab.on))], duration)
            lab.vault.settle()
            states = [i["state"] for i in lab.service.rows("items") if i["machine_name"] == lab.on]
            check(len(states) <= 1, states)
            if states == ["soft_deleted"] or not states:
                wait_until("the item is purged",
                           lambda: all(i["machine_name"] != lab.on for i in lab.service.rows("items")), 60)
        else:
            unprotect()
            answers = lab.kill_during("configure", protect, duration * 1.2)
            there = {i["machine_name"] for i in lab.service.rows("items")}
            for machine, answer in zip((lab.on, lab.off), answers):
                check(answer.status not in (200, 202) or machine in there, "accepted and not done:", machine)
            for machine in there:
                shown = lab.service.get(lab.vault.item(machine))["properties"]
                check(shown["protectionState"] == "IRPending" and shown["policyId"], shown)
        lab.check_truth()
        for answer in protect():
            check(answer.status in (200, 202), answer)
        lab.check_truth()


def backups(lab, rounds):
    first = lab.finished_backup(lab.off)
    check(len(first) == 1, first)
    lab.finished_backup(lab.on)
    lab.write()
    usual_time = lab.measure(lambda: [lab.vault.backup(lab.on), lab.vault.backup(lab.off)], lab.vault.settle)
    for machine in (lab.on, lab.off):
        lab.kept[machine] |= {p["name"] for p in lab.vault.points(machine)}
    # A machine keeps a checkpoint or two for the backups to come; how many is seen when there were some.
    for _ in range(2):
        lab.write()
        lab.finished_backup(lab.on)
        lab.finished_backup(lab.off)
    usual = lab.leftovers()
    say(f"two backups take {usual_time:.2f} s and leave {usual} (checkpoints, hidden files, servers, no job)")
    check(usual[0] <= 2 and usual[2] == 0 and usual[3], usual)
    for n in range(rounds):
        lab.write()
        before = {m: len(lab.vault.points(m)) for m in (lab.on, lab.off)}
        answers = lab.kill_during(
            "backup", lambda: [lab.vault.backup(lab.on), lab.vault.backup(lab.off)], usual_time * 1.1)
        lab.check_truth(answers)
        # A backup that was accepted is made, after the restart if need be.
        for machine, answer in zip((lab.on, lab.off), answers):
            now = lab.vault.points(machine)
            check(len(now) <= before[machine] + 1, "twice:", machine)
            if answer.status == 202:
                check(len(now) == before[machine] + 1, "accepted, and no point:", machine)
            lab.kept[machine] |= {p["name"] for p in now}
        lab.finished_backup(lab.on)
        lab.finished_backup(lab.off)
        check(lab.leftovers() == usual, "left behind:", lab.leftovers(), "usual:", usual)
        lab.check_truth()


def restores(lab, rounds):
    point = lab.vault.points(lab.off)[0]["name"]

    def same(directory):
        disk = next(directory.glob("*-vda.qcow2"))
        return "identical" in run("qemu-img", "compare", "-U", disk, lab.off_disk)

    def begin():
        return [lab.vault.restore_disks(lab.off, point, "restores")]

    duration = lab.measure(begin, lab.vault.settle)
    made = [p for p in lab.restores.iterdir()]
    check(len(made) == 1 and same(made[0]), made)
    for _ in range(rounds):
        known = set(lab.jobs_of_catalog())
        answers = lab.kill_during("restore", begin, duration * 1.2)
        jobs, _ = lab.check_truth(answers)
        new = [name for name in jobs if name not in known]
        check(len(new) <= 1 and (not answers or answers[0].status != 202 or len(new) == 1), new)
        for name in new:
            there = [p for p in lab.restores.iterdir() if name.replace("-", "") in p.name]
            check((jobs[name]["status"] in DONE) == bool(there), jobs[name]["status"], there)
            check(all(same(p) for p in there), "restored bytes differ")


def retention(lab, rounds):
    points = lambda wanted: [p for p in lab.service.rows("recovery_points") if wanted(p)]
    # How long the points live, in seconds.
    life = 5
    for n in range(rounds):
        if n % 2:
            # An item is deleted with all its points.
            item = next(i["id"] for i in lab.service.rows("items") if i["machine_name"] == lab.off)
            doomed = lambda p: p["item"] == item
            before = points(doomed)
            answer = lab.service.request("DELETE", lab.vault.item(lab.off))
            check(answer.status in (200, 202, 204), answer)
            lab.kept[lab.off] = set()
            # They go at once: half of the kills come in the midst of it.
            time.sleep(lab.random.uniform(0, 0.03))
        else:
            doomed = lambda p: p["name"] in lab.expiring
            before = []
            while not before:
                # Points that expire soon, and one of each machine after them: the last is always held.
                until = time.time() + life
                for machine in (lab.on, lab.off):
                    for _ in range(2):
                        names = lab.finished_backup(machine, max(2, int(until - time.time()) + 1))
                        lab.expiring |= names - lab.kept[machine]
                        lab.expired_jobs = lab.expired_jobs | {p["job"] for p in points(doomed)}
                for machine in (lab.on, lab.off):
                    lab.finished_backup(machine)
                time.sleep(max(0.0, until + 1.5 - time.time()))
                before = points(doomed)
                # On a slow host they are gone already.
                life *= 1 if before else 2
                check(life < 200, "nothing is to expire")
        check(before, "nothing is to be deleted")
        lab.expired_jobs = lab.expired_jobs | {p["job"] for p in before}
        # The housekeeping is the first thing that a service that starts does, beside taking up jobs.
        lab.service.kill()
        lab.service.start(ready=False)
        # It takes a few milliseconds: half of the moments are counted from the first point that is gone.
        after = lab.random.uniform(0, 0.06 if n % 4 < 2 else 0.004)
        if n % 4 >= 2:
            wait_until("the first point goes", lambda: len(points(doomed)) < len(before), 20, 0.0005)
        time.sleep(after)
        lab.service.kill()
        say(f"retention: killed after {1000 * after:.1f} ms, {len(points(doomed))} of {len(before)} points left")
        lab.service.start()
        wait_until("what has had its time goes", lambda: not points(doomed), 40)
        if n % 2:
            wait_until("the item goes",
                       lambda: all(i["machine_name"] != lab.off for i in lab.service.rows("items")), 40)
            check(lab.vault.protect(lab.off).status in (200, 202))
            lab.finished_backup(lab.off)
        lab.check_truth()


def body(directory):
    seed = seeded(2)
    lab = Lab(directory, random.Random(seed))
    for name, phase in (("discovery", discovery), ("configure", configure), ("backup", backups),
                        ("restore", restores), ("retention", retention)):
        phase(lab, ROUNDS[name])
        say(f"{name}: {ROUNDS[name]} kills, nothing lost")
    vault = next(v for v in lab.service.rows("vaults") if v["name"] == lab.vault.name)
    lab.service.stop()
    check(not lab.service.panics(), lab.service.panics())
    # All that is left can be read, byte by byte.
    print(run(lab.service.binary, "rescue", "vault", "check", vault["store_location"], "--read-data",
              "--key-file", lab.service.data / "keys" / f"{vault['id']}.key", timeout=300))
    say(f"{sum(ROUNDS.values())} kills in all")


main(body, "kill")
