//! Whole presets: the built-in ones, the defaults, every refusal as its user reads it.

use proptest::prelude::*;

use super::*;
use crate::error::Kind;

fn parse(text: &str) -> crate::Result<Preset> {
    Preset::parse(text, Origin::File("p.yaml".into()))
}

/// The refusal of `text`.
fn refused(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.kind(), Kind::Caller);
    error.to_string()
}

/// The refusal of `text` after a first line with a name.
fn refused_named(text: &str) -> String {
    refused(&format!("name: a\n{text}"))
}

#[test]
fn builtins_are_as_documented() {
    use BlockSize::{B32, B64, B128};
    use DecideBy::{Estimate, Interval};
    const TOKENS: &str = "token_embeddings";
    const POSITIONS: &str = "position_embeddings";
    const HEAD: &str = "lm_head";

    type Row = (&'static str, f64, f64, BlockSize, bool, &'static [&'static str], DecideBy);
    let table: [Row; 6] = [
        ("high_accuracy", 1.0, 0.96, B64, false, &[TOKENS, POSITIONS, HEAD], Estimate),
        ("high_compression", 3.0, 0.95, B128, true, &[], Estimate),
        ("medical_grade", 0.3, 0.99, B32, false, &[TOKENS, POSITIONS, HEAD], Interval),
        ("automotive_adas", 0.5, 0.97, B64, false, &[TOKENS, HEAD], Interval),
        ("balanced_production", 1.0, 0.96, B64, false, &[TOKENS], Estimate),
        ("manufacturing_qc", 0.5, 0.97, B64, false, &[TOKENS, HEAD], Interval),
    ];
    assert!(builtin_names().eq(table.iter().map(|row| row.0)));
    for (name, target, cosine, block_size, symmetric, keep, decide_by) in table {
        let preset = Preset::builtin(name).unwrap();
        assert_eq!(preset, load(name).unwrap());
        assert_eq!(preset.name, name);
        assert_eq!(preset.origin.to_string(), format!("presets/{name}.yaml"));
        assert!(!preset.description.is_empty());
        assert_eq!((preset.accuracy_target, preset.min_cosine), (target, cosine));
        assert_eq!((preset.block_size, preset.symmetric), (block_size, symmetric));
        assert_eq!(preset.decide_by, decide_by);
        assert!(preset.keep.iter().map(|keep| keep.name.as_str()).eq(keep.iter().copied()), "{name}");
        assert!(preset.rules.is_empty());
    }
    assert!(Preset::builtin("medical").is_none());
}

#[test]
fn only_the_name_has_no_default() {
    let expected = Preset {
        name: "a".to_owned(),
        origin: Origin::File("p.yaml".into()),
        description: String::new(),
        accuracy_target: 1.0,
        min_cosine: 0.95,
        decide_by: DecideBy::Estimate,
        block_size: BlockSize::B64,
        symmetric: false,
        algorithm: AlgorithmName::Auto,
        percentile: 99.9,
        scales: Scales::Fp16,
        emit: Emit::Qdq,
        embeddings: Store::Int8,
        head: Store::Int4,
        unfused: Store::Float,
        keep: vec![],
        rules: vec![],
    };
    for text in
        ["name: a", "\u{feff}name: a\r\n", "--- # one\n{\"name\": 'a'}\n...\n", "%YAML 1.2\n---\nname: a"]
    {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn every_key_is_read() {
    let preset = parse(
        r#"
name: all
description: >
  folded into
  one line
accuracy_target: 2
min_cosine: 1
decide_by: interval
block_size: adaptive
symmetric: true
algorithm: percentile
percentile: 1e2
scales: fp32
emit: matmulnbits
embeddings: keep
head: int8
keep: [attention,
       "lm_head"]
rules:
  - role: feed_forward
    pattern: "*/attn/*"
    operator: Gemm
    store: int4
    block_size: 32
    symmetric: false
  - {
      pattern: "a: *", store: float }
"#,
    )
    .unwrap();
    assert_eq!(preset.description, "folded into one line");
    assert_eq!((preset.accuracy_target, preset.min_cosine, preset.percentile), (2.0, 1.0, 100.0));
    assert_eq!((preset.decide_by, preset.block_size), (DecideBy::Interval, BlockSize::Adaptive));
    assert_eq!((preset.symmetric, preset.algorithm), (true, AlgorithmName::Percentile));
    assert_eq!(preset.emit, Emit::MatMulNBits);
    assert_eq!((preset.scales, preset.embeddings, preset.head), (Scales::Fp32, Store::Float, Store::Int8));
    let keep: Vec<_> =
        preset.keep.iter().map(|keep| (keep.line, keep.name.as_str(), keep.roles.len())).collect();
    assert_eq!(keep, [(17, "attention", 5), (18, "lm_head", 1)]);

    let [first, second] = preset.rules.as_slice() else { panic!("{:?}", preset.rules) };
    assert_eq!((first.line, second.line), (20, 26));
    let role = RoleSelector {
        name: "feed_forward".to_owned(),
        roles: vec![Role::FeedForwardIn, Role::FeedForwardOut],
    };
    assert_eq!(first.role, Some(role));
    assert_eq!(first.operator.as_deref(), Some("Gemm"));
    assert_eq!(
        (first.store, first.block_size, first.symmetric),
        (Store::Int4, Some(BlockSize::B32), Some(false))
    );
    assert_eq!((second.store, second.block_size, second.symmetric), (Store::Float, None, None));
    assert_eq!(second.pattern.as_ref().map(Pattern::as_str), Some("a: *"));
}

#[test]
fn sizes_are_limited() {
    let long = format!("name: a\n{}", "#".repeat(1 << 20));
    insta::assert_snapshot!(refused(&long), @"p.yaml: more than 1 MiB, too much for a preset (check the path)");
    let rules = format!("rules:\n{}", "- {operator: Gemm, store: int4}\n".repeat(1001));
    insta::assert_snapshot!(refused_named(&rules), @r#"p.yaml:1003:3: more than 1000 rules (one pattern can match many names: "{a,b}*")"#);
}

#[test]
fn texts_that_are_no_preset() {
    insta::assert_snapshot!(refused(""), @"p.yaml: the preset is empty (it needs at least 'name')");
    insta::assert_snapshot!(refused("# nothing\n"), @"p.yaml: the preset is empty (it needs at least 'name')");
    insta::assert_snapshot!(refused("---\n"), @"p.yaml: the preset is empty (it needs at least 'name')");
    insta::assert_snapshot!(refused("~"), @"p.yaml: the preset is empty (it needs at least 'name')");
    insta::assert_snapshot!(refused("\u{feff}"), @"p.yaml: the preset is empty (it needs at least 'name')");
    insta::assert_snapshot!(refused("- a\n- b\n"), @"p.yaml:1:1: a preset is a list, not keys with values (allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
    insta::assert_snapshot!(refused("hello"), @"p.yaml:1:1: a preset is 'hello', not keys with values (allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
    insta::assert_snapshot!(refused("name: [a\n"), @"p.yaml:2:1: not well-formed YAML: while parsing a flow sequence, expected ',' or ']'");
    insta::assert_snapshot!(refused_named("rules:\n\t- role: attention\n"), @"p.yaml:3:2: not well-formed YAML: tabs disallowed within this context (block indentation)");
    insta::assert_snapshot!(refused_named("  block_size: 64\n"), @"p.yaml:2:13: not well-formed YAML: mapping values are not allowed in this context");
    insta::assert_snapshot!(refused_named("---\nname: b\n"), @"p.yaml:2:1: a second document begins (a preset file holds one preset)");
    insta::assert_snapshot!(refused("block_size: 64\n"), @"p.yaml: 'name' is missing (add a line such as 'name: my_preset')");
}

#[test]
fn yaml_beyond_plain_values() {
    insta::assert_snapshot!(refused_named("keep: &kept [attention]\n"), @"p.yaml:2:7: anchors (&name) are not accepted (remove it, or quote the value if it begins with '&')");
    insta::assert_snapshot!(refused_named("head: *nothing\n"), @"p.yaml:2:7: aliases (*name) are not accepted (write the value out, or quote it if it begins with '*')");
    insta::assert_snapshot!(refused_named("block_size: !!int 64\n"), @"p.yaml:2:13: tags (!name) are not accepted (remove it, or quote the value if it begins with '!')");
    insta::assert_snapshot!(refused_named("rules: !mine []\n"), @"p.yaml:2:8: tags (!name) are not accepted (remove it, or quote the value if it begins with '!')");
    insta::assert_snapshot!(refused_named("<<: {head: keep}\n"), @"p.yaml:2:1: merge keys (<<) are not accepted (write the keys out)");
    insta::assert_snapshot!(refused_named("? [a, b]\n: 1\n"), @"p.yaml:2:3: a list or mapping stands where a key is expected");
    insta::assert_snapshot!(refused_named("!!str head: keep\n"), @"p.yaml:2:1: tags (!name) are not accepted (remove it, or quote the value if it begins with '!')");
    insta::assert_snapshot!(refused_named("keep: [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]"), @"p.yaml:2:23: nested more than 16 levels deep");
    insta::assert_snapshot!(refused("? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? ? a"), @"p.yaml:1:35: nested more than 16 levels deep");
}

#[test]
fn wrong_keys() {
    insta::assert_snapshot!(refused_named("blocksize: 64\n"), @"p.yaml:2:1: unknown key 'blocksize' in a preset (did you mean 'block_size'? allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
    insta::assert_snapshot!(refused_named("zzzzzz: 64\n"), @"p.yaml:2:1: unknown key 'zzzzzz' in a preset (allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
    insta::assert_snapshot!(refused_named("Symmetric: true\n"), @"p.yaml:2:1: unknown key 'Symmetric' in a preset (did you mean 'symmetric'? allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
    insta::assert_snapshot!(refused_named("head: keep\nscales: fp16\nhead: int4\n"), @"p.yaml:4:1: the key 'head' stands in line 2 already (remove one of the two)");
    insta::assert_snapshot!(refused_named("rules:\n  - {store: int8, role: attention,\n     store: int4}\n"), @"p.yaml:4:6: the key 'store' stands in line 3 already (remove one of the two)");
    insta::assert_snapshot!(refused_named("rules:\n  - role: attention\n    stor: int8\n"), @"p.yaml:4:5: unknown key 'stor' in a rule (did you mean 'store'? allowed: role, pattern, operator, store, block_size, symmetric)");
    insta::assert_snapshot!(refused_named("\"a\\nb\\e[1m\": 1\n"), @r"p.yaml:2:1: unknown key 'a\nb\u{1b}[1m' in a preset (allowed: name, description, accuracy_target, min_cosine, decide_by, block_size, symmetric, algorithm, percentile, scales, emit, embeddings, head, unfused, keep, rules)");
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(refused("name: 5\n"), @r#"p.yaml:1:7: 'name' is '5', text is expected (write "5")"#);
    insta::assert_snapshot!(refused("name: true\n"), @r#"p.yaml:1:7: 'name' is 'true', text is expected (write "true")"#);
    insta::assert_snapshot!(refused("name:\n"), @"p.yaml:1:5: 'name' is without a value, text is expected");
    insta::assert_snapshot!(refused("name: \"\"\n"), @"p.yaml:1:7: 'name' is empty");
    insta::assert_snapshot!(refused("name: [a]\n"), @"p.yaml:1:7: 'name' is a list, text is expected");
    insta::assert_snapshot!(refused_named("description: |\n  one\n  two\n"), @r"p.yaml:3:3: 'description' is 'one\ntwo', one line of text is expected");
    insta::assert_snapshot!(refused_named("accuracy_target: low\n"), @"p.yaml:2:18: 'accuracy_target' is 'low', a number is expected (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: \"0.5\"\n"), @"p.yaml:2:18: 'accuracy_target' is the text '0.5', a number is expected (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: 0.5%\n"), @"p.yaml:2:18: 'accuracy_target' is '0.5%', a number is expected (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: {is: 1}\n"), @"p.yaml:2:18: 'accuracy_target' is a mapping, a number is expected");
    insta::assert_snapshot!(refused_named("symmetric: yes\n"), @"p.yaml:2:12: 'symmetric' is 'yes', true or false is expected");
    insta::assert_snapshot!(refused_named("symmetric: \"true\"\n"), @"p.yaml:2:12: 'symmetric' is the text 'true', true or false is expected");
    insta::assert_snapshot!(refused_named("symmetric:\nhead: keep\n"), @"p.yaml:2:10: 'symmetric' is without a value, true or false is expected");
    insta::assert_snapshot!(refused_named("keep: attention\n"), @"p.yaml:2:7: 'keep' is 'attention', a list is expected ([] if there is none)");
    insta::assert_snapshot!(refused_named("keep:\n"), @"p.yaml:2:5: 'keep' is without a value, a list is expected ([] if there is none)");
    insta::assert_snapshot!(refused_named("rules: {role: attention, store: int8}\n"), @"p.yaml:2:8: 'rules' is a mapping, a list is expected ([] if there is none)");
    insta::assert_snapshot!(refused_named("algorithm: [rtn]\n"), @"p.yaml:2:12: 'algorithm' is a list, one word is expected (allowed: auto, rtn, percentile, search, weighted, gptq)");
    insta::assert_snapshot!(refused_named("embeddings:\n"), @"p.yaml:2:11: 'embeddings' is without a value, one word is expected (allowed: keep, int8, int4)");
    insta::assert_snapshot!(refused_named("rules:\n  - role: [attention]\n    store: int8\n"), @"p.yaml:3:11: 'role' is a list, a role or group is expected");
}

#[test]
fn wrong_numbers() {
    insta::assert_snapshot!(refused_named("accuracy_target: 0\n"), @"p.yaml:2:18: 'accuracy_target' is '0', out of range (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: -1\n"), @"p.yaml:2:18: 'accuracy_target' is '-1', out of range (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: 100.5\n"), @"p.yaml:2:18: 'accuracy_target' is '100.5', out of range (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: .nan\n"), @"p.yaml:2:18: 'accuracy_target' is '.nan', out of range (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: .inf\n"), @"p.yaml:2:18: 'accuracy_target' is '.inf', out of range (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("accuracy_target: 1e400\n"), @"p.yaml:2:18: 'accuracy_target' is '1e400', a number is expected (percent, above 0 and up to 100)");
    insta::assert_snapshot!(refused_named("min_cosine: 1.01\n"), @"p.yaml:2:13: 'min_cosine' is '1.01', out of range (from 0 to 1)");
    insta::assert_snapshot!(refused_named("percentile: 50\n"), @"p.yaml:2:13: 'percentile' is '50', out of range (percent, above 50 and up to 100)");
    insta::assert_snapshot!(refused_named("percentile: 100.1\n"), @"p.yaml:2:13: 'percentile' is '100.1', out of range (percent, above 50 and up to 100)");
    insta::assert_snapshot!(refused_named("percentile: 50.0000001\n"), @"p.yaml:2:13: 'percentile' is '50.0000001', out of range (percent, above 50 and up to 100)");
    insta::assert_snapshot!(refused_named("block_size: 48\n"), @"p.yaml:2:13: 'block_size' cannot be '48' (allowed: 16, 32, 64, 128, 256, adaptive)");
    insta::assert_snapshot!(refused_named("block_size: 64.0\n"), @"p.yaml:2:13: 'block_size' cannot be '64.0' (allowed: 16, 32, 64, 128, 256, adaptive)");
    insta::assert_snapshot!(refused_named("block_size: 0x40\n"), @"p.yaml:2:13: 'block_size' cannot be '0x40' (allowed: 16, 32, 64, 128, 256, adaptive)");
    insta::assert_snapshot!(refused_named("block_size: -32\n"), @"p.yaml:2:13: 'block_size' cannot be '-32' (allowed: 16, 32, 64, 128, 256, adaptive)");
    insta::assert_snapshot!(refused_named("block_size: adaptiv\n"), @"p.yaml:2:13: 'block_size' cannot be 'adaptiv' (did you mean 'adaptive'? allowed: 16, 32, 64, 128, 256, adaptive)");
}

#[test]
fn wrong_words() {
    insta::assert_snapshot!(refused_named("algorithm: serch\n"), @"p.yaml:2:12: 'algorithm' cannot be 'serch' (did you mean 'search'? allowed: auto, rtn, percentile, search, weighted, gptq)");
    insta::assert_snapshot!(refused_named("decide_by: mean\n"), @"p.yaml:2:12: 'decide_by' cannot be 'mean' (allowed: interval, estimate)");
    insta::assert_snapshot!(refused_named("scales: bf16\n"), @"p.yaml:2:9: 'scales' cannot be 'bf16' (allowed: fp16, fp32, int8)");
    insta::assert_snapshot!(refused_named("embeddings: float\n"), @"p.yaml:2:13: 'embeddings' cannot be 'float' (allowed: keep, int8, int4)");
    insta::assert_snapshot!(refused_named("head: float\n"), @"p.yaml:2:7: 'head' cannot be 'float' (allowed: keep, int8, int4)");
    insta::assert_snapshot!(refused_named("rules:\n  - {role: attention, store: int5}\n"), @"p.yaml:3:30: 'store' cannot be 'int5' (allowed: int4, int8, float)");
    insta::assert_snapshot!(refused_named("algorithm: RTN\n"), @"p.yaml:2:12: 'algorithm' cannot be 'RTN' (did you mean 'rtn'? allowed: auto, rtn, percentile, search, weighted, gptq)");
    insta::assert_snapshot!(refused_named("keep:\n  - token_embeddings\n  - lm_haed\n"), @"p.yaml:4:5: 'keep' names the unknown role 'lm_haed' (did you mean 'lm_head'? allowed: token_embeddings, position_embeddings, token_type_embeddings, lm_head, attention_query, attention_key, attention_value, attention_qkv, attention_output, feed_forward_in, feed_forward_out, convolution, recurrent, expert, normalization, bias, other, embeddings, attention, feed_forward)");
    insta::assert_snapshot!(refused_named("keep: [token_embeddings,\n       attentoin]\n"), @"p.yaml:3:8: 'keep' names the unknown role 'attentoin' (did you mean 'attention'? allowed: token_embeddings, position_embeddings, token_type_embeddings, lm_head, attention_query, attention_key, attention_value, attention_qkv, attention_output, feed_forward_in, feed_forward_out, convolution, recurrent, expert, normalization, bias, other, embeddings, attention, feed_forward)");
    insta::assert_snapshot!(refused_named("keep:\n  -\n  - attention\n"), @"p.yaml:3:4: 'keep' is without a value, a role or group is expected");
    insta::assert_snapshot!(refused_named("rules:\n  - role: qkv\n    store: int8\n"), @"p.yaml:3:11: 'role' names the unknown role 'qkv' (did you mean 'attention_qkv'? allowed: token_embeddings, position_embeddings, token_type_embeddings, lm_head, attention_query, attention_key, attention_value, attention_qkv, attention_output, feed_forward_in, feed_forward_out, convolution, recurrent, expert, normalization, bias, other, embeddings, attention, feed_forward)");
}

#[test]
fn wrong_rules() {
    insta::assert_snapshot!(refused_named("rules:\n  - store: int8\n"), @"p.yaml:3:5: a rule does not say which weights it is for (add one or more of 'role', 'pattern', 'operator')");
    insta::assert_snapshot!(refused_named("rules:\n  - {}\n"), @"p.yaml:3:5: a rule does not say how to store (add 'store: int4', int8 or float)");
    insta::assert_snapshot!(refused_named("rules:\n\n  - role: attention\n    block_size: 32\n"), @"p.yaml:4:5: a rule does not say how to store (add 'store: int4', int8 or float)");
    insta::assert_snapshot!(refused_named("rules:\n  - attention\n"), @"p.yaml:3:5: a rule is 'attention', not keys with values (allowed: role, pattern, operator, store, block_size, symmetric)");
    insta::assert_snapshot!(refused_named("rules:\n  - role: attention\n    store: float\n    block_size: 32\n"), @"p.yaml:5:17: 'block_size' means nothing with 'store: float' (remove it, or store int4 or int8)");
    insta::assert_snapshot!(refused_named("rules: [{role: attention, store: float, symmetric: true}]\n"), @"p.yaml:2:52: 'symmetric' means nothing with 'store: float' (remove it, or store int4 or int8)");
    insta::assert_snapshot!(refused_named("rules:\n  - pattern: ''\n    store: int8\n"), @"p.yaml:3:14: 'pattern' is empty");
    insta::assert_snapshot!(refused_named("rules:\n  - pattern:\n    store: int8\n"), @"p.yaml:3:12: 'pattern' is without a value, text is expected");
    insta::assert_snapshot!(refused_named("rules:\n  - pattern: 'a['\n    store: int8\n"), @"p.yaml:3:14: 'pattern' 'a[' is no glob: unclosed character class; missing ']'");
    insta::assert_snapshot!(refused_named("rules:\n  - pattern: \"{a,b\"\n    store: int8\n"), @"p.yaml:3:14: 'pattern' '{a,b' is no glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)");
    insta::assert_snapshot!(refused_named("rules:\n  - operator: ' '\n    store: int8\n"), @"p.yaml:3:15: 'operator' is empty");
    insta::assert_snapshot!(refused_named("rules:\n  - operator: 5\n    store: int8\n"), @r#"p.yaml:3:15: 'operator' is '5', text is expected (write "5")"#);
    insta::assert_snapshot!(refused_named("rules:\n  - pattern: */attn/*\n    store: int8\n"), @"p.yaml:3:14: aliases (*name) are not accepted (write the value out, or quote it if it begins with '*')");
}

/// YAML-like text: pieces of presets and of YAML's syntax in any order.
fn yaml_like() -> impl Strategy<Value = String> {
    let pieces = [
        "name: a\n",
        "keep:",
        "rules:",
        "role: attention",
        "pattern: ",
        "store: int8",
        "block_size: ",
        "64",
        "true",
        "- ",
        "  ",
        "\n",
        ": ",
        ", ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "&a ",
        "*a",
        "!!int ",
        "<<: ",
        "? ",
        "| ",
        ">-\n",
        "# ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\t",
        "\r",
        "~",
        "\\",
        "é",
        "\u{feff}",
        "\u{85}",
        "\0",
        "0x",
        "1e999",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![any::<String>(), yaml_like()]) {
        for text in [text.clone(), format!("name: a\nrules:\n- {{store: int8, pattern: {text}}}")] {
            if let Err(error) = parse(&text) {
                let shown = error.to_string();
                prop_assert!(shown.starts_with("p.yaml:"));
                prop_assert!(!shown.contains('\n'), "{}", shown);
            }
        }
    }

    #[test]
    fn cutting_or_changing_a_builtin_never_panics(cut in 0..600_usize, piece in yaml_like()) {
        for name in builtin_names() {
            let text = builtin_text(name).unwrap();
            let head: String = text.chars().take(cut).collect();
            let _ = parse(&head);
            let _ = parse(&format!("{head}{piece}{}", &text[head.len()..]));
        }
    }

    #[test]
    fn numbers_survive(target in 1e-6..100.0, cosine in 0.0..1.0) {
        let preset = parse(&format!("name: a\naccuracy_target: {target:?}\nmin_cosine: {cosine:?}")).unwrap();
        prop_assert_eq!((preset.accuracy_target, preset.min_cosine), (target, cosine));
    }
}
