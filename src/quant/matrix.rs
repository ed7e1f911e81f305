//! A `[K,N]` view on the bytes of a tensor, read in tiles of f32.

use std::ops::Range;

use half::{f16, slice::HalfBitsSliceExt, slice::HalfFloatSliceExt};

/// Element type of the viewed bytes (little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    F32,
    F16,
    BF16,
    F64,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::BF16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
        }
    }
}

/// Where the values of a matrix lie, all in elements: value `(i,j)` is element
/// `offset + i * k_stride + j * n_stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub offset: usize,
    pub k: usize,
    pub n: usize,
    pub k_stride: usize,
    pub n_stride: usize,
}

impl Layout {
    /// `[k,n]` stored row by row.
    pub fn row_major(k: usize, n: usize) -> Self {
        Layout { offset: 0, k, n, k_stride: n, n_stride: 1 }
    }

    /// `[k,n]` stored column by column, as the weight `[n,k]` of a Gemm with transB=1 is.
    pub fn column_major(k: usize, n: usize) -> Self {
        Layout { offset: 0, k, n, k_stride: 1, n_stride: k }
    }

    /// Elements from the start of the bytes to the end of the last value; `None` on overflow.
    fn extent(&self) -> Option<usize> {
        // The number of values must be addressable too: strides of 0 would let it exceed the bytes.
        let values = self.k.checked_mul(self.n).filter(|&values| values <= isize::MAX as usize / 8)?;
        if values == 0 {
            return Some(0);
        }
        let rows = (self.k - 1).checked_mul(self.k_stride)?;
        let columns = (self.n - 1).checked_mul(self.n_stride)?;
        self.offset.checked_add(rows)?.checked_add(columns)?.checked_add(1)
    }
}

/// A `[K,N]` matrix (K, the rows, is the reduction axis) on little-endian bytes of any alignment,
/// every value multiplied by a factor.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    bytes: &'a [u8],
    element: Element,
    layout: Layout,
    factor: f32,
}

impl<'a> Matrix<'a> {
    /// `None` when the layout leaves the bytes.
    pub fn new(bytes: &'a [u8], element: Element, layout: Layout) -> Option<Self> {
        let needed = layout.extent()?.checked_mul(element.bytes())?;
        (needed <= bytes.len()).then_some(Matrix { bytes, element, layout, factor: 1.0 })
    }

    /// The same matrix with every value multiplied by `factor` (in f32, after conversion).
    pub fn scaled(self, factor: f32) -> Self {
        Matrix { factor: self.factor * factor, ..self }
    }

    /// The `[N,K]` transpose, without moving bytes.
    pub fn transposed(self) -> Self {
        let Layout { offset, k, n, k_stride, n_stride } = self.layout;
        Matrix { layout: Layout { offset, k: n, n: k, k_stride: n_stride, n_stride: k_stride }, ..self }
    }

    /// Some of its rows, without moving bytes; no more than there are.
    pub fn band(self, rows: Range<usize>) -> Self {
        let Layout { offset, k, k_stride, .. } = self.layout;
        let (start, end) = (rows.start.min(k), rows.end.min(k));
        let (offset, k) = (offset + start * k_stride, end.saturating_sub(start));
        Matrix { layout: Layout { offset, k, ..self.layout }, ..self }
    }

    /// Rows (reduction axis).
    pub fn k(&self) -> usize {
        self.layout.k
    }

    /// Columns (outputs).
    pub fn n(&self) -> usize {
        self.layout.n
    }

    /// All values, row-major `[k,n]`, as [`Matrix::tile`] gives them.
    pub fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.k() * self.n()];
        self.tile(0..self.k(), 0..self.n(), &mut out);
        out
    }

    /// Copies rows × columns to `out`, row-major, as f32; values beyond the range of f32 become infinite.
    ///
    /// # Panics
    /// When the ranges leave the matrix or `out` has another length than their product.
    pub fn tile(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let (height, width) = (rows.len(), columns.len());
        assert!(rows.end <= self.k() && columns.end <= self.n() && out.len() == height * width);
        if out.is_empty() {
            return;
        }
        match self.element {
            Element::F32 => self.copy(rows, columns, out, f32::from_le_bytes),
            Element::F64 => self.copy(rows, columns, out, |bytes| f64::from_le_bytes(bytes) as f32),
            Element::BF16 => self
                .copy(rows, columns, out, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)),
            Element::F16 if self.layout.n_stride == 1 => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    widen_f16(self.run::<2>(self.index(row, columns.start), width), out);
                }
            }
            Element::F16 => self.copy(rows, columns, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        }
        if self.factor != 1.0 {
            out.iter_mut().for_each(|value| *value *= self.factor);
        }
    }

    /// Whether its rows are stored as the float32 values that they stand for, one behind the other.
    pub fn is_plain(&self) -> bool {
        self.element == Element::F32 && self.layout.n_stride == 1 && self.factor == 1.0
    }

    /// Some columns of a row as stored float32 values, little-endian; `None` unless [plain](Self::is_plain).
    ///
    /// # Panics
    /// When the row or the columns leave the matrix.
    pub fn plain_row(&self, row: usize, columns: Range<usize>) -> Option<&'a [[u8; 4]]> {
        assert!(row < self.k() && columns.end <= self.n());
        self.is_plain().then(|| self.run(self.index(row, columns.start), columns.len()))
    }

    /// The stored bytes of some rows; `None` where they do not lie one behind the other.
    ///
    /// # Panics
    /// When the rows leave the matrix.
    pub fn stored_rows(&self, rows: Range<usize>) -> Option<&'a [u8]> {
        let Layout { n, k_stride, n_stride, .. } = self.layout;
        assert!(rows.end <= self.k());
        let size = self.element.bytes();
        (n_stride == 1 && k_stride == n)
            .then(|| &self.bytes[self.index(rows.start, 0) * size..self.index(rows.end, 0) * size])
    }

    fn index(&self, row: usize, column: usize) -> usize {
        self.layout.offset + row * self.layout.k_stride + column * self.layout.n_stride
    }

    /// `count` consecutive elements from element `start`.
    fn run<const SIZE: usize>(&self, start: usize, count: usize) -> &'a [[u8; SIZE]] {
        self.bytes[start * SIZE..(start + count) * SIZE].as_chunks().0
    }

    #[inline(always)]
    fn copy<const SIZE: usize>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        convert: impl Fn([u8; SIZE]) -> f32,
    ) {
        let (height, width) = (rows.len(), columns.len());
        if self.layout.n_stride == 1 {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                let run = self.run(self.index(row, columns.start), width);
                out.iter_mut().zip(run).for_each(|(out, &bytes)| *out = convert(bytes));
            }
        } else if self.layout.k_stride == 1 {
            // Square pieces: a whole column written at once would touch one cache line per value.
            const SIDE: usize = 16;
            for top in (0..height).step_by(SIDE) {
                let tall = SIDE.min(height - top);
                for (column, position) in columns.clone().enumerate() {
                    let run = self.run(self.index(rows.start + top, position), tall);
                    for (row, &bytes) in run.iter().enumerate() {
                        out[(top + row) * width + column] = convert(bytes);
                    }
                }
            }
        } else {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                for (column, out) in columns.clone().zip(out) {
                    *out = convert(self.run(self.index(row, column), 1)[0]);
                }
            }
        }
    }
}

