#!/usr/bin/env python3
"""Compares models before and after `efq::opset::raise` in ONNX Runtime, one row per rule and more.

    python opset.py RAISE [-v] [TEXT]
    python opset.py RAISE MODEL.onnx...

RAISE is the example `raise` of this crate (`cargo build --example raise`), called as `RAISE IN OUT`.
With TEXT only the rows that contain it are run. With models those are compared instead, on the samples of MODEL.npz
or MODEL.calib.npz: sample i of an array is x[i:i+1], or x[i] for an input of one axis less.

Every row is one node of an old opset. It is run as it is, in both branches of an If that captures its inputs, and as
a model-local function (where no type is known), before and after, with ONNX Runtime's optimizations off and on; the
raised model must pass `onnx.checker.check_model(full_check=True)`. "bump" is what ONNX Runtime does when only the
opset number is raised: why the row has a rule, or needs none.

Needs: pip install numpy onnx onnxruntime.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TARGET = 21
TOLERANCE = 1e-6
RNG = np.random.default_rng(7)
HERE = pathlib.Path(__file__).resolve().parent
ORT_OFF, ORT_ON = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


# --- running -------------------------------------------------------------------------------------------------------

def run(model, feeds, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {v.name for v in session.get_inputs()}
    return session.run(None, {k: v for k, v in feeds.items() if k in names})


def difference(a, b):
    """Largest difference relative to the largest value; None when shapes or types differ."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.shape != y.shape or x.dtype != y.dtype:
            return None
        if x.dtype.kind not in "fc":
            if not np.array_equal(x, y):
                return None
            continue
        if not np.array_equal(np.isfinite(x), np.isfinite(y)):
            return None
        if x.size:
            fine = np.isfinite(x)
            x, y = np.where(fine, x, 0).astype(np.float64), np.where(fine, y, 0).astype(np.float64)
            worst = max(worst, float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)))
    return worst


def first_line(error):
    return str(error).strip().splitlines()[0][:150]


class Raise:
    def __init__(self, executable):
        self.executable = executable
        self.folder = tempfile.TemporaryDirectory()

    def __call__(self, model):
        """The raised model, or the one line with which it was refused."""
        before, after = (pathlib.Path(self.folder.name) / name for name in ("in.onnx", "out.onnx"))
        before.write_bytes(model.SerializeToString())
        done = subprocess.run([self.executable, before, after], capture_output=True, text=True)
        if done.returncode not in (0, 1) or "panicked" in done.stderr:
            raise RuntimeError(done.stderr)
        return onnx.load(after) if done.returncode == 0 else done.stderr.strip()


# --- models --------------------------------------------------------------------------------------------------------

def declare(name, array):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def model_of(nodes, opset, inputs, outputs, inits=None, ir=None, functions=(), imports=()):
    """outputs: name -> an array of the right type and shape."""
    graph = helper.make_graph(
        nodes, "g", [declare(k, v) for k, v in inputs.items()], [declare(k, v) for k, v in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in (inits or {}).items()])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *imports], functions=functions,
        ir_version=ir or max(4, helper.find_min_ir_version_for([helper.make_opsetid("", opset)])))


class Row:
    def __init__(self, opset, op, inputs, attrs=None, inits=None, outputs=1, types=None, feed=None, wraps=True,
                 note="", refused=None, domain=""):
        self.opset, self.op, self.note, self.refused, self.wraps = opset, op, note, refused, wraps
        self.feeds = {k: v for k, v in inputs.items() if k not in (inits or ())}
        self.inits = {k: inputs[k] for k in (inits or ())}
        self.order = feed or list(inputs)
        self.outs = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.types = types or [None] * len(self.outs)
        self.node = helper.make_node(op, self.order, self.outs, domain=domain, **(attrs or {}))

    @property
    def title(self):
        return f"{self.op}-{self.opset}" + (f" {self.note}" if self.note else "")

    def example(self):
        """The outputs of the old model, which the declarations need."""
        first = next(iter({**self.feeds, **self.inits}.values()))
        kinds = [np.empty((), t or first.dtype) for t in self.types]
        model = model_of([self.node], self.opset, self.feeds, {}, self.inits)
        for name, kind in zip(self.outs, kinds):
            if name:
                code = helper.np_dtype_to_tensor_dtype(kind.dtype)
                model.graph.output.append(helper.make_tensor_value_info(name, code, None))
        return dict(zip([n for n in self.outs if n], run(model, self.feeds, ORT_OFF)))

    def models(self):
        outputs = self.example()
        yield "plain", model_of([self.node], self.opset, self.feeds, outputs, self.inits)
        if not self.wraps:
            return
        def branch(tag):
            node = onnx.NodeProto(); node.CopyFrom(self.node)
            names = {n: f"{tag}_{n}" for n in node.output if n}
            node.output[:] = [names.get(n, "") for n in node.output]
            infos = [declare(names[n], outputs[n]) for n in self.outs if n]
            return helper.make_graph([node], tag, [], infos)
        chosen = [n for n in self.outs if n]
        either = helper.make_node("If", ["c"], chosen, then_branch=branch("then"), else_branch=branch("else"))
        yield "If", model_of([either], self.opset, {**self.feeds, "c": np.array(True)}, outputs, self.inits)
        args = [n for n in self.order if n]
        function = helper.make_function("local", "F", args, chosen, [self.node],
                                        [helper.make_opsetid("", self.opset)])
        call = helper.make_node("F", args, chosen, domain="local")
        yield "function", model_of([call], self.opset, self.feeds, outputs, self.inits, ir=8,
                                   functions=[function], imports=[helper.make_opsetid("local", 1)])


