#!/usr/bin/env python3
"""Who may do what, through every route that exists: the routes and their actions are those of /openapi.json.

    access.py STRONGROOM

A reader changes nothing and an operator deletes nothing: each call is refused with 403, AuthorizationFailed and the name
of the action that is missing; who isn't signed in gets 401 everywhere; and afterwards all is as it was.
"""

import json
import urllib.parse

from lab import API_VERSION, Service, Vault, binary, check, main, operations, sample, say, wanted_action

GROUP = "srtest"
PUBLIC = ("/adfs/", "/metadata/", "/openapi.json", "/tenants", "/{tenant}/")
# Reads by what they ask, though they are POSTs.
ASKING = {"/providers/Microsoft.ResourceGraph/resources"}


def lists_by_row(service, subscription):
    """Who has a role over one vault, or one group, finds that in lists, and nothing else; who has none is refused."""
    vaults = f"/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/vaults"
    of_group = f"/subscriptions/{subscription}/resourceGroups/{GROUP}/providers/Microsoft.RecoveryServices/vaults"
    groups = f"/subscriptions/{subscription}/resourceGroups"

    def names(path, token):
        answer = service.request("GET", path, token=token)
        return sorted(row["name"] for row in answer.body["value"]) if answer.status == 200 else answer.status

    narrow = service.sign_in("narrow", "Backup Operator", "--group", GROUP, "--vault", "guarded")
    wide = service.sign_in("wide", "Reader", "--group", GROUP)
    stranger = service.sign_in("stranger", None)
    for path, what in ((vaults, "all vaults"), (of_group, "the group's vaults")):
        for who, token, wanted in (("narrow", narrow, ["guarded"]), ("wide", wide, ["guarded", "other"]),
                                   ("stranger", stranger, 403)):
            check(names(path, token) == wanted, what, "for", who, names(path, token))
    check(names(groups, wide) == [GROUP], "groups for wide:", names(groups, wide))
    check(names(groups, stranger) == 403, "groups for the stranger:", names(groups, stranger))


