#!/usr/bin/env python3
"""Every `az backup` command that concerns machines or vaults: it works, or says that it comes later.

    commands.py --strongroom BINARY --az DIR [--transcript FILE]

Which commands there are is asked of az itself. In `make test` they are run in one output format, another each day
(STRONGROOM_TEST_SEED); in `make soak` in each, with a machine for each side by side.
"""
import json, os, threading, time
from harness import GROUP as G, LOCATION, Failed, Machine, check, equal, main, run, say, until

ALL_FORMS = ("json", "table", "tsv")
SEED = int(os.environ.get("STRONGROOM_TEST_SEED", time.time() // 86400))
FORMS = ALL_FORMS if os.environ.get("STRONGROOM_SOAK") == "1" else (ALL_FORMS[SEED % len(ALL_FORMS)],)
LATER = "is not available on this server"
LATER_CODE = "UserErrorFeatureNotSupportedOnThisServer"
VM = "--backup-management-type AzureIaasVM --workload-type VM"
# Of databases in machines, and of file shares.
FOREIGN = """
    backup container register
    backup container re-register
    backup container unregister
    backup protectable-item initialize
    backup protectable-item list
    backup protectable-item show
    backup protection auto-disable-for-azurewl
    backup protection auto-enable-for-azurewl
    backup protection enable-for-azurefileshare
    backup protection enable-for-azurewl
    backup recoveryconfig show
    backup recoverypoint show-log-chain
    backup restore restore-azurefiles
    backup restore restore-azurefileshare
    backup restore restore-azurewl
"""
LIST = """
from azure.cli.core import get_default_cli
cli = get_default_cli()
table = cli.commands_loader_cls(cli).load_command_table(["backup"])
print("\\n".join(sorted(name for name in table if name.startswith("backup "))))
"""


def body(bench):
    bench.use_az()
    bench.keep_az_warm()
    bench.login()
    foreign = {line.strip() for line in FOREIGN.split("\n") if line.strip()}
    known = set(run(bench.given.home / "az/bin/python", "-c", LIST).split("\n")) - {""}
    equal(foreign - known, set(), "commands that az no longer has")
    wanted = known - foreign
    equal(len(wanted), 51, f"the number of commands of {len(known)}")
    seen = Seen()
    cycles = [Cycle(bench, form, seen) for form in FORMS]
    bench.together(*[cycle.run for cycle in cycles])
    return seen.report(wanted)


class Seen:
    """What each command did in each format."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), {}

    def note(self, command, form, outcome):
        with self.lock:
            self.all.setdefault(command, {}).setdefault(form, set()).add(outcome)

    def report(self, wanted):
        late = 0
        for command in sorted(wanted):
            outcomes = self.all.get(command, {})
            for form in FORMS:
                check(outcomes.get(form), f"az {command} -o {form} was not run")
            all_outcomes = set().union(*outcomes.values())
            works = "works" in all_outcomes
            late += not works
            word = "works" if works else "comes later"
            say(f"{'az ' + command:52} {word}{' in part' if len(all_outcomes) > 1 else ''}")
        return f"{len(wanted)} commands in {', '.join(FORMS)}: {len(wanted) - late} work, {late} come later"


class Cycle:
    def __init__(self, bench, form, seen):
        self.bench, self.form, self.seen = bench, form, seen
        self.v, self.other = f"vault-{form}", f"other-{form}"
        self.m = Machine(bench, f"{bench.tag}-{form}").name
        self.on = f"-g {G} -v {self.v}"
        self.item = f"{self.on} -c {self.m} -i {self.m} {VM}"

    def read(self, command):
        """In JSON, to know how things are; does not count."""
        return self.bench.az(command)

    def do(self, command, rest, later=False, word="works"):
        """Runs a command in this cycle's format; `later`: it must say that it comes later, or these words."""
        done, shown = self.bench.raw(f"{command} {rest}", self.form)
        if later:
            check(done.returncode != 0, f"az {shown}: a false success\n{done.stdout}")
            for text in (LATER, LATER_CODE) if later is True else (later,):
                check(text in done.stderr, f"az {shown}: says nothing of {text!r}\n{done.stderr}")
            self.seen.note(command, self.form, "later")
            return None
        check(done.returncode == 0, f"az {shown}: {done.stderr.strip()}")
        if self.form == "json" and done.stdout.strip():
            json.loads(done.stdout)
        self.seen.note(command, self.form, word)
        return done.stdout

    def shows(self, command, rest, *words):
        printed = self.do(command, rest)
        for word in words:
            check(word in printed, f"az {command} {rest} -o {self.form} does not name {word}:\n{printed}")

    def settled(self):
        """Waits until no job of the vault runs, and wants them all completed."""
        def over():
            jobs = self.read(f"backup job list {self.on}")
            return jobs if all(j["properties"]["status"] != "InProgress" for j in jobs) else None
        jobs = until(f"the jobs of {self.v}", 120, over)
        bad = [j["properties"] for j in jobs if j["properties"]["status"] != "Completed"]
        equal(bad, [], "jobs that did not complete")
        return jobs

    def state(self):
        items = self.read(f"backup item list {self.on}")
        equal([i["properties"]["friendlyName"] for i in items], [self.m], "the vault's items")
        return items[0]["properties"]

    def run(self):
        self.vaults()
        self.policies()
        self.items()
        self.points()
        self.changes()
        self.end()

    def vaults(self):
        n = f"-g {G} -n {self.v}"
        self.do("backup vault create", f"{n} -l {LOCATION}")
        self.do("backup vault create", f"-g {G} -n {self.other} -l {LOCATION}")
        self.shows("backup vault list", f"-g {G}", self.v)
        self.shows("backup vault show", n, self.v)
        self.do("backup vault update", f"{n} --tags a=b")
        equal(self.read(f"backup vault show {n}")["tags"], {"a": "b"}, "the vault's tags")
        self.do("backup vault backup-properties show", n)
        self.do("backup vault backup-properties set", f"{n} --backup-storage-redundancy LocallyRedundant")
        self.do("backup vault backup-properties set", f"{n} --soft-delete-feature-state Enable "
                                                      f"--soft-delete-duration 20")
        shown = json.dumps(self.read(f"backup vault backup-properties show {n}"))
        check("LocallyRedundant" in shown, f"the redundancy was not set: {shown}")
        self.do("backup vault identity assign", f"{n} --system-assigned")
        self.do("backup vault identity show", n)
        equal(self.read(f"backup vault identity show {n}")["type"], "SystemAssigned", "the vault's identity")
        self.do("backup vault encryption show", n)
        self.do("backup vault update", f"{n} --source-scan-state Enabled", later=True)
        self.do("backup vault update", f"{n} --public-network-access Disable")
        equal(self.read(f"backup vault show {n}")["properties"]["publicNetworkAccess"], "Disabled", "the vault's access")
        self.do("backup vault update", f"{n} --public-network-access Enable")
        self.do("backup vault backup-properties set", f"{n} --cross-region-restore-flag True", later=True)
        self.do("backup vault encryption update",
                f"{n} --encryption-key-id https://vault.example.org/keys/k/1 --mi-system-assigned", later=True)
        self.do("backup vault identity remove", f"{n} --system-assigned")
        equal(self.read(f"backup vault show {n}")["identity"], None, "the vault's identity")
        guard = f"/subscriptions/{self.bench.about['subscription']}/resourceGroups/{G}/providers/Microsoft.DataProtection/resourceGuards/g"
        self.do("backup vault resource-guard-mapping update", f"{n} --resource-guard-id {guard}", later=True)
        # There is none to show; and az looks for it before it deletes.
        self.do("backup vault resource-guard-mapping show", n, later="(ResourceNotFound)")
        self.do("backup vault resource-guard-mapping delete", f"{n} --yes", later="does not have any Resource Guard")

    def policies(self):
        self.shows("backup policy list", self.on, "DefaultPolicy", "EnhancedPolicy")
        self.do("backup policy get-default-for-vm", self.on)
        self.shows("backup policy show", f"{self.on} -n DefaultPolicy", "DefaultPolicy")
        policy = self.read(f"backup policy show {self.on} -n EnhancedPolicy")
        path = self.bench.directory / f"policy-{self.form}.json"
        path.write_text(json.dumps(policy))
        self.do("backup policy create", f"{self.on} -n mine --policy {path} --backup-management-type AzureIaasVM")
        policy = self.read(f"backup policy show {self.on} -n mine")
        policy["properties"]["instantRpRetentionRangeInDays"] = 3
        policy["properties"]["snapshotConsistencyType"] = "OnlyCrashConsistent"
        tiers = {"ArchivedRP": {"tieringMode": "TierAfter", "duration": 3, "durationType": "Months"}}
        policy["properties"]["tieringPolicy"] = tiers
        path.write_text(json.dumps(policy))
        self.do("backup policy set", f"{self.on} -n mine --policy {path}")
        changed = self.read(f"backup policy show {self.on} -n mine")["properties"]
        equal(changed["instantRpRetentionRangeInDays"], 3, "the changed policy's snapshot retention")
        equal(changed["tieringPolicy"], tiers, "the changed policy's tiers")
        equal(changed["snapshotConsistencyType"], "OnlyCrashConsistent", "the changed policy's consistency")

    def items(self):
        self.do("backup protection check-vm", f"-g {G} --vm {self.m}")
        self.do("backup protection enable-for-vm", f"{self.on} --vm {self.m} -p mine")
        equal(self.state()["protectionState"], "IRPending", "the item's state")
        self.shows("backup protection check-vm", f"-g {G} --vm {self.m}", self.v)
        self.do("backup protection update-for-vm", f"{self.on} -c {self.m} -i {self.m} "
                                                    f"--disk-list-setting include --diskslist -1")
        equal(self.state()["extendedProperties"]["diskExclusionProperties"]["diskLunList"], [-1], "the chosen disks")
        self.shows("backup policy list-associated-items", f"{self.on} -n mine --backup-management-type AzureIaasVM",
                   self.m)
        self.shows("backup item list", self.on, self.m)
        self.shows("backup item show", f"{self.on} -c {self.m} -n {self.m} {VM}", self.m)
        self.shows("backup container list", f"{self.on} --backup-management-type AzureIaasVM", self.m)
        self.shows("backup container show", f"{self.on} -n {self.m} --backup-management-type AzureIaasVM", self.m)
        self.do("backup protection backup-now", f"{self.item} --retain-until 31-12-2099")
        self.settled()
        equal(self.state()["protectionState"], "Protected", "the item's state")
        jobs = self.read(f"backup job list {self.on} --operation Backup")
        self.shows("backup job list", self.on, jobs[0]["name"])
        self.shows("backup job show", f"{self.on} -n {jobs[0]['name']}", jobs[0]["name"])
        self.do("backup job wait", f"{self.on} -n {jobs[0]['name']}")
        # A job that is over: refused, as Azure does; a running one is stopped in flow.py.
        done, shown = self.bench.raw(f"backup job stop {self.on} -n {jobs[0]['name']}", self.form)
        check("UserError" in done.stderr and LATER not in done.stderr, f"az {shown}: {done.stderr}")
        self.seen.note("backup job stop", self.form, "works")

    def points(self):
        points = self.read(f"backup recoverypoint list {self.item}")
        equal(len(points), 1, "the number of recovery points")
        point = points[0]["name"]
        self.shows("backup recoverypoint list", self.item, point)
        self.shows("backup recoverypoint show", f"{self.item} -n {point}", point)
        self.do("backup recoverypoint move", f"{self.item} -n {point} --source-tier VaultStandard "
                                             f"--destination-tier VaultArchive", later=True)
        at = f"{self.on} -c {self.m} -i {self.m}"
        self.do("backup restore files mount-rp", f"{at} -r {point}", later=True)
        # Nothing is mounted, so az asks the server for nothing.
        equal(self.do("backup restore files unmount-rp", f"{at} -r {point}", word="later"), "", "what unmount-rp says")
        self.do("backup restore restore-disks", f"{at} -r {point} --storage-account {self.bench.pool} "
                                                f"--target-resource-group {G}")
        self.settled()

    def changes(self):
        self.do("backup item source-scan-configuration set",
                f"{self.on} -c {self.m} -n {self.m} {VM} --state Enabled", later=True)
        self.do("backup item set-policy", f"{self.on} -c {self.m} -n {self.m} -p DefaultPolicy {VM}")
        equal(self.state()["policyName"], "DefaultPolicy", "the item's policy")
        self.do("backup policy delete", f"{self.on} -n mine")
        self.do("backup protection disable", f"{self.item} --yes")
        equal(self.state()["protectionState"], "ProtectionStopped", "the item's state")
        self.do("backup protection resume", f"{self.item} -p DefaultPolicy")
        equal(self.state()["policyName"], "DefaultPolicy", "the resumed item's policy")
        self.do("backup protection disable", f"{self.item} --delete-backup-data true --yes")
        equal(self.state().get("isScheduledForDeferredDelete"), True, "whether the item is to be deleted")
        self.shows("backup vault list-soft-deleted-containers",
                   f"-g {G} -n {self.v} --backup-management-type AzureIaasVM", self.m)
        self.do("backup protection undelete", self.item)
        equal(self.state()["protectionState"], "ProtectionStopped", "the undeleted item's state")
        self.do("backup protection reconfigure",
                f"{self.on} -c {self.m} -i {self.m} --backup-management-type AzureIaasVM "
                f"--new-vault-name {self.other} --new-vault-resource-group {G} "
                f"--new-policy-name DefaultPolicy")
        moved = self.read(f"backup item list -g {G} -v {self.other}")
        equal([i["properties"]["friendlyName"] for i in moved], [self.m], "the other vault's items")

    def end(self):
        self.do("backup protection disable", f"{self.item} --delete-backup-data true --yes")
        self.do("backup vault delete", f"-g {G} -n {self.v} --yes")
        mine = [d for d in self.read(f"backup deleted-vault list -l {LOCATION}")
                if d["properties"]["vaultId"].endswith(f"/{self.v}")]
        equal(len(mine), 1, "the deleted vaults of the name")
        n = f"-l {LOCATION} -n {mine[0]['name']}"
        self.shows("backup deleted-vault list", f"-l {LOCATION}", mine[0]["name"])
        self.shows("backup deleted-vault get", n, mine[0]["name"])
        self.shows("backup deleted-vault list-containers", n, self.m)
        self.do("backup deleted-vault undelete", n)
        self.shows("backup vault show", f"-g {G} -n {self.v}", self.v)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "commands", body)
