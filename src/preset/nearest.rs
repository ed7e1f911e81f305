//! What the user may have meant.

/// How alike two words must be, from 0 to 1.
const ALIKE: f64 = 0.6;
/// The likeness of a word that contains the other.
const CONTAINS: f64 = 0.8;
/// Bytes from which only containment counts: the edit distance takes quadratic time.
const LONG: usize = 256;

/// Up to `count` of the words in `among` that are most like `wanted`, the best first.
///
/// Likeness is the edit distance without regard to case; a word also counts if it contains `wanted`, or is
/// contained in it, from three letters on.
pub fn nearest<'a>(wanted: &str, among: impl Iterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut found: Vec<(f64, &str)> = among
        .map(|word| (likeness(&wanted, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.into_iter().take(count).map(|(_, word)| word).collect()
}

fn likeness(a: &str, b: &str) -> f64 {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let contained = if short.len() >= 3 && long.contains(short) { CONTAINS } else { 0.0 };
    // The distance is no less than the difference of lengths, so most words need not be compared at all.
    let may_be_alike = short.len() as f64 >= ALIKE * long.len() as f64;
    if long.len() > LONG || !may_be_alike {
        return contained;
    }
    contained.max(strsim::normalized_damerau_levenshtein(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 5] = ["attention", "attention_qkv", "feed_forward", "lm_head", "bias"];

    fn near(wanted: &str) -> Vec<&'static str> {
        nearest(wanted, WORDS.into_iter(), 2)
    }

    #[test]
    fn finds_slips_and_parts() {
        assert_eq!(near("atention"), ["attention", "attention_qkv"]);
        assert_eq!(near("LM-Head"), ["lm_head"]);
        assert_eq!(near("qkv"), ["attention_qkv"]);
        assert_eq!(near("forward"), ["feed_forward"]);
        assert_eq!(near("the_bias_of_a_layer"), ["bias"]);
        assert_eq!(near("attention"), ["attention", "attention_qkv"]);
        assert_eq!(nearest("attention", WORDS.into_iter(), 1), ["attention"]);
    }

    #[test]
    fn suggests_nothing_unlike() {
        for wanted in ["", "a", "zzz", "convolution", &"x".repeat(100_000)] {
            assert!(near(wanted).is_empty(), "{wanted}");
        }
        assert!(nearest("a", std::iter::empty(), 3).is_empty());
    }
}
