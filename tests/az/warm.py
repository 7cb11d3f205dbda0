"""az, started once for many commands: each is run by az's own `python -m azure.cli`, in a process of its own that was forked from
one that has read az's modules already. Nothing of az is changed, only read a single time, which is most of what a command takes.

    AZ_PYTHON warm.py SOCKET

A connection is a command: a line of JSON with `words`, `env`, `out` and `err` (files), answered by its exit status.
"""
import atexit, importlib, json, os, pkgutil, runpy, signal, socket, sys

PARTS = ("_client_factory", "_format", "_params", "_help", "_validators", "commands", "custom", "custom_base", "custom_common",
         "custom_help", "generated")
LIBRARIES = ("msal", "requests", "azure.core.pipeline.policies", "azure.mgmt.core", "azure.mgmt.recoveryservices",
             "azure.mgmt.recoveryservicesbackup.activestamp", "azure.mgmt.recoveryservicesbackup.passivestamp",
             "azure.mgmt.resource", "azure.mgmt.resource.resources", "azure.cli.core.auth.identity", "azure.cli.core.profiles",
             "azure.cli.core.commands.client_factory", "azure.cli.core.commands.arm", "azure.cli.core._profile",
             "knack.output", "jmespath", "tabulate")


def read_az():
    """Whatever of this another version of az does not have is read by the commands themselves."""
    from azure.cli.core import get_default_cli
    cli = get_default_cli()
    cli.commands_loader_cls(cli).load_command_table(["backup"])
    backup = importlib.import_module("azure.cli.command_modules.backup")
    parts = {module.name for module in pkgutil.iter_modules(backup.__path__)} & set(PARTS)
    for name in [*(f"{backup.__name__}.{part}" for part in sorted(parts)), *LIBRARIES]:
        try:
            importlib.import_module(name)
        except ImportError:
            pass


def run(request):
    """The exit status; in the forked process."""
    os.environ.clear()
    os.environ.update(request["env"])
    for stream, flags, target in ((0, os.O_RDONLY, os.devnull), (1, os.O_WRONLY, request["out"]), (2, os.O_WRONLY, request["err"])):
        file = os.open(target, flags)
        os.dup2(file, stream)
        os.close(file)
    sys.argv = ["az", *request["words"]]
    status = 0
    try:
        runpy.run_module("azure.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main(path):
    read_az()
    server = socket.socket(socket.AF_UNIX)
    # There once it can be spoken to.
    server.bind(f"{path}.new")
    server.listen(64)
    os.rename(f"{path}.new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        with connection, connection.makefile("r") as lines:
            status = run(json.loads(lines.readline()))
            connection.sendall(f"{status}\n".encode())
        os._exit(0)


main(sys.argv[1])
