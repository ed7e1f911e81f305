//! Weights that bodies of If, Loop and Scan use: quantized where they are used, wherever they are stored.

mod support;

use efq::data::{Array, Label, Sample};
use efq::engine::{Runner, Variant, fusion};
use efq::onnx::proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use efq::onnx::{Checked, Model, load, node, tensor, walk};
use serde_json::Value;
use support::{Folder, Net, body, constant, done, float, int, ints, noise, value};

const D: usize = 64;

fn floats(name: &str, seed: u64) -> TensorProto {
    let raw: Vec<u8> = noise(D * D, seed).iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor::from_raw(name, DataType::Float, &[D, D], raw)
}

/// A body without inputs whose nodes make `output` from what lies around it.
fn branch(nodes: Vec<NodeProto>, stored: Vec<TensorProto>, output: &str) -> GraphProto {
    GraphProto {
        name: Some("body".into()),
        node: nodes,
        initializer: stored,
        output: vec![value(output, DataType::Float, &["rows", "64"])],
        ..Default::default()
    }
}

fn matmul(name: &str, x: &str, w: &str, y: &str) -> NodeProto {
    node::build("MatMul", name, &[x, w], &[y], vec![])
}

/// `y = c ? then(x) : other(x)`.
fn choice(then: GraphProto, other: GraphProto) -> Net {
    Net::new()
        .input("x", DataType::Float, &["rows", "64"])
        .input("c", DataType::Bool, &[])
        .output("y", DataType::Float, &["rows", "64"])
        .node("If", "choice", &["c"], &["y"], vec![body("then_branch", then), body("else_branch", other)])
}

/// Both branches use the same two outer weights under the same names, as merged decoders of exporters do.
fn merged() -> Net {
    let layers = || {
        vec![
            matmul("first", "x", "w", "h"),
            node::build("Relu", "", &["h"], &["r"], vec![]),
            node::build(
                "Gemm",
                "second",
                &["r", "v", "b"],
                &["z"],
                vec![int("transB", 1), float("alpha", 0.5)],
            ),
        ]
    };
    let mut other = layers();
    other.push(node::build("Tanh", "", &["z"], &["t"], vec![]));
    choice(branch(layers(), vec![], "z"), branch(other, vec![], "t"))
        .tensor(floats("w", 1))
        .tensor(floats("v", 2))
        .floats("b", &[D], &noise(D, 3))
}

fn rewritten(net: &Net, more: &[&str]) -> (Folder, Checked<Model>) {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let fixed =
        "rewrite m.onnx -p high_compression -o out.onnx --validate never --report r.json --plan p.json";
    done(&folder.efq(&[&fixed.split(' ').collect::<Vec<_>>(), more].concat()));
    let model = load(&folder.join("out.onnx")).unwrap();
    (folder, model)
}

fn bodies(model: &Model) -> Vec<&GraphProto> {
    let mut found = Vec::new();
    walk::bodies(&model.graph().node, &mut |body| found.push(body));
    found
}

fn stored(graph: &GraphProto) -> Vec<&str> {
    graph.initializer.iter().map(|tensor| tensor.name()).collect()
}

fn run(model: &Checked<Model>, x: &[f32], c: bool) -> Vec<f32> {
    let array = |data_type, shape: &[usize], bytes: Vec<u8>| Array {
        data_type,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    };
    let x =
        array(DataType::Float, &[x.len() / D, D], x.iter().flat_map(|value| value.to_le_bytes()).collect());
    let inputs =
        [("x".to_owned(), x), ("c".to_owned(), array(DataType::Bool, &[], vec![u8::from(c)]))].into();
    let runner = Runner::new(model, "y", Variant::WeightsOnly).unwrap();
    runner.run(&Sample { inputs, label: Label::None }).unwrap().values
}

/// Both branches compute about what they did, and not exactly.
fn near(net: &Net, model: &Checked<Model>) {
    let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();
    let x = noise(3 * D, 9);
    for c in [false, true] {
        let (before, after) = (run(&original, &x, c), run(model, &x, c));
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error =
            square(&mut before.iter().zip(&after).map(|(a, b)| a - b)) / square(&mut before.iter().copied());
        assert!(error > 1e-4 && error < 0.3, "{c}: {error}");
    }
}

