#!/usr/bin/env python3
"""Every command block of the documents is run as it stands there, in order, or says in the document why it is not.

    blocks.py BINARY            runs them
    blocks.py --list            says what would become of each, and runs nothing

A block is what stands between two lines of ```. It is of commands if its language is a shell's, or if it has none and a line
of it begins with a command that the documents are about. A comment before it exempts it, with the reason:

    <!-- not run: it takes two hosts -->
    <!-- none of this page is run: the program itself prints it -->

What stands for something of the reader's is put in place: see `Place.fill`. Nothing else of a line is changed. `make` is only
asked what it would do, where a block of it is not run.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "service"))
sys.dont_write_bytecode = True

import lab  # noqa: E402
from lab import Failure, check, say, wait_until  # noqa: E402

PAGES = ("README.md", "docs/*.md", "ARCHITECTURE.md", "bench/*.md", "packaging/**/*.md", "fuzz/**/*.md", "crates/*/README.md")
SHELLS = ("sh", "bash", "shell", "console")
COMMANDS = ("strongroom ", "make ", "az ", "virsh ", "cargo ", "eval ", "export ", "curl ", "apt-get ", "systemctl ", "sudo ",
            "qemu-img ", "qemu-nbd ", "nbdcopy ", "scripts/", "tests/", "bench/")
FENCE = re.compile(r"^(\s*)```+\s*(\S*)\s*$")
EXEMPT = re.compile(r"<!-- not run: (.*?) -->")
PAGE_EXEMPT = re.compile(r"<!-- none of this page is run: (.*?) -->")
COMMAND_SECONDS = 120


class Block:
    def __init__(self, page, line, language):
        self.page, self.line, self.language = page, line, language
        self.lines, self.reason = [], None

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def commands(self):
        """What is to be typed, one command an element, continued lines joined."""
        lines = self.lines
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        text = "\n".join(lines).replace("\\\n", " ")
        return [line for line in text.split("\n") if line.strip() and not line.strip().startswith("#")]

    def is_of_commands(self):
        if self.language:
            return self.language in SHELLS
        return any(line.strip().startswith(COMMANDS) for line in self.lines)


def blocks_of(page, text):
    """The blocks of a page. Exemptions that exempt nothing, and fences that do not close, are mistakes."""
    found, block, pending, whole = [], None, None, None
    for number, line in enumerate(text.split("\n"), 1):
        fence = FENCE.match(line)
        if block is not None:
            if fence and not fence[2]:
                found.append(block)
                block = None
            else:
                block.lines.append(line[block.indent:] if line[:block.indent].isspace() else line)
            continue
        if fence:
            block = Block(page, number, fence[2])
            block.indent = len(fence[1])
            block.reason, pending = (pending or (None, whole))[1], None
            continue
        if said := EXEMPT.search(line):
            check(pending is None, f"{page}:{number}: two exemptions before one block")
            pending = (number, said[1].strip())
        elif said := PAGE_EXEMPT.search(line):
            whole = said[1].strip()
        elif line.strip():
            check(pending is None, f"{page}:{number}: the exemption before it is not directly before a block")
    check(block is None, f"{block}: the block does not end")
    check(pending is None, f"{page}: the exemption in line {(pending or [0])[0]} is before no block")
    for one in found:
        check(one.reason is None or len(one.reason) >= 10, f"{one}: exempted without a reason")
    return [one for one in found if one.is_of_commands()]


def all_blocks():
    found = []
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            found += blocks_of(str(path.relative_to(ROOT)), path.read_text())
    return found


class Place:
    """Where the commands are typed: a host with a machine web01, a data directory, a home and a shell's environment of its own."""

    def __init__(self, binary, directory):
        self.directory = directory
        self.machines = lab.Machines("docs")
        self.web01, _ = self.machines.define("web01", noise_mib=8, seed=9)
        self.machines.start(self.web01)
        # Nothing protects it.
        self.web02, _ = self.machines.define("web02")
        for name in ("bin", "home", "data", "work", "srv"):
            (directory / name).mkdir(mode=0o711)
        (directory / "bin" / "strongroom").symlink_to(Path(binary).resolve())
        (directory / "strongroom.toml").write_text('listen = ["127.0.0.1:0"]\n\n' + lab.local_host("strongroom"))
        self.environment = {
            **{name: os.environ[name] for name in ("LANG", "TERM", "LD_LIBRARY_PATH") if name in os.environ},
            "HOME": str(directory / "home"),
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "STRONGROOM_DATA": str(directory / "data"),
            "STRONGROOM_CONFIG": str(directory / "strongroom.toml"),
            "AZURE_CONFIG_DIR": str(directory / "home" / "azure"),
        }
        self.here = directory / "work"
        self.service = None

    def strongroom(self, *arguments):
        """The answer of a command that puts something in place; it is asked beside what is tested."""
        import json
        done = subprocess.run(["strongroom", *arguments, "--json"], env=self.environment, cwd=self.here, capture_output=True,
                              timeout=COMMAND_SECONDS)
        check(done.returncode == 0, arguments, done.stderr.decode())
        return json.loads(done.stdout)

    def fill(self, line):
        """Puts in place what a reader would: names of theirs, and where their vault and data are."""
        line = re.sub(r"\bweb01\b", self.web01, line)
        vault = f"{self.directory}/srv/backup/vault"
        line = line.replace("/srv/backup/vault", vault).replace("/var/lib/strongroom", self.environment["STRONGROOM_DATA"])
        line = re.sub(r"\bPOINT\b", lambda _: self.strongroom("rescue", "point", "list", "--vault", vault)["points"][0]["point"], line)
        about = None
        for word, key in (("APP_ID", "app_id"), ("TENANT", "tenant"), ("SUBSCRIPTION", "subscription")):
            if re.search(rf"\b{word}\b", line):
                about = about or self.strongroom("az", "env")
                line = re.sub(rf"\b{word}\b", about[key], line)
        line = re.sub(r"/resourceGroups/GROUP/", "/resourceGroups/strongroom/", line)
        return re.sub(r"/virtualMachines/NAME/", f"/virtualMachines/{self.web02}/", line)

    def type(self, block, line):
        began = time.monotonic()
        typed = self.fill(line)
        program = typed.split()[0]
        if program == "az" or "az " in typed:
            self.install_az()
        if re.match(r"strongroom serve\b", typed):
            self.serve(re.sub(r"\s*(&\s*)?(#.*)?$", "", typed))
        else:
            # What a line leaves in the shell is there for the next one.
            kept = self.directory / "environment"
            script = f"set -o pipefail\ntrap 'env -0 > {kept}' EXIT\nset -e\n{typed}\n"
            try:
                done = subprocess.run(["bash", "-c", script], env=self.environment, cwd=self.here, stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                raise Failure(f"{block}: `{line.strip()}` does not end within {COMMAND_SECONDS} s")
            check(done.returncode == 0, f"{block}: `{line.strip()}` (as `{typed.strip()}`) ended with {done.returncode}:\n"
                  f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
            self.environment = dict(entry.split("=", 1) for entry in kept.read_text().split("\0") if "=" in entry)
            self.environment.pop("SHLVL", None)
            self.environment.pop("_", None)
        say(f"{block}: {line.strip()}  [{time.monotonic() - began:.1f} s]")

    def install_az(self):
        if shutil.which("az", path=self.environment["PATH"]):
            return
        home = os.environ.get("STRONGROOM_TEST_AZ") or lab.run(ROOT / "scripts/install-az", timeout=1800).strip()
        self.environment["PATH"] += f":{home}/az/bin"

    def serve(self, command):
        """In the background, as of a reader's other terminal; one that ran before has ended."""
        self.stop()
        socket = self.directory / "data" / "strongroom.sock"
        log = self.directory / "serve.log"
        with open(log, "wb") as out:
            self.service = subprocess.Popen(command.split(), env=self.environment, cwd=self.here, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out)

        def ready():
            check(self.service.poll() is None, f"`{command}` ended: {log.read_text()}")
            return socket.exists() and "sign in" in log.read_text()

        wait_until(f"`{command}` serves", ready, 60)

    def stop(self):
        service, self.service = self.service, None
        if service is not None:
            service.send_signal(signal.SIGTERM)
            check(service.wait(60) == 0, "the service did not end well")

    def remove(self):
        try:
            self.stop()
        finally:
            there = self.machines.virsh("list", "--all", "--name", check_it=False).split()
            self.machines.names = [name for name in there if name.startswith(self.machines.prefix)]
            self.machines.remove()


def dry_make(block):
    """A target that is named is there, and what it calls too."""
    for line in block.commands:
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            # Without MAKEFLAGS, which would come from a make above.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
            check(done.returncode == 0, f"{block}: {line.strip()}: {done.stderr}")
            for called in done.stdout.split("\n"):
                script = called.split(" ")[0]
                if script.startswith(("scripts/", "bench/", "tests/")):
                    check(os.access(ROOT / script, os.X_OK), f"{block}: {line.strip()} calls {script}, which is not there")


def main():
    found = all_blocks()
    if sys.argv[1:] == ["--list"]:
        for block in found:
            print(f"{block}: {'not run: ' + block.reason if block.reason else 'run'}")
        return
    binary = lab.binary()
    to_run = [block for block in found if block.reason is None]
    check(any(block.page == "README.md" for block in to_run), "of the README no block is run")

    def body(directory):
        for block in found:
            if block.reason is not None:
                dry_make(block)
        place = Place(binary, directory)
        try:
            for block in to_run:
                for line in block.commands:
                    place.type(block, line)
        finally:
            place.remove()
        say(f"{len(to_run)} blocks run, {len(found) - len(to_run)} exempted with a reason")

    lab.main(body, "docs")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        print(f"FAILED: {failure}", flush=True)
        sys.exit(1)
