//! Forward and backward, one segment at a time.
//!
//! Every segment has a tape of its own, which starts at its input. Gradients therefore appear segment by segment, from
//! the head back, and can be reduced, sharded or applied before the next ones exist. Keeping the tapes until then, or
//! keeping only the inputs and running the segment again, is the same mechanism with another policy, and gives the same
//! bits. Reference for the idea: <https://arxiv.org/abs/1604.06174>.

use brazier_models::{Segment, Segmented, Vlm, VlmInputs, ops};
use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Gradients, Int, Tensor},
};

use super::{options::Recompute, tensor_group::TensorGroup, trainable::Trainable};
use crate::parallel::CollectiveError;

/// What is kept of a segment until the backward pass reaches it.
struct Link {
    segment: Segment,
    /// Start of the tape; `None` for the first segment of a chain.
    input: Option<Tensor<3>>,
    /// End of the tape; `None` if the segment will run again.
    output: Option<Tensor<3>>,
}

/// Where gradients go as they appear.
pub trait GradientSink {
    /// The gradient of a parameter, flat and in f32, by its place in the trainable ones.
    fn gradient(&mut self, position: usize, gradient: Tensor<1>);

    /// As much of the gradient of a parameter, in whatever dtype, as is not 0: `rows_n [n]` of its matrix and `values_nd [n, d]`
    /// to be added up there.
    fn rows(&mut self, position: usize, num_rows: usize, rows_n: Tensor<1, Int>, values_nd: Tensor<2>) {
        let [_, width] = values_nd.dims();
        let len = num_rows * width;
        let zeros = Tensor::<1>::zeros([len], (&values_nd.device(), DType::F32));
        let sum = ops::add_rows(zeros.reshape([num_rows, width]), rows_n, values_nd);
        self.gradient(position, sum.reshape([len]));
    }

    /// The backward pass has left a segment: no more gradients come from it, nor from those after it.
    fn left(&mut self, segment: Segment);
}

/// Where the parameters are.
pub trait Residence {
    /// The model, with the parameters of a segment in their places. Those of other segments may have gone.
    ///
    /// # Errors
    /// If a rank that has parts of them is missing or has failed.
    fn enter(&mut self, segment: Segment) -> Result<&Vlm, CollectiveError>;
}

/// All parameters, on this device.
impl Residence for &Vlm {
    fn enter(&mut self, _: Segment) -> Result<&Vlm, CollectiveError> {
        Ok(self)
    }
}

/// The segments that [`forward_backward`] enters, in order.
pub(super) fn itinerary(path: &[Segment], trainable: &Trainable) -> Vec<Segment> {
    let back = moving(path, trainable).iter().rev();
    path.iter().chain([&Segment::Head]).chain(back).copied().collect()
}

/// The part of a path from the first segment that moves.
fn moving<'a>(path: &'a [Segment], trainable: &Trainable) -> &'a [Segment] {
    let first = path.iter().position(|&segment| trainable.moves(segment));
    &path[first.unwrap_or(path.len())..]
}

/// Runs a batch and hands each trained parameter's gradient of the **summed** loss to `sink`. A parameter used in two
/// places (tied embeddings) is handed over twice; one that the batch does not reach is not handed over.
///
/// `path` are the segments that the ranks pass together, in order and without the head: where one rank has images all
/// enter the vision tower, since each has parts of its parameters. A rank without a batch enters and leaves.
///
/// `ranks` hold the model together and all call this with the same batch. What a link of theirs gives is added up before the
/// next one begins, and so are gradients on their way back; those of parameters stay the terms that they are.
///
/// Returns the summed loss, `[1]`, still on the device; `None` without a batch.
///
/// # Errors
/// If a rank is missing or has failed.
pub fn forward_backward(
    residence: &mut impl Residence,
    trainable: &Trainable,
    inputs: Option<&VlmInputs>,
    path: &[Segment],
    recompute: Recompute,
    ranks: &TensorGroup,
    sink: &mut impl GradientSink,
) -> Result<Option<Tensor<1>>, CollectiveError> {
    let Forward {
        mut links,
        hidden,
        moves,
    } = forward(residence, trainable, inputs, path, recompute, ranks)?;
    let model = residence.enter(Segment::Head)?;
    let mut upstream = None;
    let loss = match (inputs, hidden) {
        (Some(inputs), Some(hidden)) => {
            // With nothing trained before it, the head's input needs no gradient.
            let leaf = start_tape(hidden, moves);
            let loss = head(model, leaf.clone(), inputs, ranks)?;
            let mut gradients = loss.is_tracked().then(|| loss.backward());
            if moves {
                upstream = Some(input_gradient(
                    model,
                    Segment::Head,
                    leaf,
                    gradients.as_mut(),
                    ranks,
                )?);
            }
            if let Some(gradients) = &mut gradients {
                collect(model, trainable, gradients, sink);
            }
            Some(if loss.is_autodiff() { loss.inner() } else { loss })
        }
        _ => None,
    };
    sink.left(Segment::Head);
    for &segment in moving(path, trainable).iter().rev() {
        let model = residence.enter(segment)?;
        let link = links.pop_if(|link| link.segment == segment);
        if let Some(link) = link
            && let (Some(gradient), Some(inputs)) = (upstream.take(), inputs)
        {
            if segment == Segment::Embed {
                table_gradient(model, trainable, gradient.clone(), inputs, sink);
                if !link.input.as_ref().is_some_and(Tensor::is_require_grad) {
                    // Nothing else of it is on a tape.
                    sink.left(segment);
                    continue;
                }
            }
            let output = match link.output {
                Some(output) => output,
                None => model.forward_segment(segment, link.input.clone(), inputs),
            };
            // The gradient of sum(y * g) with respect to y is g: a vector-Jacobian product through the public API.
            let product = (output * Tensor::from_inner(gradient)).sum();
            // A shard's term may have nothing in it that moves.
            let mut gradients = product.is_tracked().then(|| product.backward());
            if let Some(input) = link.input.filter(Tensor::is_require_grad) {
                upstream = Some(input_gradient(model, segment, input, gradients.as_mut(), ranks)?);
            }
            if let Some(gradients) = &mut gradients {
                collect(model, trainable, gradients, sink);
            }
        }
        sink.left(segment);
    }
    Ok(loss)
}

