"""onnxsim's INT4 and GPTQ: METHOD MODEL OUT CALIBRATION."""
import sys, onnx, onnxsim
from samples import feeds, raised

method, path, out, calibration = sys.argv[1:]
model = raised(path)
result = onnxsim.quantize_weight_only_int4(model)
if method == "gptq":
    result = onnxsim.apply_gptq(model, result, calibration_data=feeds(path, calibration))
onnx.save(result, out)
