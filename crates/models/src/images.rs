//! [`Preparation`]: from image files to what a network reads.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, RgbImage};
use serde_json::Value;

use crate::ModelError;
use crate::fields::Fields;

/// File name endings of images.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// The image files of a folder and of all folders in it, in the order of their paths; a file is itself.
///
/// # Errors
///
/// If a folder cannot be read, or there is no image in all of it; naming the folder.
pub fn image_files(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut files = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        for entry in std::fs::read_dir(&path).map_err(ModelError::read(&path))? {
            let path = entry.map_err(ModelError::read(&path))?.path();
            let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && (path.is_dir() || ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))) {
                open.push(path);
            }
        }
    }
    if files.is_empty() {
        let message = format!("there is no image in this folder, no file that ends in .{}", ENDINGS.join(", ."));
        return Err(ModelError::Image { path: path.to_owned(), message });
    }
    files.sort();
    Ok(files)
}

/// How an image is made ready: scaled until it covers `size`, cut to its middle, then `(x / 255 − mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// What is kept of a scaled image's shorter side; 1 where nothing is cut from it.
    pub kept: f64,
    /// Of red, green and blue.
    pub mean: [f32; 3],
    /// Of red, green and blue.
    pub std: [f32; 3],
}

impl Preparation {
    /// That of the networks trained on ImageNet: 224 by 224 from a shorter side of 256.
    pub fn imagenet() -> Self {
        Self { size: [224, 224], kept: 224.0 / 256.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }

    /// Reads `size`, `mean` and `std`; nothing is cut from the shorter side.
    pub(crate) fn read(fields: &Fields) -> Result<Self, ModelError> {
        let numbers = |key: &str, least: f64| -> Result<Vec<f64>, ModelError> {
            let values = fields.raw(key).and_then(Value::as_array).cloned().unwrap_or_default();
            let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
            let count = if key == "size" { 2 } else { 3 };
            if numbers.len() == count && values.len() == count && numbers.iter().all(|n| (least..=65536.0).contains(n))
            {
                Ok(numbers)
            } else {
                Err(fields.wrong(key, format!("a list of {count} numbers from {least} to 65536")))
            }
        };
        let colours = |key: &str, least: f64| -> Result<[f32; 3], ModelError> {
            let numbers = numbers(key, least)?;
            Ok(std::array::from_fn(|colour| numbers[colour] as f32))
        };
        let size = numbers("size", 1.0)?;
        let size = [size[0] as usize, size[1] as usize];
        Ok(Self { size, kept: 1.0, mean: colours("mean", 0.0)?, std: colours("std", 1e-6)? })
    }

    /// Reads image files, JPEG or PNG, as one batch `[images, 3, height, width]`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is no such image, naming it.
    ///
    /// # Panics
    ///
    /// If `paths` is empty.
    pub fn read_images(&self, paths: &[impl AsRef<Path>], device: &Device) -> Result<Tensor<4>, ModelError> {
        assert!(!paths.is_empty(), "no images");
        let mut values = Vec::with_capacity(paths.len() * 3 * self.size[0] * self.size[1]);
        for path in paths {
            let path = path.as_ref();
            let wrong = |message: String| ModelError::Image { path: path.to_owned(), message };
            let reader = ImageReader::open(path).map_err(ModelError::read(path))?;
            let reader = reader.with_guessed_format().map_err(ModelError::read(path))?;
            let image = reader.decode().map_err(|error| wrong(error.to_string()))?;
            self.push(image.into_rgb8(), &mut values);
        }
        let shape = [paths.len(), 3, self.size[0], self.size[1]];
        Ok(Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)))
    }

    /// Appends an image, colour by colour.
    fn push(&self, image: RgbImage, values: &mut Vec<f32>) {
        let [height, width] = self.size.map(|extent| extent as u32);
        let image = if image.dimensions() == (width, height) { image } else { self.fitted(&image) };
        for (colour, (mean, std)) in self.mean.iter().zip(self.std).enumerate() {
            values.extend(image.pixels().map(|pixel| (f32::from(pixel[colour]) / 255.0 - mean) / std));
        }
    }

    /// Scaled with its proportions, then the middle of it.
    fn fitted(&self, image: &RgbImage) -> RgbImage {
        let [height, width] = self.size.map(|extent| extent as u32);
        let (w, h) = (f64::from(image.width()), f64::from(image.height()));
        let scale = (f64::from(width) / w).max(f64::from(height) / h) / self.kept;
        // Rounding must not leave less than what is cut out.
        let w = ((w * scale).round() as u32).max(width);
        let h = ((h * scale).round() as u32).max(height);
        let scaled = resize(image, w, h, FilterType::Triangle);
        crop_imm(&scaled, (w - width) / 2, (h - height) / 2, width, height).to_image()
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn plain(size: [usize; 2]) -> Preparation {
        Preparation { size, kept: 1.0, mean: [0.0, 0.5, 1.0], std: [1.0, 0.5, 2.0] }
    }

    #[test]
    fn colours_are_normalised_one_after_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        RgbImage::from_fn(2, 1, |x, _| Rgb([255 * x as u8, 255, 0])).save(&path).unwrap();
        let x = plain([1, 2]).read_images(&[&path, &path], &Device::flex()).unwrap();
        assert_eq!(x.dims(), [2, 3, 1, 2]);
        assert_eq!(x.into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0, 1.0, 1.0, -0.5, -0.5].repeat(2));
    }

    #[test]
    fn a_large_image_is_scaled_and_its_middle_kept() {
        // Thirds of one colour each, 60 by 20: of 20 by 20, the middle third is left.
        let image = RgbImage::from_fn(60, 20, |x, _| Rgb([(x / 20 * 100) as u8; 3]));
        let same = plain([20, 20]).fitted(&image);
        assert!(same.dimensions() == (20, 20) && same.pixels().all(|pixel| pixel[0] == 100));
        let half = plain([10, 10]).fitted(&image);
        assert_eq!((half.dimensions(), half.get_pixel(5, 5)[0]), ((10, 10), 100));
        let part = Preparation { kept: 0.5, ..plain([10, 10]) }.fitted(&image);
        assert!(part.dimensions() == (10, 10) && part.pixels().all(|pixel| pixel[0] == 100));
    }

    #[test]
    fn images_are_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/c")).unwrap();
        let none = image_files(folder.path()).unwrap_err().to_string();
        assert!(none.contains(".jpg") && none.contains(&folder.path().display().to_string()), "{none}");
        for name in ["b/c/2.PNG", "b/1.jpeg", "a.jpg", "b/.hidden.png", "b/notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = image_files(folder.path()).unwrap();
        assert_eq!(found, ["a.jpg", "b/1.jpeg", "b/c/2.PNG"].map(|name| folder.path().join(name)));
        assert_eq!(image_files(&found[1]).unwrap(), [found[1].clone()]);
        assert!(image_files(&folder.path().join("no")).is_ok(), "reading it is what fails");
    }

    #[test]
    fn a_file_that_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        let read = || plain([1, 1]).read_images(&[&path], &Device::flex()).unwrap_err().to_string();
        assert!(read().contains("a.jpg"));
        std::fs::write(&path, b"\xff\xd8\xff\xe0 and nothing").unwrap();
        assert!(read().contains("a.jpg"));
    }
}
