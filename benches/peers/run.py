#!/usr/bin/env python3
"""efq and other quantizers for ONNX on one model: time, memory, size and error in ONNX Runtime, as a Markdown table.

usage: run.py EFQ MODEL CALIBRATION.npz TEST.npz [--work FOLDER] [--only TEXT]

Each tool gets a virtual environment of its own in FOLDER (kept, default ./peers-venvs), installed from PyPI at the
versions below, and does its work in a process of its own. All files are judged by one ONNX Runtime, in a default
session, on TEST.npz. A tool that fails, or whose file does not run, has its last line of error in the table.
"""
import argparse, os, pathlib, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
RUNTIME = ["onnx==1.23.2", "onnxruntime==1.32.0"]
TOOLS = {
    "onnxruntime": RUNTIME + ["onnx_ir", "sympy"],
    "nncf": ["nncf==3.4.0", *RUNTIME],
    "onnxsim": ["onnxsim==0.8.1", *RUNTIME],
}
# Tool, how it is named in the table, and what its script is told. "@21": the input is raised to opset 21 first, by
# onnx.version_converter, where the tool needs that.
RUNS = [
    ("onnxruntime", "RTN, asymmetric, block 32", ["rtn"]),
    ("onnxruntime", "k_quant, block 32", ["k_quant"]),
    ("onnxruntime", "RTN, MatMul and Gather, block 32 @21", ["gather"]),
    ("nncf", "INT4_ASYM, group 32 @21", ["plain"]),
    ("nncf", "INT4_ASYM, group 32, AWQ and scale estimation @21", ["calibrated"]),
    ("onnxsim", "INT4, block 32 @21", ["plain"]),
    ("onnxsim", "INT4, block 32, GPTQ @21", ["gptq"]),
]
OURS = [
    ("block 32, no data", ["-p", "high_accuracy", "--block-size", "32"]),
    ("block 32, calibrated", ["-p", "high_accuracy", "--block-size", "32", "--calibration"]),
    ("high_compression, no data", ["-p", "high_compression"]),
    ("high_compression, calibrated", ["-p", "high_compression", "--calibration"]),
]


def environment(folder, name, packages):
    """The Python of a virtual environment that has `packages`."""
    python = folder / name / "bin" / "python"
    if not (folder / name / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        (folder / name / "complete").touch()
    return python


def row(tool, what, command, out, model, test):
    from figures import deployed, run
    out.unlink(missing_ok=True)
    try:
        seconds, memory = run(list(map(str, command)))
        rel, kl, fused = deployed(model, out, test)
        size = os.path.getsize(out)
        cells = f"{size / 1e6:.3f} | {os.path.getsize(model) / size:.2f} | {rel:.4f} | {kl:.5f} | {fused} | {seconds:.1f} | {memory:.0f}"
    except subprocess.CalledProcessError as error:
        # The timing process reports a failed child on its own last line: ask the tool itself.
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        cells = (done.stderr.strip().splitlines() or [str(error)])[-1][:120] + " | | | | | |"
    except Exception as error:
        cells = f"does not run: {str(error).splitlines()[0][:120]} | | | | | |"
    print(f"| {tool} | {what} | {cells} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("efq", "model", "calibration", "test"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("peers-venvs"))
    parser.add_argument("--only", default="", help="tools whose name holds this text")
    args = parser.parse_args()
    if sys.prefix == sys.base_prefix or "peers-judge" not in os.environ.get("VIRTUAL_ENV", ""):
        judge = environment(args.work.resolve(), "peers-judge", RUNTIME)
        os.environ["VIRTUAL_ENV"] = str(judge.parent.parent)
        os.execv(judge, [str(judge), *sys.argv])
    sys.path.insert(0, str(HERE.parent))
    import numpy as np
    test = dict(np.load(args.test))
    print("| tool | method | MB | smaller | relative L2 | KL | fused | s | MiB |\n|---|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        for what, options in OURS if args.only in "efq" else []:
            given = [args.calibration] if options[-1] == "--calibration" else []
            command = [args.efq, "rewrite", args.model, "-o", out, "--validate", "never", "-q", *options, *given]
            row("efq", what, command, out, args.model, test)
        for tool, what, told in RUNS:
            if args.only in tool:
                python = environment(args.work.resolve(), tool, TOOLS[tool])
                command = [python, HERE / f"with_{tool}.py", *told, args.model, out, args.calibration]
                row(tool, what, command, out, args.model, test)


if __name__ == "__main__":
    main()
