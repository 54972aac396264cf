//! The operations, and how a case of each is drawn.

use burn::tensor::{Int, Tensor};

use crate::ops::{self, Activation, AdamwState, AdamwStep, AttentionMask, RopeTable, Segments, reference};

use super::{Case, Draw, Op, draw::ints};

/// All operations.
pub const OPS: [Op; 15] = [
    with_products("linear", linear),
    op("rms_norm", rms_norm),
    op("layer_norm", layer_norm),
    op("rope", rope),
    with_products("attention", attention),
    with_products("attention with segments", segments),
    op("swiglu", swiglu),
    op("activate", activate),
    op("xielu", xielu),
    op("take_rows", take_rows),
    op("add_rows", add_rows),
    with_products("linear_cross_entropy", linear_cross_entropy),
    with_products("linear_cross_entropy in parts", linear_cross_entropy_in_parts),
    op("adamw", adamw),
    with_products("attention over long rows", long_rows),
];

const fn op(name: &'static str, case: fn(&mut Draw) -> Case) -> Op {
    Op {
        name,
        has_products: false,
        case,
    }
}

const fn with_products(name: &'static str, case: fn(&mut Draw) -> Case) -> Op {
    Op {
        has_products: true,
        ..op(name, case)
    }
}

fn case(
    shapes: String,
    inputs: Vec<Vec<f32>>,
    op: impl Fn(&[Tensor<1>]) -> Tensor<1> + 'static,
    definition: impl Fn(&[Tensor<1>]) -> Tensor<1> + 'static,
) -> Case {
    Case {
        shapes,
        inputs,
        op: Box::new(op),
        definition: Box::new(definition),
        differentiable: true,
    }
}

fn matrix(x: &Tensor<1>, rows: usize) -> Tensor<2> {
    let columns = x.dims()[0] / rows;
    x.clone().reshape([rows, columns])
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n: usize = x.dims().iter().product();
    x.reshape([n])
}

fn linear(draw: &mut Draw) -> Case {
    let (n, i, o) = (draw.size(1, 300), draw.size(1, 500), draw.size(1, 200));
    let biased = draw.one_of(&[false, true]);
    let mut inputs = vec![draw.values(n * i), draw.values(o * i)];
    if biased {
        inputs.push(draw.values(o));
    }
    type Linear = fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>;
    let run = move |linear: Linear| {
        move |x: &[Tensor<1>]| flat(linear(matrix(&x[0], n), matrix(&x[1], o), x.get(2).cloned()))
    };
    let shapes = format!("[{n}, {i}] by [{o}, {i}], bias {biased}");
    case(shapes, inputs, run(ops::linear), run(reference::linear))
}

fn rms_norm(draw: &mut Draw) -> Case {
    let (n, d) = (draw.size(1, 200), draw.size(1, 3000));
    type Norm = fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>;
    let run = move |norm: Norm| move |x: &[Tensor<1>]| flat(norm(matrix(&x[0], n), x[1].clone(), 1e-5));
    let inputs = vec![draw.values(n * d), draw.values(d)];
    case(
        format!("[{n}, {d}]"),
        inputs,
        run(ops::rms_norm),
        run(reference::rms_norm),
    )
}

fn layer_norm(draw: &mut Draw) -> Case {
    // Rows of two elements are almost constant.
    let (n, d) = (draw.size(1, 200), draw.size(3, 3000));
    type Norm = fn(Tensor<2>, Tensor<1>, Tensor<1>, f64) -> Tensor<2>;
    let run = move |norm: Norm| {
        move |x: &[Tensor<1>]| flat(norm(matrix(&x[0], n), x[1].clone(), x[2].clone(), 1e-5))
    };
    let inputs = vec![draw.values(n * d), draw.values(d), draw.values(d)];
    case(
        format!("[{n}, {d}]"),
        inputs,
        run(ops::layer_norm),
        run(reference::layer_norm),
    )
}

/// As models split heads: a view of `[b, t, h, k]`.
fn split(x: &Tensor<1>, [b, t, h, k]: [usize; 4]) -> Tensor<4> {
    x.clone().reshape([b, t, h, k]).swap_dims(1, 2)
}

