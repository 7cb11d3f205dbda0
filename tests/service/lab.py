"""What the service's tests share: a service of their own, its API, machines under libvirt, and what went wrong.

Only Python's standard library. Machines are named srtest-…; everything is removed at the end, also after a failure.
"""

import atexit
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

MEMORY_MAX_MIB = 400
ROOT = Path(__file__).resolve().parent.parent.parent
API_VERSION = "2026-01-01"


# What proves by numbers does a few of them in `make test`, others each day, and all in `make soak`.
IS_SOAK = os.environ.get("STRONGROOM_SOAK") == "1"


class Failure(Exception):
    """Something is not as it must be."""


def check(truth, *what):
    if not truth:
        raise Failure(" ".join(str(part) for part in what))


def say(*words):
    print(f"[{time.monotonic() - _BEGAN:6.1f} s]", *words, flush=True)


_BEGAN = time.monotonic()


def number(few, all_of_them):
    """How many: in `make test`, and in `make soak`."""
    return all_of_them if IS_SOAK else few


def seeded(position):
    """What decides of everything random: the argument at this position, STRONGROOM_TEST_SEED, or the day (in a soak: chance)."""
    given = sys.argv[position] if len(sys.argv) > position else os.environ.get("STRONGROOM_TEST_SEED")
    of_today = random.SystemRandom().randrange(1 << 32) if IS_SOAK else int(time.time() // 86400)
    seed = int(given) if given else of_today
    say(f"seed {seed} (STRONGROOM_TEST_SEED={seed} repeats it)")
    return seed


def wait_until(what, truth, seconds=60.0, interval=0.05):
    """Waits for something to come true, and returns it."""
    until = time.monotonic() + seconds
    while True:
        found = truth()
        if found:
            return found
        if time.monotonic() > until:
            raise Failure(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(interval)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, status, headers, raw):
        self.status, self.headers, self.raw = status, headers, raw

    @property
    def body(self):
        return json.loads(self.raw) if self.raw else None

    @property
    def code(self):
        """The error's code, or none."""
        try:
            body = self.body
        except ValueError:
            return None
        error = body.get("error") if isinstance(body, dict) else None
        return error.get("code") if isinstance(error, dict) else None

    def __repr__(self):
        return f"{self.status} {self.raw[:600]!r}"


def local_host(group, **places):
    """The part of a configuration that names this host, and directories that disks can be restored to."""
    own = f'group = "{group}"\nlocation = "local"\n'
    directories = [f'[[restore_directories]]\nname = "{name}"\npath = "{path}"\n{own}' for name, path in places.items()]
    return "\n".join([f'[[hosts]]\nname = "local"\n{own}', *directories])


class Service:
    """A service in a process of its own. `config` is the text of its configuration."""

    def __init__(self, binary, data, config):
        self.binary, self.data = str(binary), Path(data)
        self.config = self.data.parent / (self.data.name + ".toml")
        self.config.write_text(config)
        self.log = self.data.parent / (self.data.name + ".log")
        self.process = None
        self._subscription = None
        atexit.register(self.kill)

    def start(self, ready=True):
        check(self.process is None, "the service runs already")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--data", self.data, "--listen", "127.0.0.1:0", "--config", self.config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=60):
        def answers():
            if self.process.poll() is not None:
                raise Failure(f"the service ended by itself: {self.log.read_text()[-3000:]}")
            try:
                return self.request("GET", "/openapi.json", version=None, timeout=5).status == 200
            except OSError:
                return False

        wait_until("the service answers", answers, seconds, 0.01)

    def kill(self, how=signal.SIGKILL):
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            process.wait(120)
            return process.returncode
        return None

    def stop(self):
        code = self.kill(signal.SIGTERM)
        check(code == 0, "the service did not end well:", code, self.log.read_text()[-2000:])

    def run(self, *arguments):
        """Another command of the program, on the same data; what it printed as JSON."""
        done = subprocess.run([self.binary, *arguments, "--data", self.data, "--json"], capture_output=True, timeout=120)
        check(done.returncode == 0, arguments, done.stderr.decode())
        return json.loads(done.stdout)

    def sign_in(self, name, role, *scope):
        """A token of a new service principal that has this role, on everything or over this scope; none for role None."""
        made = self.run("access", "principal", "create", name)
        if role:
            self.run("access", "assign", name, role, *scope)
        form = urllib.parse.urlencode({
            "grant_type": "client_credentials", "client_id": made["app_id"],
            "client_secret": made["secret"], "scope": "https://management.azure.com/.default"})
        answer = self.request("POST", "/adfs/oauth2/token", raw=form.encode(), version=None,
                              headers={"content-type": "application/x-www-form-urlencoded"})
        check(answer.status == 200, role, answer)
        return answer.body["access_token"]

    @property
    def subscription(self):
        if self._subscription is None:
            answer = self.get("/subscriptions")
            self._subscription = answer["value"][0]["subscriptionId"]
        return self._subscription

    def connection(self, timeout=60):
        return UnixConnection(self.data / "strongroom.sock", timeout)

    def tls_connection(self, timeout=60):
        url = urllib.parse.urlsplit((self.data / "url").read_text().strip())
        context = ssl.create_default_context(cafile=self.data / "tls" / "authority.pem")
        return http.client.HTTPSConnection("localhost", url.port, timeout=timeout, context=context)

    def request(self, method, path, body=None, token=None, version=API_VERSION, timeout=60, raw=None, connection=None,
                headers=None):
        """One request over the Unix socket (root is administrator), or over `connection`."""
        if version is not None:
            path += ("&" if "?" in path else "?") + "api-version=" + version
        sent = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("content-type", "application/json")
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        own = connection is None
        connection = connection or self.connection(timeout)
        try:
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            if own:
                connection.close()

    def call(self, method, path, body=None, expect=(200, 201, 202, 204), **more):
        answer = self.request(method, path, body, **more)
        check(answer.status in expect, method, path, "answered", answer)
        return answer

    def get(self, path, **more):
        return self.call("GET", path, expect=(200,), **more).body

    def list(self, path):
        """All of a list, page by page."""
        found, page = [], self.get(path)
        while True:
            found += page["value"]
            following = page.get("nextLink")
            if not following:
                return found
            parts = urllib.parse.urlsplit(following)
            page = self.get(f"{parts.path}?{parts.query}", version=None)

    def rows(self, table):
        """Documents of the catalog, as they are on the disk."""
        with sqlite3.connect(f"file:{self.data}/catalog.db", uri=True, timeout=30) as catalog:
            return [json.loads(doc) for (doc,) in catalog.execute(f"SELECT doc FROM {table}")]

    def trust_clock(self):
        """As if the service had run evenly for long: the first day of a new one expires nothing. It must not run."""
        check(self.process is None)
        value = json.dumps({"id": "clock", "value": {"wall": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                                                     "doubt": None, "even_seconds": 0}})
        with sqlite3.connect(self.data / "catalog.db", timeout=30) as catalog:
            changed = catalog.execute(
                "INSERT INTO settings (id, version, doc) VALUES ('clock', 1, ?) "
                "ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, version = version + 1", (value,))
            check(changed.rowcount == 1)
        catalog.close()

    def memory_mib(self, field="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

    def stays_small(self):
        """What the service may need of memory, whatever is asked of it."""
        peak = self.memory_mib("VmHWM")
        say(f"memory {self.memory_mib():.0f} MiB, at most {peak:.0f}")
        check(peak < MEMORY_MAX_MIB, "memory:", peak, "MiB")

    def panics(self):
        text = self.log.read_text(errors="replace")
        return [line for line in text.splitlines() if "panicked" in line or "this is a bug" in line]


class Vault:
    """A vault by its path, and what is in it."""

    def __init__(self, service, group, name):
        self.service, self.group, self.name = service, group, name
        self.path = (f"/subscriptions/{service.subscription}/resourceGroups/{group}"
                     f"/providers/Microsoft.RecoveryServices/vaults/{name}")

    def create(self, soft_delete=False):
        state = "Enabled" if soft_delete else "Disabled"
        settings = {"securitySettings": {"softDeleteSettings": {"softDeleteState": state}},
                    "publicNetworkAccess": "Enabled"}
        self.service.call("PUT", self.path, {"location": "local", "sku": {"name": "Standard"}, "properties": settings})
        wait_until("the vault is there",
                   lambda: self.service.get(self.path)["properties"].get("provisioningState") == "Succeeded")
        return self

    def machine(self, name):
        return (f"/subscriptions/{self.service.subscription}/resourceGroups/{self.group}"
                f"/providers/Microsoft.Compute/virtualMachines/{name}")

    def item(self, machine):
        key = f"iaasvmcontainerv2;{self.group};{machine}"
        return f"{self.path}/backupFabrics/Azure/protectionContainers/IaasVMContainer;{key}/protectedItems/VM;{key}"

    def protect(self, machine, policy="DefaultPolicy", **more):
        properties = {"protectedItemType": "Microsoft.Compute/virtualMachines",
                      "sourceResourceId": self.machine(machine), "policyId": f"{self.path}/backupPolicies/{policy}"}
        return self.service.request("PUT", self.item(machine), {"properties": properties}, **more)

    def backup(self, machine, keep_seconds=86400, **more):
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + keep_seconds))
        body = {"properties": {"objectType": "IaasVMBackupRequest", "recoveryPointExpiryTimeInUTC": until}}
        return self.service.request("POST", self.item(machine) + "/backup", body, **more)

    def restore_disks(self, machine, point, account, **more):
        body = {"properties": {
            "objectType": "IaasVMRestoreRequest", "recoveryPointId": point, "recoveryType": "RestoreDisks",
            "sourceResourceId": self.machine(machine), "region": "local",
            "storageAccountId": (f"/subscriptions/{self.service.subscription}/resourceGroups/{self.group}"
                                 f"/providers/Microsoft.Storage/storageAccounts/{account}")}}
        return self.service.request("POST", f"{self.item(machine)}/recoveryPoints/{point}/restore", body, **more)

    def points(self, machine):
        return self.service.list(self.item(machine) + "/recoveryPoints")

    def jobs(self):
        return self.service.list(self.path + "/backupJobs")

    def settle(self, seconds=90):
        """Waits until no job is open; all jobs."""
        def over():
            jobs = self.jobs()
            open_ones = [j for j in jobs if j["properties"]["status"] in ("InProgress", "Cancelling")]
            return None if open_ones else jobs or True

        found = wait_until("every job comes to an end", over, seconds)
        return [] if found is True else found


