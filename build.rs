//! Generates the protobuf types of ONNX from `proto/onnx-ml.proto` (as published with onnx 1.23.2)
//! and, from the same descriptor, the table of known fields that `src/onnx/wire.rs` walks.
//! protox parses the schema, so no `protoc` is needed.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use prost_build::Config;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx-ml.proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(["onnx-ml.proto"], ["proto"])?;

    fs::write(out.join("fields.rs"), field_table(&descriptors)?)?;
    Config::new().bytes([".onnx"]).default_package_filename("onnx").compile_fds(descriptors)?;
    Ok(())
}

/// `static MESSAGES: &[Message]`, messages and fields in schema order, each with its size in memory.
fn field_table(
    descriptors: &protox::prost_reflect::prost_types::FileDescriptorSet,
) -> Result<String, std::fmt::Error> {
    use protox::prost_reflect::prost_types::field_descriptor_proto::Type;

    let mut text = String::from("pub(super) static MESSAGES: &[Message] = &[\n");
    let mut pending: Vec<(String, &protox::prost_reflect::prost_types::DescriptorProto)> = Vec::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            pending.push((format!(".{}.{}", file.package(), message.name()), message));
        }
    }
    let mut next = 0;
    while let Some((path, message)) = pending.get(next).cloned() {
        next += 1;
        for nested in &message.nested_type {
            pending.push((format!("{path}.{}", nested.name()), nested));
        }
    }
    for (path, message) in &pending {
        let size = format!("size_of::<super::proto::{}>()", rust_path(path));
        writeln!(text, "    Message {{ name: {:?}, size: {size}, fields: &[", message.name())?;
        for field in &message.field {
            let kind = match field.r#type() {
                Type::Message => {
                    let target = pending.iter().position(|(name, _)| name == field.type_name());
                    format!("Kind::Message({})", target.unwrap_or(0))
                }
                Type::String => "Kind::Text".to_owned(),
                Type::Bytes => "Kind::Bytes".to_owned(),
                Type::Float | Type::Fixed32 | Type::Sfixed32 => "Kind::Fixed32".to_owned(),
                Type::Double | Type::Fixed64 | Type::Sfixed64 => "Kind::Fixed64".to_owned(),
                Type::Int32 | Type::Uint32 | Type::Sint32 | Type::Enum => "Kind::Varint(4)".to_owned(),
                _ => "Kind::Varint(8)".to_owned(),
            };
            writeln!(
                text,
                "        Field {{ number: {}, name: {:?}, kind: {kind} }},",
                field.number(),
                field.name()
            )?;
        }
        text.push_str("    ] },\n");
    }
    text.push_str("];\n");
    Ok(text)
}

/// Where prost puts a message: `.onnx.TypeProto.Tensor` is `type_proto::Tensor`.
fn rust_path(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('.').skip(2).collect();
    let name = parts.pop().unwrap_or_default();
    let mut found = String::new();
    for part in parts {
        for (at, c) in part.char_indices() {
            if c.is_uppercase() && at > 0 {
                found.push('_');
            }
            found.extend(c.to_lowercase());
        }
        found.push_str("::");
    }
    found + name
}