fn joined(y_bhtk: Tensor<4>) -> Tensor<1> {
    flat(y_bhtk.swap_dims(1, 2))
}

fn rope(draw: &mut Draw) -> Case {
    let shape @ [b, t, h, k] = [
        draw.size(1, 4),
        draw.size(1, 90),
        draw.size(1, 7),
        2 * draw.size(1, 64),
    ];
    let first = draw.size(0, 5000);
    type Rope = fn(Tensor<4>, &RopeTable) -> Tensor<4>;
    let run = move |rope: Rope| {
        move |x: &[Tensor<1>]| {
            let table = RopeTable::new(first..first + t, k, 10_000.0, &x[0].device().inner());
            joined(rope(split(&x[0], shape), &table))
        }
    };
    let inputs = vec![draw.values(b * t * h * k)];
    case(
        format!("{shape:?} from {first}"),
        inputs,
        run(ops::rope),
        run(reference::rope),
    )
}

fn mask(draw: &mut Draw) -> AttentionMask {
    let window = draw.size(1, 200);
    draw.one_of(&[
        AttentionMask::Full,
        AttentionMask::Causal,
        AttentionMask::SlidingWindow { window },
    ])
}

type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>, AttentionMask, Option<&Segments>) -> Tensor<4>;

/// `h` queries heads of `t` positions, `g` key heads of `s`.
fn attend(
    draw: &mut Draw,
    [b, h, g, t, s, k]: [usize; 6],
    mask: AttentionMask,
    rows: Option<Vec<Vec<usize>>>,
) -> Case {
    let inputs = vec![
        draw.values(b * t * h * k),
        draw.values(b * s * g * k),
        draw.values(b * s * g * k),
    ];
    let shapes = format!("b {b} h {h} g {g} t {t} s {s} k {k}, {mask:?}, segments {rows:?}");
    let run = move |attention: Attention| {
        let segments = rows.clone().map(Segments::new);
        move |x: &[Tensor<1>]| {
            let q = split(&x[0], [b, t, h, k]);
            let [keys, values] = [1, 2].map(|i| split(&x[i], [b, s, g, k]));
            joined(attention(q, keys, values, mask, segments.as_ref()))
        }
    };
    case(shapes, inputs, run(ops::attention), run(reference::attention))
}

fn attention(draw: &mut Draw) -> Case {
    let (b, g, t) = (draw.size(1, 3), draw.size(1, 3), draw.size(1, 150));
    let (h, k) = (g * draw.size(1, 4), 2 * draw.size(1, 64));
    let s = t + draw.one_of(&[0, 0, 1, 40, 97]);
    let mask = mask(draw);
    attend(draw, [b, h, g, t, s, k], mask, None)
}

fn segments(draw: &mut Draw) -> Case {
    let (b, g, t) = (draw.size(1, 4), draw.size(1, 3), draw.size(1, 150));
    let (h, k) = (g * draw.size(1, 4), 2 * draw.size(1, 40));
    let mask = mask(draw);
    let rows = (0..b).map(|_| draw.lengths(t)).collect();
    attend(draw, [b, h, g, t, t, k], mask, Some(rows))
}

/// Longer than what devices do at once, however much they are spared.
fn long_rows(draw: &mut Draw) -> Case {
    let t = draw.one_of(&[257, 300, 517]);
    let [b, g, group] = [1, 2, 3].map(|_| draw.one_of(&[1, 2]));
    let (k, mask) = (2 * draw.size(1, 8), mask(draw));
    let is_packed = draw.one_of(&[false, true]);
    let rows = is_packed.then(|| (0..b).map(|_| draw.lengths(t)).collect());
    let s = if is_packed { t } else { t + draw.one_of(&[0, 40]) };
    attend(draw, [b, g * group, g, t, s, k], mask, rows)
}

