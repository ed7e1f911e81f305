//! Einsums that are linear layers: a weight applied to some axes of the other operand.

use super::arrangement::Arrangement;
use super::operand::{Operand, runs};
use crate::onnx::node;
use crate::onnx::proto::NodeProto;

/// The first of the signs that stand for the axes of an ellipsis.
const OPEN: u32 = 0xE000;

/// The weight `operand` of the Einsum `node`, its input `input`, as `[K,N]`, and how the axes of the product are arranged,
/// where that is not `rows · W`. `rank` is that of the other operand, where it is known.
///
/// It is a layer where every axis of the weight is either summed over or new in the result, and the other axes of the
/// other operand stay: `abc,cd->abd`, `btnh,nhd->btd`, `abc,cde->adbe`, `...a,ab->...b`.
///
/// # Errors
/// Why it is none.
pub(super) fn layer(
    node: &NodeProto,
    input: usize,
    operand: &Operand,
    rank: Option<usize>,
) -> Result<(Option<Arrangement>, Operand), String> {
    let no = |why: &str| format!("an Einsum that is no plain linear layer: {why}");
    let equation = equation(node);
    let (terms, result) = match equation.split_once("->") {
        Some((terms, result)) => (terms, Some(result)),
        None => (equation.as_str(), None),
    };
    let (first, second) = terms.split_once(',').ok_or_else(|| no("it has not two operands"))?;
    let (other, weight) = if input == 0 { (second, first) } else { (first, second) };
    let repeated = || no("an axis is repeated");
    if weight.contains('.') {
        return Err(no("the axes of its weight are left open"));
    }
    let is_open = other.contains('.');
    let written = other.chars().filter(|axis| *axis != '.').count();
    let open = match rank.filter(|_| is_open) {
        Some(rank) => Some(rank.checked_sub(written).ok_or_else(|| no("its activation has another rank"))?),
        None => None,
    };
    let weight = axes(weight, open).ok_or_else(repeated)?;
    let other = axes(other, open).ok_or_else(repeated)?;
    let result = match result {
        Some(result) => axes(result, open).ok_or_else(repeated)?,
        None => implied(&other, &weight).ok_or_else(|| no("its result is not written out"))?,
    };
    if weight.len() != operand.dims.len() {
        return Err(no("its weight has another rank"));
    }
    let (summed, kept): (Vec<char>, Vec<char>) = other.iter().partition(|axis| weight.contains(axis));
    let made: Vec<char> = result.iter().copied().filter(|axis| weight.contains(axis)).collect();
    let is_layer = summed.len() + made.len() == weight.len()
        && kept.len() + made.len() == result.len()
        && kept.iter().all(|axis| result.contains(axis))
        && !summed.iter().any(|axis| result.contains(axis));
    if !is_layer || summed.is_empty() || made.is_empty() {
        return Err(no("its axes are not those of a product of matrices"));
    }
    let view = |axes: &[char]| -> Vec<(usize, usize)> {
        let places = axes.iter().filter_map(|axis| weight.iter().position(|w| w == axis));
        places.filter_map(|at| Some((*operand.dims.get(at)?, *operand.strides.get(at)?))).collect()
    };
    let apart = || no("the axes of its weight do not lie one behind the other");
    let (summed, rows) = joined(&summed, &view).ok_or_else(apart)?;
    let (made, columns) = joined(&made, &view).ok_or_else(apart)?;
    let sizes = |axes: &[char]| view(axes).iter().map(|(dim, _)| *dim).collect::<Vec<_>>();
    // The other axes stay in their order if that spares the activation a transposition.
    let given: Vec<char> = kept.iter().chain(&summed).copied().collect();
    let kept = match given == other {
        true => kept,
        false => result.iter().copied().filter(|axis| kept.contains(axis)).collect(),
    };
    let arrangement = Arrangement {
        before: order(&other, &[kept.as_slice(), &summed].concat()),
        lead: (!is_open || open.is_some()).then_some(kept.len()),
        summed: sizes(&summed),
        made: sizes(&made),
        after: order(&[kept.as_slice(), &made].concat(), &result),
    };
    if arrangement.lead.is_none() && !arrangement.is_plain() {
        return Err(no("the rank of its activation is not known: infer the model's shapes first"));
    }
    let arrangement = Some(arrangement).filter(|arrangement| !arrangement.is_plain());
    let operand =
        Operand { dims: vec![rows.0, columns.0], strides: vec![rows.1, columns.1], ..operand.clone() };
    Ok((arrangement, operand))
}

