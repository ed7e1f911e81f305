#!/usr/bin/env python3
"""Makes models whose products stand beside what ONNX Runtime removes or moves before it fuses them, for check.py:
DequantizeLinear and QuantizeLinear behind nodes that only arrange values, and additions behind nodes that change
nothing.

    python beside.py FOLDER
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# As many rows as an 8-bit weight of this depth has blocks: there a wrong result comes without an error.
DEPTH, WIDTH, ROWS, SAMPLES = 256, 96, 2, 16
RANDOM = np.random.default_rng(0)
node, value = helper.make_node, helper.make_tensor_value_info

CONSTANTS = {"one": np.float32(1), "two": np.float32(2), "zero": np.float32(0), "s": np.float32(0.03), "z": np.uint8(128),
             "ones": np.ones(2, np.int64), "axis": np.array([1]), "start": np.array([0]),
             "middle": np.array([DEPTH]), "end": np.array([2**63 - 1]), "same": np.array([0, -1]),
             "flat": np.array([-1, WIDTH])}
REMOVED = {"none": [], "identity": [("Identity",)], "dropout": [("Dropout",)], "cast": [("Cast", {"to": 1})],
           "mul": [("Mul", "one")], "div": [("Div", "one")], "sub": [("Sub", "zero")], "expand": [("Expand", "ones")],
           "slice": [("Slice", "start", "end", "axis")], "transposes": [("Transpose",), ("Identity",), ("Transpose",)]}
MOVED = {**REMOVED, "reshape": [("Reshape", "same")], "there and back": [("Unsqueeze", "start"), ("Squeeze", "start")],
         "slice": [("Slice", "start", "middle", "axis")]}
KEPT = {"relu": [("Relu",)], "doubled": [("Mul", "two")], "flatten": [("Flatten",)]}


class Parts:
    """Nodes and weights of a graph under construction."""

    def __init__(self):
        self.nodes, self.results, self.stored = [], [], []

    def chain(self, name, steps):
        """The value `name` through `steps`, each an operator with constants and attributes."""
        for operator, *rest in steps:
            attributes = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            output = f"v{len(self.nodes)}"
            self.nodes.append(node(operator, [name, *rest], [output], **attributes))
            name = output
        return name

    def weight(self, *shape):
        name = f"w{len(self.stored)}"
        values = RANDOM.standard_normal(shape) / np.sqrt(shape[0])
        self.stored.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def product(self, name):
        return self.chain(name, [("MatMul", self.weight(DEPTH, WIDTH))])

    def give(self, name):
        self.results.append(self.chain(name, [("Reshape", "flat")]))

    def graph(self, name, *inputs):
        self.nodes.append(node("Concat", self.results, ["y"], axis=0))
        used = {name for made in self.nodes for name in made.input}
        constants = [numpy_helper.from_array(np.asarray(CONSTANTS[name]), name) for name in CONSTANTS if name in used]
        floats = lambda name, *shape: value(name, TensorProto.FLOAT, shape)
        return helper.make_graph(self.nodes, name, [floats(name, ROWS, width) for name, width in inputs],
                                 [floats("y", "results", WIDTH)], self.stored + constants)


def samples(**widths):
    return {name: RANDOM.standard_normal((SAMPLES, ROWS, width)).astype(np.float32) for name, width in widths.items()}


def beside_quantized():
    parts, quantized = Parts(), [("QuantizeLinear", "s", "z"), ("DequantizeLinear", "s", "z")]
    around = parts.chain("x", quantized)
    for steps in (*MOVED.values(), *KEPT.values()):
        parts.give(parts.product(parts.chain(around if steps[:1] != MOVED["slice"] else parts.chain(
            "wide", quantized), steps)))
        narrow = [step for step in steps if step != MOVED["slice"][0]]
        parts.give(parts.chain(parts.product("x"), [*narrow, *quantized]))
        parts.give(parts.chain(parts.product("x"), [("Add", parts.weight(WIDTH)), *narrow, *quantized]))
    return parts.graph("beside_quantized", ("x", DEPTH), ("wide", 2 * DEPTH)), samples(x=DEPTH, wide=2 * DEPTH)


def beside_removed():
    parts = Parts()
    for steps in (*REMOVED.values(), *KEPT.values()):
        added = parts.chain(parts.product("x"), [*steps, ("Add", "r")])
        parts.give(added)
        parts.give(parts.chain(parts.product("x"), [*steps, ("Add", "r"), ("Relu",)]))
    columns = parts.chain("x", [("Transpose",)])
    for more in ([], [("Relu",)]):
        left = parts.weight(WIDTH, DEPTH)
        parts.nodes.append(node("MatMul", [left, columns], [f"left{left}"]))
        parts.give(parts.chain(f"left{left}", [("Transpose",), ("Add", "r"), *more]))
        parts.nodes.append(node("MatMul", [left, columns], [f"twice{left}"]))
        parts.give(parts.chain(f"twice{left}", [("Add", parts.weight(WIDTH, 1)), *more, ("Transpose",)]))
    column = parts.chain(parts.product("x"), [("Transpose",), ("Add", parts.weight(WIDTH, 1)), ("Transpose",)])
    parts.give(column)
    return parts.graph("beside_removed", ("x", DEPTH), ("r", WIDTH)), samples(x=DEPTH, r=WIDTH)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (beside_quantized, beside_removed):
        graph, arrays = make()
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{make.__name__}.onnx")
        np.savez(folder / f"{make.__name__}.npz", **arrays)


if __name__ == "__main__":
    main()
