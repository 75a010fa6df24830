//! [`Kind`]: what sort of model a folder holds.

use std::fmt;
use std::path::Path;

use crate::config::Family;
use crate::fields::Fields;
use crate::{ModelError, encoder, resnet};

/// What sort of model a folder holds, and so what it reads and how it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A language model, [`Decoder`](crate::Decoder): text in, the next token out.
    Decoder,
    /// A sentence encoder, [`Encoder`](crate::Encoder): text in, a vector out.
    Encoder,
    /// An image classifier, [`ResNet`](crate::ResNet): images in, classes out.
    ResNet,
}

impl Kind {
    /// The kind by the `model_type` of the folder's `config.json`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not JSON, or the type is unknown, naming those that are known.
    pub fn of(folder: &Path) -> Result<Self, ModelError> {
        let fields = Fields::read(&folder.join("config.json"))?;
        let name = fields.text("model_type")?;
        let decoders = Family::ALL.map(Family::name).into_iter().chain(["gemma3"]).map(|name| (name, Self::Decoder));
        let encoders = [(encoder::MODEL_TYPE, Self::Encoder)];
        let images = resnet::MODEL_TYPES.map(|name| (name, Self::ResNet));
        let known: Vec<_> = decoders.chain(encoders).chain(images).collect();
        match known.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => Ok(*kind),
            None => {
                Err(fields.unsupported("model_type", name, &known.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
            }
        }
    }
}

/// `language model`, `sentence encoder`, `image classifier`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decoder => "language model",
            Self::Encoder => "sentence encoder",
            Self::ResNet => "image classifier",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str) -> Result<Kind, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Kind::of(folder.path())
    }

    #[test]
    fn the_model_type_tells() {
        for (name, kind) in [
            ("llama", Kind::Decoder),
            ("gemma3", Kind::Decoder),
            ("gpt2", Kind::Decoder),
            ("bert", Kind::Encoder),
            ("resnet_cifar", Kind::ResNet),
            ("resnet_torchvision", Kind::ResNet),
        ] {
            assert_eq!(of(&format!(r#"{{"model_type": "{name}"}}"#)).unwrap(), kind, "{name}");
        }
    }

    #[test]
    fn an_unknown_type_is_named_with_those_that_are_known() {
        let message = of(r#"{"model_type": "t5"}"#).unwrap_err().to_string();
        for word in ["config.json", "t5", "llama", "bert", "resnet_cifar"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
