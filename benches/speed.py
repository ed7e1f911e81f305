#!/usr/bin/env python3
"""Time of the main job by size: efq without validation beside `cp` and ONNX Runtime's quantizer.

usage: speed.py EFQ [--folder DIR] [--gigabytes 0.25 1 4] [--rounds 5]

EFQ is a release binary. Makes models of [4096,4096] float32 MatMuls in DIR (twice the bytes of disk are needed) and
runs the commands in turn, each to a file that is not there yet, with the source in the page cache. Prints the median
wall time, the processor time of that run, and the most memory beside mapped files. Needs numpy, onnx, onnx_ir,
onnxruntime; 4 GB are left out of the last, which holds such a model in memory several times.
"""
import argparse, os, pathlib, shutil, statistics, subprocess, sys, tempfile, threading, time
import numpy as np, onnx
from onnx import TensorProto, helper

N = 4096
INLINE = 1 << 31
QUANTIZER = """
import sys, logging, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
logging.disable()
q = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), block_size=32, is_symmetric=False)
q.process()
q.model.save_model_to_file(sys.argv[2], False)
"""


def make(path, count):
    """A chain of `count` products; above 2 GiB with its weights in a side file."""
    base = np.random.default_rng(0).standard_normal((N, N), dtype=np.float32) * np.float32(0.02)
    side = path.with_suffix(".data")
    external = count * N * N * 4 >= INLINE
    tensors, nodes = [], []
    for at in range(count):
        values = np.roll(base, 7 * at + 1, axis=1) * np.float32(1 + at / 100)
        if external:
            with open(side, "ab") as file:
                offset = file.tell()
                file.write(values.tobytes())
            tensor = TensorProto(name=f"w{at}", data_type=TensorProto.FLOAT, dims=[N, N],
                                 data_location=TensorProto.EXTERNAL)
            for key, value in (("location", side.name), ("offset", offset), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        else:
            tensor = helper.make_tensor(f"w{at}", TensorProto.FLOAT, [N, N], values.tobytes(), raw=True)
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"], name=f"product{at}"))
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", N])
    graph = helper.make_graph(nodes, "chain", [value("x0")], [value(f"x{count}")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return [path] + ([side] if external else [])


def own_memory(process, found):
    """The most RssAnon of a running process and its children, in MiB, into `found`."""
    while process.poll() is None:
        try:
            text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            found.append(int(text.split("RssAnon:")[1].split()[0]) / 1024)
        except (OSError, IndexError):
            pass
        time.sleep(0.01)


def measure(command):
    before, start, found = os.times(), time.monotonic(), [0.0]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    watch = threading.Thread(target=own_memory, args=(process, found))
    watch.start()
    process.wait()
    wall, after = time.monotonic() - start, os.times()
    watch.join()
    assert process.returncode == 0, command
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used, max(found)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("efq", type=pathlib.Path)
    arguments.add_argument("--folder", type=pathlib.Path)
    arguments.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 1, 4])
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    print("| float32 | command | median | range | processor time | own memory |\n|---|---|---:|---:|---:|---:|")
    for size in given.gigabytes:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            table(given.efq.resolve(), pathlib.Path(folder), size, given.rounds)


def table(efq, folder, size, rounds):
    files = make(folder / "model.onnx", round(size * 1e9 / (N * N * 4)))
    out = folder / "out"
    rewrite = [efq, "rewrite", files[0], "-p", "high_accuracy", "--validate", "never", "-q", "-o", out / "out.onnx"]
    commands = {
        "`cp`": ["cp", *files, out],
        "`efq … --algorithm rtn`": rewrite + ["--algorithm", "rtn"],
        "`efq … --block-size 32 --algorithm search`": rewrite + ["--block-size", "32", "--algorithm", "search"],
    }
    if len(files) == 1:
        quantizer = [sys.executable, "-c", QUANTIZER, files[0], out / "out.onnx"]
        commands["ONNX Runtime's MatMulNBitsQuantizer, block 32"] = quantizer
    runs = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            for file in files:
                with open(file, "rb") as source:
                    while source.read(1 << 24):
                        pass
            runs[name].append(measure(command))
    for name, found in runs.items():
        walls = [wall for wall, _, _ in found]
        median = statistics.median(walls)
        used = min(found, key=lambda one: abs(one[0] - median))[1]
        memory = max(own for _, _, own in found)
        print(f"| {size} GB | {name} | {median:.2f} s | {min(walls):.2f} to {max(walls):.2f} s | {used:.2f} s "
              f"| {memory:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
