//! [`Conv2d`]: a convolution over a weight that may be packed.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use quench_kernels::Window;

use crate::Weight;
use crate::weight::in_f32;

/// A convolution, `y = W ⋆ x + b`, over a dense or packed weight.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups · kernel height · kernel width]`: PyTorch's weight, its last three dimensions as one.
    pub weight: Weight,
    /// `b`, `[out]`; always dense.
    pub bias: Option<Param<Tensor<1>>>,
    /// How it goes over the image.
    #[module(skip)]
    pub window: Window,
    /// Groups of channels that do not see each other.
    #[module(skip)]
    pub groups: usize,
}

impl Conv2d {
    /// A convolution from its weight `[out, in / groups · kernel]` and bias `[out]`.
    ///
    /// # Panics
    ///
    /// If the bias has not one value per row of the weight, a row is no whole number of kernels, or groups do not divide the
    /// rows.
    pub fn new(weight: Weight, bias: Option<Tensor<1>>, window: Window, groups: usize) -> Self {
        let shape @ [out, columns] = weight.shape();
        let kernel: usize = window.kernel.iter().product();
        assert!(kernel > 0 && columns % kernel == 0, "a weight {shape:?} is not made of kernels {:?}", window.kernel);
        assert!(groups > 0 && out % groups == 0, "{groups} groups do not divide the rows of a weight {shape:?}");
        if let Some(bias) = &bias {
            assert_eq!(bias.dims(), [out], "a weight {shape:?} needs one bias per row");
        }
        Self { weight, bias: bias.map(Param::from_tensor), window, groups }
    }

    /// `x`: `[batch, in, height, width]` → `[batch, out, output height, output width]`.
    ///
    /// A packed weight is multiplied with what the window sees, [`QTensor::convolve`](quench_kernels::QTensor::convolve); one of
    /// several groups is decoded first.
    ///
    /// # Panics
    ///
    /// If `x` has other channels than the weight, naming both, or is smaller than the kernel.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([batch, channels, ..], [out, columns]) = (x.dims(), self.weight.shape());
        let [kh, kw] = self.window.kernel;
        let expected = columns / (kh * kw) * self.groups;
        assert_eq!(channels, expected, "x {:?} does not fit a convolution of {expected} channels", x.dims());
        match &self.weight {
            Weight::Quantized(w) if self.groups == 1 && batch > 0 => {
                w.convolve(x, self.bias.as_ref().map(Param::val), &self.window)
            }
            weight => {
                let w = in_f32(weight.val()).reshape([out, columns / (kh * kw), kh, kw]);
                let Window { stride, padding, dilation, .. } = self.window;
                let bias = self.bias.as_ref().map(Param::val);
                burn::tensor::module::conv2d(x, w, bias, ConvOptions::new(stride, padding, dilation, self.groups))
            }
        }
    }

    /// The rest of [`forward`](Self::forward) after [`unfold`](quench_kernels::unfold), for a convolution of one group.
    ///
    /// - `rows`: `[batch · positions, in · kernel]`
    /// - `output`: `[height, width]` of the output
    /// - returns `[batch, out, height, width]`
    ///
    /// # Panics
    ///
    /// If `rows` does not fit the weight, `batch` and `output`.
    pub fn multiply(&self, rows: Tensor<2>, batch: usize, output: [usize; 2]) -> Tensor<4> {
        let y = self.weight.matmul(rows); // [batch · positions, out]
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        let ([height, width], out) = (output, y.dims()[1]);
        y.reshape([batch, height, width, out]).permute([0, 3, 1, 2])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use quench_kernels::{Activations, QTensor};

    use super::*;
    use crate::testing::{packed, values};

    fn close(found: Tensor<4>, expected: Tensor<4>) {
        assert_eq!(found.dims(), expected.dims());
        for (found, expected) in values(found).iter().zip(values(expected)) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found}, not {expected}");
        }
    }

    #[test]
    fn dense_and_packed_convolve_alike() {
        let device = Device::flex();
        let windows = [
            (Window::square(1), 1),
            (Window { stride: [2, 1], ..Window::square(1) }, 1),
            (Window { padding: [1, 1], ..Window::square(3) }, 1),
            (Window { kernel: [3, 2], stride: [2, 3], padding: [0, 2], dilation: [2, 1] }, 1),
            (Window { padding: [1, 0], ..Window::square(3) }, 2),
        ];
        for (window, groups) in windows {
            let [kh, kw] = window.kernel;
            let packed = packed([6, 4 / groups * kh * kw]);
            let exact = QTensor::from_packed(&packed, &device).with_activations(Activations::F32);
            let bias = Tensor::<1>::from_floats([1.0, -2.0, 0.0, 0.5, 3.0, -1.0], &device);
            let quantized = Conv2d::new(exact.clone().into(), Some(bias.clone()), window, groups);
            let dense = Conv2d::new(Weight::dense(exact.dequantize()), Some(bias), window, groups);
            let x = Tensor::random([2, 4, 7, 9], Distribution::Uniform(-1.0, 1.0), &device);
            let expected = dense.forward(x.clone());
            assert_eq!(expected.dims()[2..], window.output([7, 9]), "{window:?}");
            close(quantized.forward(x), expected);
        }
    }

    #[test]
    fn its_gradient_is_that_of_the_dense_convolution() {
        let device = Device::flex().autodiff();
        let window = Window { stride: [2, 2], padding: [1, 1], ..Window::square(3) };
        let exact = QTensor::from_packed(&packed([5, 27]), &device).with_activations(Activations::F32);
        let x = Tensor::<4>::random([2, 3, 6, 5], Distribution::Uniform(-1.0, 1.0), &device);
        let gradient = |weight: Weight| {
            let x = x.clone().require_grad();
            let y = Conv2d::new(weight, None, window, 1).forward(x.clone());
            x.grad(&y.clone().powi_scalar(2).sum().backward()).expect("x takes part")
        };
        close(gradient(exact.clone().into()) / 100.0, gradient(Weight::dense(exact.dequantize())) / 100.0);
    }

    #[test]
    #[should_panic(expected = "x [1, 2, 5, 5] does not fit a convolution of 3 channels")]
    fn a_wrong_number_of_channels_names_both() {
        let device = Device::flex();
        let weight = Weight::from(QTensor::from_packed(&packed([4, 27]), &device));
        Conv2d::new(weight, None, Window::square(3), 1).forward(Tensor::zeros([1, 2, 5, 5], &device));
    }
}