#[test]
fn both_branches_of_a_merged_decoder_get_codes_of_their_own() {
    let net = merged();
    let (folder, model) = rewritten(&net, &[]);
    let found = fusion(&model);
    assert_eq!((found.fused.len(), found.unfused), (4, vec![]));
    assert!(stored(model.graph()).is_empty(), "{:?}", stored(model.graph()));
    for body in bodies(&model) {
        let names = stored(body);
        for weight in ["w_quantized", "w_scale", "v_quantized", "v_scale", "z_subtrahend"] {
            assert_eq!(
                names.iter().filter(|name| name.starts_with(weight)).count(),
                1,
                "{weight}: {names:?}"
            );
        }
    }
    near(&net, &model);
    let report: Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    assert_eq!(report["fusion"]["fused"], 4);
    assert_eq!(report["tensors"][0]["bytes_after"], 2 * (D * D / 2 + D * 2));
}

#[test]
fn a_plan_names_the_nodes_of_bodies_and_repeats_the_bytes() {
    let (folder, _) = rewritten(&merged(), &[]);
    let plan: Value = serde_json::from_slice(&folder.read("p.json")).unwrap();
    let uses = plan["decisions"][0]["uses"].as_array().unwrap();
    let nodes: Vec<&str> = uses.iter().map(|usage| usage["node"].as_str().unwrap()).collect();
    assert_eq!(
        nodes,
        [
            "node 'first' (MatMul) in then_branch of If 'choice'",
            "node 'first' (MatMul) in else_branch of If 'choice'"
        ]
    );
    // One node in the main graph, three in the first branch.
    assert_eq!(uses.iter().map(|usage| usage["slot"][0].as_u64().unwrap()).collect::<Vec<_>>(), [1, 4]);
    let again = "rewrite m.onnx -p high_compression --from-plan p.json -o again.onnx --validate never";
    done(&folder.efq(&again.split(' ').collect::<Vec<_>>()));
    assert!(folder.read("again.onnx") == folder.read("out.onnx"), "other bytes");
}

#[test]
fn weights_stored_in_a_body_are_replaced_there() {
    let weight = || constant("w", floats("", 4));
    let net = choice(
        branch(vec![matmul("", "x", "w", "z")], vec![floats("w", 1)], "z"),
        branch(vec![weight(), matmul("", "x", "w", "z")], vec![], "z"),
    );
    let (folder, model) = rewritten(&net, &[]);
    assert_eq!(fusion(&model).fused.len(), 2);
    for body in bodies(&model) {
        assert!(!stored(body).contains(&"w") && body.node.iter().all(|node| node.op_type() != "Constant"));
    }
    near(&net, &model);
    let report: Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    let places: Vec<&str> =
        report["tensors"].as_array().unwrap().iter().map(|t| t["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["then_branch of If 'choice'", "else_branch of If 'choice'"]);
}

/// A name of a branch may hide one from outside.
#[test]
fn a_name_means_what_its_body_says() {
    let net = choice(
        branch(vec![matmul("", "x", "w", "z")], vec![floats("w", 1)], "z"),
        branch(vec![matmul("", "x", "w", "z")], vec![], "z"),
    )
    .tensor(floats("w", 2));
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(fusion(&model).fused.len(), 2);
    near(&net, &model);
}

#[test]
fn a_weight_used_inside_and_outside_is_quantized_for_both() {
    let inner = choice(
        branch(vec![matmul("", "h", "w", "z")], vec![], "z"),
        branch(vec![matmul("", "h", "turned", "z")], vec![], "z"),
    );
    let net = inner.tensor(floats("w", 1)).with(|graph| {
        let turn = node::build("Transpose", "", &["w"], &["turned"], vec![]);
        graph.node.splice(0..0, [matmul("outside", "x", "w", "h"), turn]);
    });
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(fusion(&model).fused.len(), 3);
    assert!(!stored(model.graph()).contains(&"w"));
    near(&net, &model);
    // Where one use keeps it, copies would only add bytes.
    let kept = net.with(|graph| graph.node.push(node::build("ReduceMean", "", &["w"], &["m"], vec![])));
    let kept = kept.output("m", DataType::Float, &["1", "1"]);
    let folder = Folder::new();
    kept.save(&folder.join("m.onnx"));
    let report: Value = serde_json::from_str(done(&folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "--dry-run",
        "--format",
        "json",
    ])))
    .unwrap();
    assert_eq!(report["tensors"][0]["encoding"], "float");
}

