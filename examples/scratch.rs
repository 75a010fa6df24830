//! x
use quench::job::{Job, Overwrite};
use quench::models::text::TextSource;
use quench::quantize::Recipe;
use std::error::Error;
use std::ops::ControlFlow;
fn main() -> Result<(), Box<dyn Error>> {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let work = std::env::temp_dir().join(format!("quench-scratch-{}", std::process::id()));
    for line in std::io::stdin().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let start = std::time::Instant::now();
        let recipe = format!(
            "name = \"x\"\n{}\n[[rules]]\nlayers = \"*\"\n{}\n",
            std::env::var("HEAD").unwrap_or_default(),
            line.replace(';', "\n")
        );
        let job = Job {
            model: (&a[0]).into(),
            output: work.join("out"),
            recipe: Recipe::from_toml(&recipe)?,
            plan: None,
            device: Default::default(),
            calibration: vec![TextSource::new(&a[1])],
            evaluation: vec![TextSource::new(&a[2])],
            overwrite: Overwrite::Force,
            resume: false,
        };
        let report = job.run(&mut |_| ControlFlow::Continue(()))?;
        let t = &report.comparison.as_ref().unwrap().texts().unwrap().candidates[0].total;
        let mut losses: Vec<f64> = report.ledger.entries.iter().filter_map(|e| e.output_loss).collect();
        losses.sort_by(f64::total_cmp);
        println!(
            "{line} | {:.3} bpw | ppl {:.3} | KL {:.5} [{:.5},{:.5}] | top1 {:.2} | loss median {:.3e} mean {:.3e} | {:.0}s",
            report.size.bits_per_weight,
            t.perplexity,
            t.kl.mean,
            t.kl_interval.map_or(0.0, |i| i.low),
            t.kl_interval.map_or(0.0, |i| i.high),
            100.0 * t.agreement,
            losses[losses.len() / 2],
            losses.iter().sum::<f64>() / losses.len() as f64,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