def rows():
    x234, x3 = f32(2, 3, 4), f32(3, 4)
    image = f32(1, 2, 6, 5)
    X = lambda data, /, **more: {"x": data, **more}

    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Row(12, op, X(x234), note="default axis")
        yield Row(12, op, X(x234), dict(axis=0), note="axis 0")
        yield Row(11, op, X(x234), dict(axis=2), note="last axis")
        yield Row(11, op, X(x234), dict(axis=-1), note="axis -1")
        yield Row(12, op, X(x234), dict(axis=-2), note="axis -2")
        yield Row(9, op, X(x234), dict(axis=1), note="axis 1")
        yield Row(7, op, X(x3), note="rank 2")
    yield Row(12, "Softmax", X(f32(2, 3, 0, 4)), note="size 0")
    yield Row(9, "Softmax", X(f32(2, 3, 4, 5).astype(np.float16)), dict(axis=2), note="fp16")

    yield Row(12, "ReduceSum", X(x234), dict(axes=[1]))
    yield Row(7, "ReduceSum", X(x234), dict(axes=[0, 2], keepdims=0), note="axes 0, 2, keepdims 0")
    yield Row(11, "ReduceSum", X(x234), note="no axes")
    yield Row(11, "ReduceSum", X(x234), dict(axes=[-1]), note="negative")
    for op in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
        positive = X(np.abs(x234) + 0.1)
        yield Row(17, "Reduce" + op, positive, dict(axes=[1], keepdims=0))
        yield Row(13, "Reduce" + op, positive, dict(axes=[-1, 0]), note="two axes")
        yield Row(11, "Reduce" + op, positive, note="no axes")
        yield Row(9, "Reduce" + op, positive, dict(axes=[2]))
    empty = Row(17, "ReduceMean", X(x234), note="empty axes")
    empty.node.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    yield empty
    yield Row(18, "ReduceMean", X(x234, a=i64()), dict(noop_with_empty_axes=1), inits=["a"], note="noop")
    yield Row(13, "ReduceSum", X(x234, a=i64(1)), inits=["a"], note="axes input")

    yield Row(12, "Squeeze", X(f32(1, 3, 1, 4)), dict(axes=[0]))
    yield Row(11, "Squeeze", X(f32(1, 3, 1, 4)), dict(axes=[-2, 0]), note="negative")
    yield Row(7, "Squeeze", X(f32(1, 3, 1, 4)), note="no axes")
    yield Row(12, "Unsqueeze", X(x3), dict(axes=[0, -1]))
    yield Row(7, "Unsqueeze", X(x3), dict(axes=[0, 3]))

    yield Row(12, "Split", X(f32(6, 2)), dict(split=[1, 2, 3]), outputs=3)
    yield Row(7, "Split", X(f32(2, 6)), dict(axis=1), outputs=3, note="no sizes")
    yield Row(11, "Split", X(f32(2, 6)), dict(axis=-1, split=[4, 2]), outputs=2)
    yield Row(13, "Split", X(f32(6, 2)), outputs=2, note="no sizes")
    yield Row(17, "Split", X(f32(6, 2), s=i64(4, 2)), inits=["s"], outputs=2, note="sizes input")

    yield Row(10, "Clip", X(x234), dict(min=-0.5, max=0.5))
    yield Row(7, "Clip", X(x234), dict(max=0.25), note="max only")
    yield Row(9, "Clip", X(x234), dict(min=0.0), note="min only")
    yield Row(10, "Clip", X(x234), note="no bounds")
    yield Row(10, "Pad", X(x3), dict(pads=[1, 0, 0, 2], value=1.5))
    yield Row(7, "Pad", X(x3), dict(pads=[1, 0, 0, 2]), note="value 0")
    yield Row(9, "Pad", X(x3), dict(pads=[0, 1, 2, 0], mode="reflect", value=3.0), note="reflect")
    yield Row(9, "Pad", X(x3), dict(pads=[0, 1, 2, 0], mode="edge"), note="edge")
    yield Row(10, "Pad", X(x3), dict(pads=[-1, 0, 0, -1]), note="negative")
    yield Row(10, "Pad", X(x3.astype(np.float64)), dict(pads=[1, 0, 0, 1], value=0.5), note="double")

    yield Row(9, "Slice", X(x234), dict(starts=[1, 0], ends=[3, -1], axes=[1, 2]))
    yield Row(7, "Slice", X(x234), dict(starts=[0, 1], ends=[2**31 - 1, 2**63 - 1]), note="no axes")
    yield Row(9, "Slice", X(x234), dict(starts=[-2], ends=[99], axes=[2]), note="out of range")
    yield Row(9, "TopK", X(x234), dict(k=2), outputs=2, types=[None, np.int64])
    yield Row(7, "TopK", X(x234), dict(k=1, axis=1), outputs=2, types=[None, np.int64], note="axis 1")

    yield Row(7, "Dropout", X(x3), dict(ratio=0.3))
    yield Row(11, "Dropout", X(x3))
    yield Row(10, "Dropout", X(x3), outputs=2, types=[None, np.bool_], note="mask read", refused="gives its mask")
    yield Row(7, "Dropout", X(x3), outputs=2, note="mask read", refused="gives its mask")
    yield Row(12, "Dropout", X(x3), outputs=2, types=[None, np.bool_], note="mask read")

    bn = dict(s=f32(3), b=f32(3), m=f32(3), v=np.abs(f32(3)) + 0.1)
    yield Row(7, "BatchNormalization", X(f32(2, 3, 4), **bn), dict(epsilon=1e-3, spatial=1))
    yield Row(8, "BatchNormalization", X(f32(2, 3), **bn), dict(spatial=0), note="spatial 0, rank 2", wraps=False)
    per_element = {k: f32(3, 4) for k in "sbm"} | {"v": np.abs(f32(3, 4)) + 0.1}
    yield Row(7, "BatchNormalization", X(f32(2, 3, 4), **per_element), dict(spatial=0), note="spatial 0",
              refused="has spatial=0")
    yield Row(13, "BatchNormalization", X(f32(2, 3, 4), **bn), dict(momentum=0.5))
    yield Row(9, "BatchNormalization", X(f32(2, 3, 4), **bn))

    for groups in (2, 4, 1):
        gn = dict(s=f32(groups), b=f32(groups))
        yield Row(18, "GroupNormalization", X(f32(2, 4, 3, 5), **gn), dict(num_groups=groups), note=f"{groups} groups")
    yield Row(20, "GroupNormalization", X(f32(2, 6, 5), s=f32(3), b=f32(3)), dict(num_groups=3, epsilon=0.1),
              inits=["s", "b"])
    yield Row(18, "GroupNormalization", X(f32(2, 4, 3).astype(np.float64), s=f32(2).astype(np.float64), b=f32(2).astype(np.float64)),
              dict(num_groups=2), note="double")

    for mode in ("nearest", "linear"):
        for scales in ([1, 1, 2, 3], [1, 1, 1.5, 2.3]):
            s = np.array(scales, np.float32)
            yield Row(7, "Upsample", X(image), dict(mode=mode, scales=[float(v) for v in scales]), note=f"{mode} {scales[2:]}")
            yield Row(9, "Upsample", X(image, s=s), dict(mode=mode), inits=["s"], note=f"{mode} {scales[2:]}")
        for scales in ([1, 1, 2, 3], [1, 1, 1.5, 2.3], [1, 1, 0.5, 0.7], [1, 1, 2.5, 0.6], [1, 1, 0.4, 1.7]):
            s = np.array(scales, np.float32)
            note = f"{mode} {scales[2:]}"
            yield Row(10, "Resize", X(image, s=s), dict(mode=mode), inits=["s"], note=note)
            yield Row(10, "Resize", X(image, s=s), dict(mode=mode), note=note + " at run time")
    yield Row(10, "Resize", X(f32(7), s=np.array([1.9], np.float32)), note="rank 1", inits=["s"])
    yield Row(10, "Upsample", X(image, s=np.ones(4, np.float32)), refused="no operator Upsample", note="removed")

    yield Row(10, "Scatter", X(f32(3, 4), i=np.array([[0, 2]]), u=f32(1, 2)), dict(axis=1))
    yield Row(9, "Scatter", X(f32(3, 4), i=np.array([[0, 2]]), u=f32(1, 2)))

    grid = RNG.uniform(-1.2, 1.2, (1, 3, 4, 2)).astype(np.float32)
    yield Row(16, "GridSample", X(image, g=grid))
    for mode in ("bilinear", "bicubic", "nearest"):
        yield Row(19, "GridSample", X(image, g=grid), dict(mode=mode, align_corners=1), note=mode)

    boxes = np.array([[0.3, 0.2, 4.1, 4.7], [1, 1, 3.3, 2.2]], np.float32)
    roi = dict(r=boxes, i=i64(0, 0))
    yield Row(10, "RoiAlign", X(image, **roi), dict(output_height=2, output_width=2, sampling_ratio=2))
    yield Row(15, "RoiAlign", X(image, **roi), dict(mode="max", spatial_scale=0.5), note="max")

    signal = f32(2, 6, 4, 1)
    yield Row(17, "DFT", X(signal), note="no axis")
    yield Row(19, "DFT", X(signal, n=np.array(5, np.int64)), dict(axis=2, onesided=1), inits=["n"], note="length")
    yield Row(17, "DFT", X(f32(2, 6, 2)), dict(axis=-2, inverse=1), note="inverse")

    # No rule: a new version that means the same.
    pool = dict(kernel_shape=[3, 3])
    for opset in (10, 11, 18):
        for include in (0, 1):
            yield Row(opset, "AveragePool", X(image), dict(pool, strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1,
                                                           count_include_pad=include), note=f"ceil, include {include}")
    yield Row(7, "AveragePool", X(image), dict(pool, pads=[1, 0, 1, 0], count_include_pad=1))
    yield Row(9, "AveragePool", X(image), dict(pool, auto_pad="SAME_LOWER", strides=[2, 2]), note="SAME_LOWER")
    yield Row(7, "MaxPool", X(image), dict(pool, strides=[2, 2], pads=[1, 1, 1, 1]))
    for opset in (10, 11):
        yield Row(opset, "MaxPool", X(image), dict(pool, strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1), note="ceil")
        yield Row(opset, "MaxPool", X(image), dict(pool, strides=[2, 2], auto_pad="SAME_UPPER"), note="SAME_UPPER")
    yield Row(8, "MaxPool", X(image), dict(pool), outputs=2, types=[None, np.int64], note="indices")
    yield Row(11, "LpPool", X(image), dict(pool, p=2))
    yield Row(9, "LpPool", X(image), dict(pool, p=1, pads=[1, 1, 1, 1], strides=[2, 2]))
    yield Row(7, "Conv", X(image, w=f32(3, 2, 3, 3)), dict(pads=[1, 1, 1, 1]))
    kernel = f32(2, 3, 3, 3)
    for auto in ("SAME_UPPER", "SAME_LOWER"):
        yield Row(10, "ConvTranspose", X(image, w=kernel), dict(strides=[2, 2], auto_pad=auto), note=auto)
    for shape in ([12, 10], [11, 9]):
        yield Row(10, "ConvTranspose", X(image, w=kernel), dict(strides=[2, 2], output_shape=shape), note=f"{shape}")
        yield Row(7, "ConvTranspose", X(image, w=kernel), dict(strides=[2, 2], output_shape=shape,
                                                               auto_pad="SAME_UPPER"), note=f"UPPER {shape}")
    yield Row(10, "ConvTranspose", X(image, w=kernel), dict(strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]))
    depth, values = np.array(4, np.int64), np.array([0, 1], np.float32)
    yield Row(9, "OneHot", dict(x=i64(0, 3, 5), d=depth, v=values), types=[np.float32])
    yield Row(10, "OneHot", dict(x=i64(0, -1, -5), d=depth, v=values), types=[np.float32], note="negative")
    yield Row(7, "Gemm", X(x3, w=f32(4, 5), b=f32(5)))
    yield Row(7, "PRelu", X(f32(2, 3, 4), s=f32(3, 1)))
    yield Row(7, "Pow", X(np.abs(x3), e=f32(4)))
    for op in ("Max", "Min", "Sum", "Mean"):
        yield Row(8, op, X(x3, z=f32(4)))
        yield Row(7, op, X(x3, z=f32(3, 4)))
    yield Row(7, "Flatten", X(x234), dict(axis=2))
    yield Row(7, "Concat", X(x3, z=f32(3, 2)), dict(axis=1))
    yield Row(7, "Reshape", X(x234, s=i64(0, -1)), inits=["s"])
    yield Row(8, "Expand", X(x3, s=i64(2, 1, 4)), inits=["s"])
    yield Row(9, "Where", dict(c=np.array([True, False, True, False]), x=x3, z=f32(4)), types=[np.float32])
    yield Row(7, "Gather", X(x3, i=i64(2, 0)), dict(axis=0))
    yield Row(11, "GatherND", X(x3, i=np.array([[0, 1], [2, 3]])))
    yield Row(11, "ScatterND", X(x3, i=np.array([[1]]), u=f32(1, 4)))
    yield Row(11, "ScatterElements", X(f32(3, 4), i=np.array([[0, 2]]), u=f32(1, 2)), dict(axis=1))
    yield Row(11, "CumSum", X(x3, a=np.array(1, np.int64)), dict(exclusive=1, reverse=1))
    yield Row(10, "Mod", X(x3, z=f32(4)), dict(fmod=1))
    yield Row(7, "DepthToSpace", X(f32(1, 8, 2, 3)), dict(blocksize=2))
    yield Row(11, "DepthToSpace", X(f32(1, 8, 2, 3)), dict(blocksize=2, mode="CRD"), note="CRD")
    yield Row(9, "Erf", X(x3))
    yield Row(7, "LRN", X(image), dict(size=3))
    # Without axes the checker of onnx 1.23.2 refuses this operator at 13 and above, raised or not.
    yield Row(9, "MeanVarianceNormalization", X(f32(2, 3, 4, 5)), dict(axes=[0, 2, 3]))
    yield Row(7, "InstanceNormalization", X(image, s=f32(2), b=f32(2)))
    yield Row(7, "Cast", X(x3), dict(to=TensorProto.INT64), types=[np.int64])
    yield Row(7, "Cast", X(x3), dict(to=TensorProto.FLOAT16), types=[np.float16], note="fp16")
    yield Row(7, "ArgMax", X(x234), dict(axis=1, keepdims=0), types=[np.int64])
    yield Row(13, "HardSigmoid", X(x3), dict(alpha=0.3))
    quantized = dict(s=np.array(0.05, np.float32), z=np.array(3, np.int8))
    yield Row(10, "QuantizeLinear", X(x3, **quantized), types=[np.int8])
    yield Row(10, "DequantizeLinear", dict(x=RNG.integers(-9, 9, (3, 4)).astype(np.int8), **quantized),
              types=[np.float32])
    yield Row(13, "DequantizeLinear", dict(x=RNG.integers(-9, 9, (3, 4)).astype(np.int8), s=np.abs(f32(3)),
                                           z=np.zeros(3, np.int8)), dict(axis=0), types=[np.float32], note="axis 0")
    rnn = lambda gates, hidden=3: dict(x=f32(4, 1, 5), w=f32(1, gates * hidden, 5), r=f32(1, gates * hidden, hidden),
                                       b=f32(1, 2 * gates * hidden))
    yield Row(7, "LSTM", rnn(4), dict(hidden_size=3), outputs=3)
    yield Row(7, "GRU", rnn(3), dict(hidden_size=3, linear_before_reset=1), outputs=2)
    yield Row(7, "RNN", rnn(1), dict(hidden_size=3, direction="reverse"), outputs=2)
    scales, nothing = np.array([1, 1, 2, 0.6], np.float32), np.array([], np.float32)
    for opset in (11, 13, 17, 18):
        resize = X(image, r=nothing, s=scales)
        for mode in ("nearest", "linear", "cubic"):
            yield Row(opset, "Resize", resize, dict(mode=mode), inits=["r", "s"], note=mode)
        yield Row(opset, "Resize", X(image, r=nothing, e=nothing, s=i64(1, 2, 4, 9)),
                  dict(mode="linear", coordinate_transformation_mode="align_corners"), inits=["r", "e", "s"],
                  note="sizes")
    yield Row(11, "Resize", X(image, r=nothing, s=scales), dict(coordinate_transformation_mode="tf_half_pixel_for_nn"),
              inits=["r", "s"], note="tf_half_pixel_for_nn")
    yield Row(12, "LayerNormalization", X(x3, s=f32(4), b=f32(4)), note="of ONNX Runtime", wraps=False)
    yield Row(9, "ThresholdedRelu", X(x3), note="of ONNX Runtime", wraps=False)
    yield Row(17, "SimplifiedLayerNormalization", X(x3, s=f32(4)), note="of ONNX Runtime", wraps=False)
    yield Row(17, "LayerNormalization", X(x3, s=f32(4), b=f32(4)))
    yield Row(10, "NonMaxSuppression", dict(b=np.abs(f32(1, 6, 4)), s=np.abs(f32(1, 2, 6)), m=i64(3), t=np.array([0.5], np.float32)),
              types=[np.int64], inits=["m", "t"])
    yield Row(9, "Cast", X(np.array(["1.5", "-2", "1e3"], object)), dict(to=TensorProto.FLOAT), types=[np.float32],
              note="from text")
    yield Row(13, "Identity", X(x3), domain="ai.onnx", note="domain spelled out", wraps=False)
    yield Row(12, "Softmax", X(x234), domain="ai.onnx", note="domain spelled out", wraps=False)


