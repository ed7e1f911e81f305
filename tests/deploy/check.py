#!/usr/bin/env python3
"""Holds what `efq rewrite` writes and reports against ONNX Runtime.

    python check.py EFQ [--fixtures DIR] [--models DIR] [--zoo DIR] [-v] [NAME...]

Every MODEL.onnx with samples beside it (MODEL.npz, MODEL.test.npz or MODEL.dev.npz) is rewritten under each of
OPTION_SETS. With NAMEs, only models whose name contains one of them. Sample i of an array is x[i:i+1], or x[i] where
the array has one axis more than the graph input declares. The table shows the first option set of each model, with -v
all of them.

Needs: pip install -r requirements.txt
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from blake3 import blake3
from onnx import TensorProto, helper, numpy_helper

# Without repair, so that the weights under test do not end up as floats; two sets leave it on.
OPTION_SETS = {
    "block 32": "-p high_accuracy --block-size 32 --no-repair",
    "compression": "-p high_compression --no-repair",
    "small": "-p high_compression --block-size 16 --scales int8 --no-repair --algorithm search",
    "adas": "-p automotive_adas --embeddings int8 --algorithm search --scales int8",
    "medical": "-p medical_grade --head int8 --external-data --algorithm search",
    "int8": "-p medical_grade --no-repair --tensor *=int8 --algorithm search",
    "nbits": "-p high_accuracy --block-size 32 --no-repair --emit matmulnbits",
    "nbits int8": "-p medical_grade --no-repair --tensor *=int8 --algorithm search --emit matmulnbits",
}
LEVEL = "session.qdq_matmulnbits_accuracy_level"
EXACT, EXACT_HALF = 1e-5, 2e-3
# A bias that is added apart is rounded apart, and that may flip a rounding to int8; in half precision it flips many.
SAME, SAME_HALF = 5e-4, 2e-2
# The zoo has this many samples of a model at most.
FEW = 8
# 8-bit weights err by half a percent, small probabilities by some times as much; where a network answers more to them, by no more than plain rounding by channel.
INT8_CLOSE, INT8_MORE = 0.1, 1.25
# The logistic functions of both runtimes are right to this beside 1, so small probabilities differ by more of themselves.
PROBABILITY = 1e-7
# On so few samples single roundings that flip show; on 2000 images the two agree to 0.1 %, on 64 of them to 1 %.
# Beside 8-bit weights the rounding of activations is half of the error, and they show more.
DEPLOYED, DEPLOYED_FEW, DEPLOYED_INT8, DEPLOYED_TINY = 1e-2, 2e-2, 5e-2, 1e-4
# Power spectra of eleven decades, and a logarithm behind the product: the fused kernels sum with shifted codes and take the
# shift off in float32, of which efq's figures know nothing.
WIDE, DEPLOYED_WIDE = {"oww_melspectrogram"}, 0.15
WEIGHTS, WEIGHTS_TINY = 1e-3, 1e-6
# Large models take most of the time: fewer option sets, and as many samples as keep rounding below DEPLOYED.
SAMPLES, SAMPLES_LARGE, LARGE_BYTES = 192, 48, 50 << 20
SETS_LARGE = ("block 32", "adas")
FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
BYTES = {TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8}
HERE = pathlib.Path(__file__).resolve().parent


class Tally:
    """Counts checks and keeps what failed."""

    def __init__(self):
        self.passed, self.failures = 0, []

    def check(self, subject, what, holds, detail=""):
        if holds:
            self.passed += 1
        else:
            self.failures.append(f"{subject}: {what}" + (f": {detail}" if detail else ""))
        return holds

    def attempt(self, subject, what, work):
        """The result of `work`, or None and a failure when it raises."""
        try:
            result = work()
        except Exception as error:  # whatever onnx and onnxruntime raise
            self.check(subject, what, False, first_line(error))
            return None
        self.passed += 1
        return result


def first_line(error):
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]


# --- models and samples --------------------------------------------------------------------------------------------

class Case:
    """A model with samples, and what ONNX Runtime makes of the original."""

    def __init__(self, path, data, folder):
        self.name, self.path = path.stem, path
        self.model = onnx.load(path)
        large = sum(t.ByteSize() for t in self.model.graph.initializer) > LARGE_BYTES
        self.sets = SETS_LARGE if large else tuple(OPTION_SETS)
        types = {t.data_type for t in self.model.graph.initializer}
        self.half = TensorProto.FLOAT16 in types
        self.rounded = self.half or TensorProto.BFLOAT16 in types
        self.data, arrays = reduced(data, SAMPLES_LARGE if large else SAMPLES, folder)
        if self.half:
            self.data, arrays = shuffled(self.data, arrays, folder)
        self.feeds = feeds_of(self.model, arrays)
        self.checked = passes_checker(path)
        self.default = Outputs(session(path), self.feeds)
        self.plain = Outputs(session(path, optimize=False), self.feeds)

    def by_channel(self):
        """How far the outputs go when the weights of layers are rounded to 8 bits, with one scale a channel."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        stored = {t.name: t for t in model.graph.initializer}
        stored.update((n.output[0], n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant")
        for node in model.graph.node:
            tensor = stored.get(node.input[1]) if node.op_type in ("Conv", "MatMul", "Gemm") else None
            if tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
                values = numpy_helper.to_array(tensor)
                axes = tuple(range(1, values.ndim)) if node.op_type == "Conv" else (0,)
                scale = np.maximum(np.abs(values).max(axis=axes, keepdims=True), 1e-30) / 127
                tensor.CopyFrom(numpy_helper.from_array((np.round(values / scale) * scale).astype(np.float32), tensor.name))
        return self.plain.apart(Outputs(session(model.SerializeToString(), optimize=False), self.feeds))[0]


def reduced(path, count, folder):
    """The file itself or, where it holds more than `count` samples, one with the first of them; and its arrays."""
    arrays = dict(np.load(path))
    if all(len(array) <= count for array in arrays.values()):
        return path, arrays
    arrays = {name: array[:count] for name, array in arrays.items()}
    small = folder / path.name
    np.savez(small, **arrays)
    return small, arrays


def shuffled(path, arrays, folder):
    """The samples, where they are few over and over again with their integers shuffled, and a file of them: in half
    precision it takes hundreds of samples until the roundings that flip even out."""
    count = min(len(array) for array in arrays.values())
    if count > FEW:
        return path, arrays
    generator = np.random.default_rng(0)
    arrays = {name: np.concatenate([array[:count]] * -(-SAMPLES // count)) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind == "i" and array.max() > 1:
            arrays[name] = generator.permuted(array.ravel()).reshape(array.shape)
    more = folder / f"more_{path.name}"
    np.savez(more, **arrays)
    return more, arrays


def feeds_of(model, arrays):
    declared = true_inputs(model)
    ranks = {name: len(value.type.tensor_type.shape.dim) for name, value in declared.items()}
    pick = lambda name, i: arrays[name][i] if arrays[name].ndim == ranks[name] + 1 else arrays[name][i:i + 1]
    count = min(len(arrays[name]) for name in declared)
    return [{name: np.asarray(pick(name, i)) for name in declared} for i in range(count)]


def true_inputs(model):
    """Graph inputs without a default, by name."""
    defaults = {t.name for t in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in defaults}


def passes_checker(path):
    try:
        onnx.checker.check_model(str(path), full_check=True)
        return True
    except Exception:
        return False


def find_cases(folders, wanted):
    """(model, samples) of every model that has samples; the first of a name counts."""
    found = {}
    for folder in filter(None, folders):
        for path in sorted(folder.rglob("*.onnx")):
            data = [path.with_suffix(end) for end in (".npz", ".test.npz", ".dev.npz")]
            data = next((file for file in data if file.exists()), None)
            if data and (not wanted or any(name in path.stem for name in wanted)):
                found.setdefault(path.stem, (path, data))
    return list(found.values())


# --- running -------------------------------------------------------------------------------------------------------

def session(source, optimize=True, level=None, save=None):
    """A session on a path or on the bytes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if level:
        options.add_session_config_entry(LEVEL, level)
    if save:
        options.optimized_model_filepath = str(save)
    source = source if isinstance(source, bytes) else str(source)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class Outputs:
    """Outputs of a session by name, one list entry a sample; what is no tensor is left out."""

    def __init__(self, session, feeds):
        self.lists = collections.defaultdict(list)
        names = [output.name for output in session.get_outputs()]
        for feed in feeds:
            for name, value in zip(names, session.run(None, feed)):
                if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                    self.lists[name].append(value)

    def apart(self, other, floats_only=False):
        """(largest relative L2 over the outputs, name of that output); infinite where shapes differ. What probabilities
        cannot tell is taken off."""
        worst = (0.0, "")
        for name, values in self.lists.items():
            if floats_only and values and values[0].dtype.kind != "f":
                continue
            worst = max(worst, (relative(values, other.lists[name]) - unsure(values), name))
        return worst


def unsure(reference):
    """Relative L2 that the resolution of probabilities leaves open; 0 for outputs that are none."""
    values = np.concatenate([np.ravel(r) for r in reference]) if reference else np.zeros(0)
    if values.dtype.kind != "f" or not values.size or values.min() < 0 or values.max() > 1:
        return 0.0
    size = np.sqrt(np.square(values.astype(np.float64)).mean())
    return float(PROBABILITY / size) if size else 0.0


def relative(reference, candidate, masks=None):
    """Relative L2 over all samples and the positions that count; the reference's non-finite rows do not."""
    if len(reference) != len(candidate):
        return np.inf
    error = total = 0.0
    for at, (r, c) in enumerate(zip(reference, candidate)):
        if r.shape != c.shape or r.dtype != c.dtype:
            return np.inf
        width = max(r.shape[-1] if r.ndim else 1, 1)
        r, c = r.astype(np.float64).reshape(-1, width), c.astype(np.float64).reshape(-1, width)
        counts = np.isfinite(r).all(axis=1)
        if masks is not None and masks[at].size == len(r):
            counts &= masks[at].ravel() != 0
        error += np.square(c[counts] - r[counts]).sum()
        total += np.square(r[counts]).sum()
    return float(np.sqrt(error / total)) if total else float(np.sqrt(error))


# --- the dequantized reference ---------------------------------------------------------------------------------------

def reference(model):
    """The model with every blocked DequantizeLinear over constants, every MatMulNBits, every 4-bit table and every
    tensor stored small replaced by the floats it means."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    in_floats(result.graph)
    return result.SerializeToString()


def in_floats(graph):
    """The same for one graph and its bodies: each has its own codes."""
    for body in bodies_of(graph):
        in_floats(body)
    constants = {t.name: t for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    kept = []
    for node in graph.node:
        if is_blocked(node) and node.input[0] in constants:
            graph.initializer.append(numpy_helper.from_array(decoded(node, constants, producers), node.output[0]))
        elif node.op_type == "MatMulNBits":
            weight = numpy_helper.from_array(decoded_product(node, constants), node.output[0] + "_weight")
            graph.initializer.append(weight)
            product = node.output[0] + "_product" if len(node.input) > 5 else node.output[0]
            kept.append(helper.make_node("MatMul", [node.input[0], weight.name], [product], name=node.name))
            if len(node.input) > 5:
                kept.append(helper.make_node("Add", [product, node.input[5]], list(node.output)))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for nodes, floats in stored_small(kept, constants):
        for node in nodes:
            graph.node.remove(node)
        graph.initializer.append(floats)
    kept = list(graph.node)
    for chain in packed_tables(kept, constants):
        last = chain[-1]
        table = numpy_helper.from_array(decoded_table(chain, constants), last.output[0] + "_table")
        graph.initializer.append(table)
        for node in chain[:-1]:
            graph.node.remove(node)
        position = list(graph.node).index(last)
        gather = helper.make_node("Gather", [table.name, chain[0].input[1]], list(last.output), name=last.name)
        graph.node.remove(last)
        graph.node.insert(position, gather)


def stored_small(nodes, constants):
    """The nodes of each tensor that is stored small and runs as float, and the initializer that they mean: float16
    behind a Cast, or INT8 behind a Cast and a Mul by constant scales."""
    for node in nodes:
        stored = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or stored.data_type not in (TensorProto.FLOAT16, TensorProto.INT8):
            continue
        floats = numpy_helper.to_array(stored).astype(np.float32)
        chain = [node]
        if stored.data_type == TensorProto.INT8:
            takers = [other for other in nodes if node.output[0] in other.input]
            if len(takers) != 1 or takers[0].op_type != "Mul" or takers[0].input[1] not in constants:
                continue
            if any(takers[0].output[0] in other.input and is_blocked(other) for other in nodes):
                continue
            floats = floats * numpy_helper.to_array(constants[takers[0].input[1]])
            chain += takers
        yield chain, numpy_helper.from_array(floats, chain[-1].output[0])


# What stands behind the Gather of a 4-bit table, in the order of efq's nodes; those in brackets may be missing.
PACKED = "Gather Cast Mul Floor Sub Sub Concat Gather [Cast] Mul [Shape] [Concat] Reshape [Slice]".split()


def packed_tables(nodes, constants):
    """The nodes of each 4-bit table, from the Gather of its codes to the one that gives the rows."""
    for at, first in enumerate(nodes):
        table = constants.get(first.input[0]) if first.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.INT8 or len(table.dims) != 3:
            continue
        chain, values, at = [], set(), at
        for wanted in PACKED:
            node = nodes[at] if at < len(nodes) else None
            # A later part takes what an earlier one made, or the ids.
            belongs = node is not None and (not chain or values & set(node.input) or first.input[1] in node.input)
            if belongs and node.op_type == wanted.strip("[]"):
                chain.append(node)
                values.update(node.output)
                at += 1
            elif not wanted.startswith("["):
                raise ValueError(f"{first.name}: {wanted} of a 4-bit table is missing")
        yield chain


def decoded_table(chain, constants):
    """The rows of a 4-bit table, by its layout: low nibbles are the first half of each row, high ones the second."""
    gathers = [node for node in chain if node.op_type == "Gather"]
    packed, scale = (numpy_helper.to_array(constants[node.input[0]]) for node in gathers)
    kind = helper.tensor_dtype_to_np_dtype(attribute(chain[1], "to", 0))
    low, high = ((packed & 15) - 8).astype(kind), (packed >> 4).astype(kind)
    # The scales of the low nibbles are stored 16 times as large.
    scale = scale.astype(kind) / np.repeat([16, 1], packed.shape[1]).astype(kind)[:, None]
    rows = (np.concatenate([low, high], axis=1) * scale).reshape(len(packed), -1)
    cut = chain[-1] if chain[-1].op_type == "Slice" else None
    return rows[:, :int(numpy_helper.to_array(constants[cut.input[2]])[0])] if cut else rows


def attribute(node, name, default):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def is_blocked(node):
    return node.op_type == "DequantizeLinear" and attribute(node, "block_size", 0) > 0


def decoded(node, constants, producers):
    """The weight of a DequantizeLinear node, computed in float32."""
    codes = codes_of(constants[node.input[0]])
    scale = scale_of(node.input[1], constants, producers)
    zero = codes_of(constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape)
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    spread = lambda array: np.repeat(array, block, axis).take(range(codes.shape[axis]), axis)
    levels = (codes - spread(zero)).astype(np.float32)
    return (levels * spread(scale).astype(np.float32)).astype(scale.dtype)


def decoded_product(node, constants):
    """The weight [K,N] of a MatMulNBits, computed in float32."""
    k, n, bits, block = (attribute(node, name, default) for name, default in
                         (("K", 0), ("N", 0), ("bits", 4), ("block_size", 0)))
    blocks = -(-k // block)
    unsigned = lambda packed, count: (packed if bits == 8 else
                                      np.stack([packed & 15, packed >> 4], axis=-1).reshape(n, -1))[:, :count]
    codes = unsigned(numpy_helper.to_array(constants[node.input[1]]).reshape(n, -1), blocks * block)
    scale = numpy_helper.to_array(constants[node.input[2]]).reshape(n, blocks, 1)
    zero = np.full((n, blocks), 1 << bits - 1)
    if len(node.input) > 3 and node.input[3]:
        zero = unsigned(numpy_helper.to_array(constants[node.input[3]]).reshape(n, -1), blocks)
    levels = codes.astype(np.int16).reshape(n, blocks, block) - zero.astype(np.int16)[:, :, None]
    weight = levels.astype(np.float32) * scale.astype(np.float32)
    return np.ascontiguousarray(weight.reshape(n, -1)[:, :k].T).astype(scale.dtype)


def at_level(model, level):
    """The bytes of the model with every MatMulNBits at this accuracy level."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in nodes_of(result.graph):
        for entry in (a for a in node.attribute if node.op_type == "MatMulNBits" and a.name == "accuracy_level"):
            entry.i = level
    return result.SerializeToString()


def scale_of(name, constants, producers):
    """Scales as they are used: stored so, behind a Cast, or behind a Cast and a Mul by one number."""
    maker = producers.get(name)
    if maker is None:
        return numpy_helper.to_array(constants[name])
    inner = scale_of(maker.input[0], constants, producers)
    if maker.op_type == "Mul":
        return inner * numpy_helper.to_array(constants[maker.input[1]])
    assert maker.op_type == "Cast", maker.op_type
    return inner.astype(helper.tensor_dtype_to_np_dtype(attribute(maker, "to", 0)))


def codes_of(tensor):
    """Integers of a 4-bit or 8-bit tensor."""
    raw = tensor.raw_data or bytes(value & 255 for value in tensor.int32_data)
    if tensor.data_type in BYTES:
        values = np.frombuffer(raw, BYTES[tensor.data_type])
    elif tensor.data_type in FOUR_BITS:
        packed = np.frombuffer(raw, np.uint8)
        values = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:np.prod(tensor.dims, dtype=int)]
    else:
        raise ValueError(f"{tensor.name} is of type {tensor.data_type}")
    values = values.astype(np.int16).reshape(tensor.dims)
    return (values ^ 8) - 8 if tensor.data_type == TensorProto.INT4 else values


# --- one rewrite -----------------------------------------------------------------------------------------------------

Run = collections.namedtuple("Run", "code report stderr output")


def rewrite(efq, case, options, folder, more=()):
    folder.mkdir(parents=True)
    output = folder / "out.onnx"
    command = [efq, "rewrite", case.path, *options.split(), "-o", output, "--format", "json", "--keep-output",
               "--data", case.data, *more]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    return Run(done.returncode, report, done.stderr.strip(), output)


Row = collections.namedtuple("Row", "outcome fused ratio deployed efq_deployed weights efq_weights note")


def left_alone(reason):
    return Row("left alone", "", "", None, None, None, None, reason)


def check_run(tally, subject, case, options, run):
    """Holds one run against ONNX Runtime; its row of the table."""
    files = {path.name for path in run.output.parent.iterdir()}
    tally.check(subject, "no leftovers", files <= {"out.onnx", "out.onnx_data"}, str(sorted(files)))
    tally.check(subject, "no panic", "panicked" not in run.stderr and "Traceback" not in run.stderr, run.stderr[:300])
    if run.code == 3 and "nothing to rewrite" in run.stderr:
        check_refusal(tally, subject, run)
        return left_alone(run.stderr.partition("nothing to rewrite: ")[2])
    if not tally.check(subject, "exit code 0 or 1", run.code in (0, 1), f"{run.code}: {run.stderr[:300]}"):
        return left_alone(f"exit code {run.code}")
    if not tally.check(subject, "report and output", run.report and run.output.exists()):
        return left_alone("no output")
    model = onnx.load(run.output)
    unchanged = all(t["encoding"] == "float" for t in run.report["tensors"])
    check_file(tally, subject, case, run, model, unchanged)
    row = check_numbers(tally, subject, case, options, run, model)
    return left_alone("every tensor is kept") if unchanged else row


def check_refusal(tally, subject, run):
    left = sorted(path.name for path in run.output.parent.iterdir())
    tally.check(subject, "a refusal is one line and no file", not left and "\n" not in run.stderr, str(left))


def check_file(tally, subject, case, run, model, unchanged):
    result, old = run.report["result"], case.model
    digest = blake3(run.output.read_bytes()).hexdigest()
    tally.check(subject, "digest in the report", result["blake3"] == digest)
    sizes = sum(path.stat().st_size for path in run.output.parent.iterdir())
    same = unchanged or result["bytes"] == sizes
    tally.check(subject, "bytes in the report", same, f"{result['bytes']}, not {sizes}")
    if case.checked:
        tally.attempt(subject, "onnx.checker", lambda: onnx.checker.check_model(str(run.output), full_check=True))
    tally.check(subject, "inputs", list(true_inputs(model).values()) == list(true_inputs(old).values()))
    tally.check(subject, "outputs", list(model.graph.output) == list(old.graph.output))
    metadata = lambda m: {entry.key: entry.value for entry in m.metadata_props}
    kept = metadata(old).items() <= metadata(model).items()
    efq = {"efq.version", "efq.preset", "efq.source_blake3", "efq.plan_blake3"}
    tally.check(subject, "metadata", kept and (unchanged or efq <= metadata(model).keys()), str(metadata(model)))
    versions = lambda m: {entry.domain: entry.version for entry in m.opset_import}
    fine = all(versions(model).get(domain, 0) >= version for domain, version in versions(old).items())
    tally.check(subject, "operator sets", fine, f"{versions(old)} became {versions(model)}")
    quantized = lambda m: {t.name: codes_of(t).tobytes() for t in m.graph.initializer
                           if t.data_type in (*FOUR_BITS, *BYTES)}
    tally.check(subject, "weights quantized before are left alone", quantized(old).items() <= quantized(model).items())
    silent = [t["name"] for t in run.report["tensors"] if not t["reason"]]
    tally.check(subject, "a reason for every tensor", not silent, str(silent))


def check_numbers(tally, subject, case, options, run, model):
    report, exact = run.report, EXACT_HALF if case.half else EXACT
    optimized = run.output.parent / "optimized.onnx"
    default = tally.attempt(subject, "runs by default",
                            lambda: Outputs(session(run.output, save=optimized), case.feeds))
    # A node that is in the file has its level there.
    exactly = at_level(model, 1)
    plain = tally.attempt(subject, "runs unoptimized",
                          lambda: Outputs(session(exactly, optimize=False), case.feeds))
    level1 = tally.attempt(subject, "runs at level 1", lambda: Outputs(session(exactly, level="1"), case.feeds))
    if not (default and plain and level1):
        return left_alone("does not run")
    check_fusion(tally, subject, report["fusion"], model, onnx.load(optimized))
    meant = reference(model)
    for what, got, optimize in (("unoptimized", plain, False), ("at level 1", level1, True)):
        # The same optimizations on both sides: those that are not in question round in other places.
        wanted = Outputs(session(meant, optimize=optimize), case.feeds)
        apart, output = wanted.apart(got)
        tally.check(subject, f"{what} as decoded", apart <= exact, f"{output} is off by {apart:.1e}")
    if "*=int8" in options:
        apart, output = case.plain.apart(plain, floats_only=True)
        close = apart <= INT8_CLOSE or apart <= INT8_MORE * case.by_channel()
        tally.check(subject, "int8 is close to the original", close, f"{output} is off by {apart:.1e}")
    part = DEPLOYED if len(case.feeds) > FEW else DEPLOYED_FEW
    # Where experts are chosen, a rounding that flips may choose another.
    routed = any(node.op_type == "TopK" for node in model.graph.node)
    part = DEPLOYED_FEW if case.half else part
    # A repair leaves so little error that the rounding of activations is much of it.
    part = DEPLOYED_INT8 if "*=int8" in options or routed or report["repair"] else part
    part = DEPLOYED_WIDE if case.name in WIDE else part
    return check_figures(tally, subject, case, report, default, plain, part)


def check_fusion(tally, subject, fusion, model, optimized):
    products = lambda m: sum(node.op_type == "MatMulNBits" for node in nodes_of(m.graph))
    fused = products(optimized)
    tally.check(subject, "fused as reported", fused == fusion["fused"], f"{fused}, reported {fusion['fused']}")
    left, known = sum(map(is_blocked, nodes_of(optimized.graph))), len(fusion["unfused"])
    tally.check(subject, "unfused as reported", left <= known, f"{left}, reported {known}")
    constants = {tensor.name for tensor in optimized.graph.initializer}
    small = {node.input[0] for node in model.graph.node
             if node.op_type == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT}
    casts = sum(node.op_type == "Cast" and node.input[0] in small & constants for node in optimized.graph.node)
    tally.check(subject, "stored tensors folded at load", casts == 0, f"{casts} casts of constants are left")


def bodies_of(graph):
    """The graphs that the graph's own nodes hold."""
    return [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def nodes_of(graph):
    """Nodes of the graph and of its bodies."""
    yield from graph.node
    for body in bodies_of(graph):
        yield from nodes_of(body)


def check_figures(tally, subject, case, report, default, plain, deployed_part):
    """efq's errors against ONNX Runtime's; the row of the table."""
    validation = report["validation"]
    measured = validation["status"] == "measured"
    floats = (name for name, values in case.default.lists.items() if values[0].dtype.kind == "f")
    output = validation["output"] if measured else next(floats)
    masks = [feed["attention_mask"] for feed in case.feeds] if "attention_mask" in case.feeds[0] else None
    deployed = relative(case.default.lists[output], default.lists[output], masks)
    weights = relative(case.plain.lists[output], plain.lists[output], masks)
    figures = [None, None]
    if measured:
        figures = [validation[which]["rel_l2"] for which in ("deployed", "weights_only")]
        for what, efq, truth, part, tiny in (("deployed", figures[0], deployed, deployed_part, DEPLOYED_TINY),
                                             ("weights only", figures[1], weights, WEIGHTS, WEIGHTS_TINY)):
            # efq computes half precision in float32, so the rounding of every step stands between the two.
            open_ = unsure(case.plain.lists[output])
            fine = abs((efq or 0.0) - truth) <= open_ + max(part * truth, EXACT_HALF if case.rounded else tiny)
            tally.check(subject, f"rel L2 {what}", fine, f"efq {efq}, ONNX Runtime {truth:.6g} ({output})")
    fusion, ratio = report["fusion"], report["original"]["bytes"] / report["result"]["bytes"]
    note = "" if measured else validation["reason"]
    return Row("rewritten", f"{fusion['fused']} of {fusion['total']}", f"{ratio:.2f}", deployed, figures[0], weights,
               figures[1], note)


def check_determinism(tally, efq, case, folder):
    runs = [rewrite(efq, case, OPTION_SETS["block 32"], folder / f"threads{n}", ("--threads", str(n))) for n in (1, 2)]
    files = [run.output.read_bytes() if run.output.exists() else None for run in runs]
    tally.check(case.name, "the same bytes with 1 and 2 threads", files[0] and files[0] == files[1])


def check_forms(tally, efq, case, folder):
    """A MatMulNBits in the file computes what ONNX Runtime's own fusion computes from the standard nodes."""
    for bits in ("int4", "int8"):
        preset = folder / f"{bits}.yaml"
        preset.write_text(f"name: forms\nalgorithm: search\nscales: fp32\nrules:\n"
                          f"  - {{pattern: '*', store: {bits}, block_size: 32}}\n")
        options = f"-p {preset} --validate never"
        runs = [rewrite(efq, case, f"{options} --emit {emit} --allow-requantize", folder / f"{emit}_{bits}")
                for emit in ("qdq", "matmulnbits")]
        # What is padded to whole blocks may not get smaller, and then stays float in one of the two.
        encodings = [[t["encoding"].removesuffix(" in MatMulNBits") for t in run.report["tensors"]]
                     for run in runs if run.report and run.output.exists()]
        if len(encodings) < 2 or encodings[0] != encodings[1]:
            continue
        fused, direct = (Outputs(session(run.output), case.feeds) for run in runs)
        apart, output = fused.apart(direct)
        tally.check(case.name, f"{bits}: MatMulNBits as the fused node", apart <= (SAME_HALF if case.half else SAME), f"{output} is off by {apart:.1e}")


# --- all of it -------------------------------------------------------------------------------------------------------

def print_row(name, options, row):
    figure = lambda value: "-" if value is None else f"{value:.3e}"
    numbers = [figure(v) for v in (row.deployed, row.efq_deployed, row.weights, row.efq_weights)]
    print(f"{name:26} {options:11} {row.outcome:10} {row.fused:>8} {row.ratio:>5} "
          + " ".join(f"{number:>9}" for number in numbers) + f"  {row.note[:150]}", flush=True)


def check_case(tally, efq, path, data, verbose, folder):
    case = tally.attempt(path.stem, "the original runs", lambda: Case(path, data, folder))
    if case is None:
        return
    for number, title in enumerate(case.sets):
        options, subject, known = OPTION_SETS[title], f"{case.name} ({title})", len(tally.failures)
        run = rewrite(efq, case, options, folder / title.replace(" ", "_"))
        if run.code == 3 and "is quantized already" in run.stderr:
            check_refusal(tally, subject, run)
            run = rewrite(efq, case, options, folder / f"{title} again".replace(" ", "_"), ["--allow-requantize"])
        row = tally.attempt(subject, "the check itself", lambda: check_run(tally, subject, case, options, run))
        if row and (verbose or number == 0):
            print_row(case.name, title, row)
        for failure in tally.failures[known:]:
            print("  FAILED", failure, flush=True)
    if case.sets is not SETS_LARGE:
        tally.attempt(case.name, "the check of the forms", lambda: check_forms(tally, efq, case, folder))
    if path.stem == "digits_vit":
        check_determinism(tally, efq, case, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("efq", type=pathlib.Path, help="the binary")
    parser.add_argument("--fixtures", type=pathlib.Path, default=HERE.parent.parent / "fixtures")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--zoo", type=pathlib.Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="a row for every option set")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only models with this in their name")
    args = parser.parse_intermixed_args()
    tally, start = Tally(), time.monotonic()
    print(f"onnx {onnx.__version__}, onnxruntime {ort.__version__}; relative L2 by ONNX Runtime and by efq\n")
    print(f"{'model':26} {'options':11} {'outcome':10} {'fused':>8} {'ratio':>5} {'deployed':>9} {'by efq':>9} "
          f"{'weights':>9} {'by efq':>9}  note")
    for path, data in find_cases((args.fixtures, args.models, args.zoo), args.names):
        with tempfile.TemporaryDirectory() as folder:
            check_case(tally, args.efq.resolve(), path, data, args.verbose, pathlib.Path(folder))
    print(f"\n{time.monotonic() - start:.0f} s")
    for failure in tally.failures:
        print("FAILED", failure)
    print(f"{tally.passed} passed, {len(tally.failures)} failed")
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