fn equation(node: &NodeProto) -> String {
    let equation = node::attribute(node, "equation").and_then(|attribute| attribute.s.as_ref());
    let equation = equation.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    equation.chars().filter(|symbol| !symbol.is_whitespace()).collect()
}

/// The rank of the result of an Einsum that is written out; `rank` gives those of its operands.
pub(super) fn result_rank(node: &NodeProto, rank: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    let equation = equation(node);
    let (terms, result) = equation.split_once("->")?;
    let letters = |term: &str| term.chars().filter(|axis| *axis != '.').count();
    if !result.contains('.') {
        return Some(letters(result));
    }
    let (at, open) = terms.split(',').enumerate().find(|(_, term)| term.contains('.'))?;
    Some(rank(at)?.checked_sub(letters(open))? + letters(result))
}

/// The axes of a term, with `open` signs for an ellipsis, or one where their number is not known; `None` if one is
/// repeated or no letter.
fn axes(term: &str, open: Option<usize>) -> Option<Vec<char>> {
    let signs = 0..u32::try_from(open.unwrap_or(1)).ok()?;
    let signs: String = signs.filter_map(|at| char::from_u32(OPEN + at)).collect();
    let axes: Vec<char> = term.replacen("...", &signs, 1).chars().collect();
    let mut distinct = axes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let plain = |axis: &char| axis.is_ascii_alphabetic() || is_sign(*axis);
    (distinct.len() == axes.len() && axes.iter().all(plain)).then_some(axes)
}

fn is_sign(axis: char) -> bool {
    axis as u32 >= OPEN
}

/// The result that is not written out: the ellipsis, and the letters that stand once, in their order. How small and
/// capital letters follow each other is not agreed on.
fn implied(other: &[char], weight: &[char]) -> Option<Vec<char>> {
    let letters = || other.iter().chain(weight).copied().filter(|axis| !is_sign(*axis));
    if letters().any(|a| a.is_ascii_lowercase()) && letters().any(|a| a.is_ascii_uppercase()) {
        return None;
    }
    let mut once: Vec<char> = letters().filter(|axis| letters().filter(|a| a == axis).count() == 1).collect();
    once.sort_unstable();
    Some(other.iter().copied().filter(|axis| is_sign(*axis)).chain(once).collect())
}

/// Sizes and strides of some axes of the weight.
type View<'a> = dyn Fn(&[char]) -> Vec<(usize, usize)> + 'a;

/// These axes in an order in which they lie one behind the other in the weight, and the size and stride of the one axis
/// that they are then.
fn joined(axes: &[char], view: &View<'_>) -> Option<(Vec<char>, (usize, usize))> {
    let mut sorted = axes.to_vec();
    sorted.sort_by_key(|axis| std::cmp::Reverse(view(&[*axis]).first().map_or(0, |(_, stride)| *stride)));
    [axes.to_vec(), sorted].into_iter().find_map(|axes| {
        let (dims, strides): (Vec<usize>, Vec<usize>) = view(&axes).into_iter().unzip();
        match runs(&dims, &strides).as_slice() {
            [] => Some((axes, (1, 1))),
            [one] => Some((axes, *one)),
            _ => None,
        }
    })
}