# --- whole models --------------------------------------------------------------------------------------------------

def whole_models():
    """(title, model, feeds, refusal or None, what must hold of the raised model)"""
    node, info = helper.make_node, helper.make_tensor_value_info
    x = f32(2, 3, 4)

    def body_of(opset):
        """Loop: v = Softmax(v) + ReduceMean(v); scan output Squeeze(Unsqueeze(v))."""
        flat = node("Softmax", ["v"], ["soft"])
        if opset < 18:
            mean = node("ReduceMean", ["v"], ["mean"], axes=[1])
        nodes = [flat, mean, node("Add", ["soft", "mean"], ["v_out"]), node("Unsqueeze", ["v_out"], ["u"], axes=[0]),
                 node("Squeeze", ["u"], ["scan"], axes=[0]), node("Identity", ["go"], ["go_out"])]
        F, B, I = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
        return helper.make_graph(nodes, "body", [info("i", I, []), info("go", B, []), info("v", F, [2, 3, 4])],
                                 [info("go_out", B, []), info("v_out", F, [2, 3, 4]), info("scan", F, [2, 3, 4])])

    for opset in (8, 10, 11, 12):
        loop = node("Loop", ["n", "go"] + ["x"], ["y", "all"], body=body_of(opset))
        yield (f"Loop at {opset}", model_of([loop], opset, {"x": x}, {"y": x, "all": f32(3, 2, 3, 4)},
               {"n": np.array(3, np.int64), "go": np.array(True)}), {"x": x}, None, None)

    F = TensorProto.FLOAT
    scan_body = helper.make_graph(
        [node("Add", ["s", "e"], ["s_out"]), node("ReduceMean", ["s_out"], ["m"], axes=[0], keepdims=0),
         node("Unsqueeze", ["m"], ["o"], axes=[0])], "b", [info("s", F, [4]), info("e", F, [4])],
        [info("s_out", F, [4]), info("o", F, [1])])
    scan = node("Scan", ["z", "x"], ["last", "all"], body=scan_body, num_scan_inputs=1)
    for opset in (9, 11, 12):
        yield (f"Scan at {opset}", model_of([scan], opset, {"z": f32(4), "x": f32(3, 4)},
               {"last": f32(4), "all": f32(3, 1)}), {"z": f32(4), "x": f32(3, 4)}, None, None)
    scan8 = node("Scan", ["", "z", "x"], ["last", "all"], body=scan_body, num_scan_inputs=1)
    yield ("Scan at 8", model_of([scan8], 8, {"z": f32(1, 4), "x": f32(1, 3, 4)}, {"last": f32(1, 4), "all": f32(1, 3, 1)}),
           {"z": f32(1, 4), "x": f32(1, 3, 4)}, "has a batch axis", None)

    inner = helper.make_graph([node("ReduceSum", ["x"], ["r"], axes=[0], keepdims=1)], "t", [], [info("r", F, [1, 3, 4])])
    other = helper.make_graph([node("Softmax", ["x"], ["s"], axis=1), node("ReduceMax", ["s"], ["r2"], axes=[0])],
                              "e", [], [info("r2", F, [1, 3, 4])])
    nested = helper.make_graph([node("If", ["c"], ["q"], then_branch=inner, else_branch=other)], "n", [], [info("q", F, [1, 3, 4])])
    flat = helper.make_graph([node("ReduceMean", ["x"], ["w"], axes=[0])], "f", [], [info("w", F, [1, 3, 4])])
    for c in (True, False):
        yield (f"If in If, {c}", model_of([node("If", ["d"], ["y"], then_branch=nested, else_branch=flat)], 11,
               {"x": x, "c": np.array(True), "d": np.array(True)}, {"y": f32(1, 3, 4)}),
               {"x": x, "c": np.array(c), "d": np.array(True)}, None, None)

    # Functions of an older opset than the model, one calling the other, one of an operator's name.
    old = helper.make_function("local", "Mean", ["a"], ["b"], [node("ReduceMean", ["a"], ["m"], axes=[1]),
                               node("Clip", ["m"], ["b"], min=-0.1, max=0.1)], [helper.make_opsetid("", 10)])
    outer = helper.make_function("local", "Twice", ["a"], ["b"], [node("Mean", ["a"], ["m"], domain="local"),
                                 node("Mean", ["m"], ["b"], domain="local")], [helper.make_opsetid("local", 1)])
    two = [node("Twice", ["x"], ["t"], domain="local"), node("Softmax", ["t"], ["y"], axis=1)]
    yield ("functions that call", model_of(two, 10, {"x": x}, {"y": f32(2, 1, 4)}, ir=8, functions=[old, outer],
           imports=[helper.make_opsetid("local", 1)]), {"x": x}, None, None)

    listed = model_of([node("Unsqueeze", ["efq_axes"], ["efq_axes_2"], axes=[0]), node("Mul", ["efq_axes_2", "w"], ["m"]),
                       node("ReduceMean", ["m"], ["y"], axes=[0, 1])], 8, {"efq_axes": x, "w": f32(4)}, {"y": f32(1, 1, 3, 4)},
                      {"w": f32(4)}, ir=3)
    yield ("IR 3 and names that are taken", listed, {"efq_axes": x}, None,
           lambda m: [v.name for v in m.graph.input] == ["efq_axes"] and m.ir_version == 10)
    default = model_of([node("Mul", ["x", "w"], ["y"])], 12, {"x": x, "w": f32(4)}, {"y": x}, {"w": f32(4)}, ir=7)
    yield ("IR 7 with a default value", default, {"x": x, "w": f32(4)}, None, lambda m: len(m.graph.input) == 2)
    stats = {k: f32(3) for k in "sbm"} | {"v": np.abs(f32(3))}
    training = node("BatchNormalization", ["x", *"sbmv"], ["y", "m1", "v1", "m2", "v2"])
    yield ("BatchNormalization in training mode", model_of([training], 9, {"x": x}, {"y": x}, stats), {"x": x},
           "lists outputs of training mode", None)
    mask = model_of([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])], 7, {"x": x}, {"y": x})
    mask.graph.value_info.append(info("mask", F, [2, 3, 4]))
    yield "Dropout with a mask that is not read", mask, {"x": x}, None, None
    yield ("opset 6", model_of([node("Relu", ["x"], ["y"])], 6, {"x": x}, {"y": x}, ir=3), None, "older than 7", None)
    yield ("unknown operator", model_of([node("Nope", ["x"], ["y"], name="n")], 17, {"x": x}, {"y": x}), None,
           "n: opset 17 has no operator Nope", None)
    yield ("operator of a later opset", model_of([node("Gelu", ["x"], ["y"])], 17, {"x": x}, {"y": x}), None,
           "opset 17 has no operator Gelu", None)
    yield ("opset 22", model_of([node("Relu", ["x"], ["y"])], 22, {"x": x}, {"y": x}, ir=10), {"x": x}, None,
           lambda m: m.opset_import[0].version == 22)