#[test]
fn weights_are_found_at_any_depth() {
    let mut inner = branch(vec![matmul("", "x", "w", "z0")], vec![], "z0");
    for depth in 1..20 {
        let (below, result) = (format!("below{depth}"), format!("z{depth}"));
        let shallow = branch(vec![node::build("Identity", "", &["x"], &["i"], vec![])], vec![], "i");
        let branches = vec![body("then_branch", inner), body("else_branch", shallow)];
        let own = format!("own{depth}");
        let nodes =
            vec![node::build("If", "", &["c"], &[&below], branches), matmul("", &below, &own, &result)];
        inner = branch(nodes, vec![floats(&own, depth)], &result);
    }
    let shallow = branch(vec![node::build("Identity", "", &["x"], &["i"], vec![])], vec![], "i");
    let net = choice(inner, shallow).tensor(floats("w", 100));
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(fusion(&model).fused.len(), 20);
    assert!(
        bodies(&model)
            .iter()
            .all(|body| stored(body).iter().all(|name| !name.starts_with("own") || name.contains("_")))
    );
}

fn einsum(equation: &str, x: &[&str], w: &[usize], y: &[&str]) -> Net {
    let equation = efq::onnx::proto::AttributeProto {
        name: Some("equation".into()),
        r#type: Some(efq::onnx::proto::attribute_proto::AttributeType::String as i32),
        s: Some(equation.as_bytes().to_vec().into()),
        ..Default::default()
    };
    Net::new()
        .input("x", DataType::Float, x)
        .output("y", DataType::Float, y)
        .floats("w", w, &noise(w.iter().product(), 5))
        .node("Einsum", "sum", &["x", "w"], &["y"], vec![equation])
}

fn run_on(model: &Checked<Model>, shape: &[usize]) -> Vec<f32> {
    let values = noise(shape.iter().product(), 7);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let x = Array { data_type: DataType::Float, shape: shape.to_vec(), bytes: bytes.into() };
    let runner = Runner::new(model, "y", Variant::WeightsOnly).unwrap();
    runner.run(&Sample { inputs: [("x".to_owned(), x)].into(), label: Label::None }).unwrap().values
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (error / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()).sqrt()
}

/// Asserts that the layer in `net` becomes `wanted`, fused, and computes nearly the same for an input of `shape`.
#[track_caller]
fn becomes(net: &Net, shape: &[usize], wanted: &[&str]) {
    let (_folder, model) = rewritten(net, &["--algorithm", "search"]);
    let mut found: Vec<&str> = model.graph().node.iter().map(|node| node.op_type()).collect();
    found.retain(|op| !["Cast", "DequantizeLinear"].contains(op));
    assert_eq!(found, wanted);
    assert_eq!(fusion(&model).fused.len(), 1);
    let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();
    let error = apart(&run_on(&original, shape), &run_on(&model, shape));
    assert!(error > 1e-3 && error < 0.2, "{wanted:?} for {shape:?}: {error}");
}

#[test]
fn an_einsum_that_is_a_layer_becomes_one() {
    let cases: [(Net, &[usize], &[&str]); 7] = [
        (
            einsum("bsd,dhk->bhsk", &["n", "s", "64"], &[64, 4, 10], &["n", "4", "s", "10"]),
            &[2, 3, 64],
            &["MatMul", "Sub", "Reshape", "Transpose"],
        ),
        (
            einsum("bhsk,hkd->bsd", &["n", "4", "s", "16"], &[4, 16, 40], &["n", "s", "40"]),
            &[2, 4, 3, 16],
            &["Transpose", "Reshape", "MatMul"],
        ),
        (
            einsum("bchw,oc->bohw", &["n", "64", "h", "w"], &[40, 64], &["n", "40", "h", "w"]),
            &[2, 64, 3, 2],
            &["Transpose", "MatMul", "Sub", "Transpose"],
        ),
        (einsum("abc,cd->abd", &["n", "s", "64"], &[64, 40], &["n", "s", "40"]), &[2, 3, 64], &["MatMul"]),
        (
            einsum("bsd,dhk->bshk", &["n", "s", "64"], &[64, 4, 10], &["n", "s", "4", "10"]),
            &[2, 3, 64],
            &["MatMul", "Reshape"],
        ),
        (
            einsum("bshk,hkd->bsd", &["n", "s", "4", "16"], &[4, 16, 40], &["n", "s", "40"]),
            &[2, 3, 4, 16],
            &["Reshape", "MatMul"],
        ),
        (einsum("ab,cb->ac", &["n", "64"], &[40, 64], &["n", "40"]), &[3, 64], &["MatMul"]),
    ];
    for (net, shape, wanted) in cases {
        becomes(&net, shape, wanted);
    }
}

