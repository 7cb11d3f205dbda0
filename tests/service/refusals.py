#!/usr/bin/env python3
"""What is asked wrongly: refused with a code and a sentence, and nothing is changed. tests/az/refusals.py has what az can say.

    refusals.py STRONGROOM
"""

import urllib.parse

from lab import Machines, Service, Vault, binary, check, local_host, main, say, wait_until

GROUP = "srtest"
LATER = "UserErrorFeatureNotSupportedOnThisServer"


class Lab:
    def __init__(self, directory):
        self.machines = Machines("refusals")
        self.name, self.disk = self.machines.define("one", noise_mib=1, seed=1)
        self.other, _ = self.machines.define("two")
        restores = directory / "restores"
        restores.mkdir(mode=0o711)
        self.service = Service(binary(), directory / "data", local_host(GROUP, restores=restores)).start()
        self.vault = Vault(self.service, GROUP, "refusing").create()
        self.root = f"/subscriptions/{self.service.subscription}"
        self.group = f"{self.root}/resourceGroups/{GROUP}"
        check(self.vault.protect(self.name).status == 202)
        check(self.vault.backup(self.name).status == 202)
        self.vault.settle()
        self.item = self.vault.item(self.name)
        self.point = self.vault.points(self.name)[0]["name"]

    def refused(self, answer, code, *words, status=400):
        check(answer.status == status and answer.code == code, "wanted", status, code, "but:", answer)
        message = answer.body["error"]["message"]
        check(all(word in message for word in words), words, "in", message)
        return message

    def put_item(self, **properties):
        return self.service.request("PUT", self.item, {"properties": properties})

    def policy(self, name, days=None, of=None):
        """Makes a policy, or changes one, of so many days."""
        properties = self.service.get(f"{(of or self.vault).path}/backupPolicies/DefaultPolicy")["properties"]
        if days:
            properties["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"] = days
        return self.service.request("PUT", f"{(of or self.vault).path}/backupPolicies/{name}", {"properties": properties})


