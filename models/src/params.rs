//! Parameters by path: listing, reading out, loading.

use std::{collections::BTreeMap, convert::Infallible};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Bytes, DType, Tensor, TensorData},
};
use thiserror::Error;

use crate::{
    host::{HostDtype, HostTensor},
    shard::Shard,
};

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
    let dtype = host_dtype(data.dtype());
    HostTensor {
        name,
        shape,
        dtype,
        bytes: data.as_bytes().to_vec(),
    }
}

/// Puts a host tensor on a device in a chosen dtype.
pub fn from_host<const D: usize>(
    tensor: HostTensor,
    device: &burn::tensor::Device,
    dtype: DType,
) -> Tensor<D> {
    Tensor::from_data(host_data(tensor).convert_dtype(dtype), (device, dtype))
}

fn host_data(tensor: HostTensor) -> TensorData {
    TensorData::from_bytes_vec(tensor.bytes, tensor.shape, device_dtype(tensor.dtype))
}

fn device_dtype(dtype: HostDtype) -> DType {
    match dtype {
        HostDtype::F32 => DType::F32,
        HostDtype::Bf16 => DType::BF16,
    }
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

    let mut replacer = Replacer {
        stack: PathStack::default(),
        next: |info: &ParamInfo| Ok(given.remove(&info.path).map(host_data)),
        dtype: None,
        shard: Shard::WHOLE,
        error: None::<Infallible>,
    };
    Ok(module.map(&mut replacer))
}

/// Replaces parameters, one after the other in module order, by what `next` writes.
///
/// `next` gets a buffer for the elements of one parameter, row-major, little-endian, in `dtype`, and says whether it has
/// filled it. A parameter that it passes over is drawn now if it was deferred, and stays as it is otherwise. The buffer
/// becomes the parameter: on a CPU nothing is copied, and on any device there is no more than one buffer at a time.
///
/// # Errors
/// The first one of `next`; it is not asked again.
pub fn fill_params<M: Module, E>(
    module: M,
    dtype: HostDtype,
    next: impl FnMut(&ParamInfo, &mut [u8]) -> Result<bool, E>,
) -> Result<M, E> {
    fill_part(module, Shard::WHOLE, dtype, next)
}

/// [`fill_params`] of which only the part of a shard stays.
pub(crate) fn fill_part<M: Module, E>(
    module: M,
    shard: Shard,
    dtype: HostDtype,
    mut next: impl FnMut(&ParamInfo, &mut [u8]) -> Result<bool, E>,
) -> Result<M, E> {
    let mut replacer = Replacer {
        stack: PathStack::default(),
        next: |info: &ParamInfo| {
            let count = info.num_elements();
            // Aligned for their elements; bytes of a `Vec<u8>` would be copied once more.
            let mut bytes = match dtype {
                HostDtype::F32 => Bytes::from_elems(vec![0_f32; count]),
                HostDtype::Bf16 => Bytes::from_elems(vec![0_u16; count]),
            };
            let is_filled = next(info, &mut bytes)?;
            Ok(is_filled.then(|| TensorData::from_bytes(bytes, info.shape.clone(), device_dtype(dtype))))
        },
        dtype: Some(device_dtype(dtype)),
        shard,
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
    /// What stays of each parameter.
    shard: Shard,
    error: Option<E>,
}

impl<F: FnMut(&ParamInfo) -> Result<Option<TensorData>, E>, E> ModuleMapper for Replacer<F, E> {
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
        let shard = self.shard;
        let part = |whole| shard.part_of(&info.path, whole);
        match (self.next)(&info) {
            Ok(Some(data)) if param.is_initialized() || self.dtype.is_none() => {
                let dtype = self.dtype;
                replace_value(param, |old| {
                    let dtype = dtype.unwrap_or(old.dtype());
                    part(Tensor::from_data(data, (&old.device(), dtype)))
                })
            }
            Ok(Some(data)) => {
                let dtype = self.dtype.unwrap_or(data.dtype());
                let whole = Tensor::from_data(data, (&param.lazy_device(), dtype));
                let mut fresh = Param::from_tensor(part(whole));
                fresh.id = info.id;
                fresh
            }
            Ok(None) => {
                // The value is made by asking for it.
                param.val();
                match shard.is_whole() {
                    true => param,
                    false => replace_value(param, part),
                }
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