/// The permutation that makes `to` of `from`; empty where they are the same.
fn order(from: &[char], to: &[char]) -> Vec<usize> {
    match from == to {
        true => Vec::new(),
        false => to.iter().filter_map(|axis| from.iter().position(|a| a == axis)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Index, operand};
    use super::*;
    use crate::onnx::proto::{AttributeProto, GraphProto, tensor_proto::DataType};
    use crate::onnx::tensor;

    type Layer = (Option<Arrangement>, Vec<usize>, Vec<usize>);

    /// The arrangement and the view of the weight; the activation is of `rank`.
    fn found(equation: &str, input: usize, dims: &[usize], rank: Option<usize>) -> Result<Layer, String> {
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
        layer(&einsum, input, &weight, rank).map(|(form, view)| (form, view.dims, view.strides))
    }

    #[test]
    fn what_is_a_product_of_rows_is_one() {
        type View = ([usize; 2], [usize; 2]);
        let layers: [(&str, usize, &[usize], View); 8] = [
            ("abc,cd->abd", 1, &[8, 5], ([8, 5], [5, 1])),
            ("abc, dc -> abd", 1, &[5, 8], ([8, 5], [1, 8])),
            ("cd,abc->abd", 0, &[8, 5], ([8, 5], [5, 1])),
            ("c,cd->d", 1, &[8, 5], ([8, 5], [5, 1])),
            ("...c,cd->...d", 1, &[8, 5], ([8, 5], [5, 1])),
            ("...d,fd->...f", 1, &[5, 8], ([8, 5], [1, 8])),
            ("abc,cd", 1, &[8, 5], ([8, 5], [5, 1])),
            ("...c,cd", 1, &[8, 5], ([8, 5], [5, 1])),
        ];
        for (equation, input, dims, (sizes, strides)) in layers {
            let plain = Ok((None, sizes.to_vec(), strides.to_vec()));
            assert_eq!(found(equation, input, dims, None), plain, "{equation}");
        }
    }

    #[test]
    fn axes_in_another_order_are_arranged() {
        type Case<'a> = (&'a str, usize, &'a [usize], Arrangement, [usize; 2], [usize; 2]);
        let made = |before: &[usize], lead, summed: &[usize], made: &[usize], after: &[usize]| Arrangement {
            before: before.to_vec(),
            lead: Some(lead),
            summed: summed.to_vec(),
            made: made.to_vec(),
            after: after.to_vec(),
        };
        let layers: [Case; 11] = [
            ("bsd,dhk->bshk", 1, &[8, 2, 3], made(&[], 2, &[8], &[2, 3], &[]), [8, 6], [6, 1]),
            ("bsd,dhk->bhsk", 1, &[8, 2, 3], made(&[], 2, &[8], &[2, 3], &[0, 2, 1, 3]), [8, 6], [6, 1]),
            ("bshk,hkd->bsd", 1, &[2, 3, 8], made(&[], 2, &[2, 3], &[8], &[]), [6, 8], [8, 1]),
            ("bhsk,hkd->bsd", 1, &[2, 3, 8], made(&[0, 2, 1, 3], 2, &[2, 3], &[8], &[]), [6, 8], [8, 1]),
            ("bshk,dhk->bsd", 1, &[8, 2, 3], made(&[], 2, &[2, 3], &[8], &[]), [6, 8], [1, 6]),
            ("bshk,khd->bsd", 1, &[3, 2, 8], made(&[0, 1, 3, 2], 2, &[3, 2], &[8], &[]), [6, 8], [8, 1]),
            ("oi,bis->bos", 0, &[5, 8], made(&[0, 2, 1], 2, &[8], &[5], &[0, 2, 1]), [8, 5], [1, 8]),
            ("bchw,oc->bohw", 1, &[5, 8], made(&[0, 2, 3, 1], 3, &[8], &[5], &[0, 3, 1, 2]), [8, 5], [1, 8]),
            ("abc,bd->acd", 1, &[8, 5], made(&[0, 2, 1], 2, &[8], &[5], &[]), [8, 5], [5, 1]),
            ("abc,cd->bad", 1, &[8, 5], made(&[], 2, &[8], &[5], &[1, 0, 2]), [8, 5], [5, 1]),
            ("abc,cd->adb", 1, &[8, 5], made(&[], 2, &[8], &[5], &[0, 2, 1]), [8, 5], [5, 1]),
        ];
        for (equation, input, dims, arrangement, sizes, strides) in layers {
            let wanted = Ok((Some(arrangement), sizes.to_vec(), strides.to_vec()));
            assert_eq!(found(equation, input, dims, None), wanted, "{equation}");
        }
        let (arrangement, ..) = found("a...c,cd->d...a", 1, &[8, 5], Some(4)).unwrap();
        assert_eq!(arrangement, Some(made(&[], 3, &[8], &[5], &[3, 1, 2, 0])));
    }

    #[test]
    fn other_sums_are_told_apart() {
        for (equation, dims) in [
            ("abc,bcd->abd", &[3, 8, 5][..]),
            ("becd,edf->becf", &[3, 8, 5]),
            ("a...c,cd->d...a", &[8, 5]),
            ("abc,Cd", &[8, 5]),
            ("...c,...cd->...d", &[8, 5]),
            ("...c,cd->d", &[8, 5]),
            ("abc,cd->ab", &[8, 5]),
            ("abc,cd->bd", &[8, 5]),
            ("abc,cc->ab", &[8, 8]),
            ("abc,d->abcd", &[8]),
            ("abc,c->ab", &[8]),
            ("abc,cd->abd", &[8, 5, 1]),
            ("", &[8, 5]),
        ] {
            let why =
                found(equation, 1, dims, None).map(|found| panic!("{equation}: {found:?}")).unwrap_err();
            assert!(why.starts_with("an Einsum that is no plain linear layer: "), "{equation}: {why}");
        }
    }
}
