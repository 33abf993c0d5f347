"""Run a command as if on a GPU, whose memory is the host's and whose kernels are the CPU's.

    .venv-oldest/bin/python tests/gpu_stand_in/run.py .venv-oldest/bin/folio pretrain ...

It shows what a CPU alone cannot: a tensor left on another device, a dtype that a GPU's road does not take, a step that
waits while a graph is captured, a default that is chosen for a GPU. Speed, rounding, and kernels that a compiler or a
library writes are not shown. Needs Linux, a C compiler, and a torch built for CUDA, such as PyPI has.
"""

import os
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = ("c10_cuda", "torch_cuda", "torch_python", "torch_cuda_linalg", "torch_cpu", "caffe2_nvrtc")
MEMORY = 80_000_000_000  # bytes of addresses, beyond which the CPU's allocations fail as a GPU's do


def build(folder: Path) -> Path:
    """Compile `runtime.c` and functions that return 0 for the rest that torch needs of CUDA; return the library."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("There is no torch in this environment.")
    torch = Path(spec.origin).parent
    headers = next(torch.parent.glob("nvidia/*/include/cuda_runtime_api.h"), None)
    if headers is None:
        raise SystemExit("This torch is not built for CUDA: use the environment of `make test-oldest`.")
    folder.mkdir(parents=True, exist_ok=True)
    others = torch.parent / "triton" / "backends" / "nvidia" / "include"  # of the compiler, which torch does not need
    compiler = ["gcc", "-O1", "-fPIC", "-w", f"-I{headers.parent}", f"-I{others}"]
    ours, library, driver = folder / "runtime.o", folder / "libgpu_stand_in.so", folder / "libcuda.so.1"
    subprocess.run([*compiler, "-c", HERE / "runtime.c", "-o", ours], check=True)
    needed = symbols("--dynamic", "--undefined-only", *(torch / "lib" / f"lib{name}.so" for name in LIBRARIES))
    known = {name for name, _ in symbols("--defined-only", ours)}
    runtime = {name for name, version in needed if version.startswith(("libcudart.", "libcublas.", "libcublasLt."))}
    of_driver = {name for name, version in needed if name.startswith("cu") and not version}
    for path, names, options in ((library, runtime, [ours]), (driver, of_driver, [ours, "-Wl,-soname,libcuda.so.1"])):
        rest = path.with_suffix(".c")
        rest.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(names - known)))
        subprocess.run([*compiler, "-shared", rest, *options, "-o", path], check=True)
    return library


def symbols(*options) -> set[tuple[str, str]]:
    """List names in object files by `nm`, each with the version that it asks for."""
    said = subprocess.run(["nm", *options], capture_output=True, text=True, check=True).stdout
    found = (line.split(" ")[-1].replace("@@", "@").partition("@") for line in said.splitlines())
    return {(name, version) for name, _, version in found}


def main() -> None:
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    library = build(HERE.parents[1] / "build" / "gpu_stand_in")
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    given = {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(library.parent),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, **given})


if __name__ == "__main__":
    main()