/// The runtime gets an ellipsis and a result that is not written out wrong, so the original is not run.
#[test]
fn einsums_that_are_not_written_out_become_layers_and_are_not_validated() {
    for equation in ["...d,df->...f", "bsd,dz"] {
        let net = einsum(equation, &["n", "s", "64"], &[64, 40], &["n", "s", "40"]);
        let (_folder, model) = rewritten(&net, &["--algorithm", "search"]);
        assert_eq!(fusion(&model).fused.len(), 1);
        let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();
        let refused = Runner::new(&original, "y", Variant::WeightsOnly).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("Einsum with an ellipsis or without its result"), "{refused}");
    }
}

#[test]
fn an_einsum_that_is_none_is_left_alone_with_the_reason() {
    let net = einsum("abc,bcd->abd", &["n", "4", "64"], &[4, 64, 40], &["n", "4", "40"]);
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let report = folder.efq(&["inspect", "m.onnx", "--format", "json"]);
    let why = "an Einsum that is no plain linear layer: its axes are not those of a product of matrices";
    let report: Value = serde_json::from_str(done(&report)).unwrap();
    assert_eq!(report["tensors"][0]["reason"], why);
}

/// `y = w · x`, or, without the shape of x, the same where nobody knows its rank.
fn from_the_left(x: &[&str], y: &[&str], known: bool) -> Net {
    let net = Net::new().input("x", DataType::Float, x).output("y", DataType::Float, y);
    let net = net.floats("w", &[40, 64], &noise(40 * 64, 5));
    if known {
        return net.node("MatMul", "product", &["w", "x"], &["y"], vec![]);
    }
    net.integers("shape", &[2], &[64, -1])
        .node("Concat", "sizes", &["shape"], &["computed"], vec![int("axis", 0)])
        .node("Reshape", "unknown", &["x", "computed"], &["again"], vec![])
        .node("MatMul", "product", &["w", "again"], &["y"], vec![])
}

/// Rewrites `net` as MatMulNBits; asserts that it computes nearly the same for an input of `shape`.
#[track_caller]
fn becomes_nbits(net: &Net, shape: &[usize], wanted: &[&str]) {
    let (_folder, model) = rewritten(net, &["--algorithm", "search", "--emit", "matmulnbits"]);
    let found: Vec<&str> = model.graph().node.iter().map(|node| node.op_type()).collect();
    assert_eq!(found, wanted);
    let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();
    let error = apart(&run_on(&original, shape), &run_on(&model, shape));
    assert!(error > 1e-3 && error < 0.2, "{wanted:?} for {shape:?}: {error}");
}

#[test]
fn arranged_products_are_written_as_matmulnbits_too() {
    let left = from_the_left(&["b", "64", "n"], &["b", "40", "n"], true);
    becomes_nbits(&left, &[2, 64, 5], &["Transpose", "MatMulNBits", "Transpose"]);
    let heads = einsum("bsd,dhk->bhsk", &["n", "s", "64"], &[64, 4, 10], &["n", "4", "s", "10"]);
    becomes_nbits(&heads, &[2, 3, 64], &["MatMulNBits", "Reshape", "Transpose"]);
    becomes_nbits(&gemm(true, 1.0), &[64, 3], &["Transpose", "MatMulNBits", "Transpose", "Add"]);
    becomes_nbits(&gemm(false, 2.0), &[64, 3], &["Transpose", "MatMulNBits", "Add"]);
}

/// A Gemm of the transposed activation, or whose A is the weight.
fn gemm(left: bool, beta: f32) -> Net {
    let net = Net::new().input("x", DataType::Float, &["64", "n"]);
    let net = net.floats("w", if left { &[40, 64] } else { &[64, 40] }, &noise(40 * 64, 5));
    let (inputs, turned) = if left { (["w", "x", "c"], 0) } else { (["x", "w", "c"], 1) };
    let (bias, output): (&[usize], &[&str]) =
        if left { (&[40, 1], &["40", "n"]) } else { (&[40], &["n", "40"]) };
    net.floats("c", bias, &noise(40, 6)).output("y", DataType::Float, output).node(
        "Gemm",
        "product",
        &inputs,
        &["y"],
        vec![int("transA", turned), float("alpha", 0.5), float("beta", beta)],
    )
}

