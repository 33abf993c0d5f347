"""Programs in several processes that compute together, as torchrun starts them, but each is a fork (see `forks`)."""

import contextlib
import os
import socket
import tempfile
import time

import forks


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def run(program: list[str], count: int, env: dict | None = None, timeout: float = 500, **options) -> None:
    """Run a program in `count` processes of one machine; raise AssertionError if one of them fails."""
    meet = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        processes = []
        for rank, stream in enumerate(said):
            variables = {**meet, "RANK": rank, "LOCAL_RANK": rank} if count > 1 else {}
            environment = {**(os.environ if env is None else env), **{k: str(v) for k, v in variables.items()}}
            process = forks.Popen(program, env=environment, stdout=stream, stderr=stream, **options)
            stack.callback(process.kill)  # those that wait for one that has failed
            processes.append(process)
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            assert time.monotonic() < deadline, f"not done after {timeout} seconds"
            time.sleep(0.05)
        for code, stream in zip(codes, said, strict=True):
            stream.seek(0)
            assert not code, stream.read()
