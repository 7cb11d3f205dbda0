#!/usr/bin/env python3
"""A machine is protected, backed up and restored with the real az, as a user would do it; states and bytes are read.

    flow.py --strongroom BINARY --az DIR [--transcript FILE]
"""
import json
from harness import GROUP as G, LOCATION, Failed, Machine, agent_wait, check, equal, guest, main, remove_machine, \
    same_disk, say, until, virsh

V = "nightly"
VM = "--backup-management-type AzureIaasVM --workload-type VM"


def body(bench):
    flow = Flow(bench)
    for step in (flow.sign_in, flow.vault, flow.policies, flow.protect, flow.back_up, flow.one_at_a_time,
                 flow.restore_disks, flow.restore_machine, flow.replace, flow.stop_and_resume, flow.delete,
                 flow.end):
        say(f"{step.__name__.replace('_', ' ')}: {step.__doc__}")
        # Up to here as a user's shell would do it, a process of its own for each command.
        if step == flow.one_at_a_time:
            bench.keep_az_warm()
        step()
    return "the whole flow passed"


class Flow:
    def __init__(self, bench):
        self.bench, self.az, self.refused = bench, bench.az, bench.refused
        self.machine = Machine(bench, bench.tag)
        self.m = self.machine.name
        self.machine.start()
        self.item = f"-g {G} -v {V} -c {self.m} -i {self.m} {VM}"

    def states(self):
        return {i["properties"]["friendlyName"]: i["properties"] for i in self.az(f"backup item list -g {G} -v {V}")}

    def state(self):
        return self.states()[self.m]

    def points(self):
        """The newest first."""
        return self.az(f"backup recoverypoint list {self.item}")

    def done(self, job):
        return self.bench.job(V, job["name"])

    def sign_in(self):
        """a wrong secret and a wrong password are refused; a service principal and a user get in"""
        about = self.bench.about
        self.bench.use_az()
        principal = f"login --service-principal -u {about['app_id']} --tenant {about['tenant']}"
        self.refused(f"{principal} -p wrong", "secret is wrong")
        made = json.loads(self.bench.strongroom(
            "access", "principal", "create", "alice", "--kind", "user", "--data", self.bench.data, "--json"))
        self.bench.strongroom("access", "assign", "alice", "Backup Reader", "--data", self.bench.data)
        password = made["secret"]
        self.bench.secrets.append(password)
        user = f"login -u alice --tenant {about['tenant']}"
        self.refused(f"{user} -p wrong", "")
        accounts = self.az(*user.split(), "-p", password)
        equal([a["user"] for a in accounts], [{"name": "alice", "type": "user"}], "who signed in")
        self.refused(f"backup vault create -g {G} -n {V} -l {LOCATION}", "AuthorizationFailed",
                     "Microsoft.RecoveryServices/Vaults/write")
        self.az("logout --username alice")
        self.bench.login()
        shown = self.az("account show")
        equal(shown["id"], about["subscription"], "the subscription")
        equal(shown["tenantId"], about["tenant"], "the tenant")

    def vault(self):
        """made in the machine's location; one of another location protects nothing of it"""
        made = self.az(f"backup vault create -g {G} -n {V} -l {LOCATION} --tags team=night")
        equal(made["properties"]["provisioningState"], "Succeeded", "the vault's state")
        self.az(f"backup vault create -g {G} -n elsewhere -l far")
        listed = {v["name"]: v["location"] for v in self.az(f"backup vault list -g {G}")}
        equal(listed, {V: LOCATION, "elsewhere": "far"}, "the vaults")
        equal([r["name"] for r in self.az("resource list --tag team=night")], [V], "what has the tag")
        self.refused(f"backup protection enable-for-vm -g {G} -v elsewhere --vm {self.m} -p DefaultPolicy", "location")

    def policies(self):
        """listed, made from the default one, changed, refused when they make no sense"""
        names = {p["name"] for p in self.az(f"backup policy list -g {G} -v {V}")}
        check({"DefaultPolicy", "EnhancedPolicy"} <= names, f"a new vault has the policies {names}")
        policy = self.az(f"backup policy get-default-for-vm -g {G} -v {V}")
        policy["properties"]["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"] = 30
        self.az(f"backup policy create -g {G} -v {V} -n month --policy {self.file(policy)} "
                "--backup-management-type AzureIaasVM")
        policy = self.az(f"backup policy show -g {G} -v {V} -n month")
        equal(self.days(policy), 30, "the new policy's retention")
        policy["properties"]["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"] = 45
        self.az(f"backup policy set -g {G} -v {V} --policy {self.file(policy)}")
        equal(self.days(self.az(f"backup policy show -g {G} -v {V} -n month")), 45, "the changed policy's retention")
        policy["properties"]["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"] = 100000
        self.refused(f"backup policy set -g {G} -v {V} --policy {self.file(policy)}", "InvalidPolicyInput")

    def file(self, policy):
        path = self.bench.directory / "policy.json"
        path.write_text(json.dumps(policy))
        return path

    @staticmethod
    def days(policy):
        return policy["properties"]["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"]

    def protect(self):
        """found, protected, and waiting for its first backup"""
        equal(self.az(f"backup protection check-vm -g {G} --vm {self.m}"), None, "what check-vm says beforehand")
        self.refused(f"backup protection enable-for-vm -g {G} -v {V} --vm {self.m} -p nosuch", "not")
        job = self.az(f"backup protection enable-for-vm -g {G} -v {V} --vm {self.m} -p month")
        equal(job["properties"]["operation"], "ConfigureBackup", "the job's operation")
        equal(job["properties"]["status"], "Completed", "the job's status")
        state = self.state()
        equal(state["protectionState"], "IRPending", "the item's state")
        equal(state["policyName"], "month", "the item's policy")
        equal(state["lastRecoveryPoint"], None, "the item's last recovery point")
        vault = self.az(f"backup protection check-vm -g {G} --vm {self.m}")
        check(str(vault).endswith(f"/vaults/{V}"), f"check-vm says {vault}")
        self.refused(f"backup policy delete -g {G} -v {V} -n month", "policy")
        table = self.az(f"backup item list -g {G} -v {V}", output="table")
        check(self.m in table, f"the table does not name the machine:\n{table}")

    def back_up(self):
        """a running machine with an agent is frozen for it; its point says so"""
        self.machine.ready()
        self.sum = self.machine.write()
        job = self.az(f"backup protection backup-now {self.item} --retain-until 31-12-2099")
        equal(job["properties"]["operation"], "Backup", "the job's operation")
        self.az(f"backup job wait -g {G} -v {V} -n {job['name']}")
        job = self.done(job)
        tasks = {t["taskId"]: t["status"] for t in job["properties"]["extendedInfo"]["tasksList"]}
        equal(tasks.get("Take Snapshot"), "Completed", "the snapshot's task")
        equal(tasks.get("Transfer data to vault"), "Completed", "the transfer's task")
        points = self.points()
        equal(len(points), 1, "the number of recovery points")
        self.frozen = self.az(f"backup recoverypoint show {self.item} -n {points[0]['name']}")
        equal(self.frozen["properties"]["recoveryPointType"], "FileSystemConsistent", "the point's consistency")
        state = self.state()
        equal(state["protectionState"], "Protected", "the item's state")
        equal(state["lastBackupStatus"], "Completed", "the last backup's status")
        equal(state["lastRecoveryPoint"], self.frozen["properties"]["recoveryPointTime"], "the last point's time")

    def one_at_a_time(self):
        """a second backup while one runs is refused; the first is cancelled and leaves nothing"""
        with self.machine.held():
            job = self.az(f"backup protection backup-now {self.item} --retain-until 31-12-2099")
            running = self.az(f"backup job list -g {G} -v {V} --status InProgress --operation Backup")
            equal([j["name"] for j in running], [job["name"]], "the running jobs")
            self.refused(f"backup protection backup-now {self.item} --retain-until 31-12-2099",
                         "UserErrorBackupOperationInProgress")
            self.az(f"backup job stop -g {G} -v {V} -n {job['name']}")
        self.bench.job(V, job["name"], "Cancelled")
        equal(len(self.points()), 1, "the number of recovery points after a cancelled backup")

    def restore_disks(self):
        """of a machine that is off: into a storage pool, the same bytes"""
        virsh("destroy", self.m)
        job = self.az(f"backup protection backup-now {self.item} --retain-until 31-12-2099")
        self.done(job)
        self.off = self.points()[0]
        check(self.off["name"] != self.frozen["name"], "the second backup made no point")
        pool = self.bench.pool
        self.refused(f"backup restore restore-disks -g {G} -v {V} -c {self.m} -i {self.m} -r {self.off['name']} "
                     f"--storage-account nosuch --target-resource-group {G}", "not found")
        job = self.done(self.az(
            f"backup restore restore-disks -g {G} -v {V} -c {self.m} -i {self.m} -r {self.off['name']} "
            f"--storage-account {pool} --target-resource-group {G}"))
        bag = job["properties"]["extendedInfo"]["propertyBag"]
        container = self.bench.pool_path / bag["Config Blob Container Name"]
        config = json.loads((container / bag["Config Blob Name"]).read_text())
        equal([d["target"] for d in config["disks"]], ["vda"], "the restored disks")
        image = self.bench.pool_path / config["disks"][0]["file"]
        check(image.name in virsh("vol-list", pool), "libvirt does not list the restored disk")
        check(same_disk(self.machine.disk, image), f"{image} differs from the machine's disk")
        hidden = [p.name for p in self.bench.pool_path.iterdir() if p.name.startswith(".")]
        equal(hidden, [], "what is left of the restore")

    def restore_machine(self):
        """the first point as a new machine, which starts with the bytes of then; not under a name that is taken"""
        new = f"{self.m}-new"
        to = (f"--storage-account places --target-resource-group {G} --target-vnet-name {self.bench.tag} "
              f"--target-vnet-resource-group {G} --target-subnet-name default")
        restore = f"backup restore restore-disks -g {G} -v {V} -c {self.m} -i {self.m} -r {self.frozen['name']}"
        self.refused(f"{restore} {to} --target-vm-name {self.m}", "UserErrorVmWithSameNameAlreadyExists")
        self.bench.last.callback(remove_machine, new)
        job = self.az(f"{restore} {to} --target-vm-name {new}")
        equal(self.done(job)["properties"]["operation"], "Restore", "the job's operation")
        vm = self.az(f"vm show -g {G} -n {new}")
        equal(vm["name"], new, "the new machine's name")
        self.az(f"vm start -g {G} -n {new}")
        agent_wait(new)
        equal(guest(new, "/bin/sha256sum", "/mnt/vda/data").split()[0], self.sum, "the sum in the new machine")
        check("uuid" not in vm or vm["vmId"] != self.az(f"vm show -g {G} -n {self.m}")["vmId"], "the two share an id")
        virsh("destroy", new)

    def replace(self):
        """the disks of the machine itself; refused while it runs"""
        self.machine.start()
        self.machine.ready()
        later = self.machine.write()
        check(later != self.sum, "the guest wrote the same bytes twice")
        restore = (f"backup restore restore-disks -g {G} -v {V} -c {self.m} -i {self.m} -r {self.frozen['name']} "
                   f"--storage-account places --restore-mode OriginalLocation")
        self.refused(restore, "UserErrorVmNotInDesirableState")
        self.az(f"vm deallocate -g {G} -n {self.m}")
        self.done(self.az(restore))
        self.az(f"vm start -g {G} -n {self.m}")
        self.machine.ready()
        equal(self.machine.sum(), self.sum, "the sum in the machine whose disks were replaced")

    def stop_and_resume(self):
        """another policy; suspended; stopped with data kept; resumed"""
        self.az(f"backup item set-policy -g {G} -v {V} -c {self.m} -n {self.m} -p DefaultPolicy "
                f"--backup-management-type AzureIaasVM --workload-type VM")
        equal(self.state()["policyName"], "DefaultPolicy", "the item's policy")
        self.az(f"backup policy delete -g {G} -v {V} -n month")
        names = [p["name"] for p in self.az(f"backup policy list -g {G} -v {V}")]
        check("month" not in names, f"the deleted policy is still listed: {names}")
        self.az(f"backup protection disable {self.item} --retain-recovery-points-as-per-policy true --yes")
        equal(self.state()["protectionState"], "BackupsSuspended", "the suspended item's state")
        # az resumes what is stopped, and not what is suspended.
        self.az(f"backup protection disable {self.item} --yes")
        equal(self.state()["protectionState"], "ProtectionStopped", "the item's state")
        count = len(self.points())
        check(count >= 2, f"{count} recovery points were kept")
        self.refused(f"backup protection backup-now {self.item} --retain-until 31-12-2099", "UserError")
        self.az(f"backup protection resume {self.item} -p EnhancedPolicy")
        state = self.state()
        equal((state["protectionState"], state["policyName"]), ("Protected", "EnhancedPolicy"), "the resumed item")

    def delete(self):
        """deleted data come back within their days, with every point"""
        before = [p["name"] for p in self.points()]
        self.az(f"backup protection disable {self.item} --delete-backup-data true --yes")
        state = self.state()
        equal(state["isScheduledForDeferredDelete"], True, "whether the item is to be deleted")
        deleted = self.az(f"backup vault list-soft-deleted-containers -g {G} -n {V} "
                          f"--backup-management-type AzureIaasVM")
        check(any(self.m in c["name"] for c in deleted), f"the deleted containers are {deleted}")
        self.az(f"backup protection undelete {self.item}")
        state = self.state()
        equal(state["protectionState"], "ProtectionStopped", "the undeleted item's state")
        check(not state.get("isScheduledForDeferredDelete"), "the undeleted item is still to be deleted")
        equal([p["name"] for p in self.points()], before, "the points after undelete")

    def end(self):
        """a vault with items stays; without live ones it goes, and comes back"""
        self.refused(f"backup vault delete -g {G} -n {V} --yes", "existing resources within the vault")
        equal(self.state()["protectionState"], "ProtectionStopped", "the item's state after the refusal")
        self.az(f"backup protection disable {self.item} --delete-backup-data true --yes")
        self.az(f"backup vault delete -g {G} -n {V} --yes")
        vaults = lambda: [v["name"] for v in self.az(f"backup vault list -g {G}")]
        until("the vault to be gone", 30, lambda: V not in vaults())
        deleted = self.az(f"backup deleted-vault list -l {LOCATION}")
        mine = [d for d in deleted if d["properties"]["vaultId"].endswith(f"/vaults/{V}")]
        equal(len(mine), 1, "the deleted vaults of the name")
        shown = self.az(f"backup deleted-vault get -l {LOCATION} -n {mine[0]['name']}")
        equal(shown["properties"]["vaultId"], mine[0]["properties"]["vaultId"], "the deleted vault's id")
        self.az(f"backup deleted-vault undelete -l {LOCATION} -n {mine[0]['name']}")
        check(V in vaults(), "the vault did not come back")
        self.az(f"backup protection undelete {self.item}")
        check(len(self.points()) >= 2, "the vault came back without its points")
        self.done(self.az(f"backup protection resume {self.item} -p DefaultPolicy"))
        equal(self.state()["protectionState"], "Protected", "the item's state at the end")
        # One that never held anything comes back as well.
        self.az(f"backup vault delete -g {G} -n elsewhere --yes")
        deleted = self.az("backup deleted-vault list -l far")
        equal(len(deleted), 1, "the deleted vaults of the other location")
        self.az(f"backup deleted-vault undelete -l far -n {deleted[0]['name']}")
        check("elsewhere" in vaults(), "the empty vault did not come back")


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "flow", body)
