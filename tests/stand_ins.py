"""A folder of commands that a test puts on PATH: what a shell or another program starts is then a fork (see `forks`).

A stand-in sends what it was started with to the tests' process, which lets it be forked, and ends as the fork ends. A
signal to the stand-in reaches the fork. `python` is one for the package's command and for scripts; code that it is
given runs in an interpreter of its own.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import forks

INTERPRETER = forks.INTERPRETER
PROGRAMS = {
    "folio": "from foliogpt.scripts.cli import main",
    "torchrun": "from torch.distributed.run import main",
    "accelerate": "from accelerate.commands.accelerate_cli import main",
    "script": "import runpy; main = lambda: (runpy.run_path(sys.argv.pop(1), run_name='__main__'), 0)[1]",
}
MODULE = ["-m", "foliogpt.scripts.cli"]
# Started without `site`: it takes some 20 milliseconds.
STAND_IN = f"""\
#!{sys.executable} -SE
import json, os, signal, socket, sys

name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "python":
    rest = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if rest[:2] == {MODULE!r}:
        name, arguments = "folio", rest[2:]
    elif rest[:1] and rest[0].endswith(".py"):
        name, arguments = "script", rest
    else:
        os.execv({sys.executable!r}, [{sys.executable!r}, *arguments])
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(os.path.join(os.path.dirname(sys.argv[0]), "socket"))
request = {{"name": name, "arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}}
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: connection.send(str(int(number)).encode()))
socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
code = int(connection.recv(20))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def folder() -> Path:
    """The folder with the stand-ins; where there are no forks, the one with the commands themselves."""
    if sys.platform != "linux":
        return Path(INTERPRETER).parent
    path = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, path)
    for name in ("python", *PROGRAMS):
        (path / name).write_text(STAND_IN)
        (path / name).chmod(0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path / "socket"))
    listener.listen(64)
    forks.server(False)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    return path


def environment() -> dict[str, str]:
    """The environment of the tests, with the stand-ins before all other commands."""
    return {**os.environ, "PATH": f"{folder()}{os.pathsep}{Path(INTERPRETER).parent}{os.pathsep}{os.environ['PATH']}"}


def program(name: str, *arguments: str) -> list[str]:
    """A program for `forks`: one of the commands, for which the interpreter is the stand-in."""
    python = str(folder() / "python")
    return [f"import sys; sys.executable = {python!r}; {PROGRAMS[name]}; sys.exit(main())", *arguments]


def accept(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def serve(connection: socket.socket) -> None:
    """Start the fork of one stand-in, and tell it how the fork has ended."""
    body, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(body)
    options = {"cwd": request["cwd"], "env": request["environment"]}
    options |= zip(("stdin", "stdout", "stderr"), streams, strict=True)
    process = forks.Popen(program(request["name"], *request["arguments"]), **options)
    for stream in streams:
        os.close(stream)
    threading.Thread(target=pass_signals, args=(connection, process), daemon=True).start()
    code = process.wait()
    with contextlib.suppress(OSError):  # the stand-in was killed
        connection.send(str(code).encode())


def pass_signals(connection: socket.socket, process: subprocess.Popen) -> None:
    """Send a fork the signals that its stand-in gets, and end it with the stand-in."""
    with connection, contextlib.suppress(OSError):
        while number := connection.recv(20):
            os.kill(process.pid, int(number))
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
