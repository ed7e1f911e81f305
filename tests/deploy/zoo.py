#!/usr/bin/env python3
"""Which models of a folder efq rewrites and validates, and whether its runtime agrees with ONNX Runtime.

    python zoo.py EFQ RUN ZOO [NAME...]

EFQ is the binary, RUN the example of that name (`cargo build --example run`), ZOO a folder of NAME.onnx with
NAME.npz beside it. Every graph output that the runtime gives for the original is held against an ONNX Runtime session
without optimizations; whatever differs by more than TOLERANCE is a failure, and so is a validated share below SHARE.
A model of which nothing is rewritten counts as validated when its outputs agree.
"""
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx

from check import Outputs, feeds_of, find_cases, first_line, relative, session, unsure

TOLERANCE, TOLERANCE_HALF, SHARE = 1e-4, 2e-3, 0.9
HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def holds_half(model):
    tensors = list(model.graph.initializer) + [a.t for n in model.graph.node for a in n.attribute if a.HasField("t")]
    return any(tensor.data_type in HALF for tensor in tensors)


def agreement(run, path, data, truth):
    """(largest relative L2 over the outputs that the runtime gives, why it gives none of the others)."""
    done = subprocess.run([run, path, data], capture_output=True, text=True, timeout=600)
    if done.returncode:
        return None, first_line(done.stderr)
    got, reason = collections.defaultdict(list), ""
    for line in map(json.loads, done.stdout.splitlines()):
        if "error" in line:
            reason = reason or line["error"]
        else:
            values = np.array(line["values"], np.float64).reshape(line["shape"])
            got[line["output"]].append(values)
    worst = None
    for name, values in got.items():
        wanted = [value.astype(np.float64) for value in truth.lists[name]]
        worst = max(worst or 0.0, relative(wanted, values) - unsure(wanted))
    return worst, reason


def rewrite(efq, path, data, folder):
    command = [efq, "rewrite", path, "-p", "high_accuracy", "--algorithm", "rtn", "--no-repair", "--keep-output",
               "--allow-requantize", "--force", "--format", "json", "--data", data, "-o", folder / "out.onnx"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        return None, first_line(done.stderr)


def main():
    efq, run, zoo = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    validated, failures, cases = 0, [], find_cases([zoo], sys.argv[4:])
    print(f"{'model':26} {'outcome':10} {'fused':>8} {'validated':9} {'agreement':>9}  note")
    for path, data in cases:
        model = onnx.load(path)
        truth = Outputs(session(path, optimize=False), feeds_of(model, dict(np.load(data))))
        apart, reason = agreement(run, path, data, truth)
        with tempfile.TemporaryDirectory() as folder:
            report, refusal = rewrite(efq, path, data, pathlib.Path(folder))
        rewritten = report is not None and any(t["encoding"] != "float" for t in report["tensors"])
        fused = f"{report['fusion']['fused']} of {report['fusion']['total']}" if rewritten else ""
        if rewritten:
            fine = report["validation"]["status"] == "measured"
            note = "" if fine else report["validation"]["reason"]
        else:
            fine = apart is not None and not reason
            note = reason or (refusal.partition("nothing to rewrite: ")[2] if report is None else "every tensor is kept")
        if apart is not None and not apart <= (TOLERANCE_HALF if holds_half(model) else TOLERANCE):
            failures.append(f"{path.stem}: off by {apart:.1e}")
        validated += fine
        shown = "-" if apart is None else f"{apart:.1e}"
        print(f"{path.stem:26} {'rewritten' if rewritten else 'left alone':10} {fused:>8} {'yes' if fine else 'no':9} "
              f"{shown:>9}  {note[:150]}", flush=True)
    share = validated / max(len(cases), 1)
    print(f"\n{validated} of {len(cases)} validated: {100 * share:.0f} %")
    if share < SHARE:
        failures.append(f"{share:.2f} validated, {SHARE} is the least")
    for failure in failures:
        print("FAILED", failure)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
