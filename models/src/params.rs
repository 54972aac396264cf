//! Parameters by path: listing, reading out, loading.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Tensor, TensorData},
};
use thiserror::Error;

use crate::host::{HostDtype, HostTensor};

/// What is known of a parameter without touching its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    /// Dotted path, in Hugging Face's names.
    pub path: String,
    /// Burn's id; differs from process to process.
    pub id: ParamId,
    /// Extent of each axis.
    pub shape: Vec<usize>,
}

impl ParamInfo {
    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Weight decay is for matrices that multiply and tables that embed, not for biases and norms.
    /// The same rule as `get_decay_parameter_names` in transformers' Trainer.
    pub fn decays(&self) -> bool {
        // CLIP spells one of its norms `pre_layrnorm`.
        !(self.path.ends_with(".bias") || self.path.contains("norm"))
    }
}

/// Weights that do not fit a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", describe(missing, unexpected, misshapen))]
pub struct LoadError {
    /// Parameters without a tensor.
    pub missing: Vec<String>,
    /// Tensors without a parameter.
    pub unexpected: Vec<String>,
    /// Path, shape in the model, shape given.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

fn describe(
    missing: &[String],
    unexpected: &[String],
    misshapen: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let mut text = "the weights do not fit the model".to_owned();
    for (title, names) in [("missing", missing), ("unexpected", unexpected)] {
        if !names.is_empty() {
            text += &format!("\n  {title} ({}): {}", names.len(), names.join(", "));
        }
    }
    for (path, expected, found) in misshapen {
        text += &format!("\n  {path}: expected shape {expected:?}, got {found:?}");
    }
    text
}

/// Values that [`read_heads`] reads of a parameter.
pub const NUM_HEAD: usize = 64;

/// Joins the names of nested modules into a path. The derive macro of Burn never calls `visit_float_with_path`.
#[derive(Default)]
struct PathStack(Vec<String>);

impl PathStack {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn path(&self) -> String {
        self.0.join(".")
    }
}

/// Every parameter in module order, which is the same in every process.
pub fn list_params(module: &impl Module) -> Vec<ParamInfo> {
    #[derive(Default)]
    struct Lister {
        stack: PathStack,
        found: Vec<ParamInfo>,
    }
    impl ModuleVisitor for Lister {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape().to_vec();
            self.found.push(ParamInfo {
                path: self.stack.path(),
                id: param.id,
                shape,
            });
        }
    }
    let mut lister = Lister::default();
    module.visit(&mut lister);
    lister.found
}

/// Reads parameters to host memory, in module order and in the dtype they are stored in.
pub fn read_params(module: &impl Module, wanted: impl Fn(&str) -> bool) -> Vec<HostTensor> {
    struct Reader<F> {
        stack: PathStack,
        wanted: F,
        read: Vec<HostTensor>,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Reader<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.stack.path();
            if (self.wanted)(&path) {
                self.read.push(to_host(path, param.val()));
            }
        }
    }
    let mut reader = Reader {
        stack: PathStack::default(),
        wanted,
        read: Vec::new(),
    };
    module.visit(&mut reader);
    reader.read
}

/// Reads the first values of parameters, [`NUM_HEAD`] at most, flat, in module order and in the dtype they are stored in.
pub fn read_heads(module: &impl Module, wanted: impl Fn(&str) -> bool) -> Vec<HostTensor> {
    struct Reader<F> {
        stack: PathStack,
        wanted: F,
        read: Vec<HostTensor>,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Reader<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.stack.path();
            if (self.wanted)(&path) {
                let value = param.val();
                let count = value.shape().num_elements();
                let head = value.reshape([count]).narrow(0, 0, count.min(NUM_HEAD));
                self.read.push(to_host(path, head));
            }
        }
    }
    let mut reader = Reader {
        stack: PathStack::default(),
        wanted,
        read: Vec::new(),
    };
    module.visit(&mut reader);
    reader.read
}

