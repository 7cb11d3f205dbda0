#!/usr/bin/env python3
"""What a user can get wrong, with the real az: each is refused with Azure's code and a sentence that says what to do.

    refusals.py --strongroom BINARY --az DIR [--transcript FILE]

A running machine, a second backup beside one that runs, and names that are taken on a restore are in flow.py.
"""
import json, sqlite3, sys, time
from harness import GROUP as G, LOCATION, TREE, Machine, check, equal, main, say, until

sys.path.insert(0, str(TREE / "tests/service"))
from lab import UnixConnection  # noqa: E402

V, OTHER, FAR = "refusing", "other", "elsewhere"
VM = "--backup-management-type AzureIaasVM --workload-type VM"


def body(bench):
    refusals = Refusals(bench)
    for step in (refusals.expire, refusals.vaults, refusals.policies, refusals.machines, refusals.points):
        say(f"{step.__name__}: {step.__doc__}")
        step()
    return f"{refusals.count} mistakes were refused"


class Refusals:
    def __init__(self, bench):
        self.bench, self.az, self.count = bench, bench.az, 0
        self.m = Machine(bench, bench.tag).name
        self.on = f"-g {G} -v {V}"
        self.item = f"{self.on} -c {self.m} -i {self.m} {VM}"

    def refused(self, command, *words):
        self.count += 1
        return self.bench.refused(command, *words)

    def api(self, method, path, body=None, wanted=(200, 201, 202, 204)):
        """Straight to the service, for what az cannot say."""
        connection = UnixConnection(self.bench.data / "strongroom.sock", 60)
        connection.request(method, f"{path}?api-version=2026-01-01", body and json.dumps(body),
                           {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if wanted is not None:
            check(answer.status in wanted, f"{method} {path}: {answer.status} {text[:500]!r}")
        return answer.status, json.loads(text) if text else None

    def expire(self):
        """a point that has had its time is gone, and another stays"""
        bench = self.bench
        # The clock of a new service is trusted after a day; this one's at once.
        bench.stop()
        value = json.dumps({"id": "clock", "value": {"wall": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                                                     "doubt": None, "even_seconds": 0}})
        with sqlite3.connect(bench.data / "catalog.db", timeout=30) as catalog:
            catalog.execute("INSERT INTO settings (id, version, doc) VALUES ('clock', 1, ?) "
                            "ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, version = version + 1", (value,))
        catalog.close()
        bench.serve()
        group = f"/subscriptions/{bench.about['subscription']}/resourceGroups/{G}"
        vault = f"{group}/providers/Microsoft.RecoveryServices/vaults/{V}"
        self.vault_path = vault
        self.api("PUT", vault, {"location": LOCATION, "sku": {"name": "Standard"}, "properties": {}})
        key = f"iaasvmcontainerv2;{G};{self.m}"
        self.item_path = f"{vault}/backupFabrics/Azure/protectionContainers/IaasVMContainer;{key}/protectedItems/VM;{key}"
        self.source = f"{group}/providers/Microsoft.Compute/virtualMachines/{self.m}"
        until("the machine to be discovered", 60,
              lambda: self.api("GET", self.source, wanted=None)[0] == 200)
        self.protect = {"properties": {
            "protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": self.source,
            "policyId": f"{vault}/backupPolicies/DefaultPolicy"}}
        self.api("PUT", self.item_path, self.protect)
        points = lambda: [p["name"] for p in self.api("GET", f"{self.item_path}/recoveryPoints")[1]["value"]]
        for seconds in (2, 86400):
            until_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
            request = {"objectType": "IaasVMBackupRequest", "recoveryPointExpiryTimeInUTC": until_time}
            before = set(points())
            self.api("POST", f"{self.item_path}/backup", {"properties": request})
            until("the backup", 120, lambda: set(points()) - before)
            if seconds == 2:
                self.expired = points()[0]
                time.sleep(seconds + 0.5)
        until("the expired point to go", 60, lambda: self.expired not in points())
        self.point = points()[0]
        bench.use_az()
        bench.keep_az_warm()
        bench.login()

    def vaults(self):
        """names that are taken or none; a location that is another one"""
        self.az(f"backup vault create -g {G} -n {OTHER} -l {LOCATION}")
        self.az(f"backup vault create -g {G} -n {FAR} -l far")
        for name in ("1abc", "a", "a_b", "x" * 51):
            self.refused(f"backup vault create -g {G} -n {name} -l {LOCATION}", "(InvalidResourceName)", "name")
        status, answer = self.api("PUT", self.vault_path, {"location": "far", "properties": {}}, wanted=None)
        equal((status, answer["error"]["code"]), (409, "InvalidResourceLocation"), "the vault in another location")
        self.count += 1
        self.refused(f"backup vault create -g {G} -n locked -l {LOCATION} --immutability-state Locked",
                     "(BMSUserErrorImmutabilityMustBeUnlockedFirst)", "Unlocked first")
        self.refused(f"backup vault show -g {G} -n nosuch", "(ResourceNotFound)")
        self.refused(f"backup vault create -g nosuch -n abc -l {LOCATION}", "(ResourceGroupNotFound)")
        self.refused(f"backup vault delete -g {G} -n {V} --yes", "existing resources within the vault")

    def policies(self):
        """rules out of range, one that is used, one that is not there"""
        policy = self.az(f"backup policy show {self.on} -n DefaultPolicy")
        hourly = self.az(f"backup policy show {self.on} -n EnhancedPolicy")

        def wrong(change, of=policy, code="(BMSUserErrorInvalidPolicyInput)"):
            changed = json.loads(json.dumps(of))
            change(changed["properties"])
            path = self.bench.directory / "wrong.json"
            path.write_text(json.dumps(changed))
            self.refused(f"backup policy create {self.on} -n wrong --policy {path} "
                         "--backup-management-type AzureIaasVM", code)

        def days(count):
            return lambda p: p["retentionPolicy"]["dailySchedule"]["retentionDuration"].update(count=count)

        wrong(days(0))
        wrong(days(10000))
        wrong(days(2), code="(BMSUserErrorInstantRPRetentionExceedsVaultedRetention)")
        wrong(lambda p: p.update(instantRpRetentionRangeInDays=6))
        wrong(lambda p: p.update(timeZone="Middle-earth Standard Time"))
        wrong(lambda p: p["schedulePolicy"]["hourlySchedule"].update(scheduleWindowDuration=14), of=hourly)
        wrong(lambda p: p["schedulePolicy"]["hourlySchedule"].update(interval=5), of=hourly)
        self.refused(f"backup policy delete {self.on} -n DefaultPolicy", "(BMSUserErrorPolicyObjectInUse)")
        self.refused(f"backup policy show {self.on} -n nosuch", "(BMSUserErrorObjectNotFound)")
        names = sorted(p["name"] for p in self.az(f"backup policy list {self.on}"))
        equal(names, ["DefaultPolicy", "EnhancedPolicy"], "the policies after all that was refused")

    def machines(self):
        """in another location, protected elsewhere already, not there, with a policy that is not"""
        self.refused(f"backup protection enable-for-vm -g {G} -v {FAR} --vm {self.m} -p DefaultPolicy", "location")
        self.refused(f"backup protection enable-for-vm -g {G} -v {OTHER} --vm {self.m} -p DefaultPolicy", "protect")
        self.refused(f"backup protection enable-for-vm {self.on} --vm nosuch -p DefaultPolicy", "nosuch")
        self.refused(f"backup protection enable-for-vm -g {G} -v {OTHER} --vm {self.m} -p nosuch",
                     "(BMSUserErrorObjectNotFound)")
        # az looks before it asks; who does not is told the same.
        for vault, code in ((OTHER, "UserErrorVmAlreadyProtected"), (FAR, "BMSUserErrorInvalidSourceResourceLocation")):
            elsewhere = self.vault_path.removesuffix(V) + vault
            asked = json.loads(json.dumps(self.protect).replace(self.vault_path, elsewhere))
            status, answer = self.api("PUT", self.item_path.replace(self.vault_path, elsewhere), asked, wanted=None)
            equal((status, answer["error"]["code"]), (400, code), f"protecting it in {vault}")
            self.count += 1
        for vault in (OTHER, FAR):
            equal(self.az(f"backup item list -g {G} -v {vault}"), [], f"the items of {vault}")

    def points(self):
        """expired, unknown; kept until yesterday; restored to nowhere"""
        at = f"{self.on} -c {self.m} -i {self.m}"
        to = f"--storage-account places --target-resource-group {G}"
        self.refused(f"backup recoverypoint show {self.item} -n {self.expired}", "(UserErrorRecoveryPointNotFound)")
        self.refused(f"backup restore restore-disks {at} -r {self.expired} {to}", "(UserErrorRecoveryPointNotFound)")
        self.refused(f"backup restore restore-disks {at} -r {self.point} --storage-account nosuch "
                     f"--target-resource-group {G}", "nosuch")
        self.refused(f"backup protection backup-now {self.item} --retain-until 01-01-2020",
                     "(UserErrorInvalidRecoveryPointExpiryTime)")
        self.refused(f"backup job show {self.on} -n 00000000-0000-0000-0000-000000000000", "(JobNotFound)")
        self.refused(f"backup protection resume {self.on} -c nosuch -i nosuch -p DefaultPolicy {VM}", "not found")
        equal(len(self.az(f"backup recoverypoint list {self.item}")), 1, "the number of points")
        equal(list(self.bench.places.iterdir()), [], "what was restored")


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "refusals", body)
