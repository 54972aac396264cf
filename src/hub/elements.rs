//! Numbers in the element types of model files, to f32 and back.

use brazier_models::{HostDtype, HostTensor};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

/// An element type whose numbers are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    /// The element type of a stored tensor.
    pub(super) fn of(name: &str, dtype: Dtype) -> Result<Self, String> {
        match dtype {
            Dtype::F32 => Ok(Element::F32),
            Dtype::BF16 => Ok(Element::Bf16),
            Dtype::F16 => Ok(Element::F16),
            other => Err(format!("tensor {name} is {other}, expected F32, BF16 or F16")),
        }
    }

    pub(super) fn size_bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }

    /// All numbers of some bytes, wherever they lie in memory.
    pub(super) fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Element::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&x| f32::from_le_bytes(x))
                .collect(),
            Element::Bf16 => halves(bytes).map(|x| bf16::from_le_bytes(x).to_f32()).collect(),
            Element::F16 => halves(bytes).map(|x| f16::from_le_bytes(x).to_f32()).collect(),
        }
    }

    /// The bytes of some numbers, rounded to nearest, ties to even.
    pub(super) fn write(self, values: &[f32]) -> Vec<u8> {
        match self {
            Element::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Element::Bf16 => values
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            Element::F16 => values
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
        }
    }
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.as_chunks().0.iter().copied()
}

/// A stored tensor under another name, in f32.
pub(super) fn read_f32(name: &str, view: &TensorView) -> Result<HostTensor, String> {
    let values = Element::of(name, view.dtype())?.read(view.data());
    Ok(HostTensor {
        name: name.into(),
        shape: view.shape().to_vec(),
        dtype: HostDtype::F32,
        bytes: Element::F32.write(&values),
    })
}