def body(directory):
    service = Service(binary(), directory / "data", "hosts = []\n").start()
    subscription = service.subscription
    service.call("PUT", f"/subscriptions/{subscription}/resourceGroups/{GROUP}", {"location": "local"})
    vault = Vault(service, GROUP, "guarded").create(soft_delete=True)
    Vault(service, GROUP, "other").create()
    values = {"subscription": subscription, "group": GROUP, "vault": "guarded", "policy": "DefaultPolicy",
              "fabric": "Azure", "container": f"IaasVMContainer;iaasvmcontainerv2;{GROUP};machine",
              "item": f"VM;iaasvmcontainerv2;{GROUP};machine", "machine": "machine", "location": "local",
              "provider": "Microsoft.RecoveryServices"}

    tokens = {}
    for role in ("Backup Reader", "Backup Operator", "Backup Contributor", "Reader"):
        tokens[role] = service.sign_in(role.replace(" ", "").lower(), role)

    def without_findings(shown):
        """What the service finds out by itself, sooner or later, is nobody's change."""
        for document in shown if isinstance(shown, list) else [shown]:
            for found in ("strongroomMissingPoints", "strongroomUnmanagedPoints"):
                document.get("properties", {}).pop(found, None)
        return shown

    def state():
        """All that a call could have changed."""
        base = f"/subscriptions/{subscription}"
        seen = {path: service.list(path) for path in (
            f"{base}/resourceGroups", f"{base}/providers/Microsoft.RecoveryServices/vaults",
            f"{vault.path}/backupPolicies", f"{vault.path}/backupProtectedItems", f"{vault.path}/backupJobs",
        )} | {path: service.get(path) for path in (
            vault.path, f"{vault.path}/backupconfig/vaultconfig", f"{vault.path}/backupstorageconfig/vaultstorageconfig",
        )}
        return {path: without_findings(shown) for path, shown in seen.items()}

    lists_by_row(service, subscription)
    before = state()
    document = service.get("/openapi.json", version=None)
    schemas = document["components"]["schemas"]
    counts = {}
    nobody = service.tls_connection()

    def call(method, template, operation, token, connection=None):
        path = template
        for part in operation.get("parameters", []):
            if part.get("in") == "path":
                value = values.get(part["name"], "00000000-0000-0000-0000-000000000001")
                path = path.replace("{" + part["name"] + "}", urllib.parse.quote(value, safe=""))
        check("{" not in path, "a path's parameter is not described:", template)
        content = operation.get("requestBody", {}).get("content", {})
        sent = None
        if method in ("PUT", "POST", "PATCH"):
            schema = next((c["schema"] for c in content.values() if "schema" in c), {"type": "object"})
            sent = sample(schema, schemas)
        return service.request(method, path, sent, token=token, connection=connection)

    for method, template, operation in operations(document):
        action = operation.get("x-action")
        what = f"{method} {template}"
        if template.startswith(PUBLIC):
            continue
        # Nobody: over the network, without a token; and with one that isn't any.
        for token in (None, "x.y.z"):
            answer = call(method, template, operation, token, nobody)
            check(answer.status == 401 and "WWW-Authenticate" in answer.headers, what, "for nobody:", answer)
            if method != "HEAD":
                check(answer.code in ("AuthenticationFailed", "InvalidAuthenticationToken"), what, answer)
        counts["nobody"] = counts.get("nobody", 0) + 2
        if action is None:
            check(template in ASKING or method == "GET", what, "changes something and names no action")
            continue
        reads = action.endswith("/read")
        changes = not reads and template not in ASKING
        deletes = method == "DELETE" or action.endswith(("/delete", "/delete/action"))
        for role, token in tokens.items():
            must_refuse = role in ("Backup Reader", "Reader") and changes or role == "Backup Operator" and (
                deletes or action.lower().endswith(("/backuppolicies/write", "/vaults/write")))
            if role == "Backup Contributor":
                must_refuse = action.lower() == "microsoft.recoveryservices/vaults/delete"
            # What a role may do isn't tried where it would change something: that is other tests' matter.
            if not must_refuse and not reads:
                continue
            answer = call(method, template, operation, token)
            check(answer.status < 500 or answer.status == 503, what, role, answer)
            if must_refuse and answer.status != 403 and role in ("Reader", "Backup Reader") and method == "POST" \
                    and action.lower().endswith(("validatefeatures/action", "backupstatus/action",
                                                 "prevalidateprotection/action", "validateoperation/action",
                                                 "recommendedformove/action", "backupcrrjob/action",
                                                 "backupcrrjobs/action", "backupjobsexport/action")):
                # Azure lets readers ask these.
                counts[f"{role} asked"] = counts.get(f"{role} asked", 0) + 1
                continue
            if must_refuse:
                check(answer.status == 403 and answer.code == "AuthorizationFailed", what, "for", role, ":", answer)
                check(wanted_action(answer).lower() == action.lower(), what, role, action, answer)
                counts[role] = counts.get(role, 0) + 1
            elif role != "Backup Contributor":
                # Reading: whatever isn't there, nobody is kept from looking.
                counts[f"{role} read"] = counts.get(f"{role} read", 0) + (answer.status != 403)
    check(counts["Backup Reader"] >= 25 and counts["Backup Operator"] >= 5, counts)
    after = state()
    for path, was in before.items():
        check(after[path] == was, "changed:", path, json.dumps(was), json.dumps(after[path]))

    names = {entry["principal"] for entry in service.rows("audit") if entry["status"] == 403}
    check({"backupreader", "backupoperator", "backupcontributor", "reader"} <= names, "not in the audit:", names)
    service.stop()
    check(not service.panics(), service.panics())
    say(f"refused or read, by role: {counts}; api-version {API_VERSION}")


main(body, "access")
