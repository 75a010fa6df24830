//! Images of known classes, and what models make of them.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use quench_metrics::{Bootstrap, Interval, Summary, Total, agreement, kl_per_token, places};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::compare::DENSE;

/// Image files with their classes, from a folder with one folder for each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The names of all classes, in the order of a model's outputs.
    pub classes: Vec<String>,
    /// Files with the index of their class: class by class, sorted by name.
    pub images: Vec<(PathBuf, usize)>,
}

impl Labelled {
    /// Finds the JPEG and PNG files (by their endings) in the class folders of `folder`. Hidden files and folders, files
    /// beside the class folders and folders inside them are passed over.
    ///
    /// - `classes`: the labels of a model in the order of its outputs; a class need not have a folder. Empty if the model
    ///   has none: then the classes are the folders, sorted by name
    /// - `count`: how many outputs the model has
    ///
    /// # Errors
    ///
    /// If the folder cannot be read, has no class, one that the model does not know, or one without an image; or, for
    /// a model without labels, not `count` classes.
    ///
    /// # Panics
    ///
    /// If there are labels, but not `count`.
    pub fn read(folder: &Path, classes: &[String], count: usize) -> Result<Self, EvalError> {
        assert!(classes.is_empty() || classes.len() == count, "{} labels for {count} outputs", classes.len());
        let folders: Vec<(String, PathBuf)> = visible(folder)?.into_iter().filter(|(_, path)| path.is_dir()).collect();
        if folders.is_empty() {
            return Err(EvalError::NoClass { path: folder.to_owned(), classes: classes.to_vec() });
        }
        let classes = match classes {
            [] if folders.len() == count => folders.iter().map(|(name, _)| name.clone()).collect(),
            [] => {
                return Err(EvalError::ClassCount { path: folder.to_owned(), found: folders.len(), expected: count });
            }
            labels => labels.to_vec(),
        };
        let mut of_class = vec![Vec::new(); count];
        for (name, path) in folders {
            let Some(class) = classes.iter().position(|class| *class == name) else {
                return Err(EvalError::UnknownClass { nearest: nearest(&name, &classes), path, classes });
            };
            of_class[class] = visible(&path)?.into_iter().map(|(_, file)| file).filter(|file| is_image(file)).collect();
            if of_class[class].is_empty() {
                return Err(EvalError::NoImage { path });
            }
        }
        let images = of_class.into_iter().enumerate();
        let images = images.flat_map(|(class, files)| files.into_iter().map(move |file| (file, class))).collect();
        Ok(Self { classes, images })
    }

    /// Every n-th image, the first included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn every(&self, n: usize) -> Self {
        Self { classes: self.classes.clone(), images: self.images.iter().step_by(n).cloned().collect() }
    }
}

/// What is in a folder and not hidden, with its name, sorted by it.
pub(crate) fn visible(folder: &Path) -> Result<Vec<(String, PathBuf)>, EvalError> {
    let error = |source| EvalError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn is_image(file: &Path) -> bool {
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    matches!(ending.as_deref(), Some("jpg" | "jpeg" | "png")) && file.is_file()
}

fn nearest(name: &str, classes: &[String]) -> Option<String> {
    let distance = |class: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &class.to_lowercase());
    let (distance, best) = classes.iter().map(|class| (distance(class), class)).min()?;
    // Half the word or more wrong is no longer a typing mistake.
    (distance * 2 <= name.chars().count().max(2)).then(|| best.clone())
}

/// A dense model and the candidates compared with it, on the same images.
///
/// Intervals are bootstrap intervals over images, `None` for a single one; what compares two models is paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageComparison {
    /// How many classes there are.
    pub classes: usize,
    /// How many images were classified.
    pub images: usize,
    /// The dense model alone.
    pub dense: ImageAccuracy,
    /// Each candidate against the dense model, in the order given.
    pub candidates: Vec<ImageScore>,
}

