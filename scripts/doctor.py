"""Check the installation: Python, packages, threads, GPU, folders. Add the output to a bug report.

    folio doctor

Uses no network. The exit code is 2 if something is BROKEN, but not if it is only SLOW.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

FOR_DEVELOPERS = {"book", "dev", "harness", "site"}  # extras
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # a container's limit: microseconds, and the period that they are part of


def main(argv: list[str]) -> None:
    if argv:  # without options it imports no package, so it can name one that is missing
        from .arguments import parse

        parse(argv, [], "folio doctor", __doc__)
    is_broken = False
    for name, text in checks():
        print(f"{name:<24}{text}".replace(str(Path.home()), "~"), flush=True)
        is_broken |= text.startswith("BROKEN")
    if is_broken:
        raise RuntimeError("Something is broken: the lines with BROKEN say what to do.")


def checks() -> Iterator[tuple[str, str]]:
    """Yield the checks of required packages, the processor, the GPU, and the folders that commands write to."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as plain

    yield "python", f"{platform.python_version()}, {sys.executable}, {platform.platform()}"
    versions = {plain(each.name): each.version for each in importlib.metadata.distributions()}
    for need in map(Requirement, importlib.metadata.requires("foliogpt") or ()):
        extra = str(need.marker or "").rpartition("== ")[2].strip('"')
        found = versions.get(plain(need.name), "not installed")
        if need.name == "foliogpt" or extra in FOR_DEVELOPERS:
            continue
        if need.specifier.contains(found, prereleases=True):
            yield need.name, found
        elif found == "not installed" and extra:
            yield need.name, f"not installed; optional, in the extra {extra}"
        else:
            yield need.name, f"BROKEN: {found}: pip install '{need.name}{need.specifier}'"

    import torch
    from huggingface_hub import constants

    from ..jobs.report import code_version
    from ..training.device import missing_gpu

    yield "foliogpt", code_version()
    threads, limit = torch.get_num_threads(), CPU_LIMIT.read_text().split() if CPU_LIMIT.exists() else ["max"]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or threads
    cores = cores if limit[0] == "max" else min(cores, max(1, int(limit[0]) // int(limit[1])))
    slow = "" if threads == cores else f"SLOW: set OMP_NUM_THREADS={cores}: "
    yield "cpu", f"{slow}{threads} threads on {cores} cores, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        torch.ones(8, device="cuda").sum().item()  # torch's own error if it has no code for this GPU
        yield "gpu", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        reason = missing_gpu()
        yield "gpu", f"SLOW: {reason}" if reason else "mps" if torch.backends.mps.is_available() else "none"
    for path in (Path.cwd(), Path(constants.HF_HOME)):
        is_good = os.access(next(folder for folder in (path, *path.parents) if folder.exists()), os.W_OK)
        yield "folder", str(path) if is_good else f"BROKEN: {path} cannot be written to; HF_HOME moves Hugging Face's"
