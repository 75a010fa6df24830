//! [`Conv2d`]: a convolution over a weight that may be packed.

use burn::module::{Module, Param};
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{Slice, Tensor};

use crate::Weight;
use crate::weight::in_f32;

/// How a convolution goes over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// `[height, width]` of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one position to the next.
    pub stride: [usize; 2],
    /// Zeros on either side.
    pub padding: [usize; 2],
    /// Pixels from one element of the kernel to the next.
    pub dilation: [usize; 2],
}

impl Window {
    /// A square kernel with stride 1 and neither padding nor dilation.
    pub fn square(kernel: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [1; 2], padding: [0; 2], dilation: [1; 2] }
    }

    /// `[height, width]` of the output for an image `[height, width]`.
    ///
    /// ```text
    /// ⌊(size + 2 · padding − dilation · (kernel − 1) − 1) / stride⌋ + 1
    /// ```
    ///
    /// # Panics
    ///
    /// If the padded image is smaller than the kernel.
    pub fn output(&self, image: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let size = image[axis] + 2 * self.padding[axis];
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            assert!(reach <= size, "an image {image:?} is smaller than the kernel of {self:?}");
            (size - reach) / self.stride[axis] + 1
        })
    }

    /// What each position of the window sees, one row of a matrix each (im2col).
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - returns `[batch · positions, channels · kernel height · kernel width]`, positions row by row
    ///
    /// A convolution is the product of this with its weight. Built from slices, so every backend has it and its gradient.
    ///
    /// # Panics
    ///
    /// If the padded image is smaller than the kernel.
    pub fn unfold(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = x.dims();
        let [rows, columns] = self.output([height, width]);
        let [kh, kw] = self.kernel;
        let x = match self.padding {
            [0, 0] => x,
            [h, w] => x.pad([(h, h), (w, w)], PadMode::Constant(0.0)),
        };
        let along = |axis: usize, at: usize, positions: usize| {
            let (first, stride) = (at * self.dilation[axis], self.stride[axis]);
            let last = first + (positions - 1) * stride;
            Slice::new(first as isize, Some(last as isize + 1), stride as isize)
        };
        let seen = (0..kh * kw).map(|k| {
            let part = [Slice::full(), Slice::full(), along(0, k / kw, rows), along(1, k % kw, columns)];
            x.clone().slice(part) // [batch, channels, rows, columns]
        });
        let seen: Tensor<5> = Tensor::stack(seen.collect(), 2); // [batch, channels, kh · kw, rows, columns]
        seen.permute([0, 3, 4, 1, 2]).reshape([batch * rows * columns, channels * kh * kw])
    }
}

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
    /// A packed weight is multiplied with the unfolded image, [`Window::unfold`]; one of several groups is decoded first.
    ///
    /// # Panics
    ///
    /// If `x` has other channels than the weight, naming both, or is smaller than the kernel.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([batch, channels, height, width], [out, columns]) = (x.dims(), self.weight.shape());
        let [kh, kw] = self.window.kernel;
        let expected = columns / (kh * kw) * self.groups;
        assert_eq!(channels, expected, "x {:?} does not fit a convolution of {expected} channels", x.dims());
        match &self.weight {
            Weight::Quantized(_) if self.groups == 1 && batch > 0 => {
                let output = self.window.output([height, width]);
                self.multiply(self.window.unfold(x), batch, output)
            }
            weight => {
                let w = in_f32(weight.val()).reshape([out, columns / (kh * kw), kh, kw]);
                let Window { stride, padding, dilation, .. } = self.window;
                let bias = self.bias.as_ref().map(Param::val);
                burn::tensor::module::conv2d(x, w, bias, ConvOptions::new(stride, padding, dilation, self.groups))
            }
        }
    }

    /// The rest of [`forward`](Self::forward) after [`Window::unfold`], for a convolution of one group.
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
