"""A program in a fork does what it does in an interpreter of its own."""

import os
import signal
import subprocess
import sys

import forks
import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the programs are interpreters of their own")
PROGRAMS = {
    "arguments and place": "import os, sys; print(sys.argv, sys.path[0], os.getcwd(), os.environ['NAME'], __name__)",
    "standard input": "print(input(), sys.stdin.read()) if (sys := __import__('sys')) else None",
    "exit code": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
    "exit with a message": "import sys; sys.exit('that is it')",
    "exception": "raise ValueError('wrong')",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "exit handler": "import atexit; atexit.register(print, 'bye')",
    "thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "process of its own": "import os; print(os.getpid() != os.getppid(), len(os.listdir('/proc/self/task')))",
}


@linux
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_says_and_returns_the_same(program, tmp_path):
    options = {"cwd": tmp_path, "env": {**os.environ, "NAME": "a name"}, "input": "one\ntwo"}
    command = [PROGRAMS[program], "-x", "two words"]
    forked = forks.run(command, **options)
    alone = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, **options)
    assert (forked.returncode, forked.stdout) == (alone.returncode, alone.stdout)
    assert forked.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]


def test_folio_is_the_command():
    done = forks.run(forks.folio("dance"))
    assert done.returncode == 2
    assert done.stderr.startswith("folio dance: There is no command 'dance'")


@linux
def test_a_program_that_goes_on_can_be_ended_and_waited_for():
    with forks.Popen(["print('ready', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == process.poll() == -signal.SIGKILL


@linux
def test_programs_share_nothing():
    first, second = "import torch; torch.leftover = 1; torch.manual_seed(9)", "import torch; print(vars(torch).keys())"
    assert forks.run([first]).returncode == 0
    assert "leftover" not in forks.run([second]).stdout


@linux
def test_a_variable_that_would_be_read_too_late_is_refused():
    with pytest.raises(ValueError, match="HF_HOME too late: use subprocess"):
        forks.run(["pass"], env={**os.environ, "HF_HOME": "/elsewhere"})


@linux
def test_a_stranger_has_imported_the_libraries_and_nothing_of_the_package(tmp_path):
    program = """
import sys
import transformers
print([name for name in sys.modules if name.startswith("foliogpt")], transformers.dynamic_module_utils.HF_MODULES_CACHE)
"""
    done = forks.run([program], stranger=True, env={**os.environ, "HF_MODULES_CACHE": str(tmp_path)})
    assert done.stdout == f"[] {tmp_path}\n", done.stderr