# --- the table of the crate ----------------------------------------------------------------------------------------

def table_problems():
    """Where `src/opset/table.rs` and the schemas of the installed onnx disagree."""
    beyond = {"LayerNormalization", "SimplifiedLayerNormalization", "ThresholdedRelu"}    # ONNX Runtime's own
    text = (HERE / "../../src/opset/table.rs").read_text()
    ours = {name: (int(since), [int(v) for v in re.findall(r"\((\d+)\)", changes)])
            for name, since, changes in re.findall(r'op\("(\w+)", (\d+), &\[(.*?)\]\)', text)}
    theirs = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= TARGET:
            theirs.setdefault(schema.name, []).append(schema.since_version)
    theirs = {name: (min(v), sorted(w for w in v if w > 7 and w != min(v))) for name, v in theirs.items()}
    return [f"{name}: {ours.get(name)} here, {theirs.get(name)} in onnx {onnx.__version__}"
            for name in sorted(set(ours) | set(theirs)) if name not in beyond and ours.get(name) != theirs.get(name)]


# --- comparing -----------------------------------------------------------------------------------------------------

def bump_alone(model, feeds, expected):
    bumped = onnx.ModelProto(); bumped.CopyFrom(model)
    bumped.opset_import[0].version = TARGET
    bumped.ir_version = 10
    try:
        d = difference(expected, run(bumped, feeds, ORT_OFF))
    except Exception:
        return "error"
    return "same" if d is not None and d <= TOLERANCE else "WRONG"


