//! The rules, by what they do. Each names the operator and the opset before which it applies.

pub(super) mod axes;
pub(super) mod bounds;
pub(super) mod inputs;
pub(super) mod normalize;
pub(super) mod renamed;
pub(super) mod resample;
pub(super) mod softmax;
