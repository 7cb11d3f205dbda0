"""A machine's disk of 100 GiB, sparse, is replaced by its snapshot's, on storage that clones files.

What is there is kept first, as a point of its own; both are clones, whatever the size. The time is the whole command's, from
its start to the job's end. Each time 1 GiB in pieces has changed since the point, and what the disk holds afterwards is compared.
"""

import os
import shutil
import time
from pathlib import Path

from instant import Office, remove, virsh, wait_until
from machine import CloningFileSystem, run
from peers import fresh

NAME = "bench-replaced"
SIZE_GIB, PIECES, PIECE_MIB = 100, 64, 16


def pieces(verb, pattern, disk, *options):
    """Writes or reads a piece in every part of the disk. Fails if what is read is not the pattern."""
    step = (SIZE_GIB << 10) // PIECES
    commands = [part for n in range(PIECES) for part in ("-c", f"{verb} -q -P {pattern} {n * step}M {PIECE_MIB}M")]
    return run("qemu-io", *options, "-f", "qcow2", *commands, disk)


def run_all(bench, us, recorder, rounds):
    run(bench.here.parent / "tests" / "lib" / "libvirt-up", "--for", os.getpid())
    directory = fresh(us.out)
    for path in (bench.out, directory):
        path.chmod(0o711)
    remove(NAME)
    record = recorder(us.name)
    try:
        with CloningFileSystem(directory, f"{3 + (rounds + 2) * PIECES * PIECE_MIB // 1024 + 1}G") as mount:
            mount.chmod(0o711)
            disk = mount / "large.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", disk, f"{SIZE_GIB}G")
            pieces("write", 1, disk)
            definition = directory / "machine.xml"
            definition.write_text(f"""<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
                <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file' device='disk'>
                <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
                </devices></domain>""")
            virsh("define", definition)
            with Office(us.binary, directory, mount / "place") as office:
                (mount / "place").mkdir()
                office.command("vault", "create", "main")
                office.command("vm", "list", "--refresh")
                office.command("vm", "protect", NAME)
                office.command("vm", "backup", NAME)
                point = office.command("point", "list", NAME)["points"][0]["point"]
                for n in range(rounds):
                    # What was there before is on its way to the vault.
                    wait_until("no job runs", lambda: not office.command("job", "list", "--status", "in-progress")["jobs"])
                    pieces("write", 2 + n, disk)
                    began = time.monotonic()
                    office.command("vm", "restore", NAME, "--point", point, "--replace")
                    record("replaced_by_snapshot", {"wall_s": round(time.monotonic() - began, 2), "cpu_s": 0.0, "peak_mib": 0.0})
                    # It is the point's again.
                    pieces("read", 1, disk, "-r")
            remove(NAME)
    finally:
        remove(NAME)
        shutil.rmtree(directory, ignore_errors=True)