fn swiglu(draw: &mut Draw) -> Case {
    let (n, i) = (draw.size(1, 100), draw.size(1, 900));
    type Swiglu = fn(Tensor<2>, Tensor<2>) -> Tensor<2>;
    let run = move |swiglu: Swiglu| move |x: &[Tensor<1>]| flat(swiglu(matrix(&x[0], n), matrix(&x[1], n)));
    let inputs = vec![draw.values(n * i), draw.values(n * i)];
    case(
        format!("[{n}, {i}]"),
        inputs,
        run(ops::swiglu),
        run(reference::swiglu),
    )
}

fn activate(draw: &mut Draw) -> Case {
    let (n, i) = (draw.size(1, 100), draw.size(1, 900));
    let kind = draw.one_of(&[Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu]);
    type Activate = fn(Tensor<2>, Activation) -> Tensor<2>;
    let run = move |activate: Activate| move |x: &[Tensor<1>]| flat(activate(matrix(&x[0], n), kind));
    let inputs = vec![draw.values(n * i)];
    case(
        format!("{kind:?} [{n}, {i}]"),
        inputs,
        run(ops::activate),
        run(reference::activate),
    )
}

fn xielu(draw: &mut Draw) -> Case {
    let (n, i) = (draw.size(1, 100), draw.size(1, 900));
    type Xielu = fn(Tensor<2>, Tensor<1>, Tensor<1>) -> Tensor<2>;
    let run =
        move |xielu: Xielu| move |x: &[Tensor<1>]| flat(xielu(matrix(&x[0], n), x[1].clone(), x[2].clone()));
    let inputs = vec![draw.values(n * i), draw.values(1), draw.values(1)];
    case(
        format!("[{n}, {i}]"),
        inputs,
        run(ops::xielu),
        run(reference::xielu),
    )
}

fn take_rows(draw: &mut Draw) -> Case {
    let (v, d, n) = (draw.size(1, 2000), draw.size(1, 200), draw.size(1, 1000));
    let rows = draw.indices(n, v);
    type Take = fn(Tensor<2>, Tensor<1, Int>) -> Tensor<2>;
    let run = move |take: Take| {
        let rows = rows.clone();
        move |x: &[Tensor<1>]| flat(take(matrix(&x[0], v), ints(&rows, &x[0].device().inner())))
    };
    let inputs = vec![draw.values(v * d)];
    case(
        format!("{n} of [{v}, {d}]"),
        inputs,
        run(ops::take_rows),
        run(reference::take_rows),
    )
}

fn add_rows(draw: &mut Draw) -> Case {
    let (v, d, n) = (draw.size(1, 2000), draw.size(1, 200), draw.size(1, 1000));
    let rows = draw.indices(n, v);
    type Add = fn(Tensor<2>, Tensor<1, Int>, Tensor<2>) -> Tensor<2>;
    let run = move |add: Add| {
        let rows = rows.clone();
        move |x: &[Tensor<1>]| {
            // Sums are f32 whatever a gradient is.
            let (table, values) = (matrix(&ops::to_f32(x[0].clone()), v), matrix(&x[1], n));
            let rows = || ints(&rows, &x[0].device());
            // Into memory that somebody else has as well, and into its own.
            let first = add(table.clone(), rows(), values.clone());
            let second = add(first.clone() * 2.0, rows(), values);
            flat(Tensor::cat(vec![table, first, second], 0))
        }
    };
    let inputs = vec![draw.values(v * d), draw.values(n * d)];
    Case {
        differentiable: false,
        ..case(
            format!("{n} to [{v}, {d}]"),
            inputs,
            run(ops::add_rows),
            run(reference::add_rows),
        )
    }
}

fn linear_cross_entropy(draw: &mut Draw) -> Case {
    let (n, d, v) = (draw.size(1, 150), draw.size(1, 100), draw.size(2, 3000));
    let targets = draw.indices(n, v);
    type Loss = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>;
    let run = move |loss: Loss| {
        let targets = targets.clone();
        move |x: &[Tensor<1>]| {
            let targets = ints(&targets, &x[0].device().inner());
            // A factor, as the learner divides by the number of tokens.
            loss(matrix(&x[0], n), matrix(&x[1], v), targets) / n as f32
        }
    };
    let inputs = vec![draw.values(n * d), draw.values(v * d)];
    let shapes = format!("[{n}, {d}] by [{v}, {d}]");
    case(
        shapes,
        inputs,
        run(ops::linear_cross_entropy),
        run(reference::linear_cross_entropy),
    )
}

