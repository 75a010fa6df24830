//! Spark's tokenizer: a byte-level BPE with `<s>` and `</s>`.

use std::fs;
use std::path::Path;

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer, TokenizerBuilder};

use crate::Result;

/// Begins a text; its id is 0.
pub const BOS: &str = "<s>";
/// Ends a text; its id is 1.
pub const EOS: &str = "</s>";

/// Learns the merges of `vocabulary` tokens from `lines`, the two special tokens and the 256 bytes among them.
pub fn train(lines: &[String], vocabulary: usize) -> Result<Tokenizer> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(BOS, true), AddedToken::from(EOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let begin = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))?
        .special_tokens(vec![(BOS.to_string(), 0)])
        .build()?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(begin))
        .with_decoder(Some(ByteLevelDecoder::new(false, true, true)))
        .build()?;
    tokenizer.train(&mut trainer, lines.iter())?;
    Ok(tokenizer.into())
}

/// Writes `tokenizer.json` and `tokenizer_config.json`.
pub fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    let config = json!({
        "add_bos_token": true,
        "bos_token": BOS,
        "eos_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    tokenizer.save(folder.join("tokenizer.json"), true)?;
    fs::write(folder.join("tokenizer_config.json"), format!("{config:#}\n"))?;
    Ok(())
}
