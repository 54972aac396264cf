//! Numbers in the element types of model files, to f32 and back.

use brazier_models::{HostDtype, HostTensor};
use safetensors::{Dtype, tensor::TensorView};

use super::stored::{convert, is_float, not_a_float, size_bytes};

/// An element type whose numbers are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element(Dtype);

impl Element {
    pub(super) const F32: Self = Self(Dtype::F32);

    /// The element type of a stored tensor.
    pub(super) fn of(name: &str, dtype: Dtype) -> Result<Self, String> {
        match is_float(dtype) {
            true => Ok(Self(dtype)),
            false => Err(not_a_float(name, dtype)),
        }
    }

    pub(super) fn size_bytes(self) -> usize {
        size_bytes(self.0)
    }

    /// All numbers of some bytes, wherever they lie in memory.
    pub(super) fn read(self, bytes: &[u8]) -> Vec<f32> {
        let wide = converted(self.0, bytes, Dtype::F32);
        let (numbers, _) = wide.as_chunks();
        numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// The bytes of some numbers, rounded to nearest, ties to even.
    pub(super) fn write(self, values: &[f32]) -> Vec<u8> {
        let wide: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        converted(Dtype::F32, &wide, self.0)
    }
}

fn converted(from: Dtype, bytes: &[u8], to: Dtype) -> Vec<u8> {
    let mut converted = vec![0; bytes.len() / size_bytes(from) * size_bytes(to)];
    convert(from, bytes, to, &mut converted);
    converted
}

/// A stored tensor under another name, in f32.
pub(super) fn read_f32(name: &str, view: &TensorView) -> Result<HostTensor, String> {
    let element = Element::of(name, view.dtype())?;
    Ok(HostTensor {
        name: name.into(),
        shape: view.shape().to_vec(),
        dtype: HostDtype::F32,
        bytes: converted(element.0, view.data(), Dtype::F32),
    })
}