/// Copies a tensor to host memory under a name.
///
/// # Panics
/// If the dtype is neither f32 nor bf16: no other is ever stored.
pub fn to_host<const D: usize>(name: String, tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let data = tensor.into_data();
    let dtype = match data.dtype() {
        DType::F32 => HostDtype::F32,
        DType::BF16 => HostDtype::Bf16,
        other => unreachable!("parameters are f32 or bf16, {name} is {other:?}"),
    };
    HostTensor {
        name,
        shape,
        dtype,
        bytes: data.as_bytes().to_vec(),
    }
}

/// Puts a host tensor on a device in a chosen dtype.
pub fn from_host<const D: usize>(
    tensor: &HostTensor,
    device: &burn::tensor::Device,
    dtype: DType,
) -> Tensor<D> {
    let stored = match tensor.dtype {
        HostDtype::F32 => DType::F32,
        HostDtype::Bf16 => DType::BF16,
    };
    let data = TensorData::from_bytes_vec(tensor.bytes.clone(), tensor.shape.clone(), stored);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}

/// As [`from_host`], without the shape.
pub fn from_host_flat(tensor: &HostTensor, device: &burn::tensor::Device, dtype: DType) -> Tensor<1> {
    let flat = HostTensor {
        shape: vec![tensor.num_elements()],
        ..tensor.clone()
    };
    from_host(&flat, device, dtype)
}

/// Replaces all parameters by the given tensors, cast to the dtype each parameter has.
///
/// # Errors
/// If the names or shapes differ in any way: the full list, and the model is as it was.
pub fn load_params<M: Module>(module: M, tensors: Vec<HostTensor>) -> Result<M, (M, LoadError)> {
    load_some_params(module, tensors, |_| true)
}

/// Replaces the parameters whose path is `wanted`, as [`load_params`] does; the others keep their values.
///
/// # Errors
/// If the names or shapes differ in any way from those that are wanted: the full list, and the model is as it was.
pub fn load_some_params<M: Module>(
    module: M,
    tensors: Vec<HostTensor>,
    wanted: impl Fn(&str) -> bool,
) -> Result<M, (M, LoadError)> {
    let mut given: BTreeMap<String, HostTensor> = tensors
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let mut params = list_params(&module);
    params.retain(|param| wanted(&param.path));
    let mut error = LoadError {
        missing: Vec::new(),
        unexpected: Vec::new(),
        misshapen: Vec::new(),
    };
    for param in &params {
        match given.get(&param.path) {
            None => error.missing.push(param.path.clone()),
            Some(tensor) if tensor.shape != param.shape => {
                error
                    .misshapen
                    .push((param.path.clone(), param.shape.clone(), tensor.shape.clone()));
            }
            Some(_) => {}
        }
    }
    let known: std::collections::BTreeSet<&str> = params.iter().map(|param| param.path.as_str()).collect();
    error.unexpected.extend(
        given
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .cloned(),
    );
    if !(error.missing.is_empty() && error.unexpected.is_empty() && error.misshapen.is_empty()) {
        return Err((module, error));
    }

    struct Loader<'a> {
        stack: PathStack,
        given: &'a mut BTreeMap<String, HostTensor>,
    }
    impl ModuleMapper for Loader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.given.remove(&self.stack.path()) {
                Some(tensor) => replace_value(param, |old| from_host(&tensor, &old.device(), old.dtype())),
                None => param,
            }
        }
    }
    Ok(module.map(&mut Loader {
        stack: PathStack::default(),
        given: &mut given,
    }))
}

/// Swaps a parameter's value and keeps its id and whether it is trained.
pub fn replace_value<const D: usize>(
    param: Param<Tensor<D>>,
    value: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let (id, old, mapper) = param.consume();
    let (trained, taped) = (old.is_require_grad(), old.is_autodiff());
    let old = if taped { old.inner() } else { old };
    let new = value(old);
    let new = if taped {
        Tensor::from_inner(new).set_require_grad(trained)
    } else {
        new
    };
    Param::from_mapped_value(id, new, mapper)
}
