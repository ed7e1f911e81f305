#!/usr/bin/env python3
"""The figures of the README: size, error, fused layers, time and memory in ONNX Runtime.

usage: figures.py EFQ MODELS [--rows TEXT]

EFQ is a release binary, MODELS a folder with minilm, minilm_sections, digits_vit and byte_gpt as .onnx and
their .npz, and prose.npz (benches/prose.py) for other texts. Needs numpy, onnx, onnxruntime. Prints one Markdown row
a measurement.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile, time
import numpy as np, onnx, onnxruntime as ort

QUANTIZER = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
q = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), block_size=32, is_symmetric=False)
q.process()
q.model.save_model_to_file(sys.argv[2], False)
"""


def session(path, keep=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if keep:
        options.optimized_model_filepath = str(keep)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(s, data, rows):
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    return {i.name: data[i.name][rows].astype(kinds[i.type]) for i in s.get_inputs()}


def outputs(s, data, batch=16):
    count = len(data[s.get_inputs()[0].name])
    parts = [s.run(None, feeds(s, data, slice(at, at + batch)))[0] for at in range(0, count, batch)]
    return np.concatenate(parts).astype(np.float64)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def deployed(original, rewritten, data):
    """Relative L2, KL and the number of fused nodes in a default session."""
    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(folder) / "optimized.onnx"
        before, after = session(original), session(rewritten, kept)
        fused = sum(n.op_type == "MatMulNBits" for n in onnx.load(kept, load_external_data=False).graph.node)
    x, y = outputs(before, data), outputs(after, data)
    p, q = log_softmax(x), log_softmax(y)
    kl = float((np.exp(p) * (p - q)).sum(-1).mean())
    if "attention_mask" in data and x.ndim == 3:
        keep = data["attention_mask"].astype(bool)
        x, y = x[keep], y[keep]
    return float(np.linalg.norm(y - x) / np.linalg.norm(x)), kl, fused


def run(command):
    """Wall seconds and peak MiB of a whole process, measured from a small one (a child starts with the peak of
    the process that forks it)."""
    measure = ("import resource, subprocess, sys, time; t = time.perf_counter(); "
               "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True); "
               "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)")
    done = subprocess.run([sys.executable, "-c", measure, *command], capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def time_ratio(a, b, data, rounds=25):
    """Median of paired run times, b over a, 8 samples a run."""
    one, two = session(a), session(b)
    x, y, ratios = feeds(one, data, slice(0, 8)), feeds(two, data, slice(0, 8)), []
    for _ in range(rounds):
        t = time.perf_counter(); one.run(None, x)
        u = time.perf_counter(); two.run(None, y)
        ratios.append((time.perf_counter() - u) / (u - t))
    return float(np.median(ratios[3:]))


def rewrite(efq, model, out, *options):
    command = [efq, "rewrite", str(model), "-o", str(out), "--force", "--format", "json", "--keep-output", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("efq"); parser.add_argument("models", type=pathlib.Path); parser.add_argument("--rows", default="")
    args = parser.parse_args()
    models, efq = args.models, args.efq
    load = lambda name: dict(np.load(models / f"{name}.npz"))
    print("| model | options | bytes | smaller | figure |\n|---|---|---:|---:|---|")

    def row(model, options, size, text):
        ratio = os.path.getsize(models / f"{model}.onnx") / size
        print(f"| {model} | {' '.join(options)} | {size} | {ratio:.2f} | {text} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out, other = pathlib.Path(folder) / "out.onnx", pathlib.Path(folder) / "other.onnx"

        if args.rows in "minilm":
            options = ["-p", "high_accuracy", "--block-size", "32"]
            data = models / "minilm.dev.npz"
            report = rewrite(efq, models / "minilm.onnx", out, *options, "--no-repair", "--data", str(data))
            rel, _, fused = deployed(models / "minilm.onnx", out, load("minilm.dev"))
            said = report["validation"]["deployed"]["rel_l2"]
            row("minilm", options, os.path.getsize(out), f"relative L2 {rel:.4f}, efq said {said:.4f}, {fused} fused")
            speed = [run([efq, "rewrite", str(models / "minilm.onnx"), *options, "--algorithm", "search", "--validate", "never", "-q", "--force", "-o", str(out)]) for _ in range(5)]
            peer = [run([sys.executable, "-c", QUANTIZER, str(models / "minilm.onnx"), str(other)]) for _ in range(5)]
            wall, memory = np.median([s[0] for s in speed]), max(s[1] for s in speed)
            theirs, their_memory = np.median([s[0] for s in peer]), max(s[1] for s in peer)
            row("minilm", options + ["--algorithm", "search", "--validate", "never"], os.path.getsize(out),
                f"{wall:.2f} s, {memory:.0f} MiB; ONNX Runtime's quantizer {theirs:.2f} s, {their_memory:.0f} MiB: {wall / theirs:.2f} of its time")
            options = ["-p", "automotive_adas", "--algorithm", "search", "--validate", "never"]
            rewrite(efq, models / "minilm.onnx", other, *options)
            options += ["--embeddings", "int8"]
            rewrite(efq, models / "minilm.onnx", out, *options)
            ratio = time_ratio(other, out, load("minilm.dev"))
            row("minilm", options, os.path.getsize(out), f"{ratio:.2f} of the run time with kept embeddings")

        fitted = [("minilm", "minilm.dev"), ("minilm_sections", "minilm_sections.test"),
                  ("byte_gpt", "byte_gpt.test"), ("digits_vit", "digits_vit.test")]
        blocks = ["-p", "high_accuracy", "--block-size", "32", "--validate", "never"]
        small = ["-p", "high_compression", "--validate", "never"]
        few = pathlib.Path(folder) / "minilm.calib32.npz"
        np.savez(few, **{name: values[:32] for name, values in load("minilm.calib").items()})
        prose = models / "prose.npz"

        def on_other_texts(model):
            if model != "minilm" or not prose.exists():
                return ""
            return f", on other texts {deployed(models / 'minilm.onnx', out, load('prose'))[0]:.4f}"

        for model, test in fitted if args.rows in "calibration" else []:
            samples = ["--calibration", str(models / f"{model}.calib.npz")]
            head = ["--head", "int4"] if model == "byte_gpt" else []
            runs = [blocks + head + more for more in (["--algorithm", "rtn"], ["--algorithm", "search"], [], samples)]
            if model in ("minilm", "digits_vit"):
                runs.append(small + samples)
            if model == "minilm":
                runs.append(blocks + ["--calibration", str(few)])
                runs += [small + ["--target-size", size] + samples for size in ("14.7MB", "18.7MB")]
            for options in runs:
                begun = time.perf_counter()
                rewrite(efq, models / f"{model}.onnx", out, *options)
                took = time.perf_counter() - begun
                rel, kl, fused = deployed(models / f"{model}.onnx", out, load(test))
                shown = [pathlib.Path(option).name for option in options]
                row(model, shown, os.path.getsize(out), f"relative L2 {rel:.4f}, KL {kl:.5f}{on_other_texts(model)}, {fused} fused, {took:.1f} s")

        # What each step of the fitting adds, on other texts too where there are some. Needs
        # `cargo build --release --example steps`.
        steps = ["carry", "refit", "descent", "tabu", "sequential", "asymmetric", "bias", "kernel", "damping", "beside",
                 "weighted"]
        for model, test in fitted if args.rows == "ablation" else []:
            calibration = models / f"{model}.calib.npz"
            for count in range(len(steps) + 1):
                command = [pathlib.Path(efq).parent / "examples" / "steps", models / f"{model}.onnx", calibration, out]
                done = subprocess.run([*command, *steps[:count]], stdout=subprocess.PIPE, text=True, check=True)
                if skipped := json.loads(done.stdout)["fitting"]["skipped"]:
                    sys.exit(f"{model} was not calibrated: {skipped}")
                rel, kl, _ = deployed(models / f"{model}.onnx", out, load(test))
                row(model, steps[:count], os.path.getsize(out), f"relative L2 {rel:.4f}, KL {kl:.5f}{on_other_texts(model)}")

        presets = ["high_accuracy", "high_compression", "medical_grade", "automotive_adas", "balanced_production", "manufacturing_qc"]
        for model in ("digits_vit", "minilm_sections", "byte_gpt"):
            for preset in presets:
                if args.rows not in model:
                    continue
                options = ["-p", preset]
                if model == "minilm_sections" and preset in ("medical_grade", "automotive_adas"):
                    options += ["--calibration", str(models / f"{model}.calib.npz")]
                report = rewrite(efq, models / f"{model}.onnx", out, *options, "--data", str(models / f"{model}.test.npz"))
                verdict = report["validation"]["deployed"]
                low, high = verdict["interval"]["low"], verdict["interval"]["high"]
                needed = f", about {verdict['samples_needed']} samples would decide" if verdict["samples_needed"] else ""
                row(model, options, os.path.getsize(out),
                    f"{verdict['estimate']:.2f} [{low:.2f}, {high:.2f}] {verdict['outcome']}, {len(report['repair'])} raised{needed}")
        if args.rows in "byte_gpt":
            options = ["-p", "high_accuracy", "--block-size", "32"]
            rewrite(efq, models / "byte_gpt.onnx", out, *options, "--validate", "never")
            _, kl, fused = deployed(models / "byte_gpt.onnx", out, load("byte_gpt.test"))
            row("byte_gpt", options, os.path.getsize(out), f"KL {kl:.5f}, {fused} fused")


if __name__ == "__main__":
    main()
