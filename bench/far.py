#!/usr/bin/python3
"""A vault that is far away: an S3 server behind a line with a latency and a rate for each connection (no limit for all of
them together), Strongroom and restic over it in turn, and the line by itself: as many bytes as Strongroom stored, by so many
parallel PUTs and GETs.

    bench/far.py [--round-trip-ms 50 150] [--rate 30000000] [--mib 1024] [--rounds 3] [--no-peers] [--release DIRECTORY] [--out FILE]

DIRECTORY has strongroom and examples/{s3_server,far_line,line_rate}; default: they are built. Both servers run on this
machine's processors too. Writes the raw times and the medians as JSON; default: bench/far.json.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from measure import Failed, machine, measure, warm  # noqa: E402
from nbd import read_first  # noqa: E402

KEY, SECRET, BUCKET = "test-access-key", "test-secret-key", "vaults"
CONNECTIONS = 16


def build():
    cargo = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked"]
    for what in (["-p", "strongroom"],
                 ["-p", "strongroom-store", "--features", "test-support", "--examples"]):
        if subprocess.run(cargo + what, cwd=HERE.parent).returncode != 0:
            sys.exit("bench/far.py: it does not build")
    return Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")) / "release"


class Program:
    """One of the servers; the first line that it prints has its address."""

    def __init__(self, *command):
        self.child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.address = re.search(r"[\d.]+:\d+", self.child.stdout.readline())[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()


class Far:
    def __init__(self, options, release, work):
        self.options, self.release, self.work = options, release, work
        self.results = {}

    def env(self, address, home):
        home = self.work / home
        return {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{address}", "AWS_ALLOW_HTTP": "true", "HOME": str(home),
                "XDG_CONFIG_HOME": str(home / "config"), "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_DATA_HOME": str(home / "data"), "XDG_STATE_HOME": str(home / "state")}

    def record(self, who, what, figures):
        self.results.setdefault(who, {}).setdefault(what, []).append(figures)
        print(f"  {who} {what}: {figures}", flush=True)

    def line(self, address, mib):
        measured = subprocess.run([self.release / "examples/line_rate", f"s3://{BUCKET}/line", str(mib), str(CONNECTIONS)], env=self.env(address, "line"), stdout=subprocess.PIPE, check=True)
        self.record("line", "both", json.loads(measured.stdout))

    def strongroom(self, address, image, round_):
        env = self.env(address, f"home{round_}")
        vault = f"s3://{BUCKET}/strongroom{round_}"
        run = lambda *arguments: measure([self.release / "strongroom", *arguments, "--json"], env=env)
        backup = lambda *more: run("image", "backup", image, "--vault", vault, "--item", "disk", *more)[0]
        run("rescue", "vault", "init", vault)
        self.record("strongroom", "full", backup())
        target = self.work / "restored.raw"
        restore = lambda: run("image", "restore", "disk@latest", "--vault", vault, "--to", target, "--format", "raw")[0]
        self.record("strongroom", "restore", restore())
        if subprocess.run(["cmp", target, image]).returncode != 0:
            sys.exit("strongroom restored something else")
        target.unlink()
        none = self.work / "none.json"
        none.write_text("[]\n")
        for _ in range(3):
            self.record("strongroom", "no_change", backup("--changed-extents", none))
        for _ in range(3):
            self.record("strongroom", "first_mib", self.first_mib(env, vault, image))

    def first_mib(self, env, vault, image):
        socket = self.work / "nbd.sock"
        socket.unlink(missing_ok=True)
        begun = time.monotonic()
        server = subprocess.Popen([self.release / "strongroom", "rescue", "point", "serve", "disk@latest", "--vault", vault,
                                   "--socket", socket], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            data = read_first(socket, 1 << 20)
            took = time.monotonic() - begun
        finally:
            server.terminate()
            server.wait()
        with open(image, "rb") as source:
            if source.read(1 << 20) != data:
                sys.exit("the first MiB over NBD differs from the source")
        return {"wall_s": round(took, 3)}

    def restic(self, address, image, round_):
        env = {**self.env(address, "restic"), "RESTIC_PASSWORD": "benchmark", "AWS_DEFAULT_REGION": "us-east-1",
               "RESTIC_REPOSITORY": f"s3:http://{address}/{BUCKET}/restic{round_}",
               "RESTIC_CACHE_DIR": str(self.work / f"restic{round_}")}
        measure(["restic", "init"], env=env)
        self.record("restic", "full", measure(["restic", "backup", "--quiet", "--force", image], env=env)[0])
        target = self.work / "restic-restored"
        figures, _ = measure(["restic", "restore", "--quiet", "latest", "--target", target], env=env)
        self.record("restic", "restore", figures)
        shutil.rmtree(target)

    def run(self):
        options = self.options
        image = self.work / "image.raw"
        real = str(options.mib * 6 // 10)
        subprocess.run([HERE / "make-image", image, "--size-mib", str(options.mib + 512), "--real-mib", real, "--random-mib",
                        str(options.mib * 4 // 10)], check=True)
        for round_ in range(options.rounds):
            root = self.work / f"server{round_}"
            (root / BUCKET).mkdir(parents=True)
            with Program(self.release / "examples/s3_server", root, 0) as server, \
                    Program(self.release / "examples/far_line", server.address, options.round_trip_ms, options.rate) as line:
                warm(image)
                self.strongroom(line.address, image, round_)
                stored = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
                self.line(line.address, stored >> 20)
                warm(image)
                if not options.no_peers:
                    self.restic(line.address, image, round_)
            shutil.rmtree(root)


def median(runs, key):
    return round(statistics.median(run[key] for run in runs), 3)


def measure_line(options, release, round_trip_ms):
    """All rounds over one line."""
    work = HERE / "work" / "far"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    print(f"a round trip of {round_trip_ms:g} ms, {options.rate} bytes a second and connection", flush=True)
    far = Far(argparse.Namespace(**{**vars(options), "round_trip_ms": round_trip_ms}), release, work)
    try:
        far.run()
    except Failed as failure:
        sys.exit(f"bench/far.py: {failure}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    medians = {who: {what: median(runs, "wall_s") for what, runs in measured.items()}
               for who, measured in far.results.items() if who != "line"}
    medians["line"] = {key: median(far.results["line"]["both"], key) for key in ("put_s", "get_s")}
    ours, line = medians["strongroom"], medians["line"]
    for what, alone in (("full", line["put_s"]), ("restore", line["get_s"])):
        peers = "".join(f", {ours[what] / peer[what]:.2f} x {who}" for who, peer in medians.items() if who == "restic")
        print(f"  {what}: {ours[what]} s{peers}, {ours[what] / alone:.2f} x the line", flush=True)
    return {"round_trip_ms": round_trip_ms, "rate": options.rate, "mib": options.mib, "raw": far.results,
            "medians": medians}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip-ms", type=float, nargs="+", default=[50, 150])
    parser.add_argument("--rate", type=int, default=30_000_000)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--release", default="")
    parser.add_argument("--out", type=Path, default=HERE / "far.json")
    options = parser.parse_args()
    release = Path(options.release).absolute() if options.release else build()
    lines = [measure_line(options, release, round_trip) for round_trip in options.round_trip_ms]
    options.out.write_text(json.dumps({"machine": machine(HERE), "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
