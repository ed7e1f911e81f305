//! The structure of raised models; what they compute is compared in `tests/deploy/opset.py`.

use bytes::Bytes;

use super::{
    site::{int_attribute, text_attribute},
    *,
};
use crate::{
    error::Kind,
    onnx::proto::{
        AttributeProto, FunctionProto, TensorProto, TypeProto, ValueInfoProto,
        attribute_proto::AttributeType, tensor_proto::DataType, type_proto,
    },
};

fn node(operator: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: ints.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(value),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        g: Some(graph),
        r#type: Some(AttributeType::Graph as i32),
        ..AttributeProto::default()
    }
}

fn value(name: &str, element_type: DataType, rank: usize) -> ValueInfoProto {
    let shape = crate::onnx::proto::TensorShapeProto { dim: vec![Default::default(); rank] };
    let tensor = type_proto::Tensor { elem_type: Some(element_type as i32), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

fn imports(version: i64) -> Vec<OperatorSetIdProto> {
    vec![OperatorSetIdProto { domain: None, version: Some(version) }]
}

fn graph(nodes: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        node: nodes,
        input: vec![value("x", DataType::Float, 3)],
        output: vec![value("y", DataType::Float, 3)],
        ..GraphProto::default()
    }
}

fn model(opset: i64, nodes: Vec<NodeProto>) -> ModelProto {
    ModelProto {
        ir_version: Some(7),
        opset_import: imports(opset),
        graph: Some(graph(nodes)),
        ..ModelProto::default()
    }
}

fn function(name: &str, opset: i64, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        node: nodes,
        opset_import: imports(opset),
        ..FunctionProto::default()
    }
}

fn raised(mut model: ModelProto) -> (ModelProto, Raised) {
    let raised = raise(&mut model).unwrap();
    (model, raised)
}

/// The error, after checking that the model is as it was.
fn refused(mut model: ModelProto) -> Error {
    let before = model.clone();
    let error = raise(&mut model).unwrap_err();
    assert_eq!(model, before);
    error
}

/// Operators and their inputs and outputs, one node per line.
fn lines(nodes: &[NodeProto]) -> Vec<String> {
    let line = |node: &NodeProto| {
        format!("{} = {}({})", node.output.join(", "), node.op_type(), node.input.join(", "))
    };
    nodes.iter().map(line).collect()
}

fn reduce(input: &str, output: &str, axis: i64) -> NodeProto {
    node("ReduceMean", &[input], &[output], vec![ints("axes", &[axis])])
}

#[test]
fn an_attribute_becomes_an_initializer_that_equal_ones_share() {
    let nodes = vec![reduce("x", "a", 1), reduce("a", "b", 1), reduce("b", "y", 2)];
    let (model, raised) = raised(model(13, nodes));
    let graph = model.graph.unwrap();
    assert_eq!(
        lines(&graph.node),
        ["a = ReduceMean(x, efq_axes)", "b = ReduceMean(a, efq_axes)", "y = ReduceMean(b, efq_axes_2)"]
    );
    let stored: Vec<_> = graph.initializer.iter().map(|t| (t.name(), t.raw_data().to_vec())).collect();
    assert_eq!(
        stored,
        [("efq_axes", 1_i64.to_le_bytes().to_vec()), ("efq_axes_2", 2_i64.to_le_bytes().to_vec())]
    );
    assert!(graph.node.iter().all(|node| node.attribute.is_empty() && node.name().is_empty()));
    assert_eq!((raised.from, raised.to, raised.from_ir, raised.to_ir), (13, 21, 7, 10));
    assert_eq!(raised.converted, BTreeMap::from([("ReduceMean".to_owned(), 3)]));
    assert_eq!(default_opset(&model.opset_import).unwrap(), Some(TARGET));
}

