"""What flow.py, commands.py and sdk.py share: a service of its own, a machine, a storage pool, a network, and az.

Everything has a name of its own and is taken away at the end, also after a failure or a signal. Needs root, libvirt
and what scripts/install-deps --test installs.
"""
import argparse, contextlib, hashlib, json, os, shlex, shutil, signal, socket, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
URI = "qemu:///system"
LOCATION = "local"
GROUP = "srtest"
AZ_SECONDS = 240
JOB_SECONDS = 180
GUEST_SECONDS = 120


class Failed(Exception):
    """A test that did not pass: the reason."""


def check(holds, why):
    if not holds:
        raise Failed(why)


def equal(got, wanted, what):
    check(got == wanted, f"{what} is {got!r}, not {wanted!r}")


def say(text):
    print(text, flush=True)


def run(*command, wait_seconds=120, quiet=False):
    """Runs a command; its output, or Failed with what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=wait_seconds)
    if done.returncode != 0 and not quiet:
        raise Failed(f"{shlex.join(str(c) for c in command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def virsh(*arguments, **options):
    return run("virsh", "-q", "-c", URI, *arguments, **options)


def until(what, seconds, question, pause=0.3):
    """Asks until the answer is true, and gives it back."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--strongroom", default=os.environ.get("STRONGROOM_BIN"),
                        help="the program under test (STRONGROOM_BIN)")
    parser.add_argument("--az", default=os.environ.get("STRONGROOM_AZ"),
                        help="the directory that scripts/install-az prints, or its az/bin/az (STRONGROOM_AZ)")
    parser.add_argument("--transcript", help="write the commands and what they printed to this file")
    given = parser.parse_args()
    if not given.strongroom:
        parser.error("--strongroom, or STRONGROOM_BIN, is missing")
    home = Path(given.az) if given.az else Path(run(TREE / "scripts/install-az", wait_seconds=1800).strip())
    if home.name == "az" and home.is_file():
        home = home.parents[2]
    check((home / "az/bin/az").exists(), f"there is no az in {home}; scripts/install-az prints the right directory")
    given.home = home
    return given


class Machine:
    """A tiny machine with an agent and one disk, mounted at /mnt/vda."""

    def __init__(self, bench, name):
        self.name = name
        self.bench = bench
        self.disk = bench.machines / f"{name}-vda.qcow2"
        self.options = ("--dir", bench.machines, "--disk", "vda:qcow2:64M", "--tiny", bench.tiny)
        self.has_run = False
        xml = run(TREE / "tests/guests/define-tiny", name, *self.options)
        path = bench.directory / f"{name}.xml"
        path.write_text(xml)
        virsh("define", path)
        bench.last.callback(remove_machine, name)

    def start(self):
        """The first time it goes on from where one like it had booted."""
        if self.has_run:
            virsh("start", self.name)
        else:
            self.has_run = True
            run(TREE / "tests/guests/start", "tiny", self.name, *self.options, wait_seconds=900)

    def ready(self):
        agent_wait(self.name)

    def guest(self, *command):
        return guest(self.name, *command)

    def write(self):
        """New bytes in a file of the guest; their sum."""
        self.guest("/bin/sh", "-c",
                   "dd if=/dev/urandom of=/mnt/vda/data bs=65536 count=64 2>/dev/null && sync")
        return self.sum()

    def sum(self):
        return self.guest("/bin/sha256sum", "/mnt/vda/data").split()[0]

    @contextlib.contextmanager
    def held(self):
        """QEMU answers nothing meanwhile, so that a backup of it goes on."""
        pid = int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def agent_wait(name):
    run(TREE / "tests/guests/agent", "wait", name, GUEST_SECONDS, wait_seconds=GUEST_SECONDS + 60)


def guest(name, *command):
    return run(TREE / "tests/guests/agent", "exec", name, *command)


def remove_machine(name):
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(Path(f"/run/libvirt/qemu/{name}.pid").read_text()), signal.SIGCONT)
    virsh("destroy", name, quiet=True)
    virsh("undefine", name, "--checkpoints-metadata", "--snapshots-metadata", quiet=True)


