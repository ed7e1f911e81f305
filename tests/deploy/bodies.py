#!/usr/bin/env python3
"""Makes models for check.py: weights in bodies (a merged decoder as Hugging Face optimum exports it, an If in a Loop),
layers whose operands are arranged otherwise than rows times a matrix, and weights in forms that exporters seldom write.

    python bodies.py FOLDER
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, WORDS, INNER, SAMPLES = 64, 160, 96, 16
RANDOM = np.random.default_rng(0)
node, value = helper.make_node, helper.make_tensor_value_info


def weight(name, *shape):
    values = RANDOM.standard_normal(shape) / np.sqrt(shape[0])
    return numpy_helper.from_array(values.astype(np.float32), name)


def number(name, what, kind):
    return numpy_helper.from_array(np.array(what, kind), name)


def floats(name, *shape):
    return value(name, TensorProto.FLOAT, shape)


def decoder(past):
    """One branch: names and weights are those of the other."""
    nodes = [
        node("Gather", ["embed", "input_ids"], ["h"], name="/Gather"),
        node("MatMul", ["h", "k_proj"], ["k"], name="/k_proj/MatMul"),
        node("Concat", ["past", "k"], ["present"], axis=1) if past else node("Identity", ["k"], ["present"]),
        node("ReduceMean", ["present"], ["context"], axes=[1], keepdims=1),
        node("MatMul", ["h", "fc1"], ["f"], name="/fc1/MatMul"),
        node("Add", ["f", "fc1_bias"], ["fb"], name="/fc1/Add"),
        node("Relu", ["fb"], ["fr"], name="/Relu"),
        node("MatMul", ["fr", "fc2"], ["f2"], name="/fc2/MatMul"),
        node("Add", ["f2", "context"], ["r"], name="/Add"),
        node("Transpose", ["embed"], ["embed_t"], name="/Transpose", perm=[1, 0]),
        node("MatMul", ["r", "embed_t"], ["scores"], name="/lm_head/MatMul"),
    ]
    outputs = [floats("scores", "b", "s", WORDS), floats("present", "b", "t", WIDTH)]
    return helper.make_graph(nodes, "past" if past else "no_past", [], outputs)


def merged_decoder():
    choice = node("If", ["use_cache_branch"], ["logits", "present_out"], name="optimum::if",
                  then_branch=decoder(True), else_branch=decoder(False))
    inputs = [value("input_ids", TensorProto.INT64, ["b", "s"]), floats("past", "b", "p", WIDTH),
              value("use_cache_branch", TensorProto.BOOL, [1])]
    outputs = [floats("logits", "b", "s", WORDS), floats("present_out", "b", "t", WIDTH)]
    stored = [weight("embed", WORDS, WIDTH), weight("k_proj", WIDTH, WIDTH), weight("fc1", WIDTH, INNER),
              weight("fc1_bias", INNER), weight("fc2", INNER, WIDTH)]
    samples = {"input_ids": RANDOM.integers(0, WORDS, (SAMPLES, 7)),
               "past": RANDOM.standard_normal((SAMPLES, 3, WIDTH)).astype(np.float32),
               "use_cache_branch": (np.arange(SAMPLES) % 2 == 0)[:, None]}
    return helper.make_graph([choice], "merged_decoder", inputs, outputs, stored), samples


def if_in_loop():
    """Weights of the main graph (one used outside too), of a body, and of a Constant node."""
    row = lambda name: floats(name, 1, WIDTH)
    then = [node("MatMul", ["v", "deep"], ["t1"]), node("Tanh", ["t1"], ["t2"])]
    other = [node("Gemm", ["v", "own", "bias"], ["t1"], transB=1, alpha=0.5), node("Relu", ["t1"], ["t2"])]
    body = [
        node("Constant", [], ["one"], value=number("", 1, np.int64)),
        node("Constant", [], ["constant"], value=weight("", WIDTH, WIDTH)),
        node("Mod", ["i", "two"], ["m"]),
        node("Equal", ["m", "one"], ["odd"]),
        node("If", ["odd"], ["u"], name="inner", then_branch=helper.make_graph(then, "then", [], [row("t2")]),
             else_branch=helper.make_graph(other, "else", [], [row("t2")], [weight("own", WIDTH, WIDTH)])),
        node("MatMul", ["u", "constant"], ["w"]),
        node("Add", ["w", "v"], ["next"]),
        node("Identity", ["c"], ["on"]),
    ]
    loop = helper.make_graph(body, "loop", [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), row("v")],
                             [value("on", TensorProto.BOOL, []), row("next")])
    nodes = [node("MatMul", ["x", "deep"], ["x1"]), node("Loop", ["n", "true", "x1"], ["y0"], body=loop, name="loop"),
             node("MatMul", ["y0", "out"], ["y"])]
    stored = [weight("deep", WIDTH, WIDTH), weight("out", WIDTH, 32), weight("bias", WIDTH), number("n", 3, np.int64),
              number("two", 2, np.int64), number("true", True, bool)]
    samples = {"x": RANDOM.standard_normal((SAMPLES, WIDTH)).astype(np.float32)}
    return helper.make_graph(nodes, "if_in_loop", [row("x")], [floats("y", 1, 32)], stored), samples


def arranged():
    """An Einsum by heads, a weight on the left between Transposes that meet, a Gemm of a transposed activation, an Einsum
    of a transposed weight, and a matrix of rank 3 behind Flatten."""
    shapes = {"sizes": [INNER, -1], "rows": [-1, 32, 24], "again": [1, 24, 16]}
    nodes = [
        node("Einsum", ["x", "heads"], ["e"], equation="bsd,dhk->bhsk", name="heads"),
        node("Relu", ["e"], ["r"]),
        node("Transpose", ["r"], ["rt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["left", "rt"], ["l"], name="left"),
        node("Transpose", ["l"], ["t"], perm=[2, 0, 1, 3]),
        node("Reshape", ["t", "sizes"], ["f"]),
        node("Gemm", ["f", "gemm", "bias"], ["g"], transA=1, name="gemm"),
        node("Relu", ["g"], ["gr"]),
        node("Reshape", ["gr", "rows"], ["h"]),
        node("Einsum", ["h", "open"], ["o"], equation="bsd,fd->bsf", name="open"),
        node("Flatten", ["deep"], ["flat"], axis=1),
        node("Reshape", ["flat", "again"], ["rank3"]),
        node("MatMul", ["o", "rank3"], ["y"], name="rank3"),
    ]
    stored = [weight("heads", WIDTH, 4, 16), weight("left", INNER, 16), weight("gemm", INNER, 24), weight("bias", 24),
              weight("open", 24, 24), weight("deep", 24, 4, 4)]
    stored += [number(name, sizes, np.int64) for name, sizes in shapes.items()]
    samples = {"x": RANDOM.standard_normal((SAMPLES, 8, WIDTH)).astype(np.float32)}
    return helper.make_graph(nodes, "arranged", [floats("x", "b", 8, WIDTH)], [floats("y", "b", 32, 16)], stored), samples


def rare_forms():
    """Tables of bfloat16 and float64, a weight that a Constant lists as floats, and one that is a sparse tensor."""
    # efq does not model that rows are rounded to bfloat16, so these are small beside the others.
    table = RANDOM.standard_normal((2, WORDS, WIDTH)).astype(np.float32) * [[[0.1]], [[1]]]
    listed = RANDOM.standard_normal(WIDTH * INNER) / np.sqrt(WIDTH)
    sparse = RANDOM.standard_normal(INNER * 32).astype(np.float32) / np.sqrt(INNER)
    nodes = [
        node("Gather", ["short", "ids"], ["s"]),
        node("Gather", ["wide", "ids"], ["d"]),
        node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
        node("Cast", ["d"], ["df"], to=TensorProto.FLOAT),
        node("Add", ["sf", "df"], ["h"]),
        node("Constant", [], ["flat"], value_floats=listed.tolist()),
        node("Constant", [], ["sizes"], value_ints=[WIDTH, INNER]),
        node("Reshape", ["flat", "sizes"], ["w"]),
        node("MatMul", ["h", "w"], ["f"]),
        node("Tanh", ["f"], ["t"]),
        node("Constant", [], ["out"], sparse_value=helper.make_sparse_tensor(
            helper.make_tensor("", TensorProto.FLOAT, [sparse.size], sparse),
            helper.make_tensor("", TensorProto.INT64, [sparse.size], np.arange(sparse.size)), [INNER, 32])),
        node("MatMul", ["t", "out"], ["y"]),
    ]
    stored = [helper.make_tensor("short", TensorProto.BFLOAT16, [WORDS, WIDTH], table[0].flatten()),
              numpy_helper.from_array(table[1].astype(np.float64), "wide")]
    graph = helper.make_graph(nodes, "rare_forms", [value("ids", TensorProto.INT64, ["b", "s"])],
                              [floats("y", "b", "s", 32)], stored)
    return graph, {"ids": RANDOM.integers(0, WORDS, (SAMPLES, 7))}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (merged_decoder, if_in_loop, arranged, rare_forms):
        graph, samples = make()
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{make.__name__}.onnx")
        np.savez(folder / f"{make.__name__}.npz", **samples)


if __name__ == "__main__":
    main()