#[test]
fn a_gemm_of_transposed_operands_is_transposed_around() {
    becomes(&gemm(false, 1.0), &[64, 3], &["Transpose", "MatMul", "Sub"]);
    becomes(&gemm(false, 0.0), &[64, 3], &["Transpose", "MatMul"]);
    becomes(&gemm(true, 0.0), &[64, 3], &["Transpose", "MatMul", "Sub", "Transpose"]);
    becomes(&gemm(true, 1.0), &[64, 3], &["Transpose", "MatMul", "Sub", "Transpose", "Add"]);
    becomes(&gemm(true, 2.0), &[64, 3], &["Transpose", "MatMul", "Sub", "Transpose", "Mul", "Add"]);
}

#[test]
fn matrices_behind_changes_of_their_sizes_are_layers() {
    let net = |dims: &[usize]| {
        Net::new()
            .input("x", DataType::Float, &["n", "s", "64"])
            .output("y", DataType::Float, &["n", "s", "40"])
            .floats("w", dims, &noise(40 * 64, 5))
    };
    let product = |net: Net, weight: &str| net.node("MatMul", "", &["x", weight], &["y"], vec![]);
    becomes(&product(net(&[1, 64, 40]), "w"), &[2, 3, 64], &["MatMul"]);
    let flat = net(&[64, 8, 5]).node("Flatten", "", &["w"], &["v"], vec![]);
    becomes(&product(flat, "v"), &[2, 3, 64], &["MatMul"]);
    let turned = net(&[40, 64])
        .integers("a", &[3], &[8, 5, 64])
        .integers("b", &[2], &[64, 40])
        .node("Reshape", "", &["w", "a"], &["w1"], vec![])
        .node("Transpose", "", &["w1"], &["w2"], vec![ints("perm", &[2, 0, 1])])
        .node("Reshape", "", &["w2", "b"], &["v"], vec![]);
    becomes(&product(turned, "v"), &[2, 3, 64], &["MatMul"]);
}

#[test]
fn a_left_operand_is_transposed_around() {
    let cases: [(Net, &[usize], &[&str]); 3] = [
        (from_the_left(&["64"], &["40"], true), &[64], &["MatMul"]),
        (
            from_the_left(&["64", "n"], &["40", "n"], true),
            &[64, 3],
            &["Transpose", "MatMul", "Sub", "Transpose"],
        ),
        (
            from_the_left(&["b", "h", "64", "n"], &["b", "h", "40", "n"], true),
            &[2, 3, 64, 5],
            &["Transpose", "MatMul", "Sub", "Transpose"],
        ),
    ];
    for (net, shape, wanted) in cases {
        becomes(&net, shape, wanted);
    }
}

#[test]
fn a_left_operand_of_a_value_of_unknown_rank_is_left_alone_with_the_reason() {
    let folder = Folder::new();
    from_the_left(&["64", "n"], &["40", "n"], false).save(&folder.join("m.onnx"));
    let report = folder.efq(&["inspect", "m.onnx", "--format", "json"]);
    let report: Value = serde_json::from_str(done(&report)).unwrap();
    let reason = report["tensors"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no known rank"), "{reason}");
}

/// `y = outer(x, w)` twice, where outer calls inner, which holds a weight of its own or not.
fn with_functions(inner_weight: bool) -> Net {
    use efq::onnx::proto::{FunctionProto, OperatorSetIdProto};
    let import =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let call = |name: &str, inputs: &[&str], output: &str| {
        let mut node = node::build(name, name, inputs, &[output], vec![]);
        node.domain = Some("local".into());
        node
    };
    let function = |name: &str, inputs: &[&str], nodes: Vec<NodeProto>| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec!["r".into()],
        node: nodes,
        opset_import: vec![import("", 17), import("local", 1)],
        ..Default::default()
    };
    let mut inner = vec![matmul("product", "x", if inner_weight { "own" } else { "w" }, "r")];
    if inner_weight {
        inner.insert(0, constant("own", floats("", 6)));
    }
    let outer = vec![call("Inner", &["x", "w"], "t"), node::build("Tanh", "", &["t"], &["r"], vec![])];
    let other = vec![node::build("Relu", "", &["x"], &["r"], vec![])];
    Net::new()
        .input("x", DataType::Float, &["rows", "64"])
        .output("y", DataType::Float, &["rows", "64"])
        .tensor(floats("w", 1))
        .tensor(floats("v", 2))
        .with(|graph| {
            graph.node.push(call("Outer", &["x", "w"], "a"));
            graph.node.push(call("Other", &["a"], "b"));
            graph.node.push(call("Outer", &["b", "v"], "y"));
        })
        .with_model(|model| {
            model.opset_import.push(import("local", 1));
            model.functions = vec![
                function("Inner", &["x", "w"], inner),
                function("Outer", &["x", "w"], outer),
                function("Other", &["x"], other),
            ];
        })
}