def compare(raise_, model, feeds, refused, holds):
    """(verdict, detail) of one model."""
    kept = model.SerializeToString()
    got = raise_(model)
    if isinstance(got, str):
        if refused and refused in got:
            return "refused", got
        return "FAIL", got
    if refused:
        return "FAIL", "was not refused"
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        model_ok, why = False, error
    else:
        model_ok = True
    if model_ok:
        try:
            onnx.checker.check_model(got, full_check=True)
        except Exception as error:
            return "FAIL", "checker: " + first_line(error)
    worst = 0.0
    for level in (ORT_OFF, ORT_ON):
        try:
            before = run(model, feeds, level)
        except Exception as error:
            return "unrunnable", first_line(error)
        try:
            after = run(got, feeds, level)
        except Exception as error:
            return "FAIL", first_line(error)
        d = difference(before, after)
        if d is None or d > TOLERANCE:
            return "FAIL", f"differs by {d}"
        worst = max(worst, d)
    if holds and not holds(got):
        return "FAIL", "raised, but not as it should be"
    assert model.SerializeToString() == kept
    return "ok", f"{worst:.0e}" + ("" if model_ok else ", checker refuses the original too")


def samples(path):
    return next((p for p in (path.with_suffix(".npz"), path.with_suffix(".calib.npz")) if p.exists()), None)


