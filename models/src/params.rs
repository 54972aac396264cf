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
    let handles = param_handles(module, wanted);
    handles.iter().map(ParamHandle::fetch).collect()
}

/// A parameter whose value can be fetched to host memory, now or later; until then it stays where it is.
pub struct ParamHandle {
    /// Which one.
    pub info: ParamInfo,
    /// What it is stored in.
    pub dtype: HostDtype,
    fetch: Box<dyn Fn() -> HostTensor>,
}

impl ParamHandle {
    /// Copies the value to host memory.
    pub fn fetch(&self) -> HostTensor {
        (self.fetch)()
    }
}

/// Handles to parameters, in module order. No value is copied.
pub fn param_handles(module: &impl Module, wanted: impl Fn(&str) -> bool) -> Vec<ParamHandle> {
    struct Collector<F> {
        stack: PathStack,
        wanted: F,
        found: Vec<ParamHandle>,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Collector<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.stack.path();
            if !(self.wanted)(&path) {
                return;
            }
            let tensor = param.val();
            let info = ParamInfo {
                path: path.clone(),
                id: param.id,
                shape: tensor.dims().to_vec(),
            };
            self.found.push(ParamHandle {
                info,
                dtype: host_dtype(tensor.dtype()),
                fetch: Box::new(move || to_host(path.clone(), tensor.clone())),
            });
        }
    }
    let mut collector = Collector {
        stack: PathStack::default(),
        wanted,
        found: Vec::new(),
    };
    module.visit(&mut collector);
    collector.found
}

/// # Panics
/// If the dtype is neither f32 nor bf16: parameters have no other.
fn host_dtype(dtype: DType) -> HostDtype {
    match dtype {
        DType::F32 => HostDtype::F32,
        DType::BF16 => HostDtype::Bf16,
        other => unreachable!("parameters are f32 or bf16, not {other:?}"),
    }
}

/// Copies a tensor to host memory under a name.
///
/// # Panics
/// If the dtype is neither f32 nor bf16: no other is ever stored.
pub fn to_host<const D: usize>(name: String, tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let data = tensor.into_data();
    let dtype = host_dtype(data.dtype());
    HostTensor {
        name,
        shape,
        dtype,
        bytes: data.as_bytes().to_vec(),
    }
}

/// Puts a host tensor on a device in a chosen dtype. On a CPU in its own dtype the bytes are not copied.
pub fn from_host<const D: usize>(
    tensor: HostTensor,
    device: &burn::tensor::Device,
    dtype: DType,
) -> Tensor<D> {
    let stored = match tensor.dtype {
        HostDtype::F32 => DType::F32,
        HostDtype::Bf16 => DType::BF16,
    };
    let data = TensorData::from_bytes_vec(tensor.bytes, tensor.shape, stored);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}

/// As [`from_host`], without the shape.
pub fn from_host_flat(tensor: &HostTensor, device: &burn::tensor::Device, dtype: DType) -> Tensor<1> {
    let flat = HostTensor {
        shape: vec![tensor.num_elements()],
        ..tensor.clone()
    };
    from_host(flat, device, dtype)
}

/// Replaces all parameters by the given tensors, cast to the dtype each parameter has.
///
/// # Errors
/// If the names or shapes differ in any way: the full list, and the model is as it was.
pub fn load_params<M: Module>(module: M, tensors: Vec<HostTensor>) -> Result<M, (M, LoadError)> {
    let mut given: BTreeMap<String, HostTensor> = tensors
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let params = list_params(&module);
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

    let mut replacer = Replacer {
        stack: PathStack::default(),
        next: |info: &ParamInfo| Ok(given.remove(&info.path)),
        dtype: None,
        error: None::<std::convert::Infallible>,
    };
    Ok(module.map(&mut replacer))
}

/// Replaces parameters, one after the other in module order, by what `next` gives for them, cast to `dtype`. What it
/// gives none for is made now if it was deferred, and stays as it is otherwise.
///
/// At no time does more than one tensor of `next` exist beside the parameters.
///
/// # Errors
/// The first one of `next`; it is not asked again.
///
/// # Panics
/// If a tensor's shape is not the parameter's: who gives it has compared them.
pub fn fill_params<M: Module, E>(
    module: M,
    dtype: DType,
    next: impl FnMut(&ParamInfo) -> Result<Option<HostTensor>, E>,
) -> Result<M, E> {
    let mut replacer = Replacer {
        stack: PathStack::default(),
        next,
        dtype: Some(dtype),
        error: None,
    };
    let module = module.map(&mut replacer);
    match replacer.error {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

struct Replacer<F, E> {
    stack: PathStack,
    next: F,
    /// `None`: that of the parameter's present value.
    dtype: Option<DType>,
    error: Option<E>,
}

impl<F: FnMut(&ParamInfo) -> Result<Option<HostTensor>, E>, E> ModuleMapper for Replacer<F, E> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.stack.enter(name);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let info = ParamInfo {
            path: self.stack.path(),
            id: param.id,
            shape: param.lazy_shape().to_vec(),
        };
        match (self.next)(&info) {
            Ok(Some(tensor)) => {
                assert_eq!(tensor.shape, info.shape, "{}", info.path);
                if param.is_initialized() {
                    let dtype = self.dtype;
                    return replace_value(param, |old| {
                        from_host(tensor, &old.device(), dtype.unwrap_or(old.dtype()))
                    });
                }
                let dtype = self.dtype.unwrap_or_else(|| param.val().dtype());
                let mut fresh = Param::from_tensor(from_host(tensor, &param.lazy_device(), dtype));
                fresh.id = info.id;
                fresh
            }
            Ok(None) => {
                param.val();
                param
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
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
