"""Run tests as other processors would: instruction sets, threads, one process or two, files and tests in any order.

python tests/machines.py            # `make test-machines`: nine settings that bring every two values together
python tests/machines.py --least    # the first three: every value once, and AVX2 with two threads in one process
python tests/machines.py --cheap    # about a minute: the search, whose answers depended on the processor; part of .ci/run
python tests/machines.py tests/retrieval/test_screen.py --only "avx2 "    # some tests, the settings whose name holds a text
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDERS = ["tests/retrieval", "tests/models", "tests/golden", "tests/data"]
CHEAP = ["tests/retrieval/test_screen.py", "tests/retrieval/test_exact.py", "tests/retrieval/test_retrieval.py"]
HERE = "own"  # the processor as it is
# torch's own kernels, oneDNN's, threads, processes, order
SETTINGS = [
    ("avx2", "AVX2", 2, 1, "written"),
    ("default", "AVX512_CORE", 1, 2, "random"),
    (HERE, HERE, 4, 2, "written"),
    (HERE, "AVX2", 1, 1, "random"),
    ("default", HERE, 2, 1, "random"),
    ("avx2", "AVX512_CORE", 4, 1, "random"),
    ("avx2", HERE, 1, 2, "written"),
    (HERE, "AVX512_CORE", 2, 2, "written"),
    ("default", "AVX2", 4, 2, "written"),
]
LEAST = [0, 1, 2]  # of SETTINGS
QUICK = [3, 4, 5]  # for --cheap: both kernels, 1, 2 and 4 threads, random orders


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help=f"default {' '.join(FOLDERS)}")
    parser.add_argument("--cheap", action="store_true", help="the search under three settings")
    parser.add_argument("--least", action="store_true", help="every value of every setting once")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--seed", type=int, default=1, help="of the random orders")
    options = parser.parse_args()
    chosen = [
        SETTINGS[number] for number in (QUICK if options.cheap else LEAST if options.least else range(len(SETTINGS)))
    ]
    tests, failed = options.tests or (CHEAP if options.cheap else FOLDERS), []
    for setting in chosen:
        if options.only in (name := _name(*setting)):
            start = time.monotonic()
            code, last = _run(tests, *setting, options.seed)
            print(f"{name}: {last}; {time.monotonic() - start:.0f} s in all", flush=True)
            failed += [name] if code else []
    if failed:
        print(f"{len(failed)} settings failed: {'; '.join(failed)}")
    return bool(failed)


def _name(torch_kernels: str, onednn: str, threads: int, processes: int, order: str) -> str:
    return f"torch {torch_kernels} oneDNN {onednn} threads {threads} processes {processes} order {order}"


def _run(
    tests: list[str], torch_kernels: str, onednn: str, threads: int, processes: int, order: str, seed: int
) -> tuple[int, str]:
    """pytest's exit code and its summary; what failed is printed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if torch_kernels != HERE:
        environment["ATEN_CPU_CAPABILITY"] = torch_kernels
    if onednn != HERE:
        environment["ONEDNN_MAX_CPU_ISA"] = onednn
    if order == "random":
        environment["VPR_TEST_ORDER"] = str(seed)
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "-rfE", "-p", "no:cacheprovider", *tests]
    command += ["-n", str(processes), "--dist", "loadgroup"] if processes > 1 else []
    home = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command, env=environment, cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = done.stdout.splitlines()
    if done.returncode:
        summary = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print("\n".join(summary or lines[-20:]))
    return done.returncode, lines[-1].strip("= ") if lines else "no output"


if __name__ == "__main__":
    sys.exit(main())
