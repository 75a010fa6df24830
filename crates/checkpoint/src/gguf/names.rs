//! The names of a Llama's tensors in GGUF and at Hugging Face, and the order of the rows that RoPE turns.
//!
//! Both have the same matrices but for `q_proj` and `k_proj`: RoPE turns pairs of rows of a head, which lie side by side in GGUF
//! and half a head apart at Hugging Face. With `d` rows to a head,
//!
//! ```text
//! file[head * d + 2 * i + p]  =  model[head * d + p * d / 2 + i]          i = 0 .. d / 2,  p = 0, 1
//! ```
//!
//! A row is a run of bytes in every type, so that rows of blocks change places as they are.

/// Outside of the blocks: the name in GGUF and at Hugging Face, without `.weight`.
const WHOLE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// In block `N`, `blk.N.` and `model.layers.N.`.
const BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The table of divisors that scale RoPE's frequencies, which Hugging Face computes.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// Whose heads the rows of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heads {
    /// Nobody's: rows are in the same order.
    None,
    /// Those of the queries.
    Query,
    /// Those of the keys.
    Key,
}

/// The name at Hugging Face of a tensor in the file; `None` where it is none of a Llama.
pub(super) fn to_model(name: &str) -> Option<String> {
    translate(name, "blk", "model.layers", |(file, _)| file, |(_, model)| model)
}

/// The name in the file of a tensor of Hugging Face; `None` where it is none of a Llama.
pub(super) fn to_file(name: &str) -> Option<String> {
    translate(name, "model.layers", "blk", |(_, model)| model, |(file, _)| file)
}

/// Whose heads the rows of a tensor of Hugging Face are.
pub(super) fn heads(name: &str) -> Heads {
    let layer = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
    match layer.rsplit_once('.') {
        Some((_, "q_proj")) => Heads::Query,
        Some((_, "k_proj")) => Heads::Key,
        _ => Heads::None,
    }
}

/// The tensors that a Llama of so many blocks has at least, by their names at Hugging Face; an untied head is not among them.
pub(super) fn required(blocks: u64) -> impl Iterator<Item = String> {
    let whole = WHOLE[..2].iter().map(|(_, model)| format!("{model}.weight"));
    whole
        .chain((0..blocks).flat_map(|n| BLOCK.iter().map(move |(_, model)| format!("model.layers.{n}.{model}.weight"))))
}

type Pair = (&'static str, &'static str);

fn translate(
    name: &str,
    from: &str,
    to: &str,
    own: fn(Pair) -> &'static str,
    other: fn(Pair) -> &'static str,
) -> Option<String> {
    let (layer, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    if let Some(pair) = WHOLE.into_iter().find(|pair| own(*pair) == layer) {
        return Some(format!("{}.{kind}", other(pair)));
    }
    let (number, part) = layer.strip_prefix(from)?.strip_prefix('.')?.split_once('.')?;
    // A number has one spelling, so that no two names become one.
    let index: u32 = number.parse().ok().filter(|index: &u32| index.to_string() == number)?;
    let pair = BLOCK.into_iter().find(|pair| own(*pair) == part)?;
    Some(format!("{to}.{index}.{}.{kind}", other(pair)))
}

/// Rows in the order of the file, put in the order of Hugging Face.
///
/// - `heads`: at least 1, of an even number of rows each
pub(crate) fn rows_of_model(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    reordered(bytes, rows, heads, |half, i, p| (2 * i + p, p * half + i))
}

/// Rows in the order of Hugging Face, put in the order of the file.
pub(super) fn rows_of_file(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    reordered(bytes, rows, heads, |half, i, p| (p * half + i, 2 * i + p))
}

/// - `place`: from and to, of `i` and `p` and half the rows of a head
fn reordered(
    bytes: &[u8],
    rows: usize,
    heads: usize,
    place: impl Fn(usize, usize, usize) -> (usize, usize),
) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let mut turned = vec![0; bytes.len()];
    for head in 0..heads {
        for (i, p) in (0..half).flat_map(|i| [(i, 0), (i, 1)]) {
            let (from, to) = place(half, i, p);
            let [from, to] = [from, to].map(|at| (head * 2 * half + at) * row);
            turned[to..to + row].copy_from_slice(&bytes[from..from + row]);
        }
    }
    turned
}

/// Whether rows are heads of pairs.
pub(super) fn are_heads(rows: usize, heads: usize) -> bool {
    heads > 0 && rows.is_multiple_of(2 * heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_both_ways() {
        let cases = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.31.attn_output.bias", "model.layers.31.self_attn.o_proj.bias"),
            ("blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
            ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ];
        for (file, model) in cases {
            assert_eq!(to_model(file).as_deref(), Some(model));
            assert_eq!(to_file(model).as_deref(), Some(file));
        }
        for name in [
            "blk.0.attn_q",
            "blk.00.attn_q.weight",
            "blk.attn_q.weight",
            "blk.0.ffn_gate_exps.weight",
            FACTORS,
            "weight",
            "",
        ] {
            assert_eq!(to_model(name), None, "{name}");
        }
        assert_eq!(required(2).count(), 2 + 2 * 9);
        assert!(required(2).all(|name| to_file(&name).is_some()));
    }

    #[test]
    fn pairs_of_rows_come_together_in_the_file() {
        // Two heads of four rows, one byte each.
        let model = [0, 1, 2, 3, 10, 11, 12, 13];
        let file = [0, 2, 1, 3, 10, 12, 11, 13];
        assert_eq!(rows_of_file(&model, 8, 2), file);
        assert_eq!(rows_of_model(&file, 8, 2), model);
        // One head of six rows, two bytes each.
        let model: Vec<u8> = (0..12).collect();
        let file = rows_of_file(&model, 6, 1);
        assert_eq!(file, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(rows_of_model(&file, 6, 1), model);
        assert!(are_heads(6, 1) && !are_heads(6, 2) && !are_heads(6, 0));
    }
}
