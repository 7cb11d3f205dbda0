#!/usr/bin/env python3
"""What the roles may do to a real machine that is protected and has a point: a tiny one, shut off.

    roles.py STRONGROOM

A reader changes nothing and an operator removes nothing, through every route that there is, though all that the routes
name is really there; an operator does back it up and restore it, but one of another vault, or of this vault alone, does not.
"""

import time
import urllib.parse

from lab import (Machines, Service, Vault, binary, check, local_host, main, operations, run, sample, say, wait_until,
                 wanted_action)

GROUP = "srtest"
PUBLIC = ("/adfs/", "/metadata/", "/openapi.json", "/tenants", "/{tenant}/")
DONE = {"Completed", "CompletedWithWarnings"}
# Asked by POST; they change nothing, and Azure lets readers ask.
ASKING = ("validatefeatures/action", "backupstatus/action", "prevalidateprotection/action", "validateoperation/action",
          "recommendedformove/action", "backupcrrjob/action", "backupcrrjobs/action", "backupjobsexport/action")
# What an operator is for, by the end of the action's name. All else that writes or deletes is refused.
OPERATES = ("/protecteditems/backup/action", "/recoverypoints/restore/action", "/refreshcontainers/action",
            "/jobs/cancel/action", "/protecteditems/write", "/protectioncontainers/write", "/hosts/discover/action",
            "/drills/output/action")


def beyond_the_vault(service, vault, machines, name, point, restores):
    """An operator of one vault reaches no machine, account or disk outside it by naming that in a body."""
    mine = Vault(service, "mine", "mine")
    service.call("PUT", f"/subscriptions/{service.subscription}/resourceGroups/mine", {"location": "local"})
    mine.create()
    of_mine = service.sign_in("ofmine", "Backup Operator", "--group", "mine", "--vault", "mine")
    of_guarded = service.sign_in("ofguarded", "Backup Operator", "--group", GROUP, "--vault", "guarded")
    machine, account = vault.machine(name), vault.machine(name).replace(
        "Microsoft.Compute/virtualMachines/" + name, "Microsoft.Storage/storageAccounts/restores")

    def refused(answer, action, scope):
        check(answer.status == 403 and answer.code == "LinkedAuthorizationFailed", answer)
        message = answer.body["error"]["message"]
        check(f"'{action}'" in message and f"'{scope}'".lower() in message.lower(), action, scope, message)

    other, _ = machines.define("two")
    wait_until("the machine is there", lambda: service.request("GET", vault.machine(other)).status == 200, 90, 0.5)
    jobs = len(vault.jobs())
    for path in (vault.machine(other), account, f"/subscriptions/{service.subscription}/resourceGroups/{GROUP}"):
        check(service.request("GET", path, token=of_mine).status == 403, path)
    item = mine.path + vault.item(other).removeprefix(vault.path)
    source = {"protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": vault.machine(other),
              "policyId": f"{mine.path}/backupPolicies/DefaultPolicy"}
    protect = service.request("PUT", item, {"properties": source}, token=of_mine)
    refused(protect, "Microsoft.Compute/virtualMachines/write", vault.machine(other))
    for kind in ("backupProtectableItems", "backupProtectionContainers"):
        shown = service.request("GET", f"{mine.path}/{kind}", token=of_mine).body["value"]
        check(shown == [], kind, shown)
    check(any(row["properties"]["friendlyName"] == other for row in service.list(f"{mine.path}/backupProtectableItems")))
    refused(vault.restore_disks(name, point, "restores", token=of_guarded), "Microsoft.Storage/storageAccounts/write",
            account)
    restore = f"{vault.item(name)}/recoveryPoints/{point}/restore"
    replace = {"properties": {"objectType": "IaasVMRestoreRequest", "recoveryType": "OriginalLocation",
                              "sourceResourceId": machine}}
    refused(service.request("POST", restore, replace, token=of_guarded), "Microsoft.Compute/virtualMachines/write", machine)
    drill = f"{vault.item(name)}/recoveryPoints/{point}/providers/Strongroom.Backup/drill"
    refused(service.request("POST", drill, {"properties": {"check": "true"}}, token=of_guarded),
            "Microsoft.Compute/virtualMachines/runCommand/action", machine)
    check(len(vault.jobs()) == jobs and service.list(f"{mine.path}/backupProtectedItems") == [])
    check(not list(restores.iterdir()))
    codes = [(e["principal"], e["scope"].lower()) for e in service.rows("audit") if e.get("code") == "LinkedAuthorizationFailed"]
    check(("ofmine", vault.machine(other).lower()) in codes and ("ofguarded", account.lower()) in codes, codes)