class Bench:
    """A service with a host, and what it needs. Use with `with`."""

    def __init__(self, given, word):
        self.given = given
        self.tag = f"srtest-{word}-{os.getpid()}"
        self.last = contextlib.ExitStack()
        self.transcript = open(given.transcript, "w") if given.transcript else None
        self.env = None
        self.warm = None
        # What transcripts and logs do not show.
        self.secrets = []

    def __enter__(self):
        # With a signal too, what was made goes away.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))
        try:
            self.up()
        except BaseException:
            self.last.close()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None and (self.directory / "serve.log").exists():
            say("what the service said last:")
            lines = (self.directory / "serve.log").read_text().splitlines()
            # Of others' machines, which come and go.
            for line in [l for l in lines if "srtest-" not in l or self.tag in l][-15:]:
                say(f"    {line}")
        self.last.close()

    def up(self):
        self.tiny = os.environ.get("STRONGROOM_TEST_TINY") or run(TREE / "tests/guests/make-tiny", wait_seconds=900).strip()
        run(TREE / "tests/lib/libvirt-up", "--for", os.getpid())
        self.last.callback(run, TREE / "tests/lib/libvirt-down", "--for", os.getpid(), quiet=True)
        self.directory = Path(tempfile.mkdtemp(prefix="srtest-az-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.last.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.machines = self.directory / "machines"
        self.pool, self.pool_path = self.tag.replace("-", ""), self.directory / "pool"
        self.places = self.directory / "places"
        for path in (self.machines, self.pool_path, self.places):
            path.mkdir(mode=0o711)
        virsh("pool-define-as", self.pool, "dir", "--target", self.pool_path)
        self.last.callback(virsh, "pool-undefine", self.pool, quiet=True)
        virsh("pool-start", self.pool)
        self.last.callback(virsh, "pool-destroy", self.pool, quiet=True)
        # Not started: starting it would take rights on the host's network, and the guests have no card.
        network = self.directory / "network.xml"
        network.write_text(f"<network><name>{self.tag}</name></network>")
        virsh("net-define", network)
        self.last.callback(virsh, "net-undefine", self.tag, quiet=True)
        self.serve()

    def serve(self, more=""):
        """`more`: of the configuration."""
        self.data = self.directory / "data"
        config = self.directory / "strongroom.toml"
        config.write_text(
            f'[[hosts]]\nname = "here"\nuri = "{URI}"\ngroup = "{GROUP}"\nlocation = "{LOCATION}"\n\n'
            f'[[restore_directories]]\nname = "places"\npath = "{self.places}"\ngroup = "{GROUP}"\n'
            f'location = "{LOCATION}"\n{more}')
        log = open(self.directory / "serve.log", "w")
        self.service = subprocess.Popen(
            [self.given.strongroom, "serve", "--data", self.data, "--listen", "127.0.0.1:0", "--config", config],
            stdout=log, stderr=subprocess.STDOUT)
        self.last.callback(self.stop)

        def reachable():
            check(self.service.poll() is None, f"the service ended: {(self.directory / 'serve.log').read_text()}")
            return (self.data / "url").exists() and (self.data / "strongroom.sock").exists()
        until("the service to start", 60, reachable)
        until("the service to say how to sign in", 30,
              lambda: "sign in" in (self.directory / "serve.log").read_text())
        self.about = json.loads(self.strongroom("az", "env", "--data", self.data, "--json"))
        self.secret = Path(self.about["secret_file"]).read_text().strip()
        self.secrets.append(self.secret)

    def stop(self):
        self.service.terminate()
        try:
            self.service.wait(60)
        except subprocess.TimeoutExpired:
            self.service.kill()
            self.service.wait()
            say("the service did not stop within a minute")

    def strongroom(self, *arguments):
        return run(self.given.strongroom, *arguments)

    # ---- az ----

    def use_az(self):
        """What `eval "$(strongroom az env)"` does, with a configuration of az's of its own."""
        self.env = dict(os.environ, AZURE_CONFIG_DIR=str(self.directory / "azure"),
                        PATH=f"{self.given.home / 'az/bin'}:{os.environ['PATH']}", PYTHONWARNINGS="ignore")
        script = f'eval "$({shlex.quote(str(self.given.strongroom))} az env --data {self.data})"; env -0'
        done = subprocess.run(["bash", "-euc", script], env=self.env, capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"strongroom az env: {done.stderr}")
        self.note('$ eval "$(strongroom az env)"')
        for line in done.stdout.split("\0"):
            name, _, value = line.partition("=")
            if name in ("REQUESTS_CA_BUNDLE", "AZURE_CORE_COLLECT_TELEMETRY", "AZURE_EXTENSION_USE_DYNAMIC_INSTALL"):
                self.env[name] = value
        check("REQUESTS_CA_BUNDLE" in self.env, f"az env set no certificate: {done.stdout[-300:]}")

    def keep_az_warm(self):
        """Commands from here on do not wait for az to be read: see warm.py."""
        self.warm = self.directory / "az.sock"
        server = subprocess.Popen([self.given.home / "az/bin/python", Path(__file__).with_name("warm.py"), self.warm], env=self.env)
        self.last.callback(server.kill)

        def listens():
            check(server.poll() is None, "warm.py ended")
            return self.warm.exists()
        until("az to be read", 120, listens, 0.05)

    def run_az(self, words):
        if self.warm is None:
            return subprocess.run([self.given.home / "az/bin/az", *words], env=self.env,
                                  capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=AZ_SECONDS)
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err, \
                socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(AZ_SECONDS)
            connection.connect(str(self.warm))
            request = {"words": words, "env": self.env, "out": out.name, "err": err.name}
            connection.sendall(json.dumps(request).encode() + b"\n")
            status = connection.makefile().readline().strip()
            said, complained = out.read(), err.read()
            check(status, f"az {words[0]} ended without an exit status: {complained}")
            return subprocess.CompletedProcess(words, int(status), said, complained)

    def login(self):
        self.az("login", "--service-principal", "-u", self.about["app_id"], "-p", self.secret,
                "--tenant", self.about["tenant"])

    def note(self, text):
        if self.transcript:
            self.transcript.write(text.rstrip() + "\n\n")
            self.transcript.flush()

    def raw(self, command, output):
        """Runs az: exit status, stdout, stderr."""
        words = shlex.split(command) if isinstance(command, str) else [str(c) for c in command]
        began = time.monotonic()
        done = self.run_az([*words, "-o", output])
        shown = shlex.join(words)
        for secret in self.secrets:
            shown = shown.replace(secret, "SECRET")
        say(f"  az {shown}" + ("" if output == "json" else f" -o {output}")
            + f"  [{done.returncode}, {time.monotonic() - began:.1f} s]")
        form = "" if output == "json" else f" -o {output}"
        self.note(f"$ az {shown}{form}\n{done.stdout}{done.stderr}")
        for stream in (done.stdout, done.stderr):
            check("Traceback" not in stream, f"az {shown}: a traceback\n{stream}")
        return done, shown

    def az(self, *command, output="json"):
        """Runs az, which must succeed: what it printed, read as JSON (text in the other formats)."""
        done, shown = self.raw(command[0] if len(command) == 1 else command, output)
        check(done.returncode == 0, f"az {shown}: {done.stderr.strip()}")
        if output != "json":
            return done.stdout
        return json.loads(done.stdout) if done.stdout.strip() else None

    def refused(self, command, *words):
        """Runs az, which must fail and say these words, whatever their case."""
        done, shown = self.raw(command, "json")
        check(done.returncode != 0, f"az {shown}: succeeded and should not have\n{done.stdout}")
        for word in words:
            check(word.lower() in done.stderr.lower(), f"az {shown}: says nothing of {word!r}:\n{done.stderr}")
        return done.stderr

    def together(self, *questions):
        """Runs functions side by side; their answers in order."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            return [f.result() for f in [pool.submit(q) for q in questions]]

    def job(self, vault, name, status="Completed"):
        """Waits for a job by asking for it; the job."""
        def over():
            job = self.az(f"backup job show -g {GROUP} -v {vault} -n {name}")
            return job if job["properties"]["status"] not in ("InProgress", "Cancelling") else None
        job = until(f"job {name}", JOB_SECONDS, over)
        equal(job["properties"]["status"], status, f"the status of job {name} ({job['properties'].get('errorDetails')})")
        return job


def same_disk(one, other):
    """Whether two images hold the same bytes, as QEMU reads them."""
    done = subprocess.run(["qemu-img", "compare", one, other], capture_output=True, text=True, timeout=120)
    check(done.returncode in (0, 1), f"qemu-img compare: {done.stderr}")
    return done.returncode == 0


def file_sum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def main(description, word, body):
    """Runs a test: exit status 0, or 1 with the reason in the last line."""
    given = arguments(description)
    began = time.monotonic()
    try:
        with Bench(given, word) as bench:
            last = body(bench)
    except (Failed, subprocess.TimeoutExpired, OSError, KeyError, ValueError, IndexError) as why:
        if not isinstance(why, Failed):
            import traceback
            traceback.print_exc()
        say(f"{word}: FAILED: " + str(why)[:3000])
        sys.exit(1)
    say(f"{word}: {last}, in {time.monotonic() - began:.0f} s")
