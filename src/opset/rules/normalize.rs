//! Normalization and dropout.

use crate::{
    error::Result,
    onnx::proto::tensor_proto::DataType,
    opset::site::{Site, int_attribute},
};

/// `BatchNormalization` before 14: attribute `spatial` (before 9) goes; 0 meant statistics per element, which is the
/// same only for rank 2. A node that lists more than one output is in training mode, whether they are read or not:
/// ONNX Runtime then normalizes with the statistics of the batch.
pub fn batch_normalization(site: &mut Site<'_, '_>) -> Result<()> {
    let data = site.required_input(0)?;
    if site.take_int("spatial")? == Some(0) && site.scope.rank(&data) != Some(2) {
        return Err(site.unsupported("has spatial=0, statistics per element, which later opsets do not have"));
    }
    if site.node.output.iter().skip(1).any(|name| !name.is_empty()) {
        return Err(
            site.unsupported("lists outputs of training mode, in which it uses the statistics of the batch")
        );
    }
    site.node.output.truncate(1);
    Ok(())
}

/// `Dropout` before 12: attribute `ratio` goes, since inference drops nothing. The mask goes if nothing reads it: it
/// was of the data's type (before 10), and ONNX Runtime gave zeros where it now gives ones.
pub fn dropout(site: &mut Site<'_, '_>) -> Result<()> {
    site.take_float("ratio")?;
    site.keep_first_output("gives its mask, whose values are others since opset 12")
}

/// `GroupNormalization` 18: `scale` and `bias` had one value per group and have one per channel at 21, so each is
/// repeated C/G times. C is read from the data when the model runs, and is folded away when it is fixed.
pub fn group_normalization(site: &mut Site<'_, '_>) -> Result<()> {
    let data = site.required_input(0)?;
    let groups = site.take_int("num_groups")?;
    let groups = site.required("num_groups", groups)?;
    site.set(int_attribute("num_groups", groups));
    // Version 18 computed in the data's type; 21 computes in FLOAT unless told.
    if site.scope.element_type(&data) == Some(DataType::Double) {
        site.set(int_attribute("stash_type", DataType::Double as i64));
    }

    let channel_range = vec![int_attribute("start", 1), int_attribute("end", 2)];
    let channels = site.add_before("Shape", &[&data], "channels", channel_range);
    let count = site.ints("groups", &[groups]);
    let per_group = site.add_before("Div", &[&channels, &count], "channels_per_group", Vec::new());
    let first = vec![int_attribute("axis", 0)];
    let shape = site.add_before("Concat", &[&count, &per_group], "group_shape", first);
    let last = site.ints("axes", &[1]);
    let flat = site.ints("flat", &[-1]);
    for (index, what) in [(1, "group_scale"), (2, "group_bias")] {
        let values = site.required_input(index)?;
        let column = site.add_before("Unsqueeze", &[&values, &last], what, Vec::new());
        let repeated = site.add_before("Expand", &[&column, &shape], what, Vec::new());
        site.node.input[index] = site.add_before("Reshape", &[&repeated, &flat], what, Vec::new());
    }
    Ok(())
}
