#!/usr/bin/env python3
"""A thousand machines (in `make test`: 150): discovered, protected in one vault, listed; twenty backups at once; how much memory it takes.

    load.py STRONGROOM [MACHINES]

The machines are defined and shut off, each with a disk of its own of a few KiB. Figures are printed; only what does not
depend on the computer's speed is asserted, and the service's memory, which is bounded.
"""

import concurrent.futures
import statistics
import sys
import time
import urllib.parse
import xml.sax.saxutils

from lab import Machines, Service, Vault, binary, check, local_host, main, number, run, say, wait_until

GROUP = "srtest"
BACKUPS, AT_ONCE = 20, 3


def define_all(machines, count):
    """In one virsh, which a process for each would take minutes for."""
    script = machines.directory / "define.virsh"
    lines = []
    for n in range(count):
        name = f"{machines.prefix}-{n:04}"
        disk = machines.directory / f"{name}.raw"
        disk.write_bytes(n.to_bytes(4, "big") * 1024)
        xml = machines.directory / f"{name}.xml"
        xml.write_text(f"""<domain type='qemu'><name>{xml_text(name)}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>
            <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>""")
        lines.append(f"define {xml}")
        machines.names.append(name)
    script.write_text("\n".join(lines) + "\n")
    batch(machines, script)


def xml_text(name):
    return xml.sax.saxutils.escape(name)


def batch(machines, script):
    run("sh", "-c", f"virsh -q -c qemu:///system < {script}", timeout=600)


def undefine_all(machines):
    script = machines.directory / "undefine.virsh"
    script.write_text("".join(f"undefine {name} --checkpoints-metadata\n" for name in machines.names))
    batch(machines, script)
    machines.names = []


def timed(what, times, call):
    spent = []
    for _ in range(times):
        began = time.monotonic()
        found = call()
        spent.append(time.monotonic() - began)
    spent.sort()
    say(f"{what}: p50 {1000 * statistics.median(spent):.1f} ms, most {1000 * spent[-1]:.1f} ms of {times}")
    return found


def refreshes(service, vault):
    """Looking at all machines now is an operation: accepted at once, followed to its end, and one for all that ask."""
    path = f"{vault.path}/backupFabrics/Azure/refreshContainers"

    def ask(_=None):
        began = time.monotonic()
        answer = service.call("POST", path, expect=(202,))
        accepted = time.monotonic() - began
        polls = 0
        while True:
            parts = urllib.parse.urlsplit(answer.headers["location"])
            state = service.call("GET", f"{parts.path}?{parts.query}", version=None, expect=(202, 204))
            if state.status == 204:
                return accepted, time.monotonic() - began, polls
            check(state.headers["location"], "a poll without a location")
            polls += 1
            time.sleep(0.05)

    accepted, one, polls = ask()
    say(f"a refresh: accepted in {1000 * accepted:.0f} ms, over in {one:.2f} s ({polls} polls)")
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        many = list(pool.map(ask, range(8)))
    spent = time.monotonic() - began
    say(f"eight at once: accepted in {1000 * max(m[0] for m in many):.0f} ms, over in {spent:.2f} s")
    # The one that goes on and the next, not eight.
    check(spent < 4 * one + 2, "eight refreshes took", spent, "s, one", one, "s")


def pages(service, vault):
    """What comes and goes while a list is read, page by page, shifts nothing else into or out of sight."""
    names = lambda page: [i["properties"]["friendlyName"] for i in page["value"]]
    whole = sorted(i["properties"]["friendlyName"] for i in service.list(f"{vault.path}/backupProtectedItems"))
    page = service.get(f"{vault.path}/backupProtectedItems?$top=100")
    seen = names(page)
    gone = seen[:3] + [whole[-1]]
    for name in gone:
        service.call("DELETE", vault.item(name))
    # The link outlives the service.
    service.stop()
    service.start()
    while page.get("nextLink"):
        parts = urllib.parse.urlsplit(page["nextLink"])
        page = service.get(f"{parts.path}?{parts.query}", version=None)
        seen += names(page)
    check(seen == [name for name in whole if name != whole[-1]], "pages:", len(seen), "of", len(whole))
    for name in gone:
        wait_until("the deleted item goes", lambda: vault.protect(name).status in (200, 202), 10, 0.2)