#[test]
fn new_names_avoid_those_of_every_scope() {
    let inner = GraphProto { node: vec![reduce("x", "efq_axes", 1)], ..GraphProto::default() };
    let nodes = vec![reduce("x", "a", 1), node("If", &["c"], &["y"], vec![body("then_branch", inner)])];
    let (model, _) = raised(model(13, nodes));
    let graph = model.graph.unwrap();
    // Bodies are planned before what follows them, but after what stands before.
    assert_eq!(lines(&graph.node)[0], "a = ReduceMean(x, efq_axes_2)");
    let inner = graph.node[1].attribute[0].g.as_ref().unwrap();
    assert_eq!(lines(&inner.node), ["efq_axes = ReduceMean(x, efq_axes_3)"]);
    assert_eq!(inner.initializer[0].name(), "efq_axes_3");
}

#[test]
fn functions_get_constant_nodes_and_the_opset() {
    let mut call = node("F", &["x"], &["y"], Vec::new());
    call.domain = Some("local".to_owned());
    let mut old = model(17, vec![call]);
    old.functions = vec![function("F", 12, vec![reduce("x", "a", 1), reduce("a", "y", 1)])];
    let (model, raised) = raised(old);
    let function = &model.functions[0];
    assert_eq!(
        lines(&function.node),
        ["efq_axes = Constant()", "a = ReduceMean(x, efq_axes)", "y = ReduceMean(a, efq_axes)"]
    );
    assert_eq!(default_opset(&function.opset_import).unwrap(), Some(TARGET));
    assert_eq!(raised.converted["ReduceMean"], 2);
}

#[test]
fn a_function_named_like_an_operator_and_other_domains_are_left_alone() {
    let mut other = node("ReduceMean", &["a"], &["y"], vec![ints("axes", &[1])]);
    other.domain = Some("com.example".to_owned());
    let mut old = model(13, vec![reduce("x", "a", 1), other.clone()]);
    old.functions = vec![FunctionProto { domain: None, ..function("ReduceMean", 13, Vec::new()) }];
    let (new, raised) = raised(old.clone());
    assert_eq!(new.graph, old.graph);
    assert!(raised.converted.is_empty());
}

#[test]
fn a_softmax_over_the_last_axis_stays_one_node() {
    for (attributes, rank) in [(vec![int_attribute("axis", 2)], 3), (vec![int_attribute("axis", -1)], 5)] {
        let mut old = model(11, vec![node("Softmax", &["x"], &["y"], attributes)]);
        old.graph.as_mut().unwrap().input = vec![value("x", DataType::Float, rank)];
        let (model, _) = raised(old);
        let graph = model.graph.unwrap();
        assert_eq!(lines(&graph.node), ["y = Softmax(x)"]);
        assert_eq!(graph.node[0].attribute, [int_attribute("axis", -1)]);
    }
}

#[test]
fn a_softmax_over_several_axes_or_of_unknown_rank_is_flattened() {
    let softmax = || node("Softmax", &["x"], &["y"], Vec::new());
    let (known, _) = raised(model(12, vec![softmax()]));
    let mut unknown = model(12, vec![softmax()]);
    unknown.graph.as_mut().unwrap().input.clear();
    let (unknown, _) = raised(unknown);
    for model in [known, unknown] {
        let graph = model.graph.unwrap();
        assert_eq!(
            lines(&graph.node),
            [
                "efq_flat = Flatten(x)",
                "efq_shape = Shape(x)",
                "efq_flat_result = Softmax(efq_flat)",
                "y = Reshape(efq_flat_result, efq_shape)"
            ]
        );
    }
}

#[test]
fn the_rank_is_followed_through_attention_scores() {
    let transpose = |input, output| node("Transpose", &[input], &[output], vec![ints("perm", &[0, 2, 1, 3])]);
    let mut old = model(
        12,
        vec![
            transpose("q", "qt"),
            transpose("k", "kt"),
            node("MatMul", &["qt", "kt"], &["scores"], Vec::new()),
            node("Softmax", &["scores"], &["y"], vec![int_attribute("axis", 3)]),
        ],
    );
    old.graph.as_mut().unwrap().output.clear();
    let (model, _) = raised(old);
    assert_eq!(model.graph.unwrap().node.len(), 4);
}

