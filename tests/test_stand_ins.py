"""A command that a shell finds among the stand-ins does what the command does."""

import signal
import subprocess
import sys

import psutil
import pytest
import stand_ins

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the commands are those of the environment")


def shell(script: str, **options) -> subprocess.CompletedProcess:
    options = {"env": stand_ins.environment(), "capture_output": True, "text": True, **options}
    return subprocess.run(["bash", "-c", script], **options)


def test_streams_and_exit_codes_are_those_of_the_command(tmp_path):
    done = shell("folio dance; echo $?; folio clean --help | head -1; pwd", cwd=tmp_path)
    code, usage, folder = done.stdout.splitlines()
    assert code == "2"
    assert usage.startswith("usage: folio clean ")
    assert folder == str(tmp_path)
    assert done.stderr.startswith("folio dance: There is no command 'dance'")
    assert shell("python -u -m foliogpt.scripts.cli dance").stderr == done.stderr


def test_a_script_runs_in_a_fork(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print(__name__, sys.argv, 'torch' in sys.modules); sys.exit(3)")
    done = shell("python -u script.py one 'two words'; echo $?", cwd=tmp_path)
    assert done.stdout.splitlines() == ["__main__ ['script.py', 'one', 'two words'] True", "3"]


def test_other_programs_run_in_an_interpreter_of_their_own():
    done = shell("""python -c 'import sys; print(sys.executable, "torch" in sys.modules)'""")
    assert done.stdout == f"{stand_ins.INTERPRETER} False\n"


def test_a_command_starts_the_stand_in_instead_of_an_interpreter(monkeypatch):
    monkeypatch.setitem(stand_ins.PROGRAMS, "folio", "main = lambda: print(sys.executable)")
    assert shell("folio").stdout == f"{stand_ins.folder() / 'python'}\n"


WAITS = """import os, time
def main():
    try:
        print(os.getpid(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        return 130
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_signal_to_the_stand_in_ends_the_fork(number, code, monkeypatch):
    monkeypatch.setitem(stand_ins.PROGRAMS, "folio", f"exec({WAITS!r})")
    with subprocess.Popen([str(stand_ins.folder() / "folio")], stdout=subprocess.PIPE) as stand_in:
        fork = psutil.Process(int(stand_in.stdout.readline()))
        stand_in.send_signal(number)
        assert stand_in.wait(10) == code
        fork.wait(10)