/// Converts in pieces, because `half` finds the fast instruction once per slice, not per value.
fn widen_f16(bytes: &[[u8; 2]], out: &mut [f32]) {
    let mut bits = [0_u16; 64];
    for (bytes, out) in bytes.chunks(bits.len()).zip(out.chunks_mut(bits.len())) {
        let bits = &mut bits[..bytes.len()];
        bits.iter_mut().zip(bytes).for_each(|(bits, &bytes)| *bits = u16::from_le_bytes(bytes));
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn every_element_type_and_layout_reads_the_same_values() {
        let (k, n) = (37, 83);
        let value = |i: usize, j: usize| (i as f32 - 18.0) * 0.25 + j as f32;
        let expected: Vec<f32> = (0..k * n).map(|index| value(index / n, index % n)).collect();
        type Encode = fn(f32) -> Vec<u8>;
        let encode: [(Element, Encode); 4] = [
            (Element::F32, |v| v.to_le_bytes().to_vec()),
            (Element::F16, |v| f16::from_f32(v).to_le_bytes().to_vec()),
            (Element::BF16, |v| bf16::from_f32(v).to_le_bytes().to_vec()),
            (Element::F64, |v| f64::from(v).to_le_bytes().to_vec()),
        ];
        let layouts = [
            Layout { offset: 3, ..Layout::row_major(k, n) },
            Layout { offset: 5, ..Layout::column_major(k, n) },
            Layout { offset: 1, k, n, k_stride: 2 * n + 1, n_stride: 2 },
        ];
        for (element, encode) in encode {
            let exact: Vec<f32> = if element == Element::BF16 {
                expected.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
            } else {
                expected.clone()
            };
            for layout in layouts {
                let size = element.bytes();
                // One stray byte in front makes every element unaligned.
                let mut bytes = vec![0_u8; 1 + layout.extent().unwrap() * size];
                for i in 0..k {
                    for j in 0..n {
                        let at = 1 + size * (layout.offset + i * layout.k_stride + j * layout.n_stride);
                        bytes[at..at + size].copy_from_slice(&encode(value(i, j)));
                    }
                }
                let matrix = Matrix::new(&bytes[1..], element, layout).unwrap();
                assert_eq!(matrix.values(), exact, "{element:?} {layout:?}");
                let mut part = vec![0.0; 6];
                matrix.scaled(2.0).tile(30..33, 80..82, &mut part);
                let of = |i: usize, j: usize| 2.0 * exact[i * n + j];
                assert_eq!(part, [of(30, 80), of(30, 81), of(31, 80), of(31, 81), of(32, 80), of(32, 81)]);
                let turned = matrix.transposed().values();
                assert!((0..k * n).all(|index| turned[(index % n) * k + index / n] == exact[index]));
            }
        }
    }

    #[test]
    fn a_layout_outside_the_bytes_is_refused() {
        let bytes = [0_u8; 24];
        assert!(Matrix::new(&bytes, Element::F32, Layout::row_major(2, 3)).is_some());
        assert!(Matrix::new(&bytes, Element::F64, Layout::row_major(2, 3)).is_none());
        assert!(Matrix::new(&bytes, Element::F32, Layout { offset: 1, ..Layout::row_major(2, 3) }).is_none());
        assert!(Matrix::new(&bytes, Element::F32, Layout::row_major(usize::MAX, 2)).is_none());
        let broadcast = Layout { offset: 0, k: usize::MAX / 2, n: 2, k_stride: 0, n_stride: 0 };
        assert!(Matrix::new(&bytes, Element::F32, broadcast).is_none());
        assert!(Matrix::new(&[], Element::F32, Layout::row_major(0, 7)).is_some());
    }
}