#[test]
fn a_bound_has_the_type_of_the_data() {
    let clip = || node("Clip", &["x"], &["y"], vec![float("max", 6.0)]);
    for (element_type, raw) in [
        (DataType::Float, 6_f32.to_le_bytes().to_vec()),
        (DataType::Double, 6_f64.to_le_bytes().to_vec()),
        (DataType::Float16, half::f16::from_f32(6.0).to_le_bytes().to_vec()),
    ] {
        let mut old = model(10, vec![clip()]);
        old.graph.as_mut().unwrap().input = vec![value("x", element_type, 3)];
        let (model, _) = raised(old);
        let graph = model.graph.unwrap();
        assert_eq!(lines(&graph.node), ["y = Clip(x, , efq_max)"]);
        let bound = &graph.initializer[0];
        assert_eq!((bound.data_type(), bound.raw_data().to_vec()), (element_type as i32, raw));
        assert!(bound.dims.is_empty());
    }
    let mut old = model(10, vec![clip()]);
    old.graph.as_mut().unwrap().input.clear();
    let (model, _) = raised(old);
    let expected = ["efq_max_2 = CastLike(efq_max, x)", "y = Clip(x, , efq_max_2)"];
    assert_eq!(lines(&model.graph.unwrap().node), expected);
}

#[test]
fn initializers_stop_being_inputs_only_below_ir_4() {
    for (ir, inputs) in [(3, vec!["x"]), (4, vec!["x", "w"])] {
        let mut old = model(8, vec![node("Add", &["x", "w"], &["y"], Vec::new())]);
        old.ir_version = Some(ir);
        let graph = old.graph.as_mut().unwrap();
        graph.input.push(value("w", DataType::Float, 3));
        graph.initializer.push(TensorProto { name: Some("w".to_owned()), ..TensorProto::default() });
        let (model, raised) = raised(old);
        let graph = model.graph.unwrap();
        assert_eq!(graph.input.iter().map(|input| input.name()).collect::<Vec<_>>(), inputs);
        assert_eq!(raised.removed_inputs.len(), 2 - inputs.len());
    }
}

#[test]
fn an_overridable_scale_is_not_taken_as_constant() {
    let resize = || node("Resize", &["x", "s"], &["y"], Vec::new());
    let scales = TensorProto {
        name: Some("s".to_owned()),
        dims: vec![3],
        data_type: Some(DataType::Float as i32),
        float_data: vec![1.0, 2.0, 2.0],
        ..TensorProto::default()
    };
    let mut fixed = model(10, vec![resize()]);
    fixed.graph.as_mut().unwrap().initializer.push(scales);
    let mut overridable = fixed.clone();
    overridable.graph.as_mut().unwrap().input.push(value("s", DataType::Float, 1));
    let (fixed, _) = raised(fixed);
    assert_eq!(lines(&fixed.graph.unwrap().node), ["y = Resize(x, , s)"]);
    let (overridable, _) = raised(overridable);
    assert_eq!(overridable.graph.unwrap().node.len(), 4);
}

#[test]
fn an_unread_mask_goes_and_a_read_one_is_refused() {
    let dropout = || node("Dropout", &["x"], &["y", "mask"], vec![float("ratio", 0.5)]);
    let (new, _) = raised(model(10, vec![dropout()]));
    assert_eq!(new.graph.unwrap().node, [node("Dropout", &["x"], &["y"], Vec::new())]);
    let read = vec![dropout(), node("Identity", &["mask"], &["z"], Vec::new())];
    let error = refused(model(10, read));
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().starts_with("node of y: Dropout of opset 10 gives its mask"), "{error}");
}

#[test]
fn a_normalization_in_training_mode_is_refused_even_if_only_its_first_output_is_read() {
    let inputs = ["x", "scale", "bias", "mean", "var"];
    let error = refused(model(
        9,
        vec![node("BatchNormalization", &inputs, &["y", "m", "v", "sm", "sv"], Vec::new())],
    ));
    assert_eq!(error.kind(), Kind::Unsupported);
    let (new, _) = raised(model(9, vec![node("BatchNormalization", &inputs, &["y", "", ""], Vec::new())]));
    assert_eq!(new.graph.unwrap().node[0].output, ["y"]);
}

