#!/usr/bin/python3
"""The service with 1,000 items and 100,000 jobs: how long its answers take, how long it takes to start, what it needs idle.

    bench/service.py [--strongroom BINARY] [--items N] [--jobs N] [--requests N] [--idle SECONDS] [--backups N]

The rows are written into a catalog that the service made itself (one vault through its API), as copies of what it
writes. Requests go over its Unix socket, one after the other: what is measured is the server. Then, with a real
(emulated, running) machine, how long it takes from "backup now" being accepted to the instant of the machine that the
point is of, everything included: the job's beginning, the vault's session, the machine's snapshot (root and libvirt are
needed; --no-machine leaves it out). Prints a table, and with which build; with --json one JSON document.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/service"))
CONFIG = "hosts = []\n"


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Service:
    def __init__(self, binary, data):
        self.binary, self.data = binary, data
        self.config = data.parent / "strongroom.toml"
        self.config.write_text(CONFIG)

    def start(self):
        """Returns the seconds until the first answer."""
        began = time.monotonic()
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data", self.data, "--listen", "127.0.0.1:0", "--config", self.config, "-q"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                self.subscription = self.call("GET", "/subscriptions?api-version=1")[1]["value"][0]["subscriptionId"]
                return time.monotonic() - began
            except OSError:
                if self.process.poll() is not None:
                    sys.exit("bench/service: the service did not start")
                time.sleep(0.005)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def call(self, method, path, body=None, connection=None):
        status, text = self.ask(method, path, body, connection)
        return status, json.loads(text) if text else None

    def ask(self, method, path, body=None, connection=None):
        """The answer as it comes: what a client does with it is not the server's time."""
        own = connection is None
        connection = connection or Connection(self.data / "strongroom.sock")
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if own:
            connection.close()
        if answer.status >= 400:
            sys.exit(f"bench/service: {method} {path}: {answer.status} {text[:500]!r}")
        return answer.status, text

    def usage(self):
        """CPU seconds and resident MiB."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = os.sysconf("SC_CLK_TCK")
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return (int(fields[11]) + int(fields[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def stamp(at):
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def fill(data, vault, policy, items, jobs):
    """Rows as the service writes them."""
    randomness = random.Random(1)
    guid = lambda: str(uuid.UUID(int=randomness.getrandbits(128), version=4))
    now = datetime.now(timezone.utc)
    db = sqlite3.connect(data / "catalog.db")
    known = []
    for n in range(items):
        name, item, machine, host_uuid = f"machine{n:04}", guid(), guid(), guid()
        known.append((name, item))
        db.execute("INSERT INTO machines VALUES (?,1,?,?,?,?,?,0)", (machine, json.dumps({
            "id": machine, "host": "local", "host_uuid": host_uuid, "name": name, "group": "bench",
            "location": "local", "power": "running", "os": "Linux", "discovered_at": stamp(now),
            "disks": [{"lun": -1, "target": "vda", "size_bytes": 10 << 30, "format": "qcow2"}],
            "vcpus": 2, "memory_mib": 2048}), "local", host_uuid, "bench", name))
        db.execute("INSERT INTO items VALUES (?,1,?,?,?,?,?,?)", (item, json.dumps({
            "id": item, "vault": vault, "datasource": "machine", "machine": machine, "machine_uuid": host_uuid, "group": "bench",
            "machine_name": name, "store_item": name, "state": "protected", "policy": policy,
            "protected_at": stamp(now), "considered_until": stamp(now), "last_point_at": stamp(now),
            "last_backup": {"job": guid(), "started_at": stamp(now), "status": "completed"},
            "data_id": str(10 ** 14 + n)}), vault, machine, policy, "Protected",
            f"vm;iaasvmcontainerv2;bench;{name}"))
    middle = None
    for n in range(jobs):
        name, item = known[n % items]
        job, at = guid(), now - timedelta(seconds=60 * n)
        failed = n % 50 == 0
        if n == jobs // 2:
            middle = job
        document = {
            "id": job, "vault": vault, "item": item, "datasource": "machine", "operation": "backup", "kind": "backup",
            "status": "failed" if failed else "completed", "started_at": stamp(at),
            "ended_at": stamp(at + timedelta(seconds=40)), "entity": name,
            "container": f"iaasvmcontainerv2;bench;{name}",
            "tasks": [{"id": t, "status": "completed", "started_at": stamp(at), "ended_at": stamp(at)}
                      for t in ("Take Snapshot", "Transfer data to vault", "Validate Backup")],
            "properties": [["machine", name], ["backup_size_mib", "120"]],
            "errors": [{"code": 400330, "name": "UserErrorHostUnavailable", "message": "m", "recommendation": "r"}]
            if failed else [], "request": None, "attempts": 1, "activity_id": guid()}
        db.execute("""INSERT INTO jobs (id, version, doc, vault, item, operation, status, open, started_us, kind, datasource)
                      VALUES (?,1,?,?,?,?,?,0,?,'backup','machine')""", (
            job, json.dumps(document), vault, item, "Backup", "Failed" if failed else "Completed",
            int(at.timestamp() * 1_000_000)))
    db.commit()
    db.close()
    return middle


def snapshots(binary, directory, backups):
    """Seconds from the answer to "backup now" until the point's instant, and of the job's snapshot task, for each."""
    import lab  # Starts libvirt where nothing else does.

    machines = lab.Machines("bench")
    name, _ = machines.define("on", noise_mib=16, seed=1)
    machines.start(name)
    service = lab.Service(binary, directory / "machine", """
