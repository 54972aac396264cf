//! The bodies for any backend against the Flex kernels, and what the tape keeps.

use burn::backend::{Flex, tensor::FloatTensor};

use super::*;
use crate::ops::{generic, kernels::ModelOps};

pub(super) fn primitive<const D: usize>(shape: [usize; D], seed: u64) -> FloatTensor<Flex> {
    let data = TensorData::new(noise(shape.iter().product(), seed), shape);
    let tensor = Tensor::<D>::from_data(data, (&Device::flex(), DType::F32));
    tensor.try_into_primitive::<Flex>().unwrap()
}

pub(super) fn host<const D: usize>(x: FloatTensor<Flex>) -> Vec<f32> {
    floats(Tensor::<D>::from_primitive::<Flex>(x))
}

#[test]
fn attention_in_chunks_equals_the_kernel() {
    // More than 256 Ki scores a head: the generic body takes several chunks of queries.
    let (b, h, g, t, s, k) = (1, 4, 2, 500, 600, 8);
    for mask in [
        AttentionMask::Causal,
        AttentionMask::Full,
        AttentionMask::SlidingWindow { window: 3 },
        AttentionMask::SlidingWindow { window: 70 },
        AttentionMask::SlidingWindow { window: 590 },
    ] {
        let visible = || Visible { mask, segments: None };
        let q = || primitive([b, h, t, k], 1);
        let (keys, values) = (|| primitive([b, g, s, k], 2), || primitive([b, g, s, k], 3));
        let dout = || primitive([b, h, t, k], 4);
        let (out, log_sum) = generic::attention::<Flex>(q(), keys(), values(), visible());
        let (out2, log_sum2) = Flex::attention_forward(q(), keys(), values(), visible());
        let gradients = generic::attention_backward::<Flex>(
            q(),
            keys(),
            values(),
            out.clone(),
            log_sum.clone(),
            dout(),
            visible(),
        );
        let gradients2 = Flex::attention_backward(
            q(),
            keys(),
            values(),
            out2.clone(),
            log_sum2.clone(),
            dout(),
            visible(),
        );
        let results = |out, log_sum, (dq, dk, dv)| {
            [
                host::<4>(out),
                host::<3>(log_sum),
                host::<4>(dq),
                host::<4>(dk),
                host::<4>(dv),
            ]
        };
        let expected = results(out, log_sum, gradients);
        assert_close(
            &format!("attention in chunks, {mask:?}"),
            &results(out2, log_sum2, gradients2),
            &expected,
            2e-5,
        );
    }
}

#[test]
fn loss_in_chunks_equals_the_kernel() {
    let (n, d, v) = (300, 16, 40_000);
    let targets = || {
        ints(&indices(n, v, 3), &Device::flex())
            .try_into_primitive::<Flex>()
            .unwrap()
    };
    let (h, w) = (|| primitive([n, d], 1), || primitive([v, d], 2));
    let results = |(loss, dh, dw)| [host::<1>(loss), host::<2>(dh), host::<2>(dw)];
    let expected = results(generic::linear_cross_entropy_dh_dw::<Flex>(h(), w(), targets()));
    let actual = results(Flex::linear_cross_entropy_dh_dw(h(), w(), targets()));
    assert_close("loss in chunks", &actual, &expected, 2e-5);
    let (loss, dh) = Flex::linear_cross_entropy_dh(h(), w(), targets());
    assert_close(
        "loss without dw",
        &[host::<1>(loss), host::<2>(dh)],
        &expected[..2],
        2e-5,
    );
    let loss = Flex::linear_cross_entropy(h(), w(), targets());
    assert_close("loss alone", &[host::<1>(loss)], &expected[..1], 2e-5);
}

#[test]
fn other_bodies_equal_the_kernels() {
    let (x, w, b, dy) = (
        || primitive([37, 24], 1),
        || primitive([24], 2),
        || primitive([24], 3),
        || primitive([37, 24], 4),
    );
    let pair = |(x, y)| [host::<2>(x), host::<1>(y)];
    assert_close(
        "rms_norm_backward",
        &pair(Flex::rms_norm_backward(x(), w(), dy(), 1e-5)),
        &pair(generic::rms_norm_backward::<Flex>(x(), w(), dy(), 1e-5)),
        2e-5,
    );
    let triple = |(x, y, z)| [host::<2>(x), host::<1>(y), host::<1>(z)];
    assert_close(
        "layer_norm_backward",
        &triple(Flex::layer_norm_backward(x(), w(), dy(), 1e-5)),
        &triple(generic::layer_norm_backward::<Flex>(x(), w(), dy(), 1e-5)),
        2e-5,
    );
    let one = |x| [host::<2>(x)];
    assert_close(
        "layer_norm",
        &one(Flex::layer_norm_forward(x(), w(), b(), 1e-5)),
        &one(generic::layer_norm::<Flex>(x(), w(), b(), 1e-5)),
        2e-5,
    );
    assert_close(
        "linear_bias",
        &one(Flex::linear_bias(x(), primitive([5, 24], 5), primitive([5], 6))),
        &one(generic::linear_bias::<Flex>(
            x(),
            primitive([5, 24], 5),
            primitive([5], 6),
        )),
        2e-5,
    );
    let two = |(x, y)| [host::<2>(x), host::<2>(y)];
    assert_close(
        "swiglu_backward",
        &two(Flex::swiglu_backward(x(), dy(), x())),
        &two(generic::swiglu_backward::<Flex>(x(), dy(), x())),
        2e-5,
    );
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
        assert_close(
            "activate_backward",
            &one(Flex::activate_backward(x(), dy(), kind)),
            &one(generic::activate_backward::<Flex>(x(), dy(), kind)),
            2e-5,
        );
    }
}

#[test]
fn operands_without_gradient_get_none() {
    let device = Device::flex().autodiff();
    let tensor = |shape: [usize; 2], seed| {
        Tensor::<2>::from_data(
            TensorData::new(noise(shape[0] * shape[1], seed), shape),
            (&device, DType::F32),
        )
    };
    let (x, frozen) = (tensor([3, 4], 1).require_grad(), tensor([5, 4], 2));
    let targets = ints(&[0, 4, 2], &Device::flex());
    let loss = linear_cross_entropy(
        linear(x.clone(), tensor([4, 4], 3), None),
        frozen.clone(),
        targets.clone(),
    );
    let gradients = loss.backward();
    assert!(x.grad(&gradients).is_some());
    assert!(frozen.grad(&gradients).is_none());
    let trained = tensor([5, 4], 4).require_grad();
    let gradients = linear_cross_entropy(tensor([3, 4], 5), trained.clone(), targets).backward();
    assert!(trained.grad(&gradients).is_some());
}

#[test]
#[should_panic(expected = "different dtypes")]
fn mixed_dtypes_are_refused() {
    let device = Device::flex();
    linear(
        Tensor::zeros([1, 2], (&device, DType::F32)),
        Tensor::zeros([3, 2], (&device, DType::BF16)),
        None,
    );
}