def body(directory):
    machines = Machines("roles")
    name, disk = machines.define("one", noise_mib=2, seed=1)
    restores = directory / "restores"
    restores.mkdir()
    service = Service(binary(), directory / "data", local_host(GROUP, restores=restores)).start()
    vault = Vault(service, GROUP, "guarded").create(soft_delete=True)
    policy = service.get(f"{vault.path}/backupPolicies/DefaultPolicy")["properties"]
    service.call("PUT", f"{vault.path}/backupPolicies/Other", {"properties": policy})
    check(vault.protect(name).status in (200, 202))
    check(vault.backup(name).status == 202)
    vault.settle()
    point = vault.points(name)[0]["name"]
    job = next(j["name"] for j in vault.jobs() if j["properties"]["operation"] == "Backup")
    operation = next(row["id"] for row in service.rows("operations"))
    key = f"iaasvmcontainerv2;{GROUP};{name}"
    values = {"subscription": service.subscription, "group": GROUP, "vault": "guarded", "policy": "DefaultPolicy",
              "fabric": "Azure", "container": f"IaasVMContainer;{key}", "item": f"VM;{key}", "machine": name,
              "point": point, "job": job, "operation": operation, "location": "local", "account": "restores",
              "provider": "Microsoft.RecoveryServices"}
    reader, operator = service.sign_in("watcher", "Backup Reader"), service.sign_in("operator", "Backup Operator")

    def state():
        """All that nobody here may change."""
        items = service.list(f"{vault.path}/backupProtectedItems")
        for item in items:
            # These change with each backup.
            for field in list(item["properties"]):
                if field.startswith(("last", "kpis", "health")):
                    del item["properties"][field]
        shown = service.get(vault.path)
        # Counts of what reconciliation found, which comes when it comes.
        shown["properties"] = {n: v for n, v in shown["properties"].items() if not n.startswith("strongroom")}
        return {"items": items, "points": {p["name"] for p in vault.points(name)} & {point},
                "policies": service.list(f"{vault.path}/backupPolicies"), "vault": shown,
                "config": service.get(f"{vault.path}/backupconfig/vaultconfig"),
                "power": machines.virsh("domstate", name).strip()}

    before = state()
    document = service.get("/openapi.json", version=None)
    schemas = document["components"]["schemas"]
    refused = {"reader": 0, "operator": 0}
    for method, template, said in operations(document):
        action = (said.get("x-action") or "").lower()
        if template.startswith(PUBLIC) or not action or action.endswith(("/read", *ASKING)):
            continue
        path = template
        for part in said.get("parameters", []):
            if part.get("in") == "path":
                value = values.get(part["name"], "00000000-0000-0000-0000-000000000001")
                path = path.replace("{" + part["name"] + "}", urllib.parse.quote(value, safe=""))
        content = said.get("requestBody", {}).get("content", {})
        schema = next((c["schema"] for c in content.values() if "schema" in c), {"type": "object"})
        sent = sample(schema, schemas) if method in ("PUT", "POST", "PATCH") else None
        for who, token in (("reader", reader), ("operator", operator)):
            if who == "operator" and action.endswith(OPERATES):
                continue
            answer = service.request(method, path, sent, token=token)
            if who == "operator" and answer.code in ("UserErrorFeatureNotSupportedOnThisServer",
                                                     "UserErrorJobAlreadyCompleted"):
                # Azure's operators may; here nobody can, or there is nothing left of it.
                continue
            check(answer.status == 403 and answer.code == "AuthorizationFailed", who, method, template, answer)
            check(wanted_action(answer).lower() == action, who, method, template, answer)
            refused[who] += 1
    check(refused["reader"] >= 25 and refused["operator"] >= 15, refused)
    check(state() == before, "changed:", state(), before)
    say(f"refused: {refused}")

    # What is a write to the item by its path, and more than that by what it does.
    item = vault.item(name)
    source = {"protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": vault.machine(name)}
    for what, properties in {
        "stopping": source | {"policyId": "", "protectionState": "ProtectionStopped"},
        "suspending": source | {"policyId": "", "protectionState": "BackupsSuspended"},
        "another policy": source | {"policyId": f"{vault.path}/backupPolicies/Other"},
    }.items():
        for token in (reader, operator):
            answer = service.request("PUT", item, {"properties": properties}, token=token)
            check(answer.status == 403 and answer.code == "AuthorizationFailed", what, answer)
        check(wanted_action(answer).lower().endswith("/protecteditems/delete"), what, answer)
    check(vault.backup(name, token=reader).status == 403)
    check(vault.restore_disks(name, point, "restores", token=reader).status == 403)
    check(state() == before, "changed:", state(), before)
    check(len(vault.points(name)) == 1 and not list(restores.iterdir()))

    beyond_the_vault(service, vault, machines, name, point, restores)
    check(state() == before, "changed:", state(), before)

    # And what an operator is there for.
    began = time.monotonic()
    answer = vault.backup(name, token=operator)
    check(answer.status == 202, answer)
    wait_until("the operator's backup", lambda: len(vault.points(name)) == 2, 60)
    vault.settle()
    answer = vault.restore_disks(name, point, "restores", token=operator)
    check(answer.status == 202, answer)
    jobs = [j["properties"] for j in vault.settle()]
    check([j["status"] in DONE for j in jobs if j["operation"] == "Restore"] == [True], jobs)
    restored = next(restores.glob("*/*-vda.qcow2"))
    check("identical" in run("qemu-img", "compare", "-U", restored, disk), restored)
    check(state() == before, "changed:", state(), before)
    asked = {job["asked_by"] for job in service.rows("jobs")}
    check("operator" in asked and "watcher" not in asked, asked)
    say(f"the operator backed up and restored in {time.monotonic() - began:.1f} s")
    service.stop()
    check(not service.panics(), service.panics())


main(body, "roles")