/// How often a model is right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageAccuracy {
    /// Share of the images whose likeliest class is the true one.
    pub top_1: f64,
    /// Interval of `top_1`.
    pub top_1_interval: Option<Interval>,
    /// Share of the images whose true class is among the five likeliest; `None` for five classes or fewer.
    pub top_5: Option<f64>,
}

/// A candidate against the dense model on some images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageScore {
    /// The candidate's name.
    pub name: String,
    /// How often it is right.
    pub accuracy: ImageAccuracy,
    /// Its top-1 accuracy minus the dense model's.
    pub change: f64,
    /// Interval of `change`.
    pub change_interval: Option<Interval>,
    /// Share of the images for which both models hold the same class likeliest, 0 to 1.
    pub agreement: f64,
    /// Interval of `agreement`.
    pub agreement_interval: Option<Interval>,
    /// KL divergence of the candidate's class distribution from the dense model's, nats per image.
    pub kl: Summary,
    /// Interval of the mean KL divergence.
    pub kl_interval: Option<Interval>,
}

/// A comparison under way, to which images are added batch by batch.
#[derive(Clone, Debug)]
pub struct Classification {
    classes: usize,
    /// For each image, how many classes the dense model ranks before the true one.
    dense: Vec<usize>,
    candidates: Vec<CandidateValues>,
}

/// What was measured of one candidate, image by image.
#[derive(Clone, Debug)]
struct CandidateValues {
    name: String,
    places: Vec<usize>,
    kl: Vec<f32>,
    agreement: Vec<bool>,
}

impl Classification {
    /// Nothing measured yet.
    ///
    /// - `candidates`: their names; none to measure the dense model alone
    pub fn new(classes: usize, candidates: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let empty = |name: String| CandidateValues { name, places: Vec::new(), kl: Vec::new(), agreement: Vec::new() };
        let candidates = candidates.into_iter().map(|name| empty(name.into())).collect();
        Self { classes, dense: Vec::new(), candidates }
    }

    /// Adds a batch of images.
    ///
    /// - `labels`: the class of each image
    /// - `dense`, `candidates`: the logits of the models, `[images, classes]`
    ///
    /// # Errors
    ///
    /// If a logit is NaN or infinite, naming the model and the image.
    ///
    /// # Panics
    ///
    /// If the logits are not of these images, classes and candidates, or a label is no class.
    pub fn add(&mut self, labels: &[usize], dense: Tensor<2>, candidates: &[Tensor<2>]) -> Result<(), EvalError> {
        let shape = [labels.len(), self.classes];
        assert_eq!(candidates.len(), self.candidates.len(), "logits are due for each candidate");
        self.check(DENSE, &dense, shape)?;
        for (values, logits) in self.candidates.iter().zip(candidates) {
            self.check(&values.name, logits, shape)?;
        }
        for (values, logits) in self.candidates.iter_mut().zip(candidates) {
            values.places.extend(places(logits.clone(), labels));
            values.kl.extend(kl_per_token(dense.clone(), logits.clone()));
            values.agreement.extend(agreement(dense.clone(), logits.clone()));
        }
        self.dense.extend(places(dense, labels));
        Ok(())
    }

    fn check(&self, model: &str, logits: &Tensor<2>, shape: [usize; 2]) -> Result<(), EvalError> {
        assert_eq!(logits.dims(), shape, "{model}: logits [images, classes] of another shape than the labels");
        let data = logits.clone().into_data().convert::<f32>();
        let found = data.iter::<f32>().position(|logit| !logit.is_finite());
        match found {
            None => Ok(()),
            Some(at) => Err(EvalError::NonFinite {
                model: model.to_owned(),
                input: format!(
                    "image {} (from 1, in the order of the folder)",
                    self.dense.len() + at / self.classes + 1
                ),
            }),
        }
    }