def ids(lab):
    """Ids in bodies name what the field is for, and nothing else; what the path says as well is not contradicted"""
    good = {
        "objectType": "IaasVMRestoreRequest", "recoveryPointId": lab.point, "recoveryType": "AlternateLocation",
        "sourceResourceId": lab.vault.machine(lab.name), "region": "local",
        "targetVirtualMachineId": lab.vault.machine("srtest-new"), "targetResourceGroupId": lab.group,
        "storageAccountId": f"{lab.group}/providers/Microsoft.Storage/storageAccounts/restores",
    }
    network = f"{lab.group}/providers/Microsoft.Network/virtualNetworks"
    networks = [n["name"] for n in lab.service.list(network)]
    machines = f"{lab.group}/providers/Microsoft.Compute/virtualMachines"
    accounts = f"{lab.group}/providers/Microsoft.Storage/storageAccounts"
    elsewhere = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/g/providers"
    invalid, linked = "BMSUserErrorInvalidInput", "LinkedInvalidPropertyId"
    wrong = [
        ({"targetVirtualMachineId": f"{lab.group}/providers/Microsoft.Foo/bars/x"}, invalid),
        ({"targetVirtualMachineId": f"{machines}/"}, invalid),
        ({"targetVirtualMachineId": machines}, invalid),
        ({"targetVirtualMachineId": f"{machines}/finance/c2"}, invalid),
        ({"targetVirtualMachineId": f"{machines}/c2/extensions/x"}, invalid),
        ({"targetVirtualMachineId": "srtest-new"}, linked),
        ({"targetVirtualMachineId": f"{elsewhere}/Microsoft.Compute/virtualMachines/x"}, "SubscriptionNotFound"),
        ({"storageAccountId": f"{lab.group}/providers/Microsoft.Foo/bar/restores"}, invalid),
        ({"storageAccountId": f"{accounts}/zz/restores"}, invalid),
        ({"storageAccountId": f"{accounts}/restores/"}, invalid),
        ({"targetResourceGroupId": f"{lab.group}/"}, invalid),
        ({"targetResourceGroupId": lab.vault.machine(lab.name)}, invalid),
        ({"targetResourceGroupId": GROUP}, linked),
        ({"virtualNetworkId": f"{network}/a/subnets/default"}, invalid),
        ({"virtualNetworkId": f"{network}/a", "subnetId": f"{network}/b/subnets/default"}, invalid),
        ({"virtualNetworkId": f"{network}/a", "subnetId": f"{network}/a/subnets/other"}, invalid),
        ({"virtualNetworkId": f"{network}/a", "subnetId": f"{network}/a"}, invalid),
        ({"subnetId": f"{network}/a/subnets/default"}, invalid),
        ({"sourceResourceId": lab.vault.machine(lab.other)}, invalid),
        ({"sourceResourceId": f"{lab.root}/resourceGroups/other/providers/Microsoft.Compute/virtualMachines/{lab.name}"},
         invalid),
        ({"sourceResourceId": f"{accounts}/restores"}, invalid),
    ]
    before = len(lab.vault.jobs())
    for change, code in wrong:
        # Also where what the id is for is not asked for.
        for kind in ("AlternateLocation", "RestoreDisks", "OriginalLocation"):
            if kind != "AlternateLocation" and "targetResourceGroupId" in change:
                continue
            body = {"properties": good | {"recoveryType": kind} | change}
            answer = lab.service.request("POST", f"{lab.item}/recoveryPoints/{lab.point}/restore", body)
            lab.refused(answer, code, status=404 if code == "SubscriptionNotFound" else 400)
        body = {"properties": {"objectType": "ValidateIaasVMRestoreOperationRequest", "restoreRequest": good | change},
                "id": f"{lab.item}/recoveryPoints/{lab.point}"}
        results = lab.service.call("POST", f"{lab.vault.path}/backupValidateOperation", body).body
        found = results["validateOperationResponse"]["validationResults"]
        check([r["code"] for r in found] == [code], change, found)
    for bad in (f"{lab.item}/{lab.point}", f"{lab.item}/recoveryPoints/", f"{lab.item}/recoveryPoints/1/2"):
        body = {"properties": {"objectType": "ValidateIaasVMRestoreOperationRequest", "restoreRequest": good}, "id": bad}
        lab.refused(lab.service.request("POST", f"{lab.vault.path}/backupValidateOperation", body), invalid)
    check(len(lab.vault.jobs()) == before, lab.vault.jobs())
    # Case does not matter, and what is right is let through.
    right = {"id": f"{lab.item}/recoveryPoints/{lab.point}", "properties": {
        "objectType": "ValidateIaasVMRestoreOperationRequest",
        "restoreRequest": good | {k: v.replace("resourceGroups", "RESOURCEGROUPS").replace("Microsoft.", "microsoft.")
                                  for k, v in good.items() if k.endswith("Id") and v.startswith("/")}
        | ({"virtualNetworkId": f"{network}/{networks[0]}", "subnetId": f"{network}/{networks[0]}/subnets/Default"}
           if networks else {})}}
    found = lab.service.call("POST", f"{lab.vault.path}/backupValidateOperation", right).body
    check(found["validateOperationResponse"]["validationResults"] == [], found)

    # Of items.
    configure = "BMSUserErrorInvalidConfigureProtectionRequest"
    source, policy = lab.vault.machine(lab.name), f"{lab.vault.path}/backupPolicies/DefaultPolicy"
    shown = lab.service.get(lab.item)
    for change, code in [
        ({"sourceResourceId": lab.vault.machine(lab.other)}, configure),
        ({"sourceResourceId": f"{accounts}/restores"}, configure),
        ({"sourceResourceId": f"{machines}/"}, configure),
        ({"sourceResourceId": lab.name}, linked),
        ({"policyId": "DefaultPolicy"}, linked),
        ({"policyId": f"{lab.vault.path}/backupPolicies/"}, configure),
        ({"policyId": f"{lab.vault.path}/backupPolicies/a/DefaultPolicy"}, configure),
        ({"policyId": policy.replace("refusing", "other")}, configure),
        ({"policyId": policy.replace(f"resourceGroups/{GROUP}", "resourceGroups/other")}, configure),
        ({"policyId": policy.replace("Microsoft.RecoveryServices", "Microsoft.Foo")}, configure),
    ]:
        sent = {"protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": source, "policyId": policy}
        lab.refused(lab.put_item(**(sent | change)), code)
    for state in ("ProtectionStopped", "BackupsSuspended"):
        lab.refused(lab.put_item(protectionState=state, policyId="", sourceResourceId=lab.vault.machine(lab.other)), configure)
    lab.refused(lab.put_item(isRehydrate=True, sourceResourceId=lab.vault.machine(lab.other)), configure)
    # States that nobody can set.
    for state in ("Stopped", "protection stopped", "ProtectionPaused", "ProtectionError", "Invalid", "NotProtected"):
        lab.refused(lab.put_item(protectionState=state, sourceResourceId=source, policyId=policy), configure, "ProtectionStopped")
    check(lab.service.get(lab.item) == shown, lab.service.get(lab.item))
    # What is shown can be sent back.
    answer = lab.put_item(protectionState=shown["properties"]["protectionState"], sourceResourceId=source.upper().replace(
        lab.service.subscription.upper(), lab.service.subscription), policyId=policy)
    check(answer.status == 202, answer)


