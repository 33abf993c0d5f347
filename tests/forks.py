"""Python programs in forks of one process that has imported everything, instead of in new interpreters.

A new interpreter spends four to five seconds on imports. `run` and `Popen` are those of subprocess for a program that
is given as its code and its arguments. A test that is about the start of an interpreter, about what is imported, or
about a variable that a library reads when it is imported, uses subprocess itself.

A stranger is a fork of another process, which has imported the libraries alone and nothing of the package.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

from foliogpt.scripts.cli import QUIET

FOLIO = "import sys; from foliogpt.scripts.cli import main; sys.exit(main())"
IMPORTED = (
    "foliogpt.training.pretraining", "foliogpt.training.finetuning.finetuning", "foliogpt.evaluation.run",
    "foliogpt.serving.generator", "foliogpt.checkpoints.publishing", "foliogpt.rag.rag", "trl.trainer.sft_trainer",
    "peft", "sentence_transformers", "chromadb", "uvicorn", "matplotlib.pyplot", "scipy.stats",
)  # fmt: skip
KNOWN_TO_STRANGERS = (
    "torch", "transformers", "transformers.dynamic_module_utils", "transformers.generation.utils",
    "transformers.pipelines", "safetensors.torch", "peft", "sentence_transformers",
)  # fmt: skip
READ_ON_IMPORT = ("HF_", "TRANSFORMERS_", "PYTHON")  # starts of names of variables
# What libraries set in the test's own process when they are imported, which changes nothing that a test looks at.
HARMLESS = ("HF_XET_", "HF_HUB_DISABLE_")
# Those that a fork sets again, and where.
SET_AGAIN = {"HF_DATASETS_CACHE": "datasets.config", "HF_MODULES_CACHE": "transformers.dynamic_module_utils"}
INTERPRETER = sys.executable  # tests replace sys.executable by a stand-in
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def folio(*arguments: str) -> list[str]:
    """The program that is the `folio` command."""
    return [FOLIO, *arguments]


@functools.cache
def server(stranger: bool) -> socket.socket:
    """Start the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [INTERPRETER, __file__, str(theirs.fileno()), *["stranger"] * stranger]
    null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=ENVIRONMENT, pass_fds=[theirs.fileno()], **null)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def read_too_late(environment: dict[str, str]) -> list[str]:
    """The variables that are not what they were when the server imported what reads them."""
    names = {name for name in {**environment, **ENVIRONMENT} if name.startswith(READ_ON_IMPORT)}
    names = {name for name in names if name not in SET_AGAIN and not name.startswith(HARMLESS)}
    return [name for name in names if environment.get(name) not in (ENVIRONMENT.get(name), QUIET.get(name))]


class Popen(subprocess.Popen):
    """subprocess.Popen for a program."""

    def __init__(self, program: list[str], *, stranger: bool = False, **options):
        self._stranger = stranger
        super().__init__([sys.executable, "-c", *program], **options)

    if sys.platform == "linux":  # elsewhere a fork without exec is not safe, and this is subprocess.Popen

        def _execute_child(
            self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
        ):  # fmt: skip
            environment = dict(os.environ if env is None else env)
            if late := read_too_late(environment):
                raise ValueError(f"A fork would read {', '.join(late)} too late: use subprocess.")
            if preexec_fn is not None:
                raise ValueError("Put what preexec_fn does into the program.")
            request = {"arguments": args[2:], "cwd": os.fspath(cwd or Path.cwd()), "environment": environment}
            streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
            self._keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                socket.send_fds(server(self._stranger), [json.dumps(request).encode()], [*streams, theirs.fileno()])
            self._child_created = True
            self.pid = int(self._keeper.recv(20))
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

        def _wait(self, timeout: float | None) -> int | None:
            if self.returncode is None:
                self._keeper.settimeout(timeout if timeout is None else max(timeout, 1e-6))
                try:
                    self.returncode = int(self._keeper.recv(20))
                except TimeoutError:
                    raise subprocess.TimeoutExpired(self.args, timeout) from None
                self._keeper.close()
            return self.returncode

        def _internal_poll(self, *ignored, **ignored_too) -> int | None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._wait(0)
            return self.returncode


def run(program: list[str], *, input: str | None = None, timeout: float | None = None, **options):
    """subprocess.run(capture_output=True, text=True) for a program."""
    stdin = {} if input is None else {"stdin": subprocess.PIPE}
    with Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **stdin, **options) as process:
        try:
            said, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


def serve(connection: socket.socket) -> tuple[dict, list[int]]:
    """Fork for each request. In the fork, return the request and its three streams."""
    while True:
        body, streams, *_ = socket.recv_fds(connection, 1 << 20, 4)
        if not body:
            os._exit(0)
        if os.fork() == 0:  # the keeper: it waits for the program and tells how it has ended
            connection.close()
            keeper = socket.socket(fileno=streams.pop())
            program = os.fork()
            if program == 0:
                keeper.close()
                return json.loads(body), streams
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                keeper.send(str(program).encode())
                keeper.send(str(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])).encode())
            os._exit(0)
        for stream in streams:
            os.close(stream)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def execute(request: dict, streams: list[int]) -> None:
    """Do what `python -c` does, in this process."""
    import numpy as np

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for variable, name in SET_AGAIN.items():
        if variable in os.environ and (module := sys.modules.get(name)):
            setattr(module, variable, type(getattr(module, variable))(os.environ[variable]))
    np.random.seed()
    code, *sys.argv[1:] = request["arguments"]
    sys.argv[0], sys.path[0] = "-c", ""
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))


def make_cheaper() -> None:
    """What a training does besides training takes half of the time of a short one (see `conftest`)."""
    from foliogpt.jobs import report
    from foliogpt.training import flops

    flops.SIZE = 128
    report.loss_curve = lambda log_history, path, *_: path.write_bytes(b"\x89PNG")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends this process
    stranger = len(sys.argv) > 2
    if stranger:
        for name in [name for name in sys.modules if name.partition(".")[0] == "foliogpt"]:
            del sys.modules[name]
    else:
        os.environ.update(QUIET)  # as `folio` does before its imports
    for name in KNOWN_TO_STRANGERS if stranger else IMPORTED:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    if not stranger:
        make_cheaper()
    gc.collect()
    gc.freeze()
    execute(*serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
