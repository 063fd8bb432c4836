"""A stand-in for `python -m vpr_lib.workbook.run.execute` that speaks its protocol without a kernel, in 40 ms.

The code cells run by `exec` in this process. They may call `make(name)` and `finish(**wrong)`, or end the process.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

job = json.loads(sys.stdin.readline())
run, name = Path(job["output"]).parent, Path(job["output"]).stem
home, profile = Path(os.environ["VPR_HOME"]), Path(job["parameters"]["profile"]).stem
outputs = []


def event(what, **values):
    with open(job["events"], "a") as stream:
        stream.write(json.dumps({"event": what, "time": time.time(), **values}) + "\n")


def make(file, source=None):
    path = home / "figures" / profile / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path(source).read_bytes() if source else f"made by {name}".encode())
    found, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
    outputs.append({"name": file, "path": str(path.relative_to(home)), "bytes": found.st_size, "sha256": digest,
                    "modified_ns": found.st_mtime_ns})  # fmt: skip


def finish(**wrong):
    facts = {"notebook": name, "run_id": job["parameters"]["run_id"], "profile": profile, "device": "cpu", "git": "g",
             "key": os.environ["VPR_NOTEBOOK_KEY"], "started": "now", "seconds": 0.1, "headline": f"{name} done",
             "outputs": outputs}  # fmt: skip
    (run / f"{name}.done.json").write_text(json.dumps(facts | wrong))


def save(status=None):
    Path(job["output"]).write_text(json.dumps(notebook))
    if status:
        event("end", kind=status, peak_memory_bytes=1000)


notebook = json.loads(Path(job["source"]).read_text())
tagged = next(i for i, c in enumerate(notebook["cells"]) if "parameters" in c["metadata"].get("tags", []))
injected = "\n".join(f"{key} = {value!r}" for key, value in job["parameters"].items())
notebook["cells"].insert(
    tagged + 1, {**notebook["cells"][tagged], "id": "injected", "metadata": {}, "source": injected}
)
cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
space = {"make": make, "finish": finish, "job": job, "sys": sys, "os": os, "time": time}
event("start", cells=len(cells))
for number, cell in enumerate(cells, 1):
    source = "".join(cell["source"])
    event("cell", number=number, line=source.splitlines()[0])
    save()
    try:
        exec(source, space)
    except SystemExit as error:
        save("ok" if not error.code else "broken")
        raise
    except Exception as error:
        tail = traceback.format_exc().splitlines()[-3:-1]
        event("failure", kind="error", ename=type(error).__name__, evalue=str(error), tail=tail)
        save("error")
        sys.exit(1)
    cell["execution_count"] = number
    event("cell_done", number=number)
save("ok")