    /// The scores over all images that were added.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn finish(self, bootstrap: &Bootstrap) -> ImageComparison {
        assert!(!self.dense.is_empty(), "no image was classified");
        let images = self.dense.len();
        let accuracy = |places: &[usize]| {
            let (top_1, top_1_interval) = estimate(bootstrap, places.iter().map(|place| share(*place == 0)));
            let top_5 = places.iter().filter(|place| **place < 5).count() as f64 / images as f64;
            ImageAccuracy { top_1, top_1_interval, top_5: (self.classes > 5).then_some(top_5) }
        };
        let score = |values: &CandidateValues| {
            let changes = values.places.iter().zip(&self.dense).map(|(a, b)| share(*a == 0) - share(*b == 0));
            let (change, change_interval) = estimate(bootstrap, changes);
            let (agreement, agreement_interval) = estimate(bootstrap, values.agreement.iter().map(|same| share(*same)));
            let kl = Summary::of(&values.kl).unwrap_or_else(|| unreachable!("there is an image"));
            ImageScore {
                name: values.name.clone(),
                accuracy: accuracy(&values.places),
                change,
                change_interval,
                agreement,
                agreement_interval,
                kl,
                kl_interval: estimate(bootstrap, values.kl.iter().map(|kl| f64::from(*kl))).1,
            }
        };
        ImageComparison {
            classes: self.classes,
            images,
            dense: accuracy(&self.dense),
            candidates: self.candidates.iter().map(score).collect(),
        }
    }
}

fn share(whether: bool) -> f64 {
    f64::from(u8::from(whether))
}

