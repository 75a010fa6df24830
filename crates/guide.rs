//! How to use the library, chapter by chapter; every snippet is a test.

#[doc = include_str!("../docs/guide/quantize-my-module.md")]
pub mod quantize_my_module {}

#[doc = include_str!("../docs/guide/choose-a-recipe.md")]
pub mod choose_a_recipe {}

#[doc = include_str!("../docs/guide/keep-a-floor.md")]
pub mod keep_a_floor {}

#[doc = include_str!("../docs/guide/fine-tune.md")]
pub mod fine_tune {}

#[doc = include_str!("../docs/guide/another-vendor.md")]
pub mod another_vendor {}

#[doc = include_str!("../docs/guide/extend.md")]
pub mod extend {}
