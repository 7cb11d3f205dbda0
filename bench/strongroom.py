"""Strongroom itself: the same as the peers, and what only it promises."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

from measure import measure, settle, stored_bytes, version, warm
from nbd import read_first
from peers import fresh

MIB = 1 << 20
GIB = 1 << 30
# What takes milliseconds is measured more often.
SHORT_REPEATS = 5


class Strongroom:
    name = "strongroom"

    def __init__(self, bench, binary):
        self.bench = bench
        self.binary = binary
        self.version = version([binary, "--version"])
        self.out = bench.out / self.name
        self.vault = self.out / "vault"
        self.env = self.environment("home")

    def environment(self, home):
        """Keys, caches and settings of its own, empty at first."""
        home = self.out / home
        return {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"),
                "XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data"),
                "XDG_STATE_HOME": str(home / "state")}

    def measured(self, *arguments):
        """Runs a command; returns its figures and its JSON answer."""
        return measure([self.binary, *arguments, "--json"], env=self.env, sync_directory=self.out)

    def backup(self, file, vault, item, extents=None):
        arguments = ["image", "backup", file, "--vault", vault, "--item", item]
        if extents is not None:
            arguments += ["--changed-extents", extents]
        before = stored_bytes(vault)
        figures, _ = self.measured(*arguments)
        figures["stored_bytes"] = stored_bytes(vault) - before
        return figures

    def init(self, vault):
        self.measured("rescue", "vault", "init", vault)

    def restore(self, vault, point, target, *options):
        figures, _ = self.measured("image", "restore", point, "--vault", vault, "--to", target, "--format", "raw", *options)
        figures["stored_bytes"] = stored_bytes(target)
        return figures

    def run(self, record):
        fresh(self.out)
        self.init(self.vault)
        bench = self.bench
        record("full", self.backup(bench.image, self.vault, "disk"))
        restored = self.out / "restored.raw"
        record("restore", self.restore(self.vault, "disk@latest", restored))
        bench.compare(self.name, restored, bench.image)
        restored.unlink()
        record("restore_no_sync", self.restore(self.vault, "disk@latest", restored, "--no-sync"))
        restored.unlink()
        record("unchanged", self.backup(bench.image, self.vault, "disk"))
        record("changed", self.backup(bench.changed, self.vault, "disk", bench.extents))
        for _ in range(SHORT_REPEATS):
            record("first_mib_nbd", self.first_mib(self.env))
        record("first_mib_nbd_no_cache", self.first_mib(self.environment("empty")))
        record("restore_changed", self.restore(self.vault, "disk@latest", restored))
        bench.compare(self.name, restored, bench.changed)
        shutil.rmtree(self.out)

    def first_mib(self, env):
        """Seconds from starting the server to having the first MiB of a point, as a client sees it."""
        if env is not self.env:
            # Only the key moves along.
            shutil.copytree(self.out / "home" / "config", self.out / "empty" / "config", dirs_exist_ok=True)
        socket = self.out / "nbd.sock"
        socket.unlink(missing_ok=True)
        settle(self.out)
        start = time.monotonic()
        server = subprocess.Popen([self.binary, "rescue", "point", "serve", "disk@latest", "--vault", self.vault, "--socket",
                                   socket], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            data = read_first(socket, MIB)
            wall = time.monotonic() - start
        finally:
            server.send_signal(signal.SIGTERM)
            _, _, usage = os.wait4(server.pid, 0)
            server.returncode = 0
        with open(self.bench.changed, "rb") as f:
            if f.read(MIB) != data:
                raise SystemExit("the first MiB over NBD differs from the source")
        return {"wall_s": round(wall, 3), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
                "peak_mib": round(usage.ru_maxrss / 1024, 1)}

    def sparse(self, record):
        """Disks of holes with a little data: full, then without a change, extents given (none)."""
        fresh(self.out)
        self.init(self.vault)
        extents = self.out / "none.json"
        extents.write_text("[]\n")
        for tib in (1, 10):
            disk = self.out / f"sparse-{tib}.raw"
            source = random.Random(tib)
            with open(disk, "wb") as f:
                f.truncate(tib << 40)
                for _ in range(64):
                    f.seek(source.randrange((tib << 40) // MIB) * MIB)
                    f.write(source.randbytes(MIB))
            item = f"sparse-{tib}"
            record(f"sparse_{tib}tib_full", self.backup(disk, self.vault, item))
            for _ in range(SHORT_REPEATS):
                record(f"sparse_{tib}tib_no_change", self.backup(disk, self.vault, item, extents))
            disk.unlink()
        shutil.rmtree(self.out)

    def reclaim(self, record, logical_gib, change_mib=64, points=10):
        """Ten points of a disk, the same places rewritten between each; then points are forgotten.

        Each point but the first and last so holds `change_mib` that no other has.
        """
        fresh(self.out)
        self.init(self.vault)
        disk = self.out / "disk.raw"
        size = logical_gib * GIB // points
        source = random.Random(logical_gib)
        with open(disk, "wb") as f:
            for _ in range(size // (4 * MIB)):
                f.write(source.randbytes(4 * MIB))
        warm(disk)
        extents = self.out / "extents.json"
        for n in range(points):
            given = None
            if n > 0:
                subprocess.run([self.bench.here / "change", disk, extents, "--mib", str(change_mib), "--seed", "1",
                                "--data-seed", str(1000 + n)], check=True)
                given = extents
            self.backup(disk, self.vault, "disk", given)
        _, text = self.measured("rescue", "point", "list", "--vault", self.vault, "--item", "disk")
        ids = [point["point"] for point in json.loads(text)["points"]]
        if len(ids) != points:
            raise SystemExit(f"{points} points were made, {len(ids)} are listed:\n{text}")
        for what, forget in (("one", ids[4:5]), ("three", ids[5:8])):
            for point in forget:
                self.measured("rescue", "point", "forget", point, "--vault", self.vault)
            before = stored_bytes(self.vault)
            figures, _ = self.measured("rescue", "vault", "reclaim", self.vault)
            figures["freed_bytes"] = before - stored_bytes(self.vault)
            record(f"reclaim_{what}_of_ten_{logical_gib}gib", figures)
        self.measured("rescue", "vault", "check", self.vault)
        shutil.rmtree(self.out)