def disks(lab):
    """Disks that there are not, and the one that is always backed up"""
    def exclude(luns, inclusion=False):
        return lab.put_item(
            sourceResourceId=lab.vault.machine(lab.name), policyId=f"{lab.vault.path}/backupPolicies/DefaultPolicy",
            extendedProperties={"diskExclusionProperties": {"diskLunList": luns, "isInclusionList": inclusion}})

    lab.refused(exclude([-1]), "UserErrorInvalidDiskLun", "OS disk")
    lab.refused(exclude([0]), "UserErrorInvalidDiskLun", "it has no data disks.")
    lab.refused(exclude([3], True), "UserErrorInvalidDiskLun", "LUN 3", "it has no data disks.")
    check("extendedProperties" not in lab.service.get(lab.item)["properties"])
    check(exclude([], True).status == 202)

    # A disk whose file is away.
    away = lab.disk.with_suffix(".away")
    lab.disk.rename(away)
    check(lab.vault.backup(lab.name).status == 202)
    job = max((j for j in lab.vault.settle() if j["properties"]["operation"] == "Backup"),
              key=lambda j: j["properties"]["startTime"])
    job = lab.service.get(f"{lab.vault.path}/backupJobs/{job['name']}")["properties"]
    (error,) = job["errorDetails"]
    check(job["status"] == "Failed" and error["errorCode"] == 400003, job)
    check("vda" in error["errorString"] and str(lab.disk) in error["errorString"], error)
    check(any("Put the disk's file back" in r for r in error["recommendations"]), error)
    away.rename(lab.disk)
    check(lab.vault.backup(lab.name).status == 202)
    lab.vault.settle()
    check(lab.service.get(lab.item)["properties"]["lastBackupStatus"] == "Completed")


def secondary_region(lab):
    """What is asked of a paired region is not answered with what is here"""
    old = "2021-11-15"
    location = f"{lab.root}/providers/Microsoft.RecoveryServices/locations/westus"
    resource = {"resourceId": lab.vault.path}
    for method, path, body in [
        ("GET", f"{lab.vault.path}/backupProtectedItems/", None),
        ("GET", f"{lab.vault.path}/backupProtectedItems/?$filter=" + urllib.parse.quote("itemType eq 'VM'"), None),
        ("GET", f"{lab.item}/recoveryPoints/", None),
        ("POST", f"{lab.item}/recoveryPoints/{lab.point}/accessToken", {"properties": {}}),
        ("POST", f"{location}/backupCrrJobs", resource),
        ("POST", f"{location}/backupCrrJob", resource | {"jobName": "x"}),
        ("POST", f"{location}/backupCrossRegionRestore", {}),
        ("GET", f"{location}/backupCrrOperationsStatus/x", None),
        ("GET", f"{location}/backupCrrOperationResults/x", None),
        ("GET", f"{location}/backupAadProperties", None),
    ]:
        lab.refused(lab.service.request(method, path, body, version=old), LATER, "secondary region")
    # The vault's own, in that version, and with a slash in others.
    for path in (f"{lab.vault.path}/backupProtectedItems", f"{lab.item}/recoveryPoints"):
        check(lab.service.get(path, version=old)["value"], path)
        check(lab.service.get(path + "/")["value"], path)