/// The mean of values that are drawn one by one, with its interval.
pub(crate) fn estimate(bootstrap: &Bootstrap, values: impl Iterator<Item = f64>) -> (f64, Option<Interval>) {
    let totals: Vec<Total> = values.map(|sum| Total { sum, n: 1 }).collect();
    let mean = totals.iter().map(|total| total.sum).sum::<f64>() / totals.len() as f64;
    (mean, bootstrap.mean(&totals))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// A folder with empty files.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn folders_are_classes() {
        let folder =
            folder(&["dog/2.JPG", "dog/1.png", "cat/b.jpeg", "cat/notes.txt", "cat/.a.png", "list.txt", ".x/y"]);
        let file = |file: &str| folder.path().join(file);
        let named = Labelled::read(folder.path(), &labels(&["dog", "frog", "cat"]), 3).unwrap();
        assert_eq!(named.images, [(file("dog/1.png"), 0), (file("dog/2.JPG"), 0), (file("cat/b.jpeg"), 2)]);
        assert_eq!(named.every(2).images, [(file("dog/1.png"), 0), (file("cat/b.jpeg"), 2)]);
        let sorted = Labelled::read(folder.path(), &[], 2).unwrap();
        assert_eq!(sorted.classes, ["cat", "dog"]);
        assert_eq!(sorted.images[0], (file("cat/b.jpeg"), 0));
    }

    #[test]
    fn a_wrong_folder_is_named() {
        let many: Vec<String> = (0..30).map(|class| format!("class {class}")).collect();
        for (files, labels, count, expected) in [
            (&["kat/a.png", "dog/a.png"][..], labels(&["cat", "dog"]), 2, "kat: the model has no class of this name"),
            (&["kat/a.png"], labels(&["cat", "dog"]), 2, "did you mean `cat`? It knows 2 classes: cat, dog"),
            (&["xyz/a.png"], labels(&["cat", "dog"]), 2, "no class of this name. It knows 2 classes: cat, dog"),
            (&["zebra/a.png"], many, 30, "It knows 30 classes: class 0, class 1, class 2,"),
            (&["cat/a.gif"], labels(&["cat", "dog"]), 2, "cat: no image; put .jpg"),
            (&["a.png"], labels(&["cat", "dog"]), 2, "no class: it must hold one folder of images for each class; the"),
            (&["a.png"], Vec::new(), 2, "no class: it must hold one folder of images for each class"),
            (&["a/a.png"], Vec::new(), 2, "1 folders of classes, but the model tells 2 classes apart"),
            (&["a/a.png", "b/a.png", "c/a.png"], Vec::new(), 2, "3 folders of classes, but the model tells 2"),
        ] {
            let folder = folder(files);
            let message = Labelled::read(folder.path(), &labels, count).unwrap_err().to_string();
            assert!(
                message.starts_with(&folder.path().display().to_string()) && message.contains(expected),
                "{message}"
            );
        }
        let message = Labelled::read(Path::new("nowhere"), &[], 2).unwrap_err().to_string();
        assert_eq!(message, "cannot read nowhere");
    }

    fn logits(rows: &[[f32; 3]]) -> Tensor<2> {
        Tensor::<1>::from_data(rows.as_flattened(), &Device::flex()).reshape([rows.len(), 3])
    }

    #[test]
    fn known_scores() {
        let dense = [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [4.0, 0.0, 0.0]];
        let other = [[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 4.0]];
        let classes = [0, 1, 0, 2]; // the dense model is right, right, wrong, wrong; the other wrong, right, right, right
        let mut classification = Classification::new(3, ["same", "other"]);
        for (range, classes) in [(0..3, &classes[..3]), (3..4, &classes[3..])] {
            let [dense, other] = [&dense[range.clone()], &other[range]].map(logits);
            classification.add(classes, dense.clone(), &[dense, other]).unwrap();
        }
        let comparison = classification.finish(&Bootstrap::default());
        let [same, other] = &comparison.candidates[..] else { panic!("two candidates") };
        assert_eq!((comparison.images, comparison.dense.top_1, comparison.dense.top_5), (4, 0.5, None));
        assert_eq!((same.accuracy, same.change, same.agreement), (comparison.dense, 0.0, 1.0));
        let exact = |interval: Option<Interval>| interval.map(|interval| (interval.low, interval.high));
        assert_eq!((exact(same.change_interval), exact(same.agreement_interval)), (Some((0.0, 0.0)), Some((1.0, 1.0))));
        assert_eq!((same.kl.mean, same.kl.p99), (0.0, 0.0));
        assert_eq!((other.accuracy.top_1, other.change, other.agreement), (0.75, 0.25, 0.25));
        assert_eq!((other.kl.n, other.kl.mean > 0.5), (4, true));
        let interval = other.change_interval.unwrap();
        assert!(interval.low < 0.25 && 0.25 < interval.high, "{interval:?}");
    }

    #[test]
    fn five_of_many_classes() {
        let rows: Vec<f32> = (0..12).map(|class| -(class as f32)).collect();
        let logits = Tensor::<1>::from_floats(&rows[..], &Device::flex()).reshape([2, 6]);
        let mut classification = Classification::new(6, [""; 0]);
        classification.add(&[4, 5], logits, &[]).unwrap();
        let alone = classification.finish(&Bootstrap::default());
        assert_eq!((alone.dense.top_1, alone.dense.top_5, alone.candidates.len()), (0.0, Some(0.5), 0));
        assert!(alone.table().contains("|      2 | 0.00 % |"), "{}", alone.table());
    }

    #[test]
    fn logits_that_are_not_finite_are_named() {
        let good = [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]];
        for bad in [f32::NAN, f32::INFINITY] {
            let mut classification = Classification::new(3, ["int4"]);
            classification.add(&[0, 0], logits(&good), &[logits(&good)]).unwrap();
            let bad = logits(&[good[0], [0.0, bad, 0.0]]);
            let error = classification.add(&[0, 0], logits(&good), std::slice::from_ref(&bad)).unwrap_err().to_string();
            assert!(error.starts_with("int4: its logits on image 4 "), "{error}");
            let error = classification.add(&[0, 0], bad, &[logits(&good)]).unwrap_err().to_string();
            assert!(error.starts_with("dense model: its logits on image 4 "), "{error}");
        }
    }
}
