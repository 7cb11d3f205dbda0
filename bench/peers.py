"""The peers: what each of them is asked to do, on the same image. All from the distribution's packages."""

import os
import shutil
from pathlib import Path

from measure import measure, stored_bytes, version

PACKAGES = ["restic", "borgbackup", "qemu-utils", "zstd", "e2fsprogs", "time"]


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


class Zstd:
    """Not a backup program: how fast the bytes can be compressed at all."""
    name = "zstd"

    def __init__(self, bench):
        self.bench = bench
        self.version = version(["zstd", "--version"])
        self.out = bench.out / "zstd"

    def compress(self, source, threads):
        fresh(self.out)
        figures, _ = measure(["zstd", "-q", "-1", f"-T{threads}", source, "-o", self.out / "x.zst"],
                             sync_directory=self.out)
        figures["stored_bytes"] = stored_bytes(self.out)
        return figures

    def run(self, record):
        record("full", self.compress(self.bench.allocated, 2))
        # One thread and two, with and without waiting for the disk: see sync_s.
        record("changed", self.compress(self.bench.changed_bytes, 1))
        record("changed_2_threads", self.compress(self.bench.changed_bytes, 2))
        shutil.rmtree(self.out)


class QemuImg:
    """A copy that knows holes: the yardstick of restores."""
    name = "qemu-img"

    def __init__(self, bench):
        self.bench = bench
        self.version = version(["qemu-img", "--version"])
        self.out = bench.out / "qemu-img"

    def run(self, record):
        fresh(self.out)
        plain, packed = self.out / "plain.raw", self.out / "packed.qcow2"
        figures, _ = measure(["qemu-img", "convert", "-f", "raw", "-O", "raw", self.bench.image, plain],
                             sync_directory=self.out)
        figures["stored_bytes"] = stored_bytes(plain)
        record("restore", figures)
        plain.unlink()
        figures, _ = measure(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd",
                              self.bench.image, packed], sync_directory=self.out)
        figures["stored_bytes"] = stored_bytes(packed)
        record("full", figures)
        shutil.rmtree(self.out)


class Program:
    """A backup program: full, 1 % changed, unchanged, restore."""

    def __init__(self, bench):
        self.bench = bench
        self.out = bench.out / self.name
        self.repository = self.out / "repository"

    def run(self, record):
        fresh(self.out)
        self.init()
        self.bench.show(self.bench.image)
        figures, _ = measure(self.backup("full"), env=self.env, sync_directory=self.out)
        size = figures["stored_bytes"] = stored_bytes(self.repository)
        record("full", figures)
        self.bench.show(self.bench.changed)
        figures, _ = measure(self.backup("changed"), env=self.env, sync_directory=self.out)
        figures["stored_bytes"] = stored_bytes(self.repository) - size
        record("changed", figures)
        figures, _ = measure(self.backup("unchanged"), env=self.env, sync_directory=self.out)
        record("unchanged", figures)
        target = fresh(self.out / "restored")
        figures, _ = measure(self.restore(target), env=self.env, cwd=target, sync_directory=self.out)
        record("restore", figures)
        found = next(p for p in target.rglob("disk.raw"))
        self.bench.compare(self.name, found, self.bench.changed)
        shutil.rmtree(self.out)


class Restic(Program):
    name = "restic"

    def __init__(self, bench):
        super().__init__(bench)
        self.version = version(["restic", "version"])
        self.env = {**os.environ, "RESTIC_PASSWORD": "benchmark", "RESTIC_REPOSITORY": str(self.repository),
                    "RESTIC_CACHE_DIR": str(self.out / "cache")}

    def init(self):
        measure(["restic", "init"], env=self.env)

    def backup(self, _):
        return ["restic", "backup", "--quiet", "--force", self.bench.disk]

    def restore(self, target):
        return ["restic", "restore", "--quiet", "latest", "--target", target]


class Borg(Program):
    name = "borg"

    def __init__(self, bench):
        super().__init__(bench)
        self.version = version(["borg", "--version"])
        self.env = {**os.environ, "BORG_PASSPHRASE": "benchmark", "BORG_BASE_DIR": str(self.out / "base"),
                    "BORG_REPO": str(self.repository)}

    def init(self):
        measure(["borg", "init", "-e", "repokey-blake2"], env=self.env)

    def backup(self, what):
        return ["borg", "create", "--compression", "lz4", "--chunker-params", "fixed,4194304", "--sparse",
                "--files-cache", "disabled", f"::{what}", self.bench.disk]

    def restore(self, _):
        return ["borg", "extract", "--sparse", "::unchanged"]


ALL = [Zstd, QemuImg, Restic, Borg]
