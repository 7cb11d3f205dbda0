#!/usr/bin/env python3
"""Some disks of a machine with the real az: which are backed up, and which are restored; and into a storage account's container.

    disks.py --strongroom BINARY --az DIR [--transcript FILE]

The storage account is the S3 server of the example `s3_server` beside the program.
"""
import json, os, socket, subprocess
from pathlib import Path
from harness import GROUP as G, LOCATION, check, equal, main, remove_machine, run, same_disk, say, until, virsh

V = "some"
VM = "--backup-management-type AzureIaasVM --workload-type VM"
# LUN: what libvirt calls it, its format, its size in MiB.
DISKS = {-1: ("vda", "qcow2", 32), 0: ("vdb", "qcow2", 24), 1: ("vdc", "raw", 16)}


def body(bench):
    test = Disks(bench)
    for step in (test.included, test.excluded, test.os_alone, test.all_again, test.restored_some, test.restored_os,
                 test.unmanaged, test.into_a_container):
        say(f"{step.__name__.replace('_', ' ')}: {step.__doc__}")
        step()
    return "disks can be chosen"


class Disks:
    def __init__(self, bench):
        self.bench, self.az, self.refused = bench, bench.az, bench.refused
        self.define()
        self.container()
        bench.use_az()
        bench.keep_az_warm()
        bench.login()
        self.az(f"backup vault create -g {G} -n {V} -l {LOCATION}")
        self.item = f"-g {G} -v {V} -c {self.m} -i {self.m}"

    def define(self):
        """A machine that is off, with noise on its disks."""
        self.m = f"{self.bench.tag}-m"
        self.paths, rows = {}, ""
        for target, disk_format, mib in DISKS.values():
            path = self.paths[target] = self.bench.machines / f"{self.m}-{target}"
            run("qemu-img", "create", "-q", "-f", disk_format, path, f"{mib}M")
            noise = self.bench.directory / "noise"
            noise.write_bytes(os.urandom(4 << 20))
            run("qemu-io", "-f", disk_format, "-c", f"write -s {noise} 8M 4M", path)
            rows += (f"<disk type='file' device='disk'><driver name='qemu' type='{disk_format}'/><source file='{path}'/>"
                     f"<target dev='{target}' bus='virtio'/></disk>")
        xml = self.bench.directory / "machine.xml"
        xml.write_text(f"<domain type='qemu'><name>{self.m}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
                       f"<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>"
                       f"<devices>{rows}</devices></domain>")
        virsh("define", xml)
        self.bench.last.callback(remove_machine, self.m)

    def container(self):
        """A service that also has a storage account."""
        bench = self.bench
        self.bucket = bench.directory / "s3" / "restores"
        self.bucket.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = Path(bench.given.strongroom).parent / "examples" / "s3_server"
        check(program.exists(), f"{program} is missing: cargo build --workspace --example s3_server")
        server = subprocess.Popen([program, self.bucket.parent, str(port)], stdout=subprocess.DEVNULL)
        bench.last.callback(lambda: (server.kill(), server.wait()))

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until("the S3 server to start", 30, listens)
        key = bench.directory / "s3.key"
        key.write_text("test-secret-key\n")
        key.chmod(0o600)
        bench.stop()
        bench.serve(f'\n[[storage_accounts]]\nname = "offsite"\nurl = "s3://restores"\nendpoint = "http://127.0.0.1:{port}"\n'
                    f'allow_http = true\naccount = "test-access-key"\nkey_file = "{key}"\ngroup = "{G}"\n'
                    f'location = "{LOCATION}"\n')

    # ---- what is backed up ----

    def choice(self):
        item = self.az(f"backup item show -g {G} -v {V} -c {self.m} -n {self.m} {VM}")
        extended = item["properties"].get("extendedProperties") or {}
        chosen = extended.get("diskExclusionProperties")
        return chosen and (chosen["diskLunList"], chosen["isInclusionList"])

    def point_has(self, included, excluded):
        """Backs up, and looks at what the new point has."""
        job = self.az(f"backup protection backup-now {self.item} {VM} --retain-until 31-12-2099")
        self.bench.job(V, job["name"])
        self.point = self.az(f"backup recoverypoint list {self.item} {VM}")[0]
        shown = self.point["properties"].get("recoveryPointDiskConfiguration")
        if included is None:
            equal(shown, None, "the disks of a point that has all")
            return
        luns = lambda which: sorted(d["lun"] for d in shown[which])
        equal((luns("includedDiskList"), luns("excludedDiskList")), (included, excluded), "the point's disks")
        equal(shown["numberOfDisksAttachedToVm"], len(DISKS), "the machine's disks")
        equal(shown["numberOfDisksIncludedInBackup"], len(included), "the disks in the backup")

    def included(self):
        """only these, and the OS disk; LUNs that are not there are refused"""
        enable = f"backup protection enable-for-vm -g {G} -v {V} --vm {self.m} -p EnhancedPolicy"
        self.refused(f"{enable} --disk-list-setting include --diskslist 7", "7")
        self.az(f"{enable} --disk-list-setting include --diskslist 1")
        equal(self.choice(), ([1], True), "the chosen disks")
        self.point_has([-1, 1], [0])

    def excluded(self):
        """all but these"""
        self.az(f"backup protection update-for-vm {self.item} --disk-list-setting exclude --diskslist 1")
        equal(self.choice(), ([1], False), "the chosen disks")
        self.point_has([-1, 0], [1])

    def os_alone(self):
        """no data disks"""
        self.az(f"backup protection update-for-vm {self.item} --exclude-all-data-disks")
        equal(self.choice(), ([], True), "the chosen disks")
        self.point_has([-1], [0, 1])
        self.refused(f"backup restore restore-disks {self.item} -r {self.point['name']} --storage-account places "
                     f"--target-resource-group {G} --diskslist 0", "UserErrorDiskNotFoundInRecoveryPoint")

    def all_again(self):
        """the choice is taken back"""
        self.az(f"backup protection update-for-vm {self.item} --disk-list-setting resetexclusionsettings")
        equal(self.choice(), None, "the chosen disks")
        self.point_has(None, None)

    # ---- what is restored ----

    def restore(self, more):
        job = self.az(f"backup restore restore-disks {self.item} -r {self.point['name']} {more}")
        return self.bench.job(V, job["name"])["properties"]["extendedInfo"]["propertyBag"]

    def compare(self, bag, root, targets):
        name = bag["Config Blob Name"]
        directory = root if "/" in name else root / bag["Config Blob Container Name"]
        config = json.loads((directory / name).read_text())
        equal([d["target"] for d in config["disks"]], targets, "the restored disks")
        for disk in config["disks"]:
            there = (directory / name).parent / disk["file"]
            check(same_disk(self.paths[disk["target"]], there), f"{there} differs from the machine's disk")
        listed = sorted(p.name for p in (directory / name).parent.iterdir() if p.suffix in (".qcow2", ".raw"))
        equal(listed, sorted(d["file"] for d in config["disks"]), "the files that are there")

    def restored_some(self):
        """by their LUNs"""
        bag = self.restore(f"--storage-account places --target-resource-group {G} --diskslist 0 1")
        equal((bag["Restored disk(s)"], bag["Backed-up disk(s)"]), ("vdb; vdc", "vda; vdb; vdc"), "what the job says")
        self.compare(bag, self.bench.places, ["vdb", "vdc"])

    def restored_os(self):
        """the OS disk alone"""
        bag = self.restore(f"--storage-account places --target-resource-group {G} --restore-only-osdisk")
        self.compare(bag, self.bench.places, ["vda"])

    def unmanaged(self):
        """as unmanaged disks: without a resource group they are for, into the storage account all the same"""
        bag = self.restore("--storage-account places --restore-as-unmanaged-disks --diskslist -1 1")
        self.compare(bag, self.bench.places, ["vda", "vdc"])

    def into_a_container(self):
        """of a storage account that is listed like any other"""
        bag = self.restore(f"--storage-account offsite --target-resource-group {G} --diskslist -1 0")
        equal(bag["Config Blob Container Name"], "restores", "the container")
        self.compare(bag, self.bucket, ["vda", "vdb"])


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "disks", body)
