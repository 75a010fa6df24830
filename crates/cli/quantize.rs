//! `quench quantize`: folder in, folder out, and what was lost.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quench::job::{Job, JobError, Overwrite, Report, recipes};
use quench::models::Kind;
use quench::models::text::TextSource;
use quench::quantize::{Plan, Recipe};

use crate::args::Quantize;
use crate::failure::Outcome;
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::{convert, generate, interrupt, summary, table, texts};

/// Runs the job and prints its report.
pub fn run(arguments: &Quantize) -> anyhow::Result<Outcome> {
    let (recipe, plan) = asked(arguments)?;
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let output = output(arguments, &recipe);
    // What was named is looked at first: it costs nothing, and unpacking or opening a device does.
    let calibration = given(&arguments.calibration, arguments, Texts::Calibration)?;
    let evaluation = given(&arguments.eval, arguments, Texts::Evaluation)?;
    let model = model::folder(&arguments.model, arguments.quiet)?.into_owned();
    let device = arguments.device.resolve()?;
    if arguments.prompt.is_some() {
        match Kind::of(&model)? {
            Kind::Decoder => {}
            other => bail!("--prompt continues a text, and {} is a {other}", arguments.model.display()),
        }
    }
    let overwrite = if arguments.force { Overwrite::Force } else { Overwrite::Refuse };
    let (resume, coding) = (arguments.resume, convert::coding(arguments.entropy_code));
    let job = Job { model, output, recipe, plan, device, calibration, evaluation, overwrite, resume, coding };
    if arguments.dry_run {
        table::print(&job.plan()?.to_toml())?;
        return Ok(Outcome::Done);
    }

    interrupt::install("finished blocks are kept, after a second Ctrl-C as well")?;
    let report = carry_out(&job, arguments.quiet)?;
    table::print(&summary::report(&report, arguments.verbose))?;
    if let Some(json) = json {
        json.write(&report)
            .with_context(|| format!("the model is saved in {}, but not its report", job.output.display()))?;
    }
    let kind = Kind::of(&job.model)?;
    if let Some(prompt) = prompt(arguments) {
        table::print(&generate::side_by_side(&job.model, &job.output, &prompt, &job.device)?)?;
    }
    table::print(&summary::next(&report, &job.output, kind))?;
    Ok(if report.passed() { Outcome::Done } else { Outcome::GateFailed })
}

fn carry_out(job: &Job, quiet: bool) -> Result<Report, JobError> {
    let mut progress = Progress::new(quiet);
    let report = job.run(&mut |step| {
        progress.follow(&step);
        interrupt::flow()
    })?;
    progress.end();
    Ok(report)
}

/// The recipe with the options that replace parts of it, and the edited plan.
fn asked(arguments: &Quantize) -> anyhow::Result<(Recipe, Option<Plan>)> {
    let plan = arguments.plan.as_ref().map(|path| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read --plan {}", path.display()))?;
        Plan::from_toml(&text).with_context(|| format!("--plan {}", path.display()))
    });
    let plan = plan.transpose()?;
    let mut recipe = match (&arguments.recipe, &plan) {
        (Some(name), _) => recipes::find(name)?,
        (None, Some(plan)) => recipes::find(&plan.recipe)
            .with_context(|| format!("the plan came from recipe {:?}; name its file with --recipe", plan.recipe))?,
        (None, None) => recipes::find(recipes::DEFAULT)?,
    };
    if arguments.no_scale {
        recipe = recipe.without_scales().context("--no-scale")?;
    }
    let calibration = &mut recipe.calibration;
    calibration.seed = arguments.seed.unwrap_or(calibration.seed);
    calibration.samples = arguments.samples.unwrap_or(calibration.samples);
    calibration.length = arguments.length.unwrap_or(calibration.length);
    Ok((recipe, plan))
}

fn given(named: &[TextSource], arguments: &Quantize, own: Texts) -> anyhow::Result<Vec<TextSource>> {
    if own_texts(named, arguments) {
        return texts::sources(&[model::spark_texts(own)?]);
    }
    texts::sources(named)
}

/// Whether the embedded model is given its own texts.
fn own_texts(named: &[TextSource], arguments: &Quantize) -> bool {
    named.is_empty() && model::is_spark(&arguments.model)
}

fn prompt(arguments: &Quantize) -> Option<String> {
    let own = || model::is_spark(&arguments.model).then(|| model::SPARK_PROMPT.to_owned());
    arguments.prompt.clone().or_else(own)
}

fn output(arguments: &Quantize, recipe: &Recipe) -> PathBuf {
    arguments.output.clone().unwrap_or_else(|| {
        let name: String =
            recipe.name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        PathBuf::from(format!("{}-{name}", model::name(&arguments.model)))
    })
}

/// Where an unfinished run would be, so that a failed one can be told how to go on.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// It is of an earlier run, and this one would not touch it.
    foreign: bool,
}

impl Unfinished {
    /// Looked at before the run.
    pub fn before(arguments: &Quantize) -> Option<Self> {
        let (recipe, _) = asked(arguments).ok()?;
        let output = output(arguments, &recipe);
        let mut name = output.file_name()?.to_owned();
        name.push(".partial");
        let path = output.with_file_name(name);
        Some(Self { foreign: path.exists() && !arguments.resume && !arguments.force, path })
    }

    /// The folder, if this run left one.
    pub fn left(&self) -> Option<&Path> {
        (!self.foreign && self.path.exists()).then_some(&self.path)
    }
}
