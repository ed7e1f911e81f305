//! Einsums that are linear layers: a weight applied to the last axes of the other operand.

use super::operand::Operand;
use super::site::Form;
use crate::onnx::node;
use crate::onnx::proto::NodeProto;

/// The weight `operand` of the Einsum `node`, its input `input`, as `[K,N]`, and how the product is shaped.
///
/// It is a layer where the other operand ends in the axes that are summed over, and the result is its other axes and then
/// those of the weight: `abc,cd->abd`, `btnh,nhd->btd`, `abc,cde->abde`, with the weight's axes in any order.
///
/// # Errors
/// Why it is none.
pub(super) fn layer(node: &NodeProto, input: usize, operand: &Operand) -> Result<(Form, Operand), String> {
    let no = |why: &str| format!("an Einsum that is no plain linear layer: {why}");
    let equation = node::attribute(node, "equation").and_then(|attribute| attribute.s.as_ref());
    let equation = equation.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    let equation: String = equation.chars().filter(|symbol| !symbol.is_whitespace()).collect();
    let (terms, result) = equation.split_once("->").ok_or_else(|| no("its result is not written out"))?;
    let (first, second) = terms.split_once(',').ok_or_else(|| no("it has not two operands"))?;
    let letters = |text: &str| {
        let letters: Vec<char> = text.chars().collect();
        let mut distinct = letters.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let plain = distinct.len() == letters.len() && letters.iter().all(char::is_ascii_alphabetic);
        plain.then_some(letters)
    };
    let all = [first, second, result].map(letters);
    let [Some(first), Some(second), Some(result)] = all else {
        return Err(no("an axis is repeated or left open"));
    };
    let (other, weight) = if input == 0 { (second, first) } else { (first, second) };
    if weight.len() != operand.dims.len() {
        return Err(no("its weight has another rank"));
    }
    let lead = other.iter().take_while(|axis| !weight.contains(axis)).count();
    let (kept, summed) = other.split_at(lead);
    let made = result.strip_prefix(kept).ok_or_else(|| no("its result is in another order"))?;
    let same = |a: &[char], b: &[char]| a.len() == b.len() && a.iter().all(|axis| b.contains(axis));
    let axes: Vec<char> = summed.iter().chain(made).copied().collect();
    if !same(&axes, &weight) || summed.is_empty() || made.is_empty() {
        return Err(no("its axes are not those of a product of matrices"));
    }
    let places: Vec<usize> = axes.iter().filter_map(|axis| weight.iter().position(|w| w == axis)).collect();
    let pick = |from: &[usize]| places.iter().filter_map(|at| from.get(*at).copied()).collect::<Vec<_>>();
    let (dims, strides) = (pick(&operand.dims), pick(&operand.strides));
    let merged = |range: std::ops::Range<usize>| merge(dims.get(range.clone())?, strides.get(range)?);
    let (Some(rows), Some(columns)) = (merged(0..summed.len()), merged(summed.len()..axes.len())) else {
        return Err(no("the axes of its weight do not lie one behind the other"));
    };
    let (summed, made) = dims.split_at(summed.len());
    let form = Form::Einsum { lead, summed: summed.to_vec(), made: made.to_vec() };
    let view = Operand { dims: vec![rows.0, columns.0], strides: vec![rows.1, columns.1], ..operand.clone() };
    Ok((form, view))
}

/// Size and stride of the one axis that these are.
fn merge(dims: &[usize], strides: &[usize]) -> Option<(usize, usize)> {
    let mut merged = (1usize, 1usize);
    let mut any = false;
    for (dim, stride) in dims.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1) {
        if !any {
            merged = (*dim, *stride);
            any = true;
        } else if *stride == merged.0.checked_mul(merged.1)? {
            merged.0 = merged.0.checked_mul(*dim)?;
        } else {
            return None;
        }
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::super::{Index, operand};
    use super::*;
    use crate::onnx::proto::{AttributeProto, GraphProto, tensor_proto::DataType};
    use crate::onnx::tensor;

    fn found(
        equation: &str,
        input: usize,
        dims: &[usize],
    ) -> Result<(usize, Vec<usize>, Vec<usize>), String> {
        let raw = vec![0; 4 * dims.iter().product::<usize>()];
        let graph = GraphProto {
            initializer: vec![tensor::from_raw("w", DataType::Float, dims, raw)],
            ..Default::default()
        };
        let weight = operand(&Index::new(&graph, 8), "w").unwrap();
        let equation = AttributeProto {
            name: Some("equation".into()),
            s: Some(equation.as_bytes().to_vec().into()),
            ..Default::default()
        };
        let inputs = if input == 0 { ["w", "x"] } else { ["x", "w"] };
        let einsum = node::build("Einsum", "", &inputs, &["y"], vec![equation]);
        layer(&einsum, input, &weight).map(|(form, view)| match form {
            Form::Einsum { lead, .. } => (lead, view.dims, view.strides),
            _ => unreachable!(),
        })
    }

    #[test]
    fn tells_linear_layers_from_other_sums() {
        type View = (usize, [usize; 2], [usize; 2]);
        let layers: [(&str, usize, &[usize], View); 7] = [
            ("abc,cd->abd", 1, &[8, 5], (2, [8, 5], [5, 1])),
            ("abc, dc -> abd", 1, &[5, 8], (2, [8, 5], [1, 8])),
            ("bsd,dhk->bshk", 1, &[8, 2, 3], (2, [8, 6], [6, 1])),
            ("bshk,hkd->bsd", 1, &[2, 3, 8], (2, [6, 8], [8, 1])),
            ("bshk,dhk->bsd", 1, &[8, 2, 3], (2, [6, 8], [1, 6])),
            ("cd,abc->abd", 0, &[8, 5], (2, [8, 5], [5, 1])),
            ("c,cd->d", 1, &[8, 5], (0, [8, 5], [5, 1])),
        ];
        for (equation, input, dims, (lead, sizes, strides)) in layers {
            assert_eq!(
                found(equation, input, dims),
                Ok((lead, sizes.to_vec(), strides.to_vec())),
                "{equation}"
            );
        }
        for (equation, dims) in [
            ("abc,cd->adb", &[8, 5][..]),
            ("abc,bd->acd", &[8, 5]),
            ("abc,bcd->abd", &[3, 8, 5]),
            ("abc,cd", &[8, 5]),
            ("a...c,cd->a...d", &[8, 5]),
            ("abc,cd->ab", &[8, 5]),
            ("abc,cc->ab", &[8, 8]),
            ("abc,d->abcd", &[8]),
            ("abc,c->ab", &[8]),
            ("abc,cd->abd", &[8, 5, 1]),
            ("bshk,khd->bsd", &[3, 2, 8]),
            ("", &[8, 5]),
        ] {
            let why = found(equation, 1, dims).unwrap_err();
            assert!(why.starts_with("an Einsum that is no plain linear layer: "), "{equation}: {why}");
        }
    }
}
