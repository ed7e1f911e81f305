//! Statistics in a file: what a later fit needs to know of samples that it does not see.
//!
//! A `.safetensors` file: for every activation `NAME` of width K that reaches a linear, of the rows that take part
//! (`fit`) and of those held out (`held`), `NAME.fit.square` (Σ xxᵀ, `[K,K]` f32, zero below the diagonal),
//! `NAME.fit.sum` (Σ x, `[K]` f64) and `NAME.fit.rows` (`[1]` u64).

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::Sums;
use crate::error::{Error, Result, one_line};
use crate::limits;

/// Sums over rows that take part in a fit, and over rows that judge it.
pub type Parts = (Sums, Sums);

/// Statistics of one network by the name of the activation, with what is to be known of them.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Where they came from.
    pub about: BTreeMap<String, String>,
    /// By activation. X̂ is X: they are of the original network.
    pub parts: BTreeMap<String, Parts>,
}

/// Key of the metadata.
const ABOUT: &str = "efq";
const PARTS: [&str; 2] = ["fit", "held"];

impl Kept {
    /// The file.
    ///
    /// # Errors
    /// More than the format holds.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut payloads = Vec::new();
        for (name, parts) in &self.parts {
            for (part, sums) in PARTS.iter().zip([&parts.0, &parts.1]) {
                let k = sums.k;
                let square = sums.square.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
                let sum = sums.original.iter().flat_map(|value| value.to_le_bytes()).collect();
                let rows = (sums.rows as u64).to_le_bytes().to_vec();
                payloads.push((format!("{name}.{part}.square"), Dtype::F32, vec![k, k], square));
                payloads.push((format!("{name}.{part}.sum"), Dtype::F64, vec![k], sum));
                payloads.push((format!("{name}.{part}.rows"), Dtype::U64, vec![1], rows));
            }
        }
        let unwritable =
            |error| Error::format("statistics", one_line(&format!("cannot be written: {error}")));
        let views = payloads.iter().map(|(name, data_type, shape, bytes)| {
            TensorView::new(*data_type, shape.clone(), bytes).map(|view| (name, view)).map_err(unwritable)
        });
        // One entry: several would be written in any order.
        let about = serde_json::to_string(&self.about).unwrap_or_default();
        let about = [(ABOUT.to_owned(), about)].into_iter().collect();
        safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(about)).map_err(unwritable)
    }

    /// Reads a file that [`Kept::to_bytes`] made.
    ///
    /// # Errors
    /// Not such a file, or sums that no rows have.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let foreign = |what: &str| {
            Error::format("statistics", one_line(what)).help("a file that `--statistics` wrote is expected")
        };
        if bytes.len() as u64 > limits::SAMPLE_BYTES {
            return Err(Error::limit("statistics", format!("{} bytes", bytes.len())));
        }
        let unread = |error: safetensors::SafeTensorError| foreign(&format!("cannot be read: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unread)?;
        let file = SafeTensors::deserialize(bytes).map_err(unread)?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get(ABOUT));
        let about = about.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut kept = Self { about, parts: BTreeMap::new() };
        let names = file.names();
        for name in names.iter().filter_map(|name| name.strip_suffix(".fit.square")) {
            let read = |part: &str| -> Result<Sums> {
                let view = |what: &str, data_type: Dtype, shape: &[usize]| -> Result<Vec<u8>> {
                    let name = format!("{name}.{part}.{what}");
                    let view = file.tensor(&name).map_err(|_| foreign(&format!("'{name}' is missing")))?;
                    if view.dtype() != data_type || view.shape() != shape {
                        return Err(foreign(&format!("'{name}' is {} {:?}", view.dtype(), view.shape())));
                    }
                    Ok(view.data().to_vec())
                };
                let k =
                    file.tensor(&format!("{name}.fit.sum")).map_or(0, |view| view.shape().iter().product());
                let floats = |bytes: Vec<u8>| -> Vec<f32> {
                    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
                };
                let square = floats(view("square", Dtype::F32, &[k, k])?);
                let sum = view("sum", Dtype::F64, &[k])?;
                let sum: Vec<f64> =
                    sum.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                let rows = view("rows", Dtype::U64, &[1])?;
                let rows = rows.as_chunks().0.first().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                let diagonal = square.iter().step_by(k + 1);
                let possible = square.iter().all(|value| value.is_finite())
                    && sum.iter().all(|value| value.is_finite())
                    && diagonal.clone().all(|value| *value >= 0.0);
                let rows = usize::try_from(rows).ok().filter(|rows| possible && *rows < 1 << 48);
                let rows =
                    rows.ok_or_else(|| foreign(&format!("the sums of '{name}' are not those of rows")))?;
                Ok(Sums { k, rows, square, drift: vec![0.0; k * k], rewritten: sum.clone(), original: sum })
            };
            kept.parts.insert(name.to_owned(), (read("fit")?, read("held")?));
        }
        if kept.parts.is_empty() {
            return Err(foreign("has no sums in it"));
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Kept {
        let mut sums = Sums::new(2);
        let rows = [1.0, 2.0, -3.0, 0.5];
        sums.add(&rows, &rows);
        let about = BTreeMap::from([("samples".to_owned(), "2".to_owned())]);
        Kept { about, parts: BTreeMap::from([("x".to_owned(), (sums, Sums::new(2)))]) }
    }

    #[test]
    fn a_file_gives_back_what_was_kept() {
        let kept = some();
        let bytes = kept.to_bytes().expect("small");
        assert_eq!(bytes, kept.to_bytes().expect("small"));
        let read = Kept::from_bytes(&bytes).expect("own file");
        assert_eq!(read.about, kept.about);
        let (a, b) = (&read.parts["x"].0, &kept.parts["x"].0);
        assert_eq!((a.rows, &a.square, &a.original), (b.rows, &b.square, &b.original));
        assert_eq!(a.moments(true).square, b.moments(true).square);
    }

    #[test]
    fn what_is_no_statistics_is_refused() {
        let bytes = some().to_bytes().expect("small");
        for cut in [0, 7, bytes.len() - 1] {
            assert!(Kept::from_bytes(&bytes[..cut]).is_err());
        }
        let mut broken = some();
        if let Some((sums, _)) = broken.parts.get_mut("x") {
            sums.square[0] = f32::NAN;
        }
        let bytes = broken.to_bytes().expect("small");
        let told = Kept::from_bytes(&bytes).expect_err("not finite").to_string();
        assert!(told.contains("the sums of 'x' are not those of rows"), "{told}");
        let empty = Kept::default().to_bytes().expect("small");
        assert!(Kept::from_bytes(&empty).is_err());
    }
}
