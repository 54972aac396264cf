//! Tensors in host memory: what files hold and what crosses between devices.

/// Element type of a [`HostTensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostDtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl HostDtype {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            HostDtype::F32 => 4,
            HostDtype::Bf16 => 2,
        }
    }
}

/// A named tensor in host memory: row-major, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dotted path of the parameter, in Hugging Face's names.
    pub name: String,
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: HostDtype,
    /// `shape.product() * dtype.size_bytes()` bytes.
    pub bytes: Vec<u8>,
}

impl HostTensor {
    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}