def feeds_of(data, session, count):
    for i in range(min(count, *(len(data[v.name]) for v in session.get_inputs()))):
        yield {v.name: np.asarray(data[v.name][i]) if data[v.name].ndim == len(v.shape) + 1 else data[v.name][i:i + 1]
               for v in session.get_inputs()}


def compare_file(raise_, path):
    """(verdict, detail) of a stored model."""
    data = samples(path)
    if data is None:
        return "skipped", "no samples"
    model = onnx.load(path)
    got = raise_(model)
    if isinstance(got, str):
        return "refused", got
    opset = lambda m: next(i.version for i in m.opset_import if i.domain in ("", "ai.onnx"))
    checked = []
    for m in (model, got):
        try:
            onnx.checker.check_model(m, full_check=True)
            checked.append(None)
        except Exception as error:
            checked.append(first_line(error))
    if checked[1] and not checked[0]:
        return "FAIL", "checker: " + checked[1]
    # Fusions depend on the opset and round in other places, so only the plain run must agree to the last digits.
    half = any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer)
    tolerance = {ORT_OFF: TOLERANCE, ORT_ON: 2e-3 if half else 1e-5}
    worst = 0.0
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    for feeds in feeds_of(np.load(data), session, 4):
        for level in (ORT_OFF, ORT_ON):
            d = difference(*(comparable(run(m, feeds, level)) for m in (model, got)))
            if d is None or d > tolerance[level]:
                return "FAIL", f"differs by {d}"
            worst = max(worst, d)
    nodes = len(got.graph.node) - len(model.graph.node)
    return "ok", (f"{opset(model)} -> {opset(got)}, IR {model.ir_version} -> {got.ir_version}, {nodes:+} nodes, "
                  f"difference {worst:.0e}" + (", checker refuses the original too" if checked[0] else ""))


