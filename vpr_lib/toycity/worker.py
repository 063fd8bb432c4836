"""The child's side of workers.py: `python -m vpr_lib.toycity.worker SPEC SUBSET FOLDER`."""

import json
import sys
import traceback
from pathlib import Path

from vpr_lib.toycity.city import ToyCitySpec
from vpr_lib.toycity.export import write_frame
from vpr_lib.toycity.plan import plan


def serve(spec_json: str, subset: str, folder: str) -> None:
    """Render the frames that each line of standard input names, "first last"; answer their number or a traceback."""
    values = json.loads(spec_json)
    spec = ToyCitySpec(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    frames = plan(spec, subset)
    for line in sys.stdin:
        first, last = map(int, line.split())
        try:
            for frame in frames[first:last]:
                write_frame(spec, frame, Path(folder))
            print(last - first, flush=True)
        except Exception:
            print(json.dumps(traceback.format_exc()), flush=True)
            return


if __name__ == "__main__":
    serve(*sys.argv[1:])