def beforehand(lab):
    """Asking whether a machine can be protected says what protecting says"""
    def ask(vault, machine, **more):
        body = {"resourceType": "VM", "resourceId": machine, "vaultId": vault, "properties": ""} | more
        return lab.service.call("POST", f"{lab.root}/providers/Microsoft.RecoveryServices/locations/local"
                                        "/backupPreValidateProtection", body).body

    far = Vault(lab.service, GROUP, "far")
    lab.service.call("PUT", far.path, {"location": "far", "properties": {}})
    second = Vault(lab.service, GROUP, "second").create()
    other = lab.vault.machine(lab.other)
    said = ask(lab.vault.path, other)
    container, item = lab.vault.item(lab.other).split("/protectionContainers/")[1].split("/protectedItems/")
    check(said == {"status": "Succeeded", "containerName": container, "protectedItemName": item}, said)
    check(ask(lab.vault.path, lab.vault.machine(lab.name))["errorCode"] == "VirtualMachineAlreadyProtected")
    for vault, machine in ((far, lab.other), (second, lab.name)):
        said = ask(vault.path, vault.machine(machine))
        refused = vault.protect(machine)
        check(said["status"] == "Failed" and refused.status >= 400, said, refused)
        # Of what is protected Azure has another word beforehand.
        code = {"UserErrorVmAlreadyProtected": "VirtualMachineAlreadyProtected"}.get(refused.code, refused.code)
        check((said["errorCode"], said["errorMessage"]) == (code, refused.body["error"]["message"]), said, refused)
    for vault, machine, code in (
        (lab.vault.path.replace("refusing", "nosuch"), other, "ResourceNotFound"),
        (lab.group, other, "BMSUserErrorInvalidInput"),
        (lab.vault.path, lab.vault.machine("srtest-nosuch"), "ResourceNotFound"),
        (lab.vault.path, lab.vault.path, "BMSUserErrorInvalidInput"),
    ):
        said = ask(vault, machine)
        check(said["status"] == "Failed" and said["errorCode"] == code, said)
    check(ask(lab.vault.path, other, resourceType="SQLDataBase")["errorCode"] == LATER)


def immutable(lab):
    """In an immutable vault nothing shortens a point's life; everything may lengthen it"""
    code = "UserErrorOperationNotAllowedOnImmutableVault"
    default, source = f"{lab.vault.path}/backupPolicies", lab.vault.machine(lab.name)
    for name, days in (("used", 30), ("same", 30), ("shorter", 29), ("longer", 31), ("unused", 30)):
        check(lab.policy(name, days).status in (200, 202))

    def give(policy):
        return lab.put_item(sourceResourceId=source, policyId=f"{default}/{policy}")

    def state(wanted):
        lab.service.call("PATCH", lab.vault.path,
                         {"properties": {"securitySettings": {"immutabilitySettings": {"state": wanted}}}})

    # Not immutable: anything goes.
    for policy in ("used", "shorter", "used"):
        check(give(policy).status == 202)
    check(lab.policy("used", 20).status == 200 and lab.policy("used", 30).status == 200)
    for wanted in ("Unlocked", "Locked"):
        state(wanted)
        lab.refused(lab.policy("used", 29), code, "used", "longer")
        lab.refused(give("shorter"), code, "shorter")
        check(lab.service.get(f"{default}/used")["properties"]["retentionPolicy"]["dailySchedule"]["retentionDuration"]
              ["count"] == 30)
        # What nobody uses promises nobody anything; the same and more is let through.
        check(lab.policy("unused", 9).status == 200 and lab.policy("unused", 30).status == 200)
        check(lab.policy("used", 30).status == 200)
        check(give("same").status == 202 and give("used").status == 202)
        # Stopped or suspended, it is still what was promised.
        for stopped in ("ProtectionStopped", "BackupsSuspended"):
            check(lab.put_item(sourceResourceId=source, policyId="", protectionState=stopped).status == 202)
            lab.refused(give("shorter"), code)
            if stopped == "BackupsSuspended":
                lab.refused(lab.policy("used", 29), code)
            check(give("used").status == 202)
        lab.refused(lab.service.request("DELETE", lab.item), code)
    check(give("longer").status == 202)
    lab.refused(give("used"), code)
    check(lab.policy("longer", 40).status == 200)
    lab.refused(lab.policy("longer", 39), code)


