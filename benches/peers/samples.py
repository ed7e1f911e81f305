"""What every peer's script needs: calibration samples as feeds, and a model raised to opset 21."""
import numpy as np, onnx
from onnx import version_converter

TYPES = {onnx.TensorProto.INT64: np.int64, onnx.TensorProto.FLOAT: np.float32}


def feeds(model, path, count=None):
    """One feed a sample, of the first `count` samples of an .npz."""
    data = np.load(path)
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    samples = len(data[inputs[0].name])
    return [
        {value.name: data[value.name][at:at + 1].astype(TYPES[value.type.tensor_type.elem_type]) for value in inputs}
        for at in range(min(samples, count or samples))
    ]


def raised(path):
    """The model at opset 21."""
    return version_converter.convert_version(onnx.load(path), 21)
