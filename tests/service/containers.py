#!/usr/bin/env python3
"""Restores of disks into containers of storage accounts: Azurite as Azure Blob Storage, and an S3 server.

    containers.py STRONGROOM [SEED]

What is read back from the server is compared with the machine's disks. Wrong keys, missing containers and servers that go
away are told apart; SIGKILL and cancelling in random moments leave nothing, neither blobs nor parts of them. The S3
server is the example `s3_server` beside the program; Azurite's program is $STRONGROOM_TEST_AZURITE, else what scripts/install-azurite says.
"""

import atexit
import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from xml.etree import ElementTree

from lab import ROOT, Failure, Machines, Service, Vault, binary, check, local_host, main, number, run, say, seeded, wait_until

GROUP = "srtest"
DONE = {"Completed", "CompletedWithWarnings"}
KILLS = int(os.environ.get("STRONGROOM_RESTORE_KILLS", number(2, 20)))
CANCELS = int(os.environ.get("STRONGROOM_RESTORE_CANCELS", number(2, 10)))
MIB = 1 << 20
# The account that Azurite has, with a key of our own.
ACCOUNT = "devstoreaccount1"
KEY = base64.b64encode(b"a key of the tests that opens nothing").decode()
S3_ID, S3_KEY = "test-access-key", "test-secret-key"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server that can go away and come back, at the same port with the same objects."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        self.port = free_port()
        self.process = None
        self.log = directory.parent / (directory.name + ".log")
        atexit.register(self.stop)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(c) for c in self.command()], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**os.environ, **self.environment})
        wait_until("the server listens", self.listens, 60)
        return self

    environment = {}

    def listens(self):
        check(self.process.poll() is None, self.log.read_text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self):
        """It takes connections and answers none."""
        self.process.send_signal(19)

    def resume(self):
        self.process.send_signal(18)