def for_good(lab):
    """What was ruled out for good stays so"""
    vault = Vault(lab.service, GROUP, "kept").create()

    def state(wanted):
        settings = {"crossSubscriptionRestoreSettings": {"crossSubscriptionRestoreState": wanted}}
        return lab.service.request("PATCH", vault.path, {"properties": {"restoreSettings": settings}})

    def shown():
        restores = lab.service.get(vault.path)["properties"]["restoreSettings"]
        return restores["crossSubscriptionRestoreSettings"]["crossSubscriptionRestoreState"]

    lab.refused(state("Perhaps"), "InvalidParameter")
    for wanted in ("Disabled", "Enabled", "PermanentlyDisabled"):
        check(state(wanted).status == 200 and shown() == wanted, wanted)
    for wanted in ("Enabled", "Disabled"):
        lab.refused(state(wanted), "BMSUserErrorCrossSubscriptionRestorePermanentlyDisabled", "kept")
        whole = {"location": "local", "properties": {"restoreSettings": {
            "crossSubscriptionRestoreSettings": {"crossSubscriptionRestoreState": wanted}}}}
        lab.refused(lab.service.request("PUT", vault.path, whole), "BMSUserErrorCrossSubscriptionRestorePermanentlyDisabled")
    check(state("permanentlyDisabled").status == 200)
    lab.service.call("PATCH", vault.path, {"properties": {"restoreSettings": {}}})
    check(shown() == "PermanentlyDisabled", shown())


def resources(lab):
    """Groups, vaults, tags, kinds, jobs"""
    service, groups = lab.service, f"{lab.root}/resourceGroups"
    for name, tags in (("tagged", {"team": "a"}), ("other", {"Team": "b", "x": "a"}), ("plain", {})):
        service.call("PUT", f"{groups}/{name}", {"location": "local", "tags": tags})

    def filtered(text):
        return sorted(g["name"] for g in service.list(f"{groups}?$filter=" + urllib.parse.quote(text)))

    check(filtered("tagName eq 'team' and tagValue eq 'a'") == ["tagged"])
    check(filtered("tagname eq 'TEAM'") == ["other", "tagged"])
    check(filtered("tagName eq 'team' and tagValue eq 'A'") == [])
    for text in ("location eq 'local'", "tagValue eq 'a'", "tagName ne 'a'", "tagName eq 'a' or tagName eq 'b'"):
        lab.refused(service.request("GET", f"{groups}?$filter=" + urllib.parse.quote(text)), "InvalidFilterInQueryString")

    nowhere = f"{groups}/nosuch/providers/Microsoft.RecoveryServices/vaults"
    for path in (nowhere, f"{nowhere}/v1", f"{nowhere}/v1/backupPolicies"):
        lab.refused(service.request("GET", path), "ResourceGroupNotFound", "nosuch", status=404)
    lab.refused(service.request("GET", f"{lab.group}/providers/Microsoft.RecoveryServices/vaults/nosuch"), "ResourceNotFound",
                status=404)
    for raw in (b"[]", b'"x"', b"1", b"null", b"true", b' [{"tags":{}}]'):
        lab.refused(service.request("PATCH", lab.vault.path, raw=raw), "InvalidRequestContent")
    for bad in ("a<b", "a>b", "a%b", "a&b", "a\\b", "a?b", "a/b", "", "x" * 513):
        for method, path, more in (("PATCH", lab.vault.path, {}), ("PUT", f"{groups}/plain", {"location": "local"}),
                                   ("PATCH", f"{groups}/plain", {}), ("PATCH", lab.vault.machine(lab.name), {})):
            lab.refused(service.request(method, path, more | {"tags": {bad: "x"}}), "InvalidTagNameCharacters")
    check("tags" not in service.get(lab.vault.path))
    service.call("PATCH", lab.vault.path, {"tags": {"cost centre: ä": "<any> value/%"}})
    sku = {"location": "local", "properties": {}}
    path = f"{lab.group}/providers/Microsoft.RecoveryServices/vaults/sold"
    for bad in ({"name": "Premium"}, {}, {"name": 1}, "Standard"):
        lab.refused(service.request("PUT", path, sku | {"sku": bad}), "InvalidParameter", "sku.name")
    for good in ("Standard", "RS0"):
        service.call("PUT", path, sku | {"sku": {"name": good}})
    for job in ("00000000-0000-0000-0000-000000000001", "nosuch"):
        for method, rest in (("GET", ""), ("POST", "/cancel")):
            lab.refused(service.request(method, f"{lab.vault.path}/backupJobs/{job}{rest}"), "JobNotFound", status=404)
        lab.refused(service.request("GET", f"{lab.vault.path}/backupOperations/{job}"), "OperationNotFound", status=404)


