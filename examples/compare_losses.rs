//! Prints how the output losses of one quantized model compare with those of another, layer by layer on the inputs of the dense
//! model, as it stands in `docs/results.md`.
//!
//!     cargo run --example compare_losses -- DENSE OURS THEIRS TEXT

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use quench::eval::Measured;
use quench::job::Measurement;
use quench::kernels::Activations;
use quench::models::text::TextSource;
use quench::quantize::recipe::Evaluation;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dense, ours, theirs, text] = &arguments[..] else {
        return Err("usage: compare_losses DENSE OURS THEIRS TEXT".into());
    };
    let losses = |folder: &String| -> Result<BTreeMap<String, f64>, Box<dyn Error>> {
        let measurement = Measurement {
            model: folder.into(),
            name: folder.clone(),
            against: Some(dense.into()),
            data: vec![TextSource::new(text)],
            settings: Evaluation { windows: 30, ..Evaluation::default() },
            activations: Activations::F32,
            device: Default::default(),
        };
        let Measured::Texts(comparison) = measurement.run(&mut |_| ControlFlow::Continue(()))? else {
            return Err(format!("{folder} is no language model").into());
        };
        let layers = comparison.candidates.into_iter().flat_map(|candidate| candidate.layers);
        // A layer that stayed dense has no loss.
        Ok(layers.filter(|layer| layer.output_loss > 1e-12).map(|layer| (layer.layer, layer.output_loss)).collect())
    };
    let (ours, theirs) = (losses(ours)?, losses(theirs)?);
    let mut by_kind: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (layer, loss) in &ours {
        let Some(other) = theirs.get(layer) else { continue };
        let kind = layer.rsplit('.').next().unwrap_or(layer);
        [kind, "all"].into_iter().for_each(|kind| by_kind.entry(kind).or_default().push(loss / other));
    }
    println!("| layers | n | median | least | largest |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (kind, mut ratios) in by_kind {
        ratios.sort_by(f64::total_cmp);
        let (n, last) = (ratios.len(), ratios[ratios.len() - 1]);
        let median = (ratios[(n - 1) / 2] + ratios[n / 2]) / 2.0;
        println!("| {kind} | {n} | {median:.3} | {:.3} | {last:.3} |", ratios[0]);
    }
    Ok(())
}
