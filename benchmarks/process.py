"""Jobs of a fresh process: building the model, peak memory, start-up."""

import json
import resource
import sys
import time
from pathlib import Path


def main(job: str, home: Path) -> None:
    """Do one job and print its figure."""
    if job == "build":
        from .geometry import build

        build(home)
        return
    begin = time.perf_counter()
    import numpy as np

    from cmrm import Offsets, Vlm, compare

    from .work import PROMPT, Bench, picture

    vlm = Vlm.load(home)
    loaded = time.perf_counter()
    if job == "start":
        next(compare(vlm, picture(), PROMPT, None, ()))
        first = time.perf_counter()
        print(json.dumps({"import and load": loaded - begin, "then to the first token": first - loaded}))
        return
    if job == "stock":  # nothing of CMRM has run in this process
        zero = np.zeros((len(vlm.layers), vlm.identity.hidden), np.float32)
        Bench.endless(vlm, Offsets(zero, fits=vlm.identity)).stock()
    else:
        bench = Bench.of(vlm)
        vlm.network.prefixes.clear()
        bench.answer(1.0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
