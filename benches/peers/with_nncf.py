"""Intel's NNCF: METHOD MODEL OUT CALIBRATION."""
import sys, nncf, onnx
from samples import feeds, raised

method, path, out, calibration = sys.argv[1:]
more = {}
if method == "calibrated":
    more = dict(dataset=nncf.Dataset(feeds(path, calibration, 64)), awq=True, scale_estimation=True)
model = nncf.compress_weights(raised(path), mode=nncf.CompressWeightsMode.INT4_ASYM, ratio=1.0, group_size=32, **more)
onnx.save(model, out)