def operations(document):
    """Every operation of an OpenAPI document: method, path template, what is said of it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "head", "put", "post", "patch", "delete"):
                yield method.upper(), path, operation


def sample(schema, schemas):
    """A body that a schema allows."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: sample(inner, schemas) for name, inner in schema.get("properties", {}).items()}
    return {"string": "local", "integer": schema.get("minimum", 1), "boolean": True, "array": []}.get(kind)


def wanted_action(answer):
    """The action that a refusal names."""
    return answer.body["error"]["message"].split("perform action '", 1)[-1].split("'", 1)[0]


def run(*command, check_it=True, timeout=120):
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=timeout)
    if check_it:
        check(done.returncode == 0, command, done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


class Machines:
    """Machines without a system inside, and a directory that QEMU may enter. Removed with the program's end."""

    def __init__(self, what):
        run(ROOT / "tests/lib/libvirt-up", "--for", str(os.getpid()))
        base = "/dev/shm" if Path("/dev/shm").is_dir() else "/var/tmp"
        self.directory = Path(tempfile.mkdtemp(prefix="srtest-", dir=base))
        self.directory.chmod(0o711)
        self.prefix = f"srtest-{what}-{os.getpid()}"
        self.names = []
        atexit.register(self.remove)

    def virsh(self, *arguments, **more):
        return run("virsh", "-q", "-c", "qemu:///system", *arguments, **more)

    def define(self, name, disk_format="qcow2", size="64M", noise_mib=0, seed=0):
        """Returns the machine's name and its disk."""
        name = f"{self.prefix}-{name}"
        disk = self.directory / f"{name}.{disk_format}"
        run("qemu-img", "create", "-q", "-f", disk_format, disk, size)
        if noise_mib:
            raw = self.directory / f"{name}.noise"
            raw.write_bytes(random.Random(seed).randbytes(noise_mib << 20))
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", disk_format, raw, disk)
            raw.unlink()
        self.define_with(name, disk, disk_format)
        return name, disk

    def define_with(self, name, disk, disk_format):
        xml = self.directory / f"{name}.xml"
        xml.write_text(f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
            <devices><disk type='file' device='disk'><driver name='qemu' type='{disk_format}' discard='unmap'/>
            <source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>""")
        self.virsh("define", xml)
        self.names.append(name)
        xml.unlink()

    def start(self, name):
        self.virsh("start", name)

    def remove(self):
        names, self.names = self.names, []
        for name in names:
            self.virsh("destroy", name, check_it=False)
            self.virsh("undefine", name, "--checkpoints-metadata", check_it=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def binary():
    """The program under test: the first argument, or $STRONGROOM_BINARY."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("STRONGROOM_BINARY")
    check(chosen and os.access(chosen, os.X_OK), "say which program to test: as the first argument")
    return chosen


def workspace(what):
    """A directory that goes away at the end, unless something failed."""
    directory = Path(tempfile.mkdtemp(prefix=f"srtest-{what}-", dir="/var/tmp"))
    # QEMU's own user must get through to what is restored here.
    directory.chmod(0o711)
    return directory


def main(body, what):
    """Runs a test; a failure says what, and where the service's log is kept."""
    directory = workspace(what)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        body(directory)
    except Failure as failure:
        print(f"FAILED: {failure}", flush=True)
        print(f"the service's data and log are kept in {directory}", flush=True)
        sys.exit(1)
    shutil.rmtree(directory, ignore_errors=True)
    say(f"{what}: all is well")