class Azurite(Server):
    environment = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}

    def command(self):
        program = os.environ.get("STRONGROOM_TEST_AZURITE") or run(ROOT / "scripts/install-azurite", timeout=600).strip()
        return ["node", program, "--blobHost", "127.0.0.1", "--blobPort", self.port, "--location", self.directory,
                "--skipApiVersionCheck", "--disableTelemetry", "--silent"]

    def account(self, name, url="azure://restores/from/strongroom", key="AZURE_KEY", more=""):
        return f"""
[[storage_accounts]]
name = "{name}"
url = "{url}"
endpoint = "http://127.0.0.1:{self.port}/{ACCOUNT}"
allow_http = true
account = "{ACCOUNT}"
key_env = "{key}"
group = "{GROUP}"
location = "local"
{more}
"""

    def request(self, method, container, blob="", query="", headers=None):
        """As Azure wants requests signed with an account's key."""
        path = f"/{ACCOUNT}/{container}" + (f"/{urllib.parse.quote(blob)}" if blob else "")
        sent = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06", **(headers or {})}
        named = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent) if name.startswith("x-ms-"))
        parts = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
        resource = f"/{ACCOUNT}{path}" + "".join(f"\n{name}:{value}" for name, value in parts)
        text = method + "\n" * 12 + named + resource
        signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        sent["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path + (f"?{query}" if query else ""), headers=sent)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def make(self):
        status, body = self.request("PUT", "restores", query="restype=container")
        check(status == 201, status, body)

    def all(self):
        """Every blob, also those of which there are only parts."""
        status, body = self.request("GET", "restores", query="comp=list&include=uncommittedblobs&restype=container")
        check(status == 200, status, body)
        return sorted(e.text for e in ElementTree.fromstring(body).iter("Name"))

    def fetch(self, name, path):
        status, body = self.request("GET", "restores", name)
        check(status == 200, status, body[:300])
        path.write_bytes(body)

    def wreckage(self):
        """Parts of what is not there."""
        return []

    def begun(self):
        return 0


class S3(Server):
    def command(self):
        (self.directory / "restores").mkdir(exist_ok=True)
        program = Path(binary()).parent / "examples" / "s3_server"
        check(program.exists(), program, "is missing: cargo build --workspace --example s3_server")
        return [program, self.directory, self.port]

    def account(self, name, url="s3://restores/from/strongroom", key="S3_KEY", more=""):
        return f"""
[[storage_accounts]]
name = "{name}"
url = "{url}"
endpoint = "http://127.0.0.1:{self.port}"
allow_http = true
account = "{S3_ID}"
key_env = "{key}"
group = "{GROUP}"
location = "local"
{more}
"""

    def make(self):
        pass

    def all(self):
        bucket = self.directory / "restores"
        return sorted(str(p.relative_to(bucket)) for p in bucket.rglob("*") if p.is_file())

    def fetch(self, name, path):
        shutil.copyfile(self.directory / "restores" / name, path)

    def wreckage(self):
        return sorted(p.name for p in self.directory.iterdir() if p.is_file() and ".upload_id-" in p.name)

    def begun(self):
        """Uploads that nobody knows of, without parts: begun in the very moment of a kill."""
        return sum(p.name.startswith(".upload-") for p in self.directory.iterdir())


class Lab:
    def __init__(self, directory, source):
        self.random, self.directory = source, directory
        self.machines = Machines("containers")
        self.azure, self.s3 = Azurite(directory / "azurite").start(), S3(directory / "s3").start()
        self.azure.make()
        os.environ.update(AZURE_KEY=KEY, S3_KEY=S3_KEY, WRONG_S3_KEY="wrong",
                          WRONG_AZURE_KEY=base64.b64encode(b"another").decode())
        key_file = directory / "key"
        key_file.write_text(KEY + "\n")
        key_file.chmod(0o600)
        accounts = [
            self.azure.account("azure").replace('key_env = "AZURE_KEY"', f'key_file = "{key_file}"'),
            self.azure.account("azurevhd", more='format = "vhd"'),
            self.azure.account("azurewrong", key="WRONG_AZURE_KEY"),
            self.azure.account("azurenone", url="azure://nosuch"),
            self.s3.account("s3"),
            self.s3.account("s3wrong", key="WRONG_S3_KEY"),
            self.s3.account("s3none", url="s3://nosuch"),
            self.s3.account("s3gone").replace(str(self.s3.port), str(free_port())),
            self.s3.account("s3nokey", key="NO_SUCH_VARIABLE"),
        ]
        self.service = Service(binary(), directory / "data", local_host(GROUP) + "".join(accounts)).start()
        self.vault = Vault(self.service, GROUP, "containers").create()
        self.disks = {}

    def machine(self):
        """Off, with a sparse disk and a small raw one whose size is no multiple of a MiB."""
        name = f"{self.machines.prefix}-m"
        rows = ""
        for target, disk_format, size, places in (("vda", "qcow2", 200 * MIB, ((0, 12), (100, 4), (195, 5))),
                                                  ("vdb", "raw", 33 * MIB + 512, ((1, 20),))):
            path = self.machines.directory / f"{name}-{target}"
            run("qemu-img", "create", "-q", "-f", disk_format, path, str(size))
            noise = self.directory / "noise"
            for n, (at, mib) in enumerate(places):
                noise.write_bytes(random.Random(f"{target}{n}").randbytes(mib * MIB))
                run("qemu-io", "-f", disk_format, "-c", f"write -s {noise} {at * MIB} {mib * MIB}", path)
            noise.unlink()
            self.disks[target] = (path, disk_format, size)
            rows += f"""<disk type='file' device='disk'><driver name='qemu' type='{disk_format}' discard='unmap'/>
                <source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"""
        xml = self.directory / "machine.xml"
        xml.write_text(f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>{rows}</devices></domain>""")
        self.machines.virsh("define", xml)
        self.machines.names.append(name)
        return name

    def point(self, name):
        wait_until("it can be protected", lambda: self.vault.protect(name).status in (200, 202), 30, 0.5)
        check(self.vault.backup(name).status == 202)
        self.vault.settle()
        (point,) = self.vault.points(name)
        return point["name"]

    def restore(self, name, point, account, **more):
        group = f"/subscriptions/{self.service.subscription}/resourceGroups/{GROUP}"
        p = {"objectType": "IaasVMRestoreRequest", "recoveryPointId": point, "recoveryType": "RestoreDisks",
             "sourceResourceId": self.vault.machine(name), "region": "local",
             "storageAccountId": f"{group}/providers/Microsoft.Storage/storageAccounts/{account}", **more}
        return self.service.request("POST", f"{self.vault.item(name)}/recoveryPoints/{point}/restore", {"properties": p})

    def newest(self):
        jobs = [j for j in self.vault.jobs() if j["properties"]["operation"] == "Restore"]
        return self.service.get(f"{self.vault.path}/backupJobs/{jobs[0]['name']}")

    def ended(self, answer, status=DONE, seconds=300):
        check(answer.status == 202, answer)
        self.vault.settle(seconds)
        job = self.newest()
        check(job["properties"]["status"] in status, job)
        return job

    def look(self, server, job, formats, targets=("vda", "vdb")):
        """Reads everything back from the server and compares it with the machine's disks; removes it."""
        bag = job["properties"]["extendedInfo"]["propertyBag"]
        config_name = bag["Config Blob Name"]
        check(bag["Config Blob Container Name"] == "restores", bag)
        check(bag["Config Blob Uri"].endswith(f"/restores/{config_name}"), bag)
        directory = config_name.rsplit("/", 1)[0]
        check(directory.startswith("from/strongroom/"), directory)
        work = self.directory / "fetched"
        work.mkdir()
        server.fetch(config_name, work / "config")
        config = json.loads((work / "config").read_text())
        check([d["target"] for d in config["disks"]] == list(targets), config)
        names = {f"{directory}/{d['file']}" for d in config["disks"]}
        rest = {f"{directory}/{config['definition']}", config_name, urllib.parse.urlsplit(
            bag["Create VM Template Blob Uri"]).path.split("/restores/", 1)[1]}
        mine = {n for n in server.all() if n.startswith(directory)}
        check(mine == names | rest, "what is there:", mine)
        server.fetch(f"{directory}/{config['definition']}", work / "definition")
        definition = (work / "definition").read_text()
        for disk in config["disks"]:
            path, disk_format, size = self.disks[disk["target"]]
            fetched = work / disk["file"]
            server.fetch(f"{directory}/{disk['file']}", fetched)
            check(disk["format"] == formats, disk)
            check(f"/DIRECTORY/{disk['file']}" in definition, definition)
            if disk["format"] == "qcow2":
                run("qemu-img", "check", "-q", "-f", "qcow2", fetched)
                check(fetched.stat().st_size < 30 * MIB, "holes were sent:", fetched.stat().st_size)
            if disk["format"] == "vpc":
                check(fetched.stat().st_size == -(-size // MIB) * MIB + 512, fetched.stat().st_size)
                # The disk is padded to a whole MiB.
                padded = work / "padded"
                run("qemu-img", "convert", "-f", disk_format, "-O", "raw", path, padded)
                os.truncate(padded, -(-size // MIB) * MIB)
                run("qemu-img", "compare", "-f", "vpc", "-F", "raw", fetched, padded)
            else:
                info = json.loads(run("qemu-img", "info", "--output=json", "-f", disk["format"], fetched))
                check(info["virtual-size"] == size, info)
                run("qemu-img", "compare", "-f", disk["format"], "-F", disk_format, fetched, path)
            fetched.unlink()
        # With a place for the disks it is a machine's definition.
        xml = self.directory / "restored.xml"
        new = f"{self.machines.prefix}-of-disks"
        xml.write_text(definition.replace(f"{self.machines.prefix}-m-restored", new))
        self.machines.virsh("define", xml)
        self.machines.virsh("undefine", new)
        shutil.rmtree(work)
        return directory


def formats(lab, server, account, vhd_account, name, point):
    """Every format, all disks and some; nothing else is in the container."""
    for asked, shown in (({}, "qcow2"), ({"diskFormat": "raw"}, "raw"), ({"diskFormat": "vhd"}, "vpc")):
        job = lab.ended(lab.restore(name, point, account, **asked))
        lab.look(server, job, shown)
        check(job["properties"]["extendedInfo"]["progressPercentage"] == 100.0 or
              job["properties"]["extendedInfo"].get("progressPercentage") in (None, 100), job)
    job = lab.ended(lab.restore(name, point, account, restoreDiskLunList=[-1]))
    lab.look(server, job, "qcow2", ["vda"])
    if vhd_account:
        lab.look(server, lab.ended(lab.restore(name, point, vhd_account)), "vpc")
    check(not server.wreckage(), server.wreckage())
    say(f"{account}: qcow2, raw and VHD, read back and compared")


def failures(lab, name, point):
    """Each says what is wrong, and shows no key."""
    def failed(account, code, *words):
        job = lab.ended(lab.restore(name, point, account), {"Failed"}, 400)
        error = job["properties"]["errorDetails"][0]
        check(error["errorTitle"] == code or code in json.dumps(error), account, error)
        for word in words:
            check(word in json.dumps(error), word, "is not in", error)
        check("hush" not in json.dumps(job), job)
        return error

    failed("azurewrong", "UserErrorStorageAccountAccessDenied", "azurewrong")
    failed("s3wrong", "UserErrorStorageAccountAccessDenied", "s3wrong")
    failed("azurenone", "UserErrorStorageContainerNotFound", "azure://nosuch")
    failed("s3none", "UserErrorStorageContainerNotFound", "s3://nosuch")
    failed("s3gone", "UserErrorStorageAccountNotReachable", "s3gone")
    failed("s3nokey", "UserErrorStorageAccountNotReachable", "NO_SUCH_VARIABLE")
    refused = lab.service.request(
        "POST", f"{lab.vault.item(name)}/recoveryPoints/{point}/restore", {"properties": {
            "objectType": "IaasVMRestoreRequest", "recoveryPointId": point, "recoveryType": "AlternateLocation",
            "sourceResourceId": lab.vault.machine(name), "region": "local",
            "targetVirtualMachineId": lab.vault.machine("srtest-nosuch"),
            "targetResourceGroupId": f"/subscriptions/{lab.service.subscription}/resourceGroups/{GROUP}",
            "storageAccountId": f"/subscriptions/{lab.service.subscription}/resourceGroups/{GROUP}"
                                "/providers/Microsoft.Storage/storageAccounts/s3"}})
    check(refused.status == 400 and refused.code == "UserErrorStorageAccountNotSupported", refused)
    shown = json.dumps(lab.service.get(f"/subscriptions/{lab.service.subscription}/providers/Microsoft.Storage/storageAccounts"))
    check("azurevhd" in shown and KEY not in shown and S3_KEY not in shown, shown)
    log = lab.service.log.read_text()
    check(KEY not in log and S3_KEY not in log, "a key is in the log")
    say("wrong keys, missing containers and missing keys are told apart")


def gone_for_a_while(lab, server, account, name, point):
    """A server that goes away in the middle and comes back costs nothing but time."""
    before = server.all()
    answer = lab.restore(name, point, account, diskFormat="raw")
    check(answer.status == 202, answer)
    wait_until("something was sent", lambda: len(server.all()) > len(before) or server.wreckage() or
               lab.newest()["properties"]["status"] in DONE, 60, 0.01)
    server.stop()
    time.sleep(1.5)
    server.start()
    lab.vault.settle(300)
    job = lab.newest()
    status = job["properties"]["status"]
    check(status in DONE | {"Failed"}, job)
    if status == "Failed":
        # What it had in memory is gone with it; then it says so, and leaves nothing.
        check(server.all() == before, server.all())
        lab.look(server, lab.ended(lab.restore(name, point, account)), "qcow2")
    else:
        lab.look(server, job, "raw")
    say(f"{account}: away for a while: {status}")


def gone_for_good(lab, server, account, name, point):
    """Cancelled while the server does not answer, it ends; the error says what may be left."""
    server.stop()
    answer = lab.restore(name, point, account)
    check(answer.status == 202, answer)
    time.sleep(0.5)
    lab.service.request("POST", f"{lab.vault.path}/backupJobs/{lab.newest()['name']}/cancel")
    lab.vault.settle(60)
    check(lab.newest()["properties"]["status"] == "Cancelled", lab.newest())
    server.start()
    say(f"{account}: cancelled while it was away")


def kills(lab, server, account, name, point):
    """SIGKILL and cancelling in random moments: all of it or nothing, and no parts."""
    def begin():
        return lab.restore(name, point, account, diskFormat=lab.random.choice(["raw", "qcow2"]))

    began = time.monotonic()
    lab.look(server, lab.ended(lab.restore(name, point, account, diskFormat="raw")), "raw")
    duration = min(time.monotonic() - began, 8)
    count = {}
    for n in range(KILLS + CANCELS):
        before = server.all()
        known = {j["name"] for j in lab.vault.jobs()}
        after = lab.random.uniform(0, duration)
        if n < KILLS:
            try:
                check(begin().status == 202)
                time.sleep(after)
            finally:
                lab.service.kill()
            lab.service.start()
        else:
            check(begin().status == 202)
            time.sleep(after)
            lab.service.request("POST", f"{lab.vault.path}/backupJobs/{lab.newest()['name']}/cancel")
        jobs = [j for j in lab.vault.settle(300) if j["name"] not in known]
        check(len(jobs) == 1, jobs)
        job = lab.service.get(f"{lab.vault.path}/backupJobs/{jobs[0]['name']}")
        status = job["properties"]["status"]
        count[status] = count.get(status, 0) + 1
        # A disk whose parts the server was just putting together at the kill: it ends that.
        wait_until(f"{status} after {after}: no parts are left, {server.wreckage()}", lambda: not server.wreckage(), 60, 0.2)
        new = sorted(set(server.all()) - set(before))
        if status in DONE:
            config = job["properties"]["extendedInfo"]["propertyBag"]["Config Blob Name"]
            check(config in new, "complete without its commit:", new)
        else:
            check(not new, status, "after", after, "and left:", new)
    say(f"{account}: {KILLS} kills and {CANCELS} cancels: {count}, nothing half is left; uploads without parts: {server.begun()}")
    lab.look(server, lab.ended(lab.restore(name, point, account)), "qcow2")


def body(directory):
    seed = seeded(2)
    lab = Lab(directory, random.Random(seed))
    name = lab.machine()
    point = lab.point(name)
    phases = os.environ.get("STRONGROOM_RESTORE_PHASES", "formats failures gone kills").split()
    if "formats" in phases:
        formats(lab, lab.azure, "azure", "azurevhd", name, point)
        formats(lab, lab.s3, "s3", None, name, point)
    if "failures" in phases:
        failures(lab, name, point)
    for server, account in ((lab.s3, "s3"), (lab.azure, "azure")):
        if "gone" in phases:
            gone_for_a_while(lab, server, account, name, point)
            gone_for_good(lab, server, account, name, point)
        if "kills" in phases:
            kills(lab, server, account, name, point)
    lab.service.stop()
    check(not lab.service.panics(), lab.service.panics())


main(body, "containers")