[[hosts]]
name = "local"
group = "bench"
location = "local"
""").start()
    vault = lab.Vault(service, "bench", "bench").create()
    lab.check(vault.protect(name).status in (200, 202), "the machine is not protected")
    at = lambda text: datetime.fromisoformat(text.rstrip("Z")[:26] + "+00:00").timestamp()
    taken, tasks = [], []
    try:
        # The first reads all of the disk; what comes after is the usual.
        for n in range(backups + 1):
            accepted = vault.backup(name)
            began = time.time()
            lab.check(accepted.status == 202, accepted)
            vault.settle()
            newest = vault.points(name)[0]["properties"]["recoveryPointTime"]
            job = max((j for j in vault.jobs() if j["properties"]["operation"] == "Backup"),
                      key=lambda j: at(j["properties"]["startTime"]))
            shown = service.get(f"{vault.path}/backupJobs/{job['name']}")["properties"]
            task = next(t for t in shown["extendedInfo"]["tasksList"] if t["taskId"] == "Take Snapshot")
            if n:
                taken.append(at(newest) - began)
                tasks.append(at(task["endTime"]) - at(task["startTime"]))
    finally:
        service.stop()
        machines.remove()
    return taken, tasks


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    parser.add_argument("--strongroom", default=target / "release/strongroom")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--backups", type=int, default=10)
    parser.add_argument("--no-machine", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    binary = Path(options.strongroom).absolute()
    if not os.access(binary, os.X_OK):
        sys.exit(f"bench/service: there is no {binary}: `make build` makes it, or say --strongroom")
    build = "release" if binary.parent.name == "release" else f"{binary.parent.name}, whose figures say little"
    figures = {}
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as directory:
        service = Service(binary, Path(directory) / "data")
        figures["first start"] = service.start()
        base = f"/subscriptions/{service.subscription}/resourceGroups/bench"
        service.call("PUT", f"{base}?api-version=1", {"location": "local"})
        vault = f"{base}/providers/Microsoft.RecoveryServices/vaults/bench"
        service.call("PUT", f"{vault}?api-version=1", {"location": "local"})
        service.stop()
        db = sqlite3.connect(service.data / "catalog.db")
        vault_id = db.execute("SELECT id FROM vaults").fetchone()[0]
        policy = db.execute("SELECT id FROM policies WHERE name_key = 'defaultpolicy'").fetchone()[0]
        db.close()
        job = fill(service.data, vault_id, policy, options.items, options.jobs)
        figures["start with that catalog"] = service.start()
        try:
            connection = Connection(service.data / "strongroom.sock")
            for what, path in [
                ("list items", f"{vault}/backupProtectedItems?api-version=1"),
                ("list jobs (first page)", f"{vault}/backupJobs?api-version=1"),
                ("list failed jobs", f"{vault}/backupJobs?api-version=1&$filter=status%20eq%20%27Failed%27"),
                ("get job", f"{vault}/backupJobs/{job}?api-version=1"),
            ]:
                times, size = [], 0
                for _ in range(options.requests):
                    began = time.monotonic()
                    _, text = service.ask("GET", path, connection=connection)
                    times.append(time.monotonic() - began)
                answer = json.loads(text)
                size = len(answer.get("value", [answer]))
                figures[what] = {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "rows": size}
            before, _ = service.usage()
            time.sleep(options.idle)
            after, resident = service.usage()
            figures["idle"] = {"core": (after - before) / options.idle, "mib": resident}
        finally:
            service.stop()
        if not options.no_machine:
            Path(directory).chmod(0o711)
            taken, tasks = snapshots(binary, Path(directory), options.backups)
            figures["backup now, until the point's instant"] = {
                "p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99), "rows": len(taken)}
            figures["of that, the task of taking the snapshot"] = {
                "p50": percentile(tasks, 0.5), "p99": percentile(tasks, 0.99), "rows": len(tasks)}
    if options.json:
        print(json.dumps({"binary": str(binary), "build": build, "figures": figures}, indent=2))
        return
    print(f"build: {build}\n{options.items} items, {options.jobs} jobs")
    for what, figure in figures.items():
        match figure:
            case {"p50": p50, "p99": p99, "rows": rows}:
                print(f"  {what}: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms ({rows} rows)")
            case {"core": core, "mib": mib}:
                print(f"  idle: {core * 100:.2f} % of a core, {mib:.0f} MiB")
            case seconds:
                print(f"  {what}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
