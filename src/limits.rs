//! What efq accepts before it allocates: each limit is named in the error that it causes.

/// Bytes of one `.onnx` file; protobuf itself ends at 2 GiB.
pub const MODEL_BYTES: u64 = i32::MAX as u64;
/// Nesting of protobuf messages (the depth at which prost itself gives up).
pub const MESSAGE_DEPTH: usize = 100;
/// Nesting of If, Loop and Scan bodies (ONNX Runtime loads 31 and refuses 32).
pub const BODY_DEPTH: usize = 31;
/// Fields of one file, of any message, before anything is built from them.
pub const FIELDS: u64 = 40_000_000;
/// Bytes of packed numbers outside `raw_data` (`float_data`, `ints` and the like).
pub const PACKED_BYTES: u64 = 1 << 30;
/// Nodes of a model, bodies and functions included.
pub const NODES: usize = 1_000_000;
/// Initializers of a model, bodies included.
pub const INITIALIZERS: usize = 1_000_000;
/// Messages of any other kind in one file (attributes, types, dimensions).
pub const MESSAGES: usize = 8_000_000;
/// Bytes of memory that a model may take beside its numbers: an empty message is two bytes of a file and hundreds of
/// memory. A graph of 100,000 nodes takes about 60 MB.
pub const DECODED_BYTES: usize = 128 << 20;
/// Dimensions of a tensor.
pub const RANK: usize = 64;
/// Bytes of a name.
pub const NAME_BYTES: usize = 64 << 10;
/// Uncompressed bytes of a sample file.
pub const SAMPLE_BYTES: u64 = 16 << 30;
/// Uncompressed over compressed bytes of an npz member.
pub const COMPRESSION_RATIO: u64 = 1100;
/// Samples of one source.
pub const SAMPLES: usize = 10_000_000;
/// Bytes of the header of a numpy array.
pub const NPY_HEADER_BYTES: usize = 64 << 10;
/// Bytes of a plan, a preset, a tokenizer, or a file of text.
pub const TEXT_BYTES: u64 = 256 << 20;
/// Bytes of one line of text: a tokenizer may keep tens of bytes for each.
pub const LINE_BYTES: usize = 16 << 20;
/// Bytes of a preprocessor_config.json.
pub const CONFIG_BYTES: u64 = 1 << 20;
/// Bytes of one image file.
pub const IMAGE_BYTES: u64 = 256 << 20;
/// Height or width of an image.
pub const IMAGE_SIDE: u32 = 32 << 10;
/// Pixels of an image, before it is resized, between the two passes of that, and after.
pub const IMAGE_PIXELS: u64 = 1 << 26;
/// Bytes that running a model may take by estimate where nothing else is said: two models of 2 GB in float32.
pub const RUN_BYTES: u64 = 4_000_000_000;
