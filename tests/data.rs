//! Samples as users have them: arrays, text with a tokenizer, images.

mod support;

use std::io::Cursor;
use std::path::Path;

use efq::data::{Array, IGNORED, Label, Sample, Samples, Source, coincide, load};
use efq::onnx::proto::tensor_proto::DataType;
use image::{ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use support::{Folder, Net, done, noise, npy_f32, npy_i64, npz, samples_at};

/// An encoder of `[batch, length]` with the three inputs of BERT, 8 rows of words and `positions` places.
fn encoder(length: &str, positions: usize) -> Net {
    let ids = &["batch", length][..];
    Net::new()
        .input("input_ids", DataType::Int64, ids)
        .input("attention_mask", DataType::Int64, ids)
        .input("token_type_ids", DataType::Int64, ids)
        .input("position_ids", DataType::Int64, ids)
        .output("hidden", DataType::Float, &["batch", length, "16"])
        .floats("words", &[8, 16], &noise(8 * 16, 1))
        .floats("places", &[positions, 16], &noise(positions * 16, 2))
        .node("Gather", "words_of", &["words", "input_ids"], &["a"], vec![])
        .node("Gather", "places_of", &["places", "position_ids"], &["b"], vec![])
        .node("Add", "sum", &["a", "b"], &["hidden"], vec![])
}

/// A model of the next of 8 words, from nothing but ids.
fn next_word(length: &str) -> Net {
    Net::new()
        .input("input_ids", DataType::Int64, &["batch", length])
        .output("logits", DataType::Float, &["batch", length, "8"])
        .floats("words", &[8, 16], &noise(8 * 16, 1))
        .floats("head", &[16, 8], &noise(16 * 8, 2))
        .node("Gather", "words_of", &["words", "input_ids"], &["a"], vec![])
        .node("MatMul", "head", &["a", "head"], &["logits"], vec![])
}

/// Words split at blanks; a frame around them is `[CLS] … [SEP]`.
fn tokenizer(framed: bool) -> String {
    let frame = r#"{"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                           "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}}"#;
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "post_processor": {}, "decoder": null,
        "model": {{"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {{"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6, "d": 7}}}}}}"#,
        if framed { frame } else { "null" }
    )
}

/// A folder with `m.onnx` and its tokenizer.
fn text_folder(net: &Net, framed: bool) -> Folder {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    folder.write("tokenizer.json", tokenizer(framed));
    folder
}

fn read(folder: &Folder, source: Source) -> efq::Result<Samples> {
    let model = efq::onnx::load(&folder.join("m.onnx"))?;
    load(&source, &model)
}

fn text(folder: &Folder, content: &str) -> efq::Result<Samples> {
    read(folder, Source::new(folder.write("d.txt", content)))
}

fn input<'a>(sample: &'a Sample, name: &str) -> &'a Array {
    &sample.inputs.iter().find(|(given, _)| given == name).unwrap().1
}