#[test]
fn functions_that_receive_weights_are_written_out_and_others_stay() {
    let (_folder, model) = rewritten(&with_functions(false), &["--algorithm", "search"]);
    assert_eq!(fusion(&model).fused.len(), 2);
    let kept: Vec<&str> = model.proto.functions.iter().map(|function| function.name()).collect();
    assert_eq!(kept, ["Other"]);
    assert_eq!(model.proto.functions[0].opset_import[0].version, Some(21));
    let values: Vec<&str> =
        model.graph().node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    assert!(values.contains(&"y") && values.contains(&"a"), "{values:?}");
}

/// Functions of one name are told apart by their overload.
#[test]
fn an_overload_that_calls_another_does_not_call_itself() {
    let net = with_functions(false).with_model(|model| {
        for function in &mut model.functions[..2] {
            function.overload = Some(function.name().to_owned());
            function.name = Some("F".into());
            function.node.iter_mut().filter(|node| node.op_type() == "Inner").for_each(|node| {
                (node.op_type, node.overload) = (Some("F".into()), Some("Inner".into()));
            });
        }
        let calls = &mut model.graph.as_mut().unwrap().node;
        calls.iter_mut().filter(|node| node.op_type() == "Outer").for_each(|node| {
            (node.op_type, node.overload) = (Some("F".into()), Some("Outer".into()));
        });
    });
    let (_folder, model) = rewritten(&net, &["--algorithm", "search"]);
    assert_eq!(fusion(&model).fused.len(), 2);
    let turned = net.with_model(|model| model.functions[0].node[0] = model.functions[1].node[0].clone());
    let error = efq::onnx::load_bytes(turned.bytes().into()).unwrap_err().to_string();
    assert!(error.contains("calls itself"), "{error}");
}

/// The calls share one weight; each gets codes of its own, which together are smaller.
#[test]
fn weights_of_a_function_that_is_called_twice_are_quantized() {
    let (folder, model) = rewritten(&with_functions(true), &["--algorithm", "search"]);
    assert_eq!(fusion(&model).fused.len(), 2);
    let report: Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    let own =
        report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "Inner/own").unwrap();
    assert_eq!(own["bytes_after"], 2 * (D * D / 2 + D * 2));
    // Left in float it is stored once.
    let folder = Folder::new();
    with_functions(true).save(&folder.join("m.onnx"));
    let keep = "rewrite m.onnx -p high_compression --dry-run --format json --keep Inner/own";
    let kept = folder.efq(&keep.split(' ').collect::<Vec<_>>());
    let kept: Value = serde_json::from_str(done(&kept)).unwrap();
    let own =
        kept["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "Inner/own").unwrap();
    assert_eq!(own["bytes_after"], D * D * 4);
}

fn of_opset(net: Net, version: i64, operator: Option<&str>) -> Net {
    net.with_model(|model| {
        for function in &mut model.functions {
            function.opset_import[0].version = Some(version);
            if let Some(operator) = operator.filter(|_| function.name() == "Inner") {
                function.node.push(node::build(operator, "", &["r"], &["unused"], vec![]));
            }
        }
    })
}

#[test]
fn functions_of_another_opset_are_written_out_where_their_operators_mean_the_same() {
    let net = of_opset(with_functions(true), 18, None);
    assert_eq!(fusion(&rewritten(&net, &["--algorithm", "search"]).1).fused.len(), 2);
    let folder = Folder::new();
    of_opset(with_functions(true), 18, Some("ReduceMean")).save(&folder.join("m.onnx"));
    let report = folder.efq(&["inspect", "m.onnx", "--format", "json"]);
    let report: Value = serde_json::from_str(done(&report)).unwrap();
    let own = report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "own").unwrap();
    assert_eq!(own["reason"], "stands in a function of opset 18 in a model of opset 17");
    assert_eq!(own["place"], "function local:Inner");
}