#[test]
fn a_late_refusal_leaves_the_model_as_it_was() {
    let mut scan = node("Scan", &["", "x"], &["y"], Vec::new());
    scan.name = Some("s".to_owned());
    let error = refused(model(8, vec![node("Softmax", &["x"], &["a"], Vec::new()), scan]));
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().starts_with("s: Scan of opset 8"), "{error}");
}

#[test]
fn what_no_rule_can_say_is_refused_by_name() {
    let unknown = refused(model(17, vec![node("Nope", &["x"], &["y"], Vec::new())]));
    assert_eq!(unknown.to_string(), "node of y: opset 17 has no operator Nope");
    let removed = refused(model(11, vec![node("Upsample", &["x", "s"], &["y"], Vec::new())]));
    assert_eq!(removed.to_string(), "node of y: opset 11 has no operator Upsample");
    assert_eq!(refused(model(6, Vec::new())).kind(), Kind::Unsupported);

    let mut by_caller = ints("axes", &[]);
    by_caller.ref_attr_name = Some("a".to_owned());
    let mut with_function = model(17, Vec::new());
    with_function.functions =
        vec![function("F", 17, vec![node("ReduceMean", &["x"], &["y"], vec![by_caller])])];
    let error = refused(with_function);
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().starts_with("function local:F: node of y: ReduceMean"), "{error}");

    let mut newer = model(17, Vec::new());
    newer.functions = vec![function("F", 22, Vec::new())];
    assert_eq!(refused(newer).kind(), Kind::Unsupported);
}

#[test]
fn what_the_nodes_own_opset_forbids_is_a_format_error() {
    let cases = [
        (12, node("Unsqueeze", &["x"], &["y"], Vec::new())),
        (12, node("Squeeze", &["x", "a"], &["y"], vec![ints("axes", &[0])])),
        (12, node("Squeeze", &["x"], &["y"], vec![int_attribute("axes", 0)])),
        (12, node("Softmax", &[], &["y"], Vec::new())),
        (12, node("Softmax", &["x"], &[], Vec::new())),
        (9, node("TopK", &["x"], &["y"], Vec::new())),
        (9, node("Slice", &["x"], &["y"], vec![ints("starts", &[0])])),
        (18, node("GroupNormalization", &["x", "s"], &["y"], vec![int_attribute("num_groups", 2)])),
    ];
    for (opset, bad) in cases {
        let error = refused(model(opset, vec![bad]));
        assert_eq!(error.kind(), Kind::Format, "{error}");
    }
    let mut text = text_attribute("mode", "bilinear");
    text.s = Some(Bytes::from_static(b"\xff"));
    assert_eq!(
        refused(model(16, vec![node("GridSample", &["x", "g"], &["y"], vec![text])])).kind(),
        Kind::Format
    );
    let mut twice = model(12, Vec::new());
    twice.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx".to_owned()), version: Some(13) });
    assert_eq!(refused(twice).kind(), Kind::Format);
    let mut without = model(12, vec![node("Relu", &["x"], &["y"], Vec::new())]);
    without.opset_import.clear();
    assert_eq!(refused(without).kind(), Kind::Format);
}

#[test]
fn a_model_of_the_target_or_above_keeps_its_nodes() {
    for opset in [21, 23] {
        let old = model(opset, vec![node("Nope", &["x"], &["y"], Vec::new())]);
        let (new, raised) = raised(old.clone());
        assert_eq!((new.graph, new.opset_import), (old.graph, old.opset_import));
        assert_eq!((raised.from, raised.to, raised.to_ir), (opset, opset, 10));
    }
    let mut newer = model(23, Vec::new());
    newer.ir_version = Some(11);
    assert_eq!(raised(newer).1.to_ir, 11);
}

#[test]
fn a_model_without_the_default_domain_gets_its_import() {
    let mut call = node("Scaler", &["x"], &["y"], Vec::new());
    call.domain = Some("ai.onnx.ml".to_owned());
    let mut old = model(12, vec![call]);
    old.opset_import[0].domain = Some("ai.onnx.ml".to_owned());
    let (model, _) = raised(old);
    assert_eq!(default_opset(&model.opset_import).unwrap(), Some(TARGET));
    assert_eq!(model.opset_import.len(), 2);
}
