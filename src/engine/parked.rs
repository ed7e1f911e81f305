//! A run's values, written to a file and read back.

use std::io::{self, Read, Write};

use tract_onnx::prelude::*;

use super::stages::Run;
use super::value::Value;

/// What a file does not say of a run that was written to it.
pub struct Parked(Vec<(String, Form)>);

enum Form {
    /// It is the value of the other run.
    Shared,
    /// It was written, as elements of this type.
    Written(DatumType, Vec<usize>),
}

impl Run {
    /// Writes the values to `to`, but for those that it shares with `other`.
    ///
    /// # Errors
    /// Of the writer, and for values that are no numbers.
    pub fn park(&self, other: Option<&Run>, to: &mut impl Write) -> io::Result<Parked> {
        let mut names: Vec<&String> = self.0.keys().collect();
        names.sort();
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            let Some(value) = self.get(name) else { continue };
            let same = |other: &Value| std::ptr::eq(&*other.0, &*value.0);
            let form = if other.and_then(|run| run.get(name)).is_some_and(same) {
                Form::Shared
            } else {
                let ram = value.0.try_as_plain_ram().map_err(io::Error::other)?;
                to.write_all(ram.as_bytes())?;
                Form::Written(value.0.datum_type(), value.shape().to_vec())
            };
            list.push((name.clone(), form));
        }
        Ok(Parked(list))
    }
}

impl Parked {
    /// The run, from what was written, and from `other` for what it shares with that.
    ///
    /// # Errors
    /// Of the reader.
    pub fn fetch(&self, other: Option<&Run>, from: &mut impl Read) -> io::Result<Run> {
        let mut run = Run::default();
        let mut bytes = Vec::new();
        for (name, form) in &self.0 {
            let value = match form {
                Form::Shared => other.and_then(|run| run.get(name)).cloned(),
                Form::Written(kind, shape) => {
                    bytes.resize(shape.iter().product::<usize>() * kind.size_of(), 0);
                    from.read_exact(&mut bytes)?;
                    // SAFETY: the bytes are those of a tensor of this type and these sizes.
                    let tensor = unsafe { Tensor::from_raw_dt(*kind, shape, &bytes) };
                    Some(Value(tensor.map_err(io::Error::other)?.into_arc_tensor()))
                }
            };
            if let Some(value) = value {
                run.put(name, value);
            }
        }
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_parked_comes_back_and_shared_values_are_written_once() {
        let shared = Value::from_floats(&[2], &[1.0, f32::NAN]).unwrap();
        let (mut one, mut other) = (Run::default(), Run::default());
        one.put("both", shared.clone());
        other.put("both", shared);
        one.put("x", Value::from_floats(&[1, 3], &[1.0, 2.0, 3.0]).unwrap());
        other.put("x", Value::from_floats(&[1, 1], &[4.0]).unwrap());
        let mut file = Vec::new();
        let parked = (one.park(None, &mut file).unwrap(), other.park(Some(&one), &mut file).unwrap());
        assert_eq!(file.len(), (2 + 3 + 1) * 4);
        let mut from = file.as_slice();
        let one = parked.0.fetch(None, &mut from).unwrap();
        let other = parked.1.fetch(Some(&one), &mut from).unwrap();
        assert_eq!(one.get("x").unwrap().as_floats().unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(
            (other.get("x").unwrap().shape(), other.get("x").unwrap().as_floats().unwrap()),
            (&[1, 1][..], &[4.0][..])
        );
        assert!(other.get("both").unwrap().as_floats().unwrap()[1].is_nan());
    }
}
