//! [`Tensors`]: what goes into a module, and what comes out.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Shape, Tensor};

/// A tensor of any rank and kind, or a tuple of them.
///
/// A module that takes anything else is called by a closure that makes it from tensors:
/// `|net, x| net.encoder.forward(TransformerEncoderInput::new(x))`.
pub trait Tensors: Clone {
    /// Every tensor on `device`.
    fn to_device(self, device: &Device) -> Self;

    /// The tensors in order.
    fn into_values(self) -> Vec<DispatchTensor>;

    /// The tensors again, taken from the front of `values`.
    ///
    /// # Panics
    ///
    /// If a tensor is missing, or of another kind.
    fn from_values(values: &mut dyn Iterator<Item = DispatchTensor>) -> Self;
}

impl<const D: usize, K: Basic> Tensors for Tensor<D, K> {
    fn to_device(self, device: &Device) -> Self {
        Tensor::to_device(self, device)
    }

    fn into_values(self) -> Vec<DispatchTensor> {
        vec![self.into_dispatch()]
    }

    fn from_values(values: &mut dyn Iterator<Item = DispatchTensor>) -> Self {
        Self::from_dispatch(values.next().expect("as many tensors as were recorded"))
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl<$($name: Tensors),+> Tensors for ($($name,)+) {
            fn to_device(self, device: &Device) -> Self {
                #[expect(non_snake_case, reason = "each is named after its type")]
                let ($($name,)+) = self;
                ($($name.to_device(device),)+)
            }

            fn into_values(self) -> Vec<DispatchTensor> {
                #[expect(non_snake_case, reason = "each is named after its type")]
                let ($($name,)+) = self;
                let mut values = Vec::new();
                $(values.extend($name.into_values());)+
                values
            }

            fn from_values(values: &mut dyn Iterator<Item = DispatchTensor>) -> Self {
                ($($name::from_values(values),)+)
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);

/// The shapes of tensors, by which recordings are told apart.
pub(crate) fn shapes(values: &[DispatchTensor]) -> Vec<Shape> {
    values.iter().map(TensorMetadata::shape).collect()
}