def body(directory):
    count = int(sys.argv[2]) if len(sys.argv) > 2 else number(150, 1000)
    machines = Machines("load")
    try:
        began = time.monotonic()
        define_all(machines, count)
        say(f"{count} machines defined in {time.monotonic() - began:.1f} s")
        service = Service(binary(), directory / "data", f"""
{local_host(GROUP)}
[limits]
jobs = {AT_ONCE + 1}
jobs_per_host = {AT_ONCE}
jobs_per_vault = {BACKUPS}
""").start()
        began = time.monotonic()
        own = lambda: [m["name"] for m in service.list(
            f"/subscriptions/{service.subscription}/resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines")
            if m["name"].startswith(machines.prefix)]
        wait_until("all machines are discovered", lambda: len(own()) == count, 300, 0.5)
        say(f"discovered in {time.monotonic() - began:.1f} s, memory {service.memory_mib():.0f} MiB")

        vault = Vault(service, GROUP, "loaded").create()
        refreshes(service, vault)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            def protect(name):
                # A server that is asked by so many at once may say that it is busy.
                for _ in range(50):
                    answer = vault.protect(name)
                    if answer.status != 503:
                        return answer
                    time.sleep(0.2)
                return answer

            answers = list(pool.map(protect, machines.names))
        refused = [a for a in answers if a.status not in (200, 202)]
        check(not refused, len(refused), "were refused:", refused[:3])
        say(f"protected in {time.monotonic() - began:.1f} s, memory {service.memory_mib():.0f} MiB")

        # One of each: an item, and a job that configured it.
        items = service.list(f"{vault.path}/backupProtectedItems")
        check(sorted(i["properties"]["friendlyName"] for i in items) == sorted(machines.names), len(items))
        check(all(i["properties"]["protectionState"] == "IRPending" for i in items))
        check(len(vault.jobs()) == count, len(vault.jobs()))
        filtered = "?$filter=backupManagementType%20eq%20'AzureIaasVM'%20and%20itemType%20eq%20'VM'"
        timed(f"items of the vault, all {count}", 15, lambda: service.list(f"{vault.path}/backupProtectedItems{filtered}"))
        timed("items of the vault, the first page", 25, lambda: service.get(f"{vault.path}/backupProtectedItems"))
        timed("jobs, the first page", 25, lambda: service.get(f"{vault.path}/backupJobs"))
        timed("virtual machines, all", 10, own)
        left = timed("protectable items", 10, lambda: service.list(f"{vault.path}/backupProtectableItems"))
        check(not [i for i in left if i["properties"]["friendlyName"] in set(machines.names)], len(left))

        pages(service, vault)
        chosen = machines.names[:: max(1, count // BACKUPS)][:BACKUPS]
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(BACKUPS) as pool:
            answers = list(pool.map(vault.backup, chosen))
        check(all(a.status == 202 for a in answers), [a for a in answers if a.status != 202][:3])
        # A second one beside the first is refused, or the first was over already.
        most, samples = 0, 0
        while True:
            rows = [j for j in service.rows("jobs") if j["operation"] == "backup" or j["operation"] == "Backup"]
            check(len(rows) == BACKUPS, len(rows), {j["operation"] for j in rows})
            running = [j for j in rows if j["lease"] is not None]
            most, samples = max(most, len(running)), samples + 1
            if all(j["ended_at"] for j in rows):
                break
            check(time.monotonic() - began < 300, "backups take too long")
            time.sleep(0.02)
        check(0 < most <= AT_ONCE, most, "ran at once, and the limit is", AT_ONCE)
        jobs = [j["properties"] for j in vault.jobs() if j["properties"]["operation"] == "Backup"]
        failed = [j for j in jobs if j["status"] not in ("Completed", "CompletedWithWarnings")]
        check(not failed, failed[:3])
        for name in chosen:
            check(len(vault.points(name)) == 1, name)
        say(f"{BACKUPS} backups in {time.monotonic() - began:.1f} s, at most {most} at once ({samples} looks)")
        service.stays_small()

        service.stop()
        began = time.monotonic()
        service.start()
        say(f"ready {time.monotonic() - began:.2f} s after the start with that catalog")
        check(len(service.list(f"{vault.path}/backupProtectedItems")) == count)
        service.stop()
        check(not service.panics(), service.panics())
    finally:
        undefine_all(machines)


main(body, "load")
