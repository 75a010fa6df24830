//! One layer of every kind, and what is none.

use burn::module::{Module, Param};
use burn::nn::conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig,
};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig1d, PaddingConfig2d};
use burn::tensor::{Device, Int, Tensor};

use crate::modules::numbers;

#[derive(Module, Debug)]
pub struct Zoo {
    /// Looked up first, and the head again at the end.
    table: Embedding,
    right: Param<Tensor<2>>,
    left: Param<Tensor<2>>,
    /// As a matrix and as its transpose.
    both: Param<Tensor<2>>,
    stack: Param<Tensor<3>>,
    line: Conv1d,
    wider: ConvTranspose1d,
    lopsided: Conv2d,
    grouped: Conv2d,
    taller: ConvTranspose2d,
    idle: Linear,
}

impl Zoo {
    pub fn new(device: &Device) -> Self {
        let param = |shape: [usize; 2], seed| Param::from_tensor(numbers(shape, seed, device));
        Self {
            table: EmbeddingConfig::new(20, 8).init(device),
            right: param([8, 8], 1),
            left: param([12, 8], 2),
            both: param([8, 8], 3),
            stack: Param::from_tensor(numbers([2, 8, 8], 4, device)),
            line: Conv1dConfig::new(8, 8, 3).with_padding(PaddingConfig1d::Same).init(device),
            wider: ConvTranspose1dConfig::new([8, 8], 2).with_stride(2).init(device),
            lopsided: Conv2dConfig::new([4, 4], [3, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 0, 0, 2))
                .init(device),
            grouped: Conv2dConfig::new([4, 8], [3, 3]).with_groups(2).init(device),
            taller: ConvTranspose2dConfig::new([8, 4], [2, 2]).with_stride([2, 2]).init(device),
            idle: LinearConfig::new(3, 4).init(device),
        }
    }

    /// `[2, 5]` and `[2, 4, 6, 6]` → `[2, 10, 20]` and an image.
    pub fn forward(&self, (ids, image): (Tensor<2, Int>, Tensor<4>)) -> (Tensor<3>, Tensor<4>) {
        let x = self.table.forward(ids).matmul(self.right.val().unsqueeze());
        let both = self.both.val().unsqueeze::<3>();
        let x = x.clone().matmul(both.clone()) + x.matmul(both.transpose());
        let x = x.matmul(self.stack.val()).swap_dims(1, 2); // [2, 8, 5]
        let x = self.wider.forward(self.line.forward(x)); // [2, 8, 10]
        let x = self.left.val().unsqueeze::<3>().matmul(x); // [2, 12, 10]
        let head = self.table.weight.val().transpose().unsqueeze::<3>();
        let logits = x.narrow(1, 0, 8).swap_dims(1, 2).matmul(head);
        let image = self.grouped.forward(self.lopsided.forward(image));
        (logits, self.taller.forward(image))
    }
}
