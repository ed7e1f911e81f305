//! Group 4: names and links.

use efq::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType};
use efq::onnx::{node, tensor};

use crate::corpus::Corpus;
use crate::support::{Net, body, int, noise, value};

#[test]
fn names_and_links() {
    let net = |change: fn(&mut GraphProto)| Net::linear(64, 64).with(change);
    let model = |change: fn(&mut ModelProto)| Net::linear(64, 64).with_model(change);
    let mut corpus = Corpus::default();
    corpus
        .net("two initializers of one name", net(|g| g.initializer.push(g.initializer[0].clone())))
        .net("initializer without a name", net(|g| g.initializer[0].name = None))
        .net(
            "output of the name of an initializer",
            net(|g| {
                g.node.push(node::build("Relu", "r", &["x"], &["w"], vec![]));
            }),
        )
        .net("two inputs of one name", net(|g| g.input.push(g.input[0].clone())))
        .net(
            "value assigned twice",
            net(|g| g.node.push(node::build("Relu", "", &["x"], &["logits"], vec![]))),
        )
        .net(
            "cycle",
            net(|g| {
                g.node[0].input[0] = "b".into();
                g.node.push(node::build("Relu", "back", &["logits"], &["b"], vec![]));
            }),
        )
        .net("loop of one node", net(|g| g.node[0].input[0] = "logits".into()))
        .net("dangling input", net(|g| g.node[0].input[0] = "nowhere".into()))
        .net("graph output that nothing makes", net(|g| g.output[0].name = Some("y".into())))
        .net("attribute twice", net(|g| g.node[0].attribute = vec![int("a", 1), int("a", 2)]))
        .net(
            "names that would move the cursor",
            net(|g| {
                g.node[0].name = Some(
                    "\u{1b}[2J\u{1b}]8;;http://x\u{7}a\r\nb\u{9b}31m\u{202e}\u{200b}\u{61c}\u{2028}".into(),
                );
                g.node[0].input[0] = "<script>|`::error::%0A\u{e0041}".into();
            }),
        )
        .net("name of 20,000 letters", net(|g| g.node[0].input[0] = "long".repeat(5000)))
        .net("no graph", model(|m| m.graph = None))
        .net("no operator set", model(|m| m.opset_import.clear()))
        .net("operator set 0", model(|m| m.opset_import[0].version = Some(0)))
        .net("operator set -1", model(|m| m.opset_import[0].version = Some(-1)))
        .net("operator set 6", model(|m| m.opset_import[0].version = Some(6)))
        .net(
            "operator set twice",
            model(|m| {
                m.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(18) });
            }),
        );
    insta::assert_snapshot!(corpus.report());
}

/// Names that are allowed and easily confused.
#[test]
fn confusable_names() {
    let two = |first: &str, second: &str| {
        Net::new()
            .input("x", DataType::Float, &["batch", "64"])
            .output("y", DataType::Float, &["batch", "64"])
            .floats(first, &[64, 64], &noise(4096, 1))
            .floats(second, &[64, 64], &noise(4096, 2))
            .node("MatMul", "", &["x", first], &["h"], vec![])
            .node("MatMul", "", &["h", second], &["y"], vec![])
    };
    let mut corpus = Corpus::default();
    for (first, second) in [
        ("w", "W"),
        ("\u{e9}", "e\u{301}"),
        ("w", "w_quantized"),
        ("w_scale", "w"),
        ("w_zero_point", "w_dequantized"),
        ("w", "w_scale_float"),
        ("w", " "),
        ("w\0", "w"),
        ("../w", "/etc/passwd"),
    ] {
        corpus.net(&format!("{first:?} and {second:?}"), two(first, second));
    }
    let branch = |name: &str| GraphProto {
        node: vec![node::build("MatMul", "", &["x", "w"], &[name], vec![])],
        output: vec![value(name, DataType::Float, &["batch", "64"])],
        initializer: vec![tensor::from_raw("w", DataType::Float, &[64, 64], vec![1; 4 * 4096])],
        ..Default::default()
    };
    let choice = Net::linear(64, 64)
        .input("c", DataType::Bool, &[])
        .output("chosen", DataType::Float, &["batch", "64"])
        .node(
            "If",
            "choice",
            &["c"],
            &["chosen"],
            vec![body("then_branch", branch("a")), body("else_branch", branch("b"))],
        );
    corpus
        .net("a name in a body that is taken around it", choice)
        .net(
            "output that is an initializer",
            Net::linear(64, 64).with(|graph| graph.output.push(value("w", DataType::Float, &["64", "64"]))),
        )
        .net(
            "output that is an input",
            Net::linear(64, 64)
                .with(|graph| graph.output.push(value("x", DataType::Float, &["batch", "64"]))),
        )
        .net(
            "output given twice",
            Net::linear(64, 64).with(|graph| graph.output.push(graph.output[0].clone())),
        );
    insta::assert_snapshot!(corpus.outcomes());
}
