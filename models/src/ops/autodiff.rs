//! Gradients: each op is one node of the tape that keeps the least it can and calls the inner backend's backward method.

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{
    Autodiff, AutodiffBackend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::DType;

use super::{Activation, AdamwStep, Visible, kernels::ModelOps};

/// Declares a node: its state, and the body of its backward pass, in which `$parents` are the tracked parents (`None`
/// where no gradient is wanted), `$dy` the gradient of the output and `$grads` where to register.
macro_rules! node {
    ($name:ident<$b:ident, $n:literal>, $state:ty, |$saved:pat_param, $parents:pat_param, $dy:ident, $grads:ident| $body:block) => {
        #[derive(Debug)]
        struct $name;

        impl<$b: ModelOps> Backward<$b, $n> for $name {
            type State = $state;

            fn backward(self, ops: Ops<Self::State, $n>, $grads: &mut Gradients, _: &mut Checkpointer) {
                let $dy = $grads.consume::<$b>(&ops.node);
                let $saved = ops.state;
                let $parents = ops.parents;
                $body
            }
        }
    };
}

type Float<B> = FloatTensor<B>;

// An operand is kept only if the other one wants a gradient.
node!(LinearNode<B, 2>, (Option<Float<B>>, Option<Float<B>>), |(x, w), [px, pw], dy, grads| {
    linear_grads::<B>(x, w, dy, px.map(|p| p.id), pw.map(|p| p.id), grads);
});

node!(LinearBiasNode<B, 3>, (Option<Float<B>>, Option<Float<B>>), |(x, w), [px, pw, pb], dy, grads| {
    if let Some(p) = pb {
        grads.register::<B>(p.id, B::column_sum(dy.clone()));
    }
    linear_grads::<B>(x, w, dy, px.map(|p| p.id), pw.map(|p| p.id), grads);
});

fn linear_grads<B: ModelOps>(
    x: Option<Float<B>>,
    w: Option<Float<B>>,
    dy: Float<B>,
    x_id: Option<burn::backend::autodiff::NodeId>,
    w_id: Option<burn::backend::autodiff::NodeId>,
    grads: &mut Gradients,
) {
    if let (Some(id), Some(x)) = (w_id, x) {
        grads.register::<B>(id, B::linear_dw(dy.clone(), x));
    }
    if let (Some(id), Some(w)) = (x_id, w) {
        grads.register::<B>(id, B::linear_dx(dy, w));
    }
}

node!(RmsNormNode<B, 2>, (Float<B>, Float<B>, f64), |(x, w, eps), [px, pw], dy, grads| {
    let (dx, dw) = B::rms_norm_backward(x, w, dy, eps);
    if let Some(p) = px {
        grads.register::<B>(p.id, dx);
    }
    if let Some(p) = pw {
        grads.register::<B>(p.id, dw);
    }
});

node!(LayerNormNode<B, 3>, (Float<B>, Float<B>, f64), |(x, w, eps), [px, pw, pb], dy, grads| {
    let (dx, dw, db) = B::layer_norm_backward(x, w, dy, eps);
    for (parent, gradient) in [(px, dx), (pw, dw), (pb, db)] {
        if let Some(p) = parent {
            grads.register::<B>(p.id, gradient);
        }
    }
});

node!(RopeNode<B, 1>, (Float<B>, Float<B>), |(cos, sin), [px], dy, grads| {
    if let Some(p) = px {
        grads.register::<B>(p.id, B::rope_backward(dy, cos, sin));
    }
});

node!(SwigluNode<B, 2>, (Float<B>, Float<B>), |(gate, up), [pg, pu], dy, grads| {
    let (dgate, dup) = B::swiglu_backward(gate, up, dy);
    if let Some(p) = pg {
        grads.register::<B>(p.id, dgate);
    }
    if let Some(p) = pu {
        grads.register::<B>(p.id, dup);
    }
});

node!(ActivateNode<B, 1>, (Float<B>, Activation), |(x, activation), [px], dy, grads| {
    if let Some(p) = px {
        grads.register::<B>(p.id, B::activate_backward(x, dy, activation));
    }
});

node!(XieluNode<B, 3>, (Float<B>, Float<B>, Float<B>), |(x, alpha_p, alpha_n), [px, pp, pn], dy, grads| {
    let (dx, dalpha_p, dalpha_n) = B::xielu_backward(x, alpha_p, alpha_n, dy);
    for (parent, gradient) in [(px, dx), (pp, dalpha_p), (pn, dalpha_n)] {
        if let Some(p) = parent {
            grads.register::<B>(p.id, gradient);
        }
    }
});

#[derive(Debug, Clone)]
struct AttentionState<F> {
    q: F,
    k: F,
    v: F,
    out: F,
    log_sum: F,
    visible: Visible,
}

node!(AttentionNode<B, 3>, AttentionState<Float<B>>, |saved, [pq, pk, pv], dout, grads| {
    let AttentionState { q, k, v, out, log_sum, visible } = saved;
    let (dq, dk, dv) = B::attention_backward(q, k, v, out, log_sum, dout, visible);
    for (parent, gradient) in [(pq, dq), (pk, dk), (pv, dv)] {
        if let Some(p) = parent {
            grads.register::<B>(p.id, gradient);
        }
    }
});

node!(TakeRowsNode<B, 1>, (IntTensor<B>, usize), |(rows, num_rows), [pt], dy, grads| {
    if let Some(p) = pt {
        grads.register::<B>(p.id, B::take_rows_backward(dy, rows, num_rows));
    }
});

// The gradients are known after the forward pass; backward only multiplies them with the gradient of the loss.
node!(LossNode<B, 2>, (Option<Float<B>>, Option<Float<B>>, DType), |(dh, dw, dtype), [ph, pw], dy, grads| {
    for (parent, gradient) in [(ph, dh), (pw, dw)] {
        if let (Some(p), Some(gradient)) = (parent, gradient) {
            grads.register::<B>(p.id, B::scale(gradient, dy.clone(), dtype));
        }
    }
});

impl<B: ModelOps, C: CheckpointStrategy> ModelOps for Autodiff<B, C> {
    fn linear_forward(x: Float<Self>, w: Float<Self>) -> Float<Self> {
        let (keep_x, keep_w) = (w.is_tracked(), x.is_tracked());
        let nodes = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        match LinearNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (keep_x.then(|| x.clone()), keep_w.then(|| w.clone()));
                prep.finish(saved, B::linear_forward(x, w))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_forward(x, w)),
        }
    }

    fn linear_bias(x: Float<Self>, w: Float<Self>, bias: Float<Self>) -> Float<Self> {
        let (keep_x, keep_w) = (w.is_tracked(), x.is_tracked());
        let nodes = [x.node(), w.node(), bias.node()];
        let (x, w, bias) = (x.into_primitive(), w.into_primitive(), bias.into_primitive());
        match LinearBiasNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (keep_x.then(|| x.clone()), keep_w.then(|| w.clone()));
                prep.finish(saved, B::linear_bias(x, w, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_bias(x, w, bias)),
        }
    }

    fn rms_norm(x: Float<Self>, w: Float<Self>, eps: f64) -> Float<Self> {
        let nodes = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        match RmsNormNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), w.clone(), eps), B::rms_norm(x, w, eps)),
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, w, eps)),
        }
    }

    fn layer_norm_forward(x: Float<Self>, w: Float<Self>, b: Float<Self>, eps: f64) -> Float<Self> {
        let nodes = [x.node(), w.node(), b.node()];
        let (x, w, b) = (x.into_primitive(), w.into_primitive(), b.into_primitive());
        match LayerNormNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), w.clone(), eps), B::layer_norm_forward(x, w, b, eps))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::layer_norm_forward(x, w, b, eps)),
        }
    }

    fn rope(x: Float<Self>, cos: Float<Self>, sin: Float<Self>) -> Float<Self> {
        let nodes = [x.node()];
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        match RopeNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos.clone(), sin.clone()), B::rope(x, cos, sin)),
            OpsKind::UnTracked(prep) => prep.finish(B::rope(x, cos, sin)),
        }
    }

    fn swiglu(gate: Float<Self>, up: Float<Self>) -> Float<Self> {
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match SwigluNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::swiglu(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::swiglu(gate, up)),
        }
    }

    fn activate(x: Float<Self>, activation: Activation) -> Float<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        match ActivateNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), activation), B::activate(x, activation)),
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x, activation)),
        }
    }

    fn xielu(x: Float<Self>, alpha_p: Float<Self>, alpha_n: Float<Self>) -> Float<Self> {
        let nodes = [x.node(), alpha_p.node(), alpha_n.node()];
        let x = x.into_primitive();
        let (alpha_p, alpha_n) = (alpha_p.into_primitive(), alpha_n.into_primitive());
        match XieluNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (x.clone(), alpha_p.clone(), alpha_n.clone());
                prep.finish(saved, B::xielu(x, alpha_p, alpha_n))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::xielu(x, alpha_p, alpha_n)),
        }
    }

    fn attention_forward(
        q: Float<Self>,
        k: Float<Self>,
        v: Float<Self>,
        visible: Visible,
    ) -> (Float<Self>, Float<Self>) {
        let nodes = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (out, log_sum) = B::attention_forward(q.clone(), k.clone(), v.clone(), visible.clone());
        let constant = <Self as AutodiffBackend>::from_inner(log_sum.clone());
        let out = match AttentionNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = AttentionState {
                    q,
                    k,
                    v,
                    out: out.clone(),
                    log_sum,
                    visible,
                };
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, constant)
    }

    fn take_rows(table: Float<Self>, rows: IntTensor<Self>) -> Float<Self> {
        let nodes = [table.node()];
        let table = table.into_primitive();
        match TakeRowsNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let num_rows = table.shape()[0];
                prep.finish((rows.clone(), num_rows), B::take_rows(table, rows))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::take_rows(table, rows)),
        }
    }

    fn add_rows(table: Float<Self>, rows: IntTensor<Self>, values: Float<Self>) -> Float<Self> {
        <Self as AutodiffBackend>::from_inner(B::add_rows(
            table.into_primitive(),
            rows,
            values.into_primitive(),
        ))
    }

    fn linear_cross_entropy(h: Float<Self>, w: Float<Self>, targets: IntTensor<Self>) -> Float<Self> {
        let (h_tracked, w_tracked) = (h.is_tracked(), w.is_tracked());
        let nodes = [h.node(), w.node()];
        let (h, w) = (h.into_primitive(), w.into_primitive());
        let dtype = h.dtype();
        match LossNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) if w_tracked => {
                let (loss, dh, dw) = B::linear_cross_entropy_dh_dw(h, w, targets);
                prep.finish((h_tracked.then_some(dh), Some(dw), dtype), loss)
            }
            OpsKind::Tracked(prep) => {
                let (loss, dh) = B::linear_cross_entropy_dh(h, w, targets);
                prep.finish((Some(dh), None, dtype), loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_cross_entropy(h, w, targets)),
        }
    }

    fn linear_log_sum_exp(h: Float<Self>, w: Float<Self>) -> Float<Self> {
        <Self as AutodiffBackend>::from_inner(B::linear_log_sum_exp(h.into_primitive(), w.into_primitive()))
    }

    fn linear_cross_entropy_part(
        h: Float<Self>,
        w: Float<Self>,
        targets: IntTensor<Self>,
        log_sums: Float<Self>,
        here: Float<Self>,
    ) -> Float<Self> {
        let (h_tracked, w_tracked) = (h.is_tracked(), w.is_tracked());
        let nodes = [h.node(), w.node()];
        let (h, w) = (h.into_primitive(), w.into_primitive());
        let (log_sums, here) = (log_sums.into_primitive(), here.into_primitive());
        let dtype = h.dtype();
        match LossNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) if w_tracked => {
                let (loss, dh, dw) = B::linear_cross_entropy_part_dh_dw(h, w, targets, log_sums, here);
                prep.finish((h_tracked.then_some(dh), Some(dw), dtype), loss)
            }
            OpsKind::Tracked(prep) => {
                let (loss, dh) = B::linear_cross_entropy_part_dh(h, w, targets, log_sums, here);
                prep.finish((Some(dh), None, dtype), loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::linear_cross_entropy_part(h, w, targets, log_sums, here))
            }
        }
    }

    fn adamw(
        master: Float<Self>,
        grad: Float<Self>,
        m: Float<Self>,
        v: Float<Self>,
        step: AdamwStep,
    ) -> (Float<Self>, Float<Self>, Float<Self>) {
        let lift = <Self as AutodiffBackend>::from_inner;
        let (master, grad) = (master.into_primitive(), grad.into_primitive());
        let (master, m, v) = B::adamw(master, grad, m.into_primitive(), v.into_primitive(), step);
        (lift(master), lift(m), lift(v))
    }

    fn sum_of_squares(x: Float<Self>) -> Float<Self> {
        <Self as AutodiffBackend>::from_inner(B::sum_of_squares(x.into_primitive()))
    }
}