fn integers(sample: &Sample, name: &str) -> Vec<i64> {
    input(sample, name).bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

fn fails(samples: efq::Result<Samples>) -> String {
    samples.unwrap_err().to_string()
}

fn safetensors(arrays: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = arrays.iter().map(|(name, dtype, shape, bytes)| {
        (name.to_string(), TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

#[test]
fn safetensors_and_npz_are_the_same_samples() {
    let model = efq::onnx::load_bytes(Net::linear(64, 64).bytes().into()).unwrap();
    let values = noise(3 * 64, 9);
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let labels: Vec<u8> = [5i64, 0, 63].iter().flat_map(|label| label.to_le_bytes()).collect();
    let folder = Folder::new();
    let archive = npz(&[("x", npy_f32(&[3, 64], &values)), ("labels", npy_i64(&[3], &[5, 0, 63]))]);
    let archive = samples_at(&folder.write("d.npz", archive), &model).unwrap();
    let file = safetensors(&[("x", Dtype::F32, &[3, 64], &raw), ("labels", Dtype::I64, &[3], &labels)]);
    let tensors = samples_at(&folder.write("d.safetensors", file), &model).unwrap();
    assert_eq!(archive.list, tensors.list);
    assert_eq!(coincide(&archive, &tensors), 3);
    let two = Samples { list: tensors.list[1..].to_vec(), ..tensors.clone() };
    assert_eq!((coincide(&archive, &two), coincide(&two, &archive)), (2, 2));

    let halves: Vec<u8> = [half::bf16::ONE; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let file = safetensors(&[("x", Dtype::BF16, &[1, 64], &halves)]);
    let ones = samples_at(&folder.write("e.safetensors", file), &model).unwrap();
    assert_eq!(input(&ones.list[0], "x").bytes, [1.0f32; 64].map(f32::to_le_bytes).concat());
    assert_eq!(coincide(&archive, &ones), 0);
}

#[test]
fn broken_safetensors_are_named() {
    let model = efq::onnx::load_bytes(Net::linear(64, 64).bytes().into()).unwrap();
    let folder = Folder::new();
    let said = |bytes: &[u8]| {
        let path = folder.write("d.safetensors", bytes);
        fails(samples_at(&path, &model)).split_once(".safetensors: ").unwrap().1.to_owned()
    };
    assert!(said(b"").starts_with("safetensors: cannot be read: "));
    assert!(said(&[255; 64]).starts_with("safetensors: cannot be read: "));
    let raw = [0; 512];
    assert_eq!(
        said(&safetensors(&[("X", Dtype::F32, &[2, 64], &raw)])),
        "array 'X': is no input of the model and not `labels` (inputs: x; nearest: x)"
    );
    assert_eq!(
        said(&safetensors(&[("x", Dtype::U64, &[1, 64], &raw)])),
        "array 'x': element type U64 is not read (save numbers of 8 to 64 bits or bool)"
    );
    let good = safetensors(&[("x", Dtype::F32, &[2, 64], &raw)]);
    assert!(said(&good[..good.len() - 1]).starts_with("safetensors: cannot be read: "));
}

#[test]
fn a_text_fills_the_inputs_by_name() {
    let folder = text_folder(&encoder("length", 40), true);
    let samples = text(&folder, "a b\n\nzebra\n").unwrap();
    let [first, second] = samples.list.as_slice() else { panic!("{samples:?}") };
    assert_eq!(integers(first, "input_ids"), [2, 4, 5, 3]);
    assert_eq!(integers(second, "input_ids"), [2, 0, 3]);
    assert_eq!(integers(first, "attention_mask"), [1; 4]);
    assert_eq!(integers(first, "token_type_ids"), [0; 4]);
    assert_eq!(integers(first, "position_ids"), [0, 1, 2, 3]);
    assert_eq!(input(first, "input_ids").shape, [1, 4]);
    assert!(!samples.labelled() && samples.are_real());
}

#[test]
fn texts_are_cut_to_the_positions_and_padded_to_a_fixed_length() {
    let long = "a ".repeat(600);
    let ids = |folder: &Folder| integers(&text(folder, &long).unwrap().list[0], "input_ids");
    let cut = ids(&text_folder(&encoder("length", 40), true));
    assert_eq!((cut.len(), cut.first(), cut.last()), (40, Some(&2), Some(&3)));
    assert_eq!(ids(&text_folder(&encoder("length", 2000), true)).len(), 512);

    let folder = text_folder(&encoder("20", 40), true);
    assert_eq!(ids(&folder).len(), 20);
    let short = text(&folder, "a b").unwrap();
    let padded = |value: i64, real: [i64; 4]| [&real[..], &[value; 16]].concat();
    assert_eq!(integers(&short.list[0], "input_ids"), padded(1, [2, 4, 5, 3]));
    assert_eq!(integers(&short.list[0], "attention_mask"), padded(0, [1; 4]));

    let limited = tokenizer(true).replace(
        "\"truncation\": null",
        r#""truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0}"#,
    );
    folder.write("tokenizer.json", limited);
    let five = text(&folder, &long).unwrap();
    assert_eq!(five.list[0].mask().unwrap().iter().filter(|real| **real).count(), 5);
    let source = Source { length: Some(3), ..Source::new(folder.join("d.txt")) };
    let three = read(&folder, source).unwrap();
    assert_eq!(three.list[0].mask().unwrap().iter().filter(|real| **real).count(), 3);
}

#[test]
fn jsonl_has_a_field_for_the_text() {
    let folder = text_folder(&encoder("length", 40), true);
    let path = folder.write("d.jsonl", "{\"text\": \"a\", \"q\": \"b c\"}\n");
    let default = read(&folder, Source::new(&path)).unwrap();
    assert_eq!(integers(&default.list[0], "input_ids"), [2, 4, 3]);
    let field = |name: &str| read(&folder, Source { field: Some(name.to_owned()), ..Source::new(&path) });
    assert_eq!(integers(&field("q").unwrap().list[0], "input_ids"), [2, 5, 6, 3]);
    let said = fails(field("body"));
    let wanted = "d.jsonl: line 1: field 'body' is missing (name one with --field; there are: q, text)";
    assert!(said.ends_with(wanted), "{said}");
}

/// A classifier's labels stand in the field `label`.
#[test]
fn jsonl_may_hold_classes() {
    let net = Net::new()
        .input("input_ids", DataType::Int64, &["batch", "length"])
        .input("attention_mask", DataType::Int64, &["batch", "length"])
        .output("logits", DataType::Float, &["batch", "4"])
        .floats("words", &[8, 4], &noise(32, 1))
        .integers("one", &[1], &[1])
        .node("Gather", "words_of", &["words", "input_ids"], &["a"], vec![])
        .node("ReduceSum", "sum", &["a", "one"], &["logits"], vec![support::int("keepdims", 0)]);
    let folder = text_folder(&net, true);
    let file = "{\"text\": \"a\", \"label\": 3}\n{\"text\": \"b\", \"label\": null}\n";
    let samples = read(&folder, Source::new(folder.write("d.jsonl", file))).unwrap();
    let labels: Vec<Label> = samples.list.into_iter().map(|sample| sample.label).collect();
    assert_eq!(labels, [Label::Class(3), Label::None]);
    let said = fails(read(&folder, Source::new(folder.write("e.jsonl", file.replace("null", "\"no\"")))));
    let wanted = "e.jsonl: line 2: field 'label' holds \"no\": class numbers must be integers (null where there is no label)";
    assert!(said.ends_with(wanted), "{said}");
    // To a model without classes they are nothing, which is said.
    let folder = text_folder(&encoder("length", 40), true);
    let samples =
        read(&folder, Source::new(folder.write("e.jsonl", file.replace("null", "\"no\"")))).unwrap();
    assert!(!samples.labelled());
    let unused = "e.jsonl: 2 labels are not used: the model gives no classes of a whole text";
    assert!(samples.remarks[0].ends_with(unused), "{:?}", samples.remarks);
    let said = fails(read(&folder, Source::new(folder.write("e.json", file))));
    assert!(
        said.contains("e.json: samples are not read from .json (texts, one JSON object a line"),
        "{said}"
    );
}

#[test]
fn running_text_is_cut_into_windows_that_predict_the_next_token() {
    let folder = text_folder(&next_word("length"), false);
    let path = folder.write("d.txt", "a b c\nd a b\n");
    let source = Source { length: Some(4), ..Source::new(&path) };
    let samples = read(&folder, source).unwrap();
    let [first, second] = samples.list.as_slice() else { panic!("{samples:?}") };
    assert_eq!(integers(first, "input_ids"), [4, 5, 6, 7]);
    assert_eq!(first.label, Label::Positions(vec![5, 6, 7, 4]));
    assert_eq!(integers(second, "input_ids"), [4, 5]);
    assert_eq!(second.label, Label::Positions(vec![5, IGNORED]));
    let long = text(&folder, &"a ".repeat(600)).unwrap();
    assert_eq!(
        long.list.iter().map(|sample| input(sample, "input_ids").shape[1]).collect::<Vec<_>>(),
        [256, 256, 88]
    );

    // Without a mask a window of a fixed length is whole or left out.
    let fixed = text_folder(&next_word("4"), false);
    assert_eq!(text(&fixed, "a b c\nd a b\n").unwrap().list[..], samples.list[..1]);
    let said = fails(text(&fixed, "a b"));
    assert!(said.ends_with("text: 2 tokens, a window takes 4 (give more text)"), "{said}");
    // A tokenizer that frames texts is no language model's.
    assert!(!text(&text_folder(&next_word("length"), true), "a b").unwrap().labelled());
}

#[test]
fn perplexity_is_measured_on_text() {
    let folder = text_folder(&next_word("length"), false);
    folder.write("d.txt", "a b c d a b c\n".repeat(200));
    let args = ["validate", "m.onnx", "m.onnx", "-p", "high_accuracy", "--data", "d.txt"];
    let run = folder.efq(&args);
    assert!(done(&run).contains("perplexity"), "{run:?}");
    let run = folder.efq(&[&args[..], &["--tokenizer", "tokenizer.json"]].concat());
    done(&run);
    let run = folder.efq(&[&args[..], &["--tokenizer", "no.json"]].concat());
    assert_eq!(run.err, "error: d.txt: no.json: no such file or folder\n");
    let run = folder.efq(&[&args[..], &["--field", "q"]].concat());
    assert_eq!((run.code, run.err.as_str()), (Some(2), "error: --field: is for a .jsonl file\n"));
}

#[test]
fn text_that_cannot_be_fed_is_refused() {
    let said = |net: &Net, framed: bool, change: &dyn Fn(&Folder)| {
        let folder = text_folder(net, framed);
        change(&folder);
        fails(text(&folder, "a b")).split_once("d.txt: ").unwrap().1.to_owned()
    };
    let keep = |_: &Folder| {};
    let bert = encoder("length", 40);
    let other = bert.clone().input("speed", DataType::Float, &["batch"]);
    assert_eq!(
        said(&other, true, &keep),
        "input 'speed': cannot be filled from text (give an .npz with one array for each input)"
    );
    assert!(said(&Net::linear(64, 64), true, &keep).starts_with("input 'x': cannot be filled from text"));
    let two = bert.clone().input("more_ids", DataType::Int64, &["batch", "length"]);
    assert!(said(&two, true, &keep).starts_with("inputs: not one of them is for token ids: input_ids, "));
    assert_eq!(
        said(&bert, true, &|folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap()),
        "--tokenizer: no tokenizer.json beside the model or in the folder above (name one with --tokenizer, or \
         give token ids in an .npz)"
    );
    for broken in ["", "{}", "[1]", "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {}}}", "\u{1}"] {
        let what = said(&bert, true, &|folder| drop(folder.write("tokenizer.json", broken)));
        assert!(what.contains("tokenizer"), "{what}");
    }
    let foreign = |folder: &Folder| {
        drop(folder.write("tokenizer.json", tokenizer(true).replace("\"a\": 4", "\"a\": 9")))
    };
    let what = said(&bert, true, &foreign);
    let wanted = "gives id 9 for 'a', the table of 'input_ids' has 8 rows (it is the tokenizer of another model: \
                  name the right one with --tokenizer)";
    assert!(what.ends_with(wanted), "{what}");
    let what = said(&encoder("2", 40), true, &keep);
    assert!(what.ends_with("frames a text with 2 tokens, the model takes 2"), "{what}");
    // Nothing would tell the padding from the text.
    assert_eq!(
        said(&next_word("6"), true, &keep),
        "input 'input_ids': takes exactly 6 tokens, a text has 4, and no attention_mask tells padding from text \
         (export it with a free length, or give token ids in an .npz)"
    );
}

/// The tokenizer of an export in `onnx/` lies in the folder above.
#[test]
fn what_goes_with_a_model_may_lie_above_it() {
    let folder = Folder::new();
    folder.write("onnx/model.onnx", encoder("length", 40).bytes());
    folder.write("tokenizer.json", tokenizer(true));
    let model = efq::onnx::load(folder.path()).unwrap();
    assert_eq!(samples_at(&folder.write("d.txt", "a"), &model).unwrap().list.len(), 1);
}

fn vision(channels: &str, side: &str) -> Net {
    Net::new()
        .input("pixel_values", DataType::Float, &["batch", channels, side, side])
        .output("y", DataType::Float, &["batch", channels, side, side])
        .node("Relu", "relu", &["pixel_values"], &["y"], vec![])
}

fn picture(side: u32, colour: [u8; 3], format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(side, side, Rgb(colour)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn image_folder(net: &Net, config: Option<&str>) -> Folder {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    if let Some(config) = config {
        folder.write("preprocessor_config.json", config);
    }
    folder
}

fn pixels(sample: &Sample) -> Vec<f32> {
    let bytes = &sample.inputs[0].1.bytes;
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn images(folder: &Folder) -> efq::Result<Samples> {
    read(folder, folder.join("d").into())
}

#[test]
fn images_are_read_in_every_form_and_order_is_by_name() {
    let config = r#"{"size": 2, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#;
    let folder = image_folder(&vision("3", "2"), Some(config));
    folder.write("d/a.png", picture(2, [255, 0, 51], ImageFormat::Png));
    folder.write("d/b.BMP", picture(5, [0, 255, 51], ImageFormat::Bmp));
    folder.write("d/c.webp", picture(4, [0, 0, 255], ImageFormat::WebP));
    folder.write("d/more/d.jpeg", picture(8, [255, 255, 255], ImageFormat::Jpeg));
    folder.write("d/readme.md", "no image");
    folder.write("d/.hidden.png", "");
    let samples = images(&folder).unwrap();
    let found: Vec<Vec<f32>> = samples.list.iter().map(pixels).collect();
    let flat = |colour: [f32; 3]| colour.iter().flat_map(|value| [*value; 4]).collect::<Vec<f32>>();
    assert_eq!(found, [flat([1.0, 0.0, 0.2]), flat([0.0, 1.0, 0.2]), flat([0.0, 0.0, 1.0]), flat([1.0; 3])]);
    assert_eq!(samples.list[0].inputs[0].1.shape, [1, 3, 2, 2]);
    assert!(!samples.labelled());
}

#[test]
fn folders_that_are_numbers_are_classes() {
    let folder = image_folder(&vision("1", "2"), None);
    folder.write("d/preprocessor_config.json", r#"{"size": 2}"#);
    folder.write("d/0/x.png", picture(2, [255; 3], ImageFormat::Png));
    folder.write("d/7/y.png", picture(2, [0; 3], ImageFormat::Png));
    let samples = images(&folder).unwrap();
    let labels: Vec<Label> = samples.list.iter().map(|sample| sample.label.clone()).collect();
    assert_eq!(labels, [Label::Class(0), Label::Class(7)]);
    assert_eq!(pixels(&samples.list[0]), [1.0; 4]);
    folder.write("d/cat/z.png", picture(2, [0; 3], ImageFormat::Png));
    assert!(!images(&folder).unwrap().labelled());
}

#[test]
fn images_that_cannot_be_fed_are_refused() {
    let config = Some(r#"{"size": 2}"#);
    let said = |net: &Net, config: Option<&str>, bytes: &[u8]| {
        let folder = image_folder(net, config);
        folder.write("d/a.png", bytes);
        let here = folder.path().display().to_string();
        fails(images(&folder)).replace(&here, "HERE")
    };
    let good = picture(3, [9; 3], ImageFormat::Png);
    assert_eq!(
        said(&vision("3", "2"), None, &good),
        "HERE/d: images: no preprocessor_config.json beside the model, in the folder above, or among the images \
         (put one there, for example {\"size\": {\"height\": 2, \"width\": 2}, \"image_mean\": [0.5, 0.5, 0.5], \
         \"image_std\": [0.5, 0.5, 0.5]})"
    );
    assert_eq!(
        said(&vision("3", "4"), config, &good),
        "HERE/d: HERE/preprocessor_config.json: gives images of 2 x 2, input 'pixel_values' takes [batch, 3, 4, 4] \
         (it belongs to another model, or adapt it)"
    );
    assert_eq!(
        said(&vision("3", "4"), Some("{}"), &good),
        "HERE/d: a.png: image: is 3 x 3 after preprocessor_config.json, input 'pixel_values' takes \
         [batch, 3, 4, 4] (give the config a size or a crop_size)"
    );
    for broken in [&b""[..], b"no image", &good[..good.len() / 2], &good[..20]] {
        let what = said(&vision("3", "2"), config, broken);
        assert!(what.starts_with("HERE/d: a.png: image: does not decode: "), "{what}");
    }
    // A BMP that announces 2^31 by 2^31 pixels.
    let mut huge = picture(2, [0; 3], ImageFormat::Bmp);
    huge[18..26].copy_from_slice(&[255, 255, 255, 127, 255, 255, 255, 127]);
    assert!(said(&vision("3", "2"), config, &huge).starts_with("HERE/d: a.png: image: does not decode: "));
    let what = said(&vision("4", "2"), config, &good);
    assert!(what.contains("input 'pixel_values': takes [batch, 4, 2, 2], images fill"), "{what}");
    let what = said(&vision("3", "2"), Some("{\"do_pad\": true}"), &good);
    assert!(what.contains("preprocessor_config.json: 'do_pad': true is not carried out"), "{what}");
}

/// No runtime can run an id without a row, so it is told before one tries, for every form of samples.
#[test]
fn ids_without_a_row_in_their_table_are_refused() {
    let folder = Folder::new();
    encoder("length", 40).save(&folder.join("m.onnx"));
    let model = efq::onnx::load(&folder.join("m.onnx")).unwrap();
    let with = |words: [i64; 4], places: [i64; 4]| {
        let array = |values: &[i64; 4]| npy_i64(&[2, 2], values);
        let names = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];
        let values = [words, [1; 4], [0; 4], places];
        let arrays: Vec<(&str, Vec<u8>)> = names.into_iter().zip(values.iter().map(array)).collect();
        folder.write("d.npz", npz(&arrays));
        samples_at(&folder.join("d.npz"), &model)
    };
    assert_eq!(with([0, 7, -1, -8], [0, 39, -40, 1]).unwrap().list.len(), 2);
    let refused = |words, places| fails(with(words, places)).split_once("d.npz: ").unwrap().1.to_owned();
    let help = "(the ids are of another tokenizer, or it is another model)";
    assert_eq!(
        refused([0, 7, 8, 1], [0; 4]),
        format!("array 'input_ids': sample 1 holds id 8, the table 'words' has 8 rows {help}")
    );
    assert_eq!(
        refused([0, -9, 0, 1], [0; 4]),
        format!("array 'input_ids': sample 0 holds id -9, the table 'words' has 8 rows {help}")
    );
    assert_eq!(
        refused([0; 4], [0, 1, 0, 40]),
        format!("array 'position_ids': sample 1 holds id 40, the table 'places' has 40 rows {help}")
    );

    for option in ["--data", "--calibration"] {
        let run =
            folder.efq(&["rewrite", "m.onnx", "-p", "high_compression", "-o", "o.onnx", option, "d.npz"]);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.err.starts_with("error: d.npz: array 'position_ids': sample 1 holds id 40"), "{run:?}");
    }
}

/// Ids are held against a table only where it gets them as they are.
#[test]
fn ids_are_followed_as_far_as_they_stay_what_they_are() {
    let net = |op: &str, more: &[&str], attributes| {
        let inputs: Vec<&str> = ["ids"].iter().chain(more).copied().collect();
        Net::new()
            .input("ids", DataType::Int64, &["batch", "2"])
            .output("y", DataType::Float, &["batch", "n", "16"])
            .floats("words", &[8, 16], &noise(8 * 16, 1))
            .integers("shape", &[2], &[1, -1])
            .integers("one", &[1], &[1])
            .node(op, "", &inputs, &["other"], attributes)
            .node("Gather", "", &["words", "other"], &["y"], vec![])
    };
    let folder = Folder::new();
    let file = folder.write("d.npz", npz(&[("ids", npy_i64(&[1, 2], &[3, 9]))]));
    let read = |net: Net| samples_at(&file, &efq::onnx::load_bytes(net.bytes().into()).unwrap());
    assert!(fails(read(net("Reshape", &["shape"], vec![]))).contains("holds id 9"));
    assert!(fails(read(net("Cast", &[], vec![support::int("to", 6)]))).contains("holds id 9"));
    assert!(read(net("Cast", &[], vec![support::int("to", 9)])).is_ok());
    assert!(read(net("Sub", &["one"], vec![])).is_ok());
    assert!(read(net("Mod", &["shape"], vec![])).is_ok());
}

#[test]
fn a_text_and_its_padded_ids_coincide() {
    let folder = text_folder(&encoder("length", 40), true);
    let texts = text(&folder, "a b\nc\nd d d\n").unwrap();
    let model = efq::onnx::load(&folder.join("m.onnx")).unwrap();
    let rows: [&[i64]; 3] = [&[2, 4, 5, 3], &[2, 6, 3], &[2, 7, 3]];
    let padded = |pad: i64, of: fn(usize, i64) -> i64| -> Vec<u8> {
        let row =
            |row: &&[i64]| (0..20).map(|at| row.get(at).map_or(pad, |id| of(at, *id))).collect::<Vec<_>>();
        npy_i64(&[3, 20], &rows.iter().flat_map(row).collect::<Vec<i64>>())
    };
    let arrays = [
        ("input_ids", padded(1, |_, id| id)),
        ("attention_mask", padded(0, |_, _| 1)),
        ("token_type_ids", padded(0, |_, _| 0)),
        ("position_ids", padded(0, |at, _| at as i64)),
    ];
    let arrays = samples_at(&folder.write("d.npz", npz(&arrays)), &model).unwrap();
    assert_eq!((coincide(&texts, &arrays), coincide(&arrays, &texts)), (2, 2));
}

/// Weights are fitted to texts and images as to arrays.
#[test]
fn texts_and_images_calibrate() {
    let fitted = |folder: &Folder, path: &str| -> serde_json::Value {
        let run = folder.efq(&[
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "-o",
            "o.onnx",
            "--validate",
            "never",
            "--format",
            "json",
            "--calibration",
            path,
        ]);
        let report: serde_json::Value = serde_json::from_str(done(&run)).unwrap();
        assert_eq!(report["fitting"]["data"]["path"], path, "{report}");
        assert_eq!(report["fitting"]["layers"].as_array().unwrap().len(), 1, "{report}");
        report["fitting"].clone()
    };
    let net = Net::new()
        .input("input_ids", DataType::Int64, &["batch", "length"])
        .output("hidden", DataType::Float, &["batch", "length", "64"])
        .floats("words", &[8, 64], &noise(8 * 64, 1))
        .floats("w", &[64, 64], &noise(64 * 64, 2))
        .node("Gather", "words_of", &["words", "input_ids"], &["a"], vec![])
        .node("MatMul", "product", &["a", "w"], &["hidden"], vec![]);
    let folder = text_folder(&net, true);
    let lines: String = (0..40).map(|at| format!("{}a b\n", "c d ".repeat(at))).collect();
    folder.write("d.txt", lines);
    assert_eq!(fitted(&folder, "d.txt")["samples"], 40);

    let net = Net::new()
        .input("pixel_values", DataType::Float, &["batch", "3", "8", "8"])
        .output("y", DataType::Float, &["batch", "64"])
        .floats("w", &[192, 64], &noise(192 * 64, 1))
        .node("Flatten", "flat", &["pixel_values"], &["x"], vec![])
        .node("MatMul", "product", &["x", "w"], &["y"], vec![]);
    let folder = image_folder(&net, Some(r#"{"size": 8, "image_mean": 0.5, "image_std": 0.5}"#));
    for at in 0..24u8 {
        folder.write(&format!("d/{at}.png"), picture(9, [at * 10, 255 - at, at], ImageFormat::Png));
    }
    assert_eq!(fitted(&folder, "d")["samples"], 24);
}

#[test]
fn a_folder_without_samples_is_told_what_it_holds() {
    let folder = image_folder(&vision("3", "2"), Some("{\"size\": 2}"));
    let said = |folder: &Folder| fails(images(folder)).replace(&folder.path().display().to_string(), "HERE");
    let known = "(a folder holds images (png, jpg, jpeg, webp, bmp), also one folder deep, or test_data_set_* of \
                 input_*.pb; a file is .npz, .safetensors, .txt or .jsonl)";
    std::fs::create_dir(folder.join("d")).unwrap();
    assert_eq!(said(&folder), format!("HERE/d: is an empty folder {known}"));
    folder.write("d/readme", "");
    folder.write("d/a.npz", "");
    folder.write("d/b.NPZ", "");
    folder.write("d/deep/c.md", "");
    assert_eq!(
        said(&folder),
        format!("HERE/d: holds no samples: 2 .npz, 1 folder, 1 without an ending {known}")
    );
    folder.write("d/a.png", picture(2, [0; 3], ImageFormat::Png));
    folder.write("d/b.gif", "");
    folder.write("d/deep/a.TIFF", "");
    assert_eq!(
        said(&folder),
        "HERE/d: holds images in a form that is not read: b.gif and 1 more (convert them, or take them out: PNG, JPEG, WebP and BMP \
         are read)"
    );
}

#[test]
fn two_sizes_under_one_name_of_the_model_are_refused() {
    let net = encoder("sequence", 40);
    let folder = text_folder(&net, true);
    let arrays = |mask: usize| {
        let of = |length: usize| npy_i64(&[2, length], &vec![1; 2 * length]);
        let names = ["input_ids", "token_type_ids", "position_ids"];
        let mut arrays: Vec<_> = names.into_iter().map(|name| (name, of(8))).collect();
        arrays.push(("attention_mask", of(mask)));
        Source::new(folder.write("d.npz", npz(&arrays)))
    };
    assert_eq!(read(&folder, arrays(8)).unwrap().list.len(), 2);
    let said = fails(read(&folder, arrays(6)));
    let (_, said) = said.split_once("d.npz: array ").unwrap();
    assert!(
        said.contains("sample 0 has a size of ") && said.contains("the model calls both 'sequence'"),
        "{said}"
    );
    assert!(said.contains("has 6") || said.contains("of 6"), "{said}");
    assert!(said.contains("'attention_mask'"), "{said}");
}

/// What is wrong with labels is told with the file and the array that holds them.
#[test]
fn labels_that_are_no_classes_of_the_model_name_their_file() {
    let folder = Folder::new();
    Net::linear(64, 64).save(&folder.join("m.onnx"));
    let said = |label: i64| {
        let values = ("x", npy_f32(&[3, 64], &noise(192, 3)));
        folder.write("d.npz", npz(&[values, ("labels", npy_i64(&[3], &[1, label, 2]))]));
        let args = ["validate", "m.onnx", "m.onnx", "-p", "high_compression", "--data", "d.npz"];
        let run = folder.efq(&args);
        assert_eq!(run.code, Some(3), "{run:?}");
        run.err
    };
    let place = "error: d.npz: array 'labels': sample 1: label: class";
    let (beyond, ignored) = (said(64), said(-100));
    assert!(beyond.starts_with(&format!("{place} 64 of an output with 64 classes")), "{beyond}");
    assert!(ignored.starts_with(&format!("{place} -100 of an output")), "{ignored}");
    assert!(ignored.contains("where there is a label per position"), "{ignored}");
}

/// What a folder holds and is not read, and why its images have no labels.
#[test]
fn what_is_left_out_of_a_folder_is_said() {
    let folder = image_folder(&vision("3", "2"), Some("{\"size\": 2}"));
    let image = || picture(2, [0; 3], ImageFormat::Png);
    let remarks = || {
        let said = images(&folder).unwrap().remarks;
        said.iter().map(|remark| remark.split_once("/d: ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    folder.write("d/0/a.png", image());
    folder.write("d/1/a.png", image());
    assert!(remarks().is_empty() && images(&folder).unwrap().labelled());
    folder.write("d/outside.png", image());
    folder.write("d/cat/a.png", image());
    folder.write("d/cat/young/a.png", image());
    assert_eq!(
        remarks(),
        [
            "no labels: not every image lies in a folder that is a class number (0, 1, …): cat/a.png and 1 more",
            "left out, for they lie deeper than one folder: cat/young/a.png"
        ]
    );
    #[cfg(unix)]
    {
        // A link that leads nowhere is an image that cannot be read.
        let link = folder.join("d/0/b.png");
        std::os::unix::fs::symlink("gone.png", &link).unwrap();
        assert!(fails(images(&folder)).contains("d/0/b.png"));
        std::fs::remove_file(link).unwrap();
    }
    let values = efq::onnx::tensor::from_raw("x", DataType::Float, &[1, 3, 2, 2], vec![0; 48]);
    folder.write("d/test_data_set_0/input_0.pb", prost::Message::encode_to_vec(&values));
    assert_eq!(images(&folder).unwrap().list.len(), 1);
    assert_eq!(
        remarks(),
        ["left out, for they lie beside test_data_set_*, which is read alone: 0/a.png and 3 more"]
    );
}

/// Damaged files end in an error or in samples, never in a panic.
fn survives(folder: &Folder, path: &Path) {
    let _ = samples_at(path, &efq::onnx::load(&folder.join("m.onnx")).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read(bytes in prop::collection::vec(any::<u8>(), 0..120), line in "\\PC{0,40}") {
        let folder = text_folder(&encoder("length", 40), true);
        survives(&folder, &folder.write("d.txt", &bytes));
        survives(&folder, &folder.write("d.jsonl", &bytes));
        let json = serde_json::json!({ "text": line }).to_string();
        prop_assert!(read(&folder, Source::new(folder.write("e.jsonl", json))).is_ok());
    }

    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let damaged = |mut bytes: Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes
        };
        let folder = text_folder(&encoder("length", 40), true);
        folder.write("tokenizer.json", damaged(tokenizer(true).into_bytes()));
        survives(&folder, &folder.write("d.txt", "a b\nc"));
        let arrays = [("input_ids", Dtype::I64, &[1, 2][..], &[0; 16][..])];
        survives(&folder, &folder.write("d.safetensors", damaged(safetensors(&arrays))));
        let folder = image_folder(&vision("3", "2"), Some("{\"size\": 2}"));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            folder.write("d/a.png", damaged(picture(3, [9; 3], format)));
            survives(&folder, &folder.join("d"));
        }
    }
}