def comparable(outputs):
    """Maps and sequences as text, since they have no shape to compare."""
    return [y if isinstance(y, np.ndarray) else np.array(repr(y)) for y in outputs]


def main():
    if sys.argv[2:] and sys.argv[2].endswith(".onnx"):
        raise_ = Raise(sys.argv[1])
        verdicts = {}
        for path in map(pathlib.Path, sys.argv[2:]):
            verdict, detail = compare_file(raise_, path)
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            print(f"{path.stem:32} {verdict:8} {detail}", flush=True)
        print(verdicts)
        return "FAIL" in verdicts
    args = [a for a in sys.argv[1:] if a != "-v"]
    verbose, wanted = "-v" in sys.argv, args[1] if len(args) > 1 else ""
    raise_ = Raise(args[0])
    failed, skipped, counted = [], [], 0
    print(f"onnx {onnx.__version__}, onnxruntime {ort.__version__}\n\n{'row':46} {'bump':6} plain     If        function")
    for row in rows():
        if wanted not in row.title:
            continue
        cells, bump, notes = [], "", []
        try:
            models = list(row.models())
        except Exception as error:
            if not row.refused:
                skipped.append(f"{row.title}: ONNX Runtime does not run it: {first_line(error)}")
                continue
            outputs = {n: next(iter(row.feeds.values())) for n in row.outs}
            models = [("plain", model_of([row.node], row.opset, row.feeds, outputs, row.inits))]
        for kind, model in models:
            feeds = {**row.feeds, "c": np.array(True)} if kind == "If" else row.feeds
            verdict, detail = compare(raise_, model, feeds, row.refused, None)
            if kind == "plain" and verdict != "unrunnable":
                try:
                    bump = bump_alone(model, feeds, run(model, feeds, ORT_OFF))
                except Exception:
                    bump = "-"
            cells.append(f"{verdict:9}")
            counted += verdict in ("ok", "refused")
            if verdict == "FAIL":
                failed.append(f"{row.title} ({kind}): {detail}")
            if verdict == "unrunnable":
                skipped.append(f"{row.title} ({kind}): ONNX Runtime does not run it: {detail}")
            if verbose:
                notes.append(f"    {kind}: {detail}")
        print(f"{row.title:46} {bump:6} {' '.join(cells)}", *notes, sep="\n" if notes else "")
    for title, model, feeds, refused, holds in whole_models():
        if wanted not in title:
            continue
        verdict, detail = compare(raise_, model, feeds, refused, holds)
        print(f"{title:46} {'':6} {verdict}  {detail}")
        counted += verdict in ("ok", "refused")
        if verdict == "FAIL":
            failed.append(f"{title}: {detail}")
        if verdict == "unrunnable":
            skipped.append(f"{title}: {detail}")
    failed += table_problems()
    for line in skipped:
        print("skipped:", line)
    for line in failed:
        print("FAILED:", line)
    print(f"{counted} models as they should be, {len(failed)} failed, {len(skipped)} not runnable")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
