//! GPT-2, whose matrices are stored the other way round: quantized, saved and read again, it computes the same.

use std::error::Error;
use std::ops::ControlFlow;

use quench::checkpoint::{Folder, Source, Writer};
use quench::kernels::Activations;
use quench::models::generate::{Sampling, generate};
use quench::models::{Decoder, ids, open};
use quench::nn::{Model, Section};
use quench::quantize::{Finished, Journal, Recipe, run};

use crate::{data, error, first_device, values};

/// Keeps the finished layers of all sections.
struct Kept(Vec<Finished>);

impl Journal for Kept {
    fn record(&mut self, _: usize, _: Section, layers: &[Finished]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.extend_from_slice(layers);
        Ok(())
    }
}

#[test]
fn quantized_and_saved_it_computes_the_same() {
    let Some(folder) = data("golden/gpt2") else { return };
    let (_, device) = first_device();
    let tokens: Vec<u32> = (0..48).map(|index| index * 31 % 199).collect();
    let batch = ids(&[&tokens[..24], &tokens[24..]], &device);
    let dense = open(&folder, &device).unwrap();
    let expected = values(dense.forward(batch.clone(), &mut ()));
    for method in ["rtn", "gptq"] {
        let recipe =
            format!("name = \"t\"\n[[rules]]\nlayers = \"*\"\ncode = \"int8\"\ngroup = 16\nmethod = \"{method}\"\n");
        let mut model = dense.clone();
        let plan = Recipe::from_toml(&recipe).unwrap().plan(&model.layers()).unwrap();
        let mut kept = Kept(Vec::new());
        run(&mut model, &plan, std::slice::from_ref(&batch), &mut kept, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(kept.0.len(), 12, "four matrices in each of three blocks");
        model.load_all().unwrap();
        let quantized = values(model.forward(batch.clone(), &mut ()));
        let loss = error(&quantized, &expected);
        println!("gpt2 int8 g16 {method}: {loss:.1e}");
        assert!(loss > 0.0 && loss < 0.02, "{method}: {loss:.1e}");

        let saved = tempfile::tempdir().unwrap();
        let source = Folder::open(&folder).unwrap();
        let mut writer = Writer::create(saved.path(), u64::MAX).unwrap();
        for name in source.names() {
            let layer = name.strip_suffix(".weight").unwrap_or_default();
            match kept.0.iter().find(|finished| finished.entry.layer == layer) {
                Some(finished) => writer.packed(layer, finished.packed.clone()).unwrap(),
                None => writer.copy(&source, name).unwrap(),
            }
        }
        writer.finish().unwrap();
        std::fs::copy(folder.join("config.json"), saved.path().join("config.json")).unwrap();
        let mut read: Decoder = open(saved.path(), &device).unwrap();
        read.load_all().unwrap();
        read.set_activations(Activations::F32);
        assert!(values(read.forward(batch.clone(), &mut ())) == quantized, "{method}: the saved model differs");
    }
}

#[test]
fn it_generates_as_far_as_its_positions_go() {
    let Some(folder) = data("golden/gpt2") else { return };
    let (_, device) = first_device();
    let decoder = open(&folder, &device).unwrap();
    let greedy = Sampling { max_tokens: 1000, ..Sampling::default() };
    let prompt: Vec<u32> = (3..11).collect();
    let new = generate(&decoder, &prompt, &greedy, &[], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(prompt.len() + new.len(), decoder.config().max_positions);
    // Greedy is the argmax of one pass over the whole.
    let all = [prompt.as_slice(), &new].concat();
    let logits = values(decoder.forward(ids(&[&all], &device), &mut ()));
    let rows: Vec<&[f32]> = logits.chunks(decoder.config().vocab_size).collect();
    for (index, token) in new.iter().enumerate() {
        let row = rows[prompt.len() + index - 1];
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        assert!(best - row[*token as usize] <= 1e-4, "token {index}");
    }
}