def taken(lab):
    """Names that are taken by what came meanwhile; the database's own words stay where they are"""
    service, groups = lab.service, f"{lab.root}/resourceGroups"
    service.call("PUT", f"{groups}/short", {"location": "local"})
    vault = Vault(service, "short", "again").create(soft_delete=True)
    source = {"protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": lab.vault.machine(lab.other),
              "policyId": f"{vault.path}/backupPolicies/DefaultPolicy"}
    item = vault.path + lab.vault.item(lab.other).removeprefix(lab.vault.path)
    service.call("PUT", item, {"properties": source})
    service.call("DELETE", item)
    service.call("DELETE", vault.path)
    location = f"{lab.root}/providers/Microsoft.RecoveryServices/locations/local/deletedVaults"
    (deleted,) = service.list(location)
    vault.create()
    message = lab.refused(service.request("POST", f"{location}/{deleted['name']}/undelete", {}), "ResourceAlreadyExists",
                          "another vault 'again'", status=409)
    check("UNIQUE" not in message and "constraint" not in message, message)
    service.call("DELETE", vault.path)
    # And its group may be gone.
    wait_until("the group is empty", lambda: service.request("DELETE", f"{groups}/short").status == 202)
    lab.refused(service.request("POST", f"{location}/{deleted['name']}/undelete", {}), "ResourceGroupNotFound", status=404)
    service.call("PUT", f"{groups}/short", {"location": "local"})
    service.call("POST", f"{location}/{deleted['name']}/undelete", {})
    check(service.get(vault.path)["name"] == "again")

    # A machine's group, and what is in the way of removing one.
    third, _ = lab.machines.define("three")
    machine = lab.vault.machine(third)
    wait_until("the machine is there", lambda: service.request("GET", machine).status == 200, 90, 0.5)
    service.call("PUT", f"{groups}/moved", {"location": "local"})
    place = {"resourceGroup": "moved", "location": "local"}
    service.call("POST", f"{machine}/providers/Strongroom.Backup/place", place)
    check(service.get(f"{groups}/moved/providers/Microsoft.Compute/virtualMachines/{third}")["name"] == third)
    lab.refused(service.request("DELETE", f"{groups}/moved"), "ResourceGroupDeletionBlocked", third, "/place", status=409)


def body(directory):
    lab = Lab(directory)
    for step in (ids, disks, secondary_region, beforehand, for_good, resources, taken, immutable):
        say(f"{step.__name__}: {step.__doc__}")
        step(lab)
    lab.service.stop()
    check(not lab.service.panics(), lab.service.panics())


main(body, "refusals")
