"""ONNX Runtime's MatMulNBitsQuantizer: METHOD MODEL OUT CALIBRATION."""
import sys, onnx
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from onnxruntime.quantization.quant_utils import QuantFormat
from samples import raised


method, path, out, calibration = sys.argv[1:]
model, options, config = onnx.load(path), dict(block_size=32, is_symmetric=False), None
if method == "k_quant":
    config = nbits.KQuantWeightOnlyQuantConfig()
elif method == "gather":
    model = raised(path)
    config = nbits.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False, quant_format=QuantFormat.QOperator,
                                                op_types_to_quantize=("MatMul", "Gather"))
quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config, **options)
quantizer.process()
quantizer.model.save_model_to_file(out, False)