/// The loss, or this rank's term of it.
fn head(
    model: &Vlm,
    x: Tensor<3>,
    inputs: &VlmInputs,
    ranks: &TensorGroup,
) -> Result<Tensor<1>, CollectiveError> {
    if !model.gives_term(Segment::Head) {
        return Ok(model.loss_sum(x, inputs));
    }
    // What every rank needs to know of the others' logits, before any gradient is taken.
    let own = model.valid().log_sums(x.clone().inner());
    let log_sums = own.map(|own| ranks.log_sums(own)).transpose()?;
    Ok(model.loss_term(x, inputs, log_sums))
}

/// The gradient of a link's input, in full.
fn input_gradient(
    model: &Vlm,
    segment: Segment,
    input: Tensor<3>,
    gradients: Option<&mut Gradients>,
    ranks: &TensorGroup,
) -> Result<Tensor<3>, CollectiveError> {
    let own = gradients.and_then(|gradients| input.grad_remove(gradients));
    let own = own.unwrap_or_else(|| input.inner().zeros_like());
    // What goes into the embeddings are images, and those are in one rank's term alone.
    match model.gives_term(segment) && segment != Segment::Embed {
        true => ranks.sum(own),
        false => Ok(own),
    }
}

/// Hands over the token table's gradient, which is not on the tape.
fn table_gradient(
    model: &Vlm,
    trainable: &Trainable,
    dx: Tensor<3>,
    inputs: &VlmInputs,
    sink: &mut impl GradientSink,
) {
    let table = &model.language_model.model.embed_tokens.weight;
    if let Some(position) = trainable.position(table.id) {
        let (rows_n, values_nd) = model.table_gradient(dx, inputs);
        sink.rows(position, table.val().dims()[0], rows_n, values_nd);
    }
}

/// What is left of the way to the head.
struct Forward {
    links: Vec<Link>,
    /// Before the head.
    hidden: Option<Tensor<3>>,
    /// Whether something on the way moves; on another rank of the model, if this one has none of it.
    moves: bool,
}

fn forward(
    residence: &mut impl Residence,
    trainable: &Trainable,
    inputs: Option<&VlmInputs>,
    path: &[Segment],
    recompute: Recompute,
    ranks: &TensorGroup,
) -> Result<Forward, CollectiveError> {
    let mut links: Vec<Link> = Vec::new();
    let mut hidden: Option<Tensor<3>> = None;
    let mut moves = false;
    for &segment in path {
        let model = residence.enter(segment)?;
        let Some(inputs) = inputs.filter(|inputs| model.passes(segment, inputs)) else {
            continue;
        };
        let needs_gradient = moves;
        moves |= trainable.moves(segment);
        if !model.runs(segment) {
            continue;
        }
        // Before the first segment that moves no gradient is needed, so nothing is kept.
        if !moves {
            let output = model.valid().forward_segment(segment, hidden, inputs);
            hidden = Some(whole_output(model, segment, output, ranks)?);
            continue;
        }
        let input = hidden.take().map(|x| start_tape(x, needs_gradient));
        // Taped in any case, even if the tape is dropped at once: without one a backend may choose another kernel, and
        // recomputing would no longer give the same bits.
        let output = model.forward_segment(segment, input.clone(), inputs);
        hidden = Some(whole_output(model, segment, output.clone().inner(), ranks)?);
        let output = (recompute == Recompute::None).then_some(output);
        links.push(Link {
            segment,
            input,
            output,
        });
    }
    Ok(Forward { links, hidden, moves })
}

fn whole_output(
    model: &Vlm,
    segment: Segment,
    output: Tensor<3>,
    ranks: &TensorGroup,
) -> Result<Tensor<3>, CollectiveError> {
    match model.gives_term(segment) {
        true => ranks.sum(output),
        false => Ok(output),
    }
}

fn start_tape(x: Tensor<3>, needs_gradient: bool) -> Tensor<3> {
    Tensor::from_inner(x).set_require_grad(needs_gradient)
}

/// Takes the gradients of parameters out of a tape's result.
fn collect(model: &Vlm, trainable: &Trainable, gradients: &mut Gradients, sink: &mut impl GradientSink) {
    struct Collector<'a, S> {
        trainable: &'a Trainable,
        gradients: &'a mut Gradients,
        sink: &'a mut S,
    }
    impl<S: GradientSink> ModuleVisitor for Collector<'_, S> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(position) = self.trainable.position(param.id) else {
                return;
            };
            if let Some(gradient) = param.val().grad_remove(self.gradients) {
                let count = gradient.shape().num_elements();
                let flat = gradient.reshape([count]);
                // bf16 parameters have bf16 gradients; sums over micro-batches and ranks are f32.
                let flat = if flat.dtype() == DType::F32 {
                    flat
                } else {
                    flat.cast(DType::F32)
                };
                self.sink.gradient(position, flat);
            }
        }
    }
    model.visit(&mut Collector {
        trainable,
        gradients,
        sink,
    });
}

impl<F: FnMut(usize, Tensor<1>)> GradientSink for F {
    fn gradient(&mut self, position: usize, gradient: Tensor<1>) {
        self(position, gradient);
    }

    fn left(&mut self, _: Segment) {}
}