type LogSums = fn(Tensor<2>, Tensor<2>) -> Tensor<1>;
type PartLoss = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, Tensor<1>) -> Tensor<1>;

/// The loss of a vocabulary that is cut into `count` parts, each of which knows its own rows and the log-sum-exps of all.
pub(crate) fn in_parts(
    (log_sums, part_loss): (LogSums, PartLoss),
    h_nd: &Tensor<2>,
    w_vd: &Tensor<2>,
    targets_n: Tensor<1, Int>,
    count: usize,
) -> Tensor<1> {
    let [v, _] = w_vd.dims();
    let cuts: Vec<usize> = (0..=count).map(|part| part * v / count).collect();
    let parts: Vec<(i64, Tensor<2>)> = cuts
        .windows(2)
        .map(|cut| (cut[0] as i64, w_vd.clone().narrow(0, cut[0], cut[1] - cut[0])))
        .collect();
    let sums_pn = parts.iter().map(|(_, w_vd)| log_sums(h_nd.clone(), w_vd.clone()));
    let sums_pn: Tensor<2> = Tensor::stack(sums_pn.collect(), 0);
    let max_1n = sums_pn.clone().max_dim(0);
    let sums_1n = (sums_pn - max_1n.clone()).exp().sum_dim(0).log() + max_1n;
    let sums_n: Tensor<1> = sums_1n.squeeze_dim::<1>(0).detach();
    let losses = parts
        .into_iter()
        .map(|(start, w_vd)| part_loss(h_nd.clone(), w_vd, targets_n.clone() - start, sums_n.clone()));
    Tensor::cat(losses.collect(), 0).sum()
}

/// Uneven parts, some of one row.
fn linear_cross_entropy_in_parts(draw: &mut Draw) -> Case {
    let (n, d, v) = (draw.size(1, 150), draw.size(1, 100), draw.size(5, 3000));
    let (targets, count) = (draw.indices(n, v), draw.size(1, 5));
    let (of_whole, of_parts) = (targets.clone(), targets);
    case(
        format!("[{n}, {d}] by [{v}, {d}] in {count}"),
        vec![draw.values(n * d), draw.values(v * d)],
        move |x: &[Tensor<1>]| {
            let targets = ints(&of_parts, &x[0].device().inner());
            let ops = (
                ops::linear_log_sum_exp as LogSums,
                ops::linear_cross_entropy_part as PartLoss,
            );
            in_parts(ops, &matrix(&x[0], n), &matrix(&x[1], v), targets, count) / n as f32
        },
        move |x: &[Tensor<1>]| {
            let targets = ints(&of_whole, &x[0].device().inner());
            reference::linear_cross_entropy(matrix(&x[0], n), matrix(&x[1], v), targets) / n as f32
        },
    )
}

/// Parameter and moments after a step, one after the other.
fn adamw(draw: &mut Draw) -> Case {
    let n = draw.size(1, 40_000);
    let step = AdamwStep {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.1,
        bias_correction2: 0.05,
        grad_scale: 0.25,
    };
    let squares = draw.values(n).into_iter().map(|x| x * x).collect();
    let inputs = vec![draw.values(n), draw.values(n), draw.values(n), squares];
    type Adamw = fn(AdamwState, Tensor<1>, AdamwStep) -> AdamwState;
    let run = move |adamw: Adamw| {
        move |x: &[Tensor<1>]| {
            // The state is f32 whatever the gradient is.
            let [master, m, v] = [1, 2, 3].map(|i| ops::to_f32(x[i].clone()));
            let AdamwState { master, m, v } = adamw(AdamwState { master, m, v }, x[0].clone(), step);
            Tensor::cat(vec![master, m, v], 0)
        }
    };
    Case {
        differentiable: false,
        ..case(format!("[{n}]"), inputs, run(ops::adamw), run(reference::adamw))
    }
}
