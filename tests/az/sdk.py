#!/usr/bin/env python3
"""The same flow through Azure's Python SDKs with their own pollers, and what az shows beside backup.

    sdk.py --strongroom BINARY --az DIR [--transcript FILE]

Runs itself again with the Python that has the SDKs (scripts/install-az).
"""
import json, os, subprocess, sys, time
from harness import GROUP as G, LOCATION, Machine, agent_wait, arguments, check, equal, guest, main, remove_machine, \
    same_disk, say, until, virsh

V = "nightly"
FABRIC = "Azure"


def body(bench):
    os.environ["REQUESTS_CA_BUNDLE"] = bench.about["authority"]
    os.environ["AZURE_CORE_COLLECT_TELEMETRY"] = "no"
    flow = Sdk(bench)
    for step in (flow.sign_in, flow.vault, flow.protect, flow.back_up, flow.validate, flow.restore_disks,
                 flow.restore_machine, flow.end, flow.beside):
        say(f"{step.__name__.replace('_', ' ')}: {step.__doc__}")
        step()
    return "the SDKs' flow passed"


class Sdk:
    def __init__(self, bench):
        self.bench = bench
        self.machine = Machine(bench, bench.tag)
        self.m = self.machine.name
        self.machine.start()
        self.subscription = bench.about["subscription"]
        self.group_id = f"/subscriptions/{self.subscription}/resourceGroups/{G}"
        self.vm_id = f"{self.group_id}/providers/Microsoft.Compute/virtualMachines/{self.m}"
        self.vault_id = f"{self.group_id}/providers/Microsoft.RecoveryServices/vaults/{V}"
        self.container = f"IaasVMContainer;iaasvmcontainerv2;{G};{self.m}"
        self.name = f"VM;iaasvmcontainerv2;{G};{self.m}"
        self.where = (V, G, FABRIC, self.container, self.name)

    def clients(self, secret):
        from azure.identity import ClientSecretCredential
        from azure.mgmt.recoveryservices import RecoveryServicesClient
        from azure.mgmt.recoveryservicesbackup import RecoveryServicesBackupClient
        url = self.bench.about["url"]
        credential = ClientSecretCredential("adfs", self.bench.about["app_id"], secret, authority=url,
                                            disable_instance_discovery=True)
        options = dict(base_url=url, credential_scopes=[f"{url}/.default"])
        return (RecoveryServicesClient(credential, self.subscription, **options),
                RecoveryServicesBackupClient(credential, self.subscription, **options))

    def refused(self, code, action, *given, **named):
        """The call must be refused with this code."""
        from azure.core.exceptions import HttpResponseError
        try:
            action(*given, **named)
        except HttpResponseError as error:
            equal(error.error.code if error.error else None, code, f"the refusal's code ({error.message})")
            return
        check(False, f"{action} succeeded and should have said {code}")

    def sign_in(self):
        """a wrong secret is refused"""
        from azure.core.exceptions import ClientAuthenticationError
        vaults, _ = self.clients("wrong")
        try:
            list(vaults.vaults.list_by_subscription_id())
            check(False, "a wrong secret got in")
        except ClientAuthenticationError as error:
            check("wrong" in error.message, f"the refusal says {error.message}")
        self.vaults, self.backup = self.clients(self.bench.secret)
        equal(list(self.vaults.vaults.list_by_subscription_id()), [], "the vaults of a new service")

    def vault(self):
        """made and changed"""
        from azure.mgmt.recoveryservices.models import PatchVault, Sku, Vault, VaultProperties
        for name, location in ((V, LOCATION), ("elsewhere", "far")):
            body = Vault(location=location, sku=Sku(name="Standard"),
                         properties=VaultProperties(public_network_access="Enabled"))
            made = self.vaults.vaults.begin_create_or_update(G, name, body, polling_interval=1).result()
            equal(made.properties.provisioning_state, "Succeeded", "the vault's state")
        changed = self.vaults.vaults.begin_update(G, V, PatchVault(tags={"a": "b"}), polling_interval=1).result()
        equal(changed.tags, {"a": "b"}, "the vault's tags")

    def item(self):
        # By the wire's names: the SDK knows this type's own names only where it sends it.
        return dict(self.backup.protected_items.get(*self.where).properties)

    def put(self, vault=V, **properties):
        from azure.mgmt.recoveryservicesbackup.models import AzureIaaSComputeVMProtectedItem, ProtectedItemResource
        body = ProtectedItemResource(properties=AzureIaaSComputeVMProtectedItem(
            source_resource_id=self.vm_id, **properties))
        return self.backup.protected_items.begin_create_or_update(
            vault, *self.where[1:], body, polling_interval=1).result()

    def policy(self, name, vault=V):
        return f"{self.vault_id[:-len(V)]}{vault}/backupPolicies/{name}"

    def protect(self):
        """found, protected, refused elsewhere"""
        self.backup.protection_containers.refresh(V, G, FABRIC)
        machines = lambda: [p.properties.friendly_name for p in self.backup.backup_protectable_items.list(
            V, G, filter="backupManagementType eq 'AzureIaasVM'")]
        until("the machine to be protectable", 30, lambda: self.m in machines())
        self.refused("BMSUserErrorInvalidSourceResourceLocation", self.put, vault="elsewhere",
                     policy_id=self.policy("DefaultPolicy", "elsewhere"))
        self.put(policy_id=self.policy("DefaultPolicy"))
        item = self.item()
        equal(item["protectionState"], "IRPending", "the item's state")
        equal(item["policyName"], "DefaultPolicy", "the item's policy")
        self.put(policy_id=self.policy("EnhancedPolicy"))
        equal(self.item()["policyName"], "EnhancedPolicy", "the changed item's policy")

    def job(self, operation):
        """The newest job of the operation, when it is over."""
        def over():
            found = list(self.backup.backup_jobs.list(V, G, filter=f"operation eq '{operation}'"))
            check(found, f"there is no job of {operation}")
            job = self.backup.job_details.get(V, G, found[0].name)
            return job if job.properties.status not in ("InProgress", "Cancelling") else None
        job = until(f"the job of {operation}", 120, over)
        equal(job.properties.status, "Completed", f"the status of {operation} ({job.properties.error_details})")
        return job.properties

    def points(self):
        return list(self.backup.recovery_points.list(*self.where))

    def back_up(self):
        """the machine while it runs, then off"""
        from azure.mgmt.recoveryservicesbackup.models import BackupRequestResource, IaasVMBackupRequest
        self.machine.ready()
        self.sum = self.machine.write()
        body = BackupRequestResource(properties=IaasVMBackupRequest())
        self.backup.backups.trigger(*self.where, body)
        self.job("Backup")
        self.frozen = self.points()[0]
        equal(self.frozen.properties.recovery_point_type, "FileSystemConsistent", "the point's consistency")
        equal(self.item()["protectionState"], "Protected", "the item's state")
        virsh("destroy", self.m)
        self.backup.backups.trigger(*self.where, body)
        self.job("Backup")
        equal(len(self.points()), 2, "the number of recovery points")

    def restore_request(self, point, **properties):
        from azure.mgmt.recoveryservicesbackup.models import IaasVMRestoreRequest
        return IaasVMRestoreRequest(
            recovery_point_id=point.name, source_resource_id=self.vm_id, region=LOCATION,
            create_new_cloud_service=False, original_storage_account_option=False,
            target_resource_group_id=self.group_id, **properties)

    def in_the_way(self, point, **properties):
        """The codes of what stands in a restore's way, which both calls for that must agree on."""
        from azure.mgmt.recoveryservicesbackup.models import ValidateIaasVMRestoreOperationRequest, \
            ValidateOperationRequestResource
        body = ValidateOperationRequestResource(id=point.id, properties=ValidateIaasVMRestoreOperationRequest(
            restore_request=self.restore_request(point, **properties)))
        found = self.backup.operation.validate(V, G, body)
        seen = []
        self.backup.validate_operation.begin_trigger(
            V, G, body, polling_interval=1, raw_response_hook=lambda r: seen.append(r.http_response)).result()
        operation = seen[0].headers["Location"].split("?")[0].rsplit("/", 1)[1]
        kept = self.backup.validate_operation_results.get(V, G, operation)
        status = self.backup.validate_operation_statuses.get(V, G, operation)
        equal(status.status, "Succeeded", "the validation's status")
        codes = lambda r: [e.code for e in r.validate_operation_response.validation_results]
        equal(codes(kept), codes(found), "what the validation found, kept")
        equal(codes(status.properties), codes(found), "what the validation found, in its status")
        return codes(found)

    def validate(self):
        """asked beforehand, a restore's problem is told; nothing is begun"""
        point, jobs = self.points()[0], len(list(self.backup.backup_jobs.list(V, G)))
        new = dict(recovery_type="AlternateLocation", storage_account_id=self.place("places"))
        equal(self.in_the_way(point, target_virtual_machine_id=f"{self.vm_id}-new", **new), [], "what is in the way")
        equal(self.in_the_way(point, target_virtual_machine_id=self.vm_id, **new),
              ["UserErrorVmWithSameNameAlreadyExists"], "what is in the way of a name that is taken")
        equal(self.in_the_way(point, recovery_type="RestoreDisks"), ["BMSUserErrorInvalidInput"],
              "what is in the way without a place")
        equal(self.in_the_way(point, recovery_type="OriginalLocation"), [], "replacing a machine that is off")
        virsh("start", self.m)
        equal(self.in_the_way(point, recovery_type="OriginalLocation"), ["UserErrorVmNotInDesirableState"],
              "replacing a machine that runs")
        virsh("destroy", self.m)
        equal(len(list(self.backup.backup_jobs.list(V, G))), jobs, "the number of jobs")

    def restore(self, point, **properties):
        from azure.mgmt.recoveryservicesbackup.models import RestoreRequestResource
        body = RestoreRequestResource(properties=self.restore_request(point, **properties))
        self.backup.restores.begin_trigger(*self.where, point.name, body, polling_interval=1).result()
        return self.job("Restore")

    def place(self, name):
        return f"{self.group_id}/providers/Microsoft.Storage/storageAccounts/{name}"

    def restore_disks(self):
        """the same bytes in a storage pool"""
        job = self.restore(self.points()[0], recovery_type="RestoreDisks",
                           storage_account_id=self.place(self.bench.pool))
        bag = job.extended_info.property_bag
        container = self.bench.pool_path / bag["Config Blob Container Name"]
        config = json.loads((container / bag["Config Blob Name"]).read_text())
        equal([d["target"] for d in config["disks"]], ["vda"], "the restored disks")
        image = self.bench.pool_path / config["disks"][0]["file"]
        check(same_disk(self.machine.disk, image), f"{image} differs from the machine's disk")

    def restore_machine(self):
        """a new machine with the bytes of the first point; refused under a name that is taken"""
        new = f"{self.m}-new"
        self.bench.last.callback(remove_machine, new)
        to = dict(recovery_type="AlternateLocation", storage_account_id=self.place("places"))
        self.refused("UserErrorVmWithSameNameAlreadyExists", self.restore, self.frozen,
                     target_virtual_machine_id=self.vm_id, **to)
        self.restore(self.frozen, target_virtual_machine_id=f"{self.vm_id}-new", **to)
        virsh("start", new)
        agent_wait(new)
        equal(guest(new, "/bin/sha256sum", "/mnt/vda/data").split()[0], self.sum, "the sum in the new machine")
        virsh("destroy", new)

    def delete(self):
        self.backup.protected_items.delete(*self.where)
        until("the item to be deleted", 30, lambda: self.item().get("isScheduledForDeferredDelete"))

    def end(self):
        """stopped, resumed, deleted, undeleted; the vault refused, then deleted"""
        self.put(policy_id="", protection_state="ProtectionStopped")
        equal(self.item()["protectionState"], "ProtectionStopped", "the item's state")
        self.put(policy_id=self.policy("DefaultPolicy"))
        equal(self.item()["protectionState"], "Protected", "the resumed item's state")
        self.delete()
        self.put(policy_id="", protection_state="ProtectionStopped", is_rehydrate=True)
        item = self.item()
        equal((item["protectionState"], item.get("isScheduledForDeferredDelete")), ("ProtectionStopped", None),
              "the undeleted item")
        equal(len(self.points()), 2, "the points after undelete")
        self.refused("ServiceResourceNotEmptyWithContainerDetails",
                     lambda: self.vaults.vaults.begin_delete(G, V, polling_interval=1).result())
        self.delete()
        self.vaults.vaults.begin_delete(G, V, polling_interval=1).result()
        left = [v.name for v in self.vaults.vaults.list_by_resource_group(G)]
        equal(left, ["elsewhere"], "the vaults that are left")

    # ---- az beside backup ----

    def beside(self):
        """az vm, group, network vnet, storage account"""
        bench, az = self.bench, self.bench.az
        bench.use_az()
        bench.keep_az_warm()
        bench.login()
        vms, shown, networks, accounts, account = bench.together(
            lambda: az("vm list"),
            lambda: az(f"vm show -g {G} -n {self.m}"),
            lambda: az("network vnet list"),
            lambda: az("storage account list"),
            lambda: az(f"storage account show -g {G} -n {bench.pool}"))
        check(self.m in [v["name"] for v in vms], "vm list does not name the machine")
        equal((shown["name"], shown["location"]), (self.m, LOCATION), "vm show")
        check(bench.tag in [n["name"] for n in networks], "network vnet list does not name the network")
        check({bench.pool, "places"} <= {a["name"] for a in accounts}, "storage account list lacks a place")
        equal(account["id"], self.place(bench.pool), "the storage account's id")
        for form in ("table", "tsv"):
            bench.together(*[lambda c=c: az(c, output=form) for c in (
                "vm list", f"vm show -g {G} -n {self.m}", "network vnet list", "storage account list", "group list",
                f"storage account show -g {G} -n {bench.pool}")])
        for verb, state in (("start", "running"), ("stop", "shut off"), ("start", "running"),
                            ("deallocate", "shut off")):
            az(f"vm {verb} -g {G} -n {self.m}")
            # A guest that has not booted does not hear that it is to shut down.
            if verb == "start":
                self.machine.ready()
            equal(virsh("domstate", self.m).strip(), state, f"the machine after {verb}")
        az(f"group create -n {self.m}-group -l {LOCATION}")
        groups = {g["name"] for g in az("group list")}
        check({G, f"{self.m}-group"} <= groups, f"the groups are {groups}")
        bench.refused(f"group delete -n {G} --yes", "")
        az(f"group delete -n {self.m}-group --yes")
        check(f"{self.m}-group" not in {g["name"] for g in az("group list")}, "the group is still there")


if __name__ == "__main__":
    try:
        import azure.mgmt.recoveryservicesbackup
    except ImportError:
        python = arguments(__doc__.splitlines()[0]).home / "sdk/bin/python"
        os.execv(python, [str(python), *sys.argv])
    main(__doc__.splitlines()[0], "sdk", body)
