//! A `preprocessor_config.json` as Hugging Face's image processors write it: resize, crop, scale, normalize.
//!
//! Pixels are handled as Pillow does it.

use image::imageops;
use image::{GrayImage, ImageBuffer, Luma, Pixel, RgbImage};
use serde_json::{Map, Value};

use super::resample::{Filter, resize};
use crate::error::{Error, Result};
use crate::limits;

/// Processors whose `size` of one number is the shorter side, not both.
const BY_SHORT_SIDE: [&str; 8] =
    ["clip", "convnext", "levit", "mobilenet", "mobilevit", "poolformer", "bitimage", "efficientformer"];
/// Steps that are carried out, and one that every image goes through anyway.
const STEPS: [&str; 5] = ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"];
/// Keys that change the values in ways that are not carried out.
const REFUSED: [&str; 4] = ["crop_pct", "size_divisor", "rescale_offset", "offset"];

/// What is done to every image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Preprocess {
    resize: Option<(Size, Filter)>,
    /// Height and width.
    crop: Option<(u32, u32)>,
    factor: f64,
    /// One a channel, as many as the model has.
    mean: Vec<f32>,
    std: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Exact { height: u32, width: u32 },
    ShortestEdge(u32),
}

/// An image as the model takes it: one plane a channel, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planes {
    pub height: usize,
    pub width: usize,
    pub planes: Vec<f32>,
}

impl Preprocess {
    /// Reads a configuration for a model of `channels`.
    pub fn parse(bytes: &[u8], channels: usize) -> Result<Self> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::format("config", format!("is no JSON: {error}")))?;
        let Value::Object(config) = value else { return Err(Error::format("config", "is no JSON object")) };
        let config = Config(config);
        config.refuse()?;
        let resize = match config.flag("do_resize", config.has("size"))? {
            true => Some((config.size()?, config.filter()?)),
            false => None,
        };
        let crop = match config.flag("do_center_crop", false)? {
            true => Some(config.crop()?),
            false => None,
        };
        let factor = match config.flag("do_rescale", true)? {
            true => config.number("rescale_factor")?.unwrap_or(1.0 / 255.0),
            false => 1.0,
        };
        let (mean, std) = match config.flag("do_normalize", config.has("image_mean"))? {
            true => (config.each("image_mean", channels)?, config.each("image_std", channels)?),
            false => (vec![0.0; channels], vec![1.0; channels]),
        };
        if std.contains(&0.0) {
            return Err(Error::format("'image_std'", "holds 0"));
        }
        Ok(Self { resize, crop, factor, mean, std })
    }

    /// Height and width of every image, where they do not depend on it.
    pub fn final_size(&self) -> Option<(u32, u32)> {
        self.crop.or(match self.resize {
            Some((Size::Exact { height, width }, _)) => Some((height, width)),
            _ => None,
        })
    }

    /// Carries it out.
    pub fn apply(&self, image: RgbImage) -> Result<Planes> {
        match self.mean.len() {
            1 => self.carry_out(luma(&image)),
            _ => self.carry_out(image),
        }
    }

    fn carry_out<P>(&self, image: ImageBuffer<P, Vec<u8>>) -> Result<Planes>
    where
        P: Pixel<Subpixel = u8> + 'static,
    {
        let mut image = image;
        if let Some((size, filter)) = self.resize {
            let (height, width) = size.of(image.height(), image.width())?;
            let from = (image.height() as usize, image.width() as usize);
            let between = u64::from(image.height()) * u64::from(width);
            if between > limits::IMAGE_PIXELS {
                return Err(Error::limit("image", format!("{between} pixels between two steps of resizing")));
            }
            let to = (height as usize, width as usize);
            let bytes = resize(image.as_raw(), from, to, P::CHANNEL_COUNT.into(), filter);
            image = ImageBuffer::from_raw(width, height, bytes)
                .ok_or_else(|| Error::format("image", "is not resized as a whole"))?;
        }
        if let Some((height, width)) = self.crop {
            // Where the image is smaller, zeros stand around it.
            let mut canvas = ImageBuffer::new(width, height);
            let start = |given: u32, wanted: u32| -(i64::from(given) - i64::from(wanted)).div_euclid(2);
            let (x, y) = (start(image.width(), width), start(image.height(), height));
            imageops::replace(&mut canvas, &image, x, y);
            image = canvas;
        }
        let channels = self.mean.len();
        let mut planes = Vec::with_capacity(image.as_raw().len());
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            let values = image.as_raw().iter().skip(channel).step_by(channels);
            planes.extend(values.map(|value| ((f64::from(*value) * self.factor) as f32 - mean) / std));
        }
        Ok(Planes { height: image.height() as usize, width: image.width() as usize, planes })
    }
}

impl Size {
    /// Height and width for an image of these.
    fn of(self, height: u32, width: u32) -> Result<(u32, u32)> {
        let (height, width) = match self {
            Size::Exact { height, width } => (u64::from(height), u64::from(width)),
            Size::ShortestEdge(edge) => {
                let (edge, short) = (u64::from(edge), u64::from(height.min(width)).max(1));
                let scaled = |side: u32| edge * u64::from(side) / short;
                (scaled(height), scaled(width))
            }
        };
        match (u32::try_from(height), u32::try_from(width)) {
            (Ok(rows), Ok(columns)) if height * width <= limits::IMAGE_PIXELS => Ok((rows, columns)),
            _ => Err(Error::limit("image", format!("{height} x {width} pixels once it is resized"))),
        }
    }
}

/// Grey as Pillow computes it (ITU-R 601-2).
fn luma(image: &RgbImage) -> GrayImage {
    let mut grey = GrayImage::new(image.width(), image.height());
    for (to, from) in grey.pixels_mut().zip(image.pixels()) {
        let [red, green, blue] = from.0.map(u32::from);
        *to = Luma([((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8]);
    }
    grey
}

/// The keys of the file.
struct Config(Map<String, Value>);

impl Config {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Refuses what would change the values and is not carried out.
    fn refuse(&self) -> Result<()> {
        let step = |(key, value): &(&String, &Value)| {
            key.starts_with("do_") && **value == Value::Bool(true) && !STEPS.contains(&key.as_str())
        };
        let key = |(key, value): &(&String, &Value)| {
            REFUSED.contains(&key.as_str()) && !matches!(value, Value::Null | Value::Bool(false))
        };
        match self.0.iter().find(|entry| step(entry) || key(entry)) {
            Some((key, value)) => {
                Err(Error::unsupported(format!("'{key}'"), format!("{value} is not carried out"))
                    .help("give preprocessed images in an .npz"))
            }
            None => Ok(()),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, other, "true or false")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| wrong(key, value, "a number"));
        self.get(key).map(number).transpose()
    }

    fn filter(&self) -> Result<Filter> {
        match self.get("resample").map(|value| (value, value.as_u64())) {
            None | Some((_, Some(2))) => Ok(Filter::Bilinear),
            Some((_, Some(0))) => Ok(Filter::Nearest),
            Some((_, Some(1))) => Ok(Filter::Lanczos),
            Some((_, Some(3))) => Ok(Filter::Bicubic),
            Some((value, _)) => Err(wrong("resample", value, "0, 1, 2 or 3")),
        }
    }

    fn size(&self) -> Result<Size> {
        let Some(value) = self.get("size") else {
            return Err(Error::format("'size'", "is missing, and do_resize asks for it"));
        };
        if let Some(edge) = value.as_u64() {
            let edge = side("size", value, edge)?;
            let names = ["image_processor_type", "feature_extractor_type"];
            let name =
                names.iter().find_map(|key| self.get(key)?.as_str()).unwrap_or_default().to_lowercase();
            return Ok(match BY_SHORT_SIDE.iter().any(|family| name.contains(family)) {
                true => Size::ShortestEdge(edge),
                false => Size::Exact { height: edge, width: edge },
            });
        }
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let count = value.as_object().map_or(0, Map::len);
        match (number("height"), number("width"), number("shortest_edge")) {
            (Some(height), Some(width), None) if count == 2 => {
                Ok(Size::Exact { height: side("size", value, height)?, width: side("size", value, width)? })
            }
            (None, None, Some(edge)) if count == 1 => Ok(Size::ShortestEdge(side("size", value, edge)?)),
            _ => Err(wrong("size", value, "a number, {height, width} or {shortest_edge}")),
        }
    }

    fn crop(&self) -> Result<(u32, u32)> {
        let Some(value) = self.get("crop_size") else {
            return Err(Error::format("'crop_size'", "is missing, and do_center_crop asks for it"));
        };
        let number = |key: &str| value.as_u64().or_else(|| value.get(key)?.as_u64());
        match (number("height"), number("width")) {
            (Some(height), Some(width)) => {
                Ok((side("crop_size", value, height)?, side("crop_size", value, width)?))
            }
            _ => Err(wrong("crop_size", value, "a number or {height, width}")),
        }
    }

    /// One number for each of `channels`; a single one stands for all.
    fn each(&self, key: &str, channels: usize) -> Result<Vec<f32>> {
        let Some(value) = self.get(key) else {
            return Err(Error::format(format!("'{key}'"), "is missing, and do_normalize asks for it"));
        };
        let wanted = format!("{channels} numbers, one a channel of the model");
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let numbers: Option<Vec<f32>> = list.iter().map(|number| Some(number.as_f64()? as f32)).collect();
        match numbers.ok_or_else(|| wrong(key, value, &wanted))? {
            numbers if numbers.len() == channels => Ok(numbers),
            numbers if numbers.len() == 1 => Ok(numbers.repeat(channels)),
            _ => Err(wrong(key, value, &wanted)),
        }
    }
}

fn side(key: &str, value: &Value, size: u64) -> Result<u32> {
    let most = u64::from(limits::IMAGE_SIDE);
    match u32::try_from(size) {
        Ok(side) if (1..=most).contains(&size) => Ok(side),
        _ => Err(wrong(key, value, &format!("sides of 1 to {most}"))),
    }
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Error {
    let shown = crate::error::one_line(&value.to_string());
    Error::format(format!("'{key}'"), format!("is {shown}, expected: {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Preprocess> {
        Preprocess::parse(text.as_bytes(), 3)
    }

    #[test]
    fn sizes_come_in_three_forms() {
        let size = |text: &str| parse(text).unwrap().resize.unwrap().0;
        assert_eq!(size(r#"{"size": 8}"#), Size::Exact { height: 8, width: 8 });
        assert_eq!(size(r#"{"size": {"height": 8, "width": 9}}"#), Size::Exact { height: 8, width: 9 });
        let short = r#"{"size": {"shortest_edge": 8}}"#;
        assert_eq!(size(short), Size::ShortestEdge(8));
        assert_eq!(size(r#"{"size": 8, "feature_extractor_type": "CLIPFeatureExtractor"}"#), size(short));
        assert_eq!(size(short).of(10, 21).unwrap(), (8, 16));
        assert_eq!(size(short).of(21, 10).unwrap(), (16, 8));
        assert_eq!(parse(short).unwrap().final_size(), None);
        assert!(Size::ShortestEdge(30_000).of(1, 30_000).is_err());
    }

    #[test]
    fn values_are_scaled_and_normalized_plane_by_plane() {
        let config = parse(r#"{"image_mean": [0, 0.5, 1], "image_std": [1, 0.5, 2]}"#).unwrap();
        let image = RgbImage::from_fn(2, 1, |x, _| Rgb([255 * x as u8, 255, 0]));
        let done = config.apply(image).unwrap();
        assert_eq!((done.height, done.width), (1, 2));
        assert_eq!(done.planes, [0.0, 1.0, 1.0, 1.0, -0.5, -0.5]);
        let raw = parse(r#"{"do_rescale": false, "do_normalize": false}"#).unwrap();
        assert_eq!(raw.apply(RgbImage::from_pixel(1, 1, Rgb([1, 2, 3]))).unwrap().planes, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn one_channel_is_grey() {
        let config = Preprocess::parse(br#"{"do_rescale": false}"#, 1).unwrap();
        let grey = |pixel| config.apply(RgbImage::from_pixel(1, 1, Rgb(pixel))).unwrap().planes;
        assert_eq!(grey([77, 77, 77]), [77.0]);
        assert_eq!(
            (grey([255, 0, 0]), grey([0, 255, 0]), grey([0, 0, 255])),
            (vec![76.0], vec![150.0], vec![29.0])
        );
    }

    #[test]
    fn crops_are_centred_and_filled_with_zeros() {
        let crop = |size: u32, sides: u32| {
            let text = format!(r#"{{"do_center_crop": true, "crop_size": {size}, "do_rescale": false}}"#);
            let image = RgbImage::from_fn(sides, 1, |x, _| Rgb([x as u8 + 1, 0, 0]));
            let done = parse(&text).unwrap().apply(image).unwrap();
            done.planes.into_iter().take((size * size) as usize).collect::<Vec<f32>>()
        };
        assert_eq!(crop(1, 5), [3.0]);
        assert_eq!(crop(1, 4), [2.0]);
        assert_eq!(crop(3, 2), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_not_carried_out_is_refused() {
        for (text, said) in [
            (r#"{"do_pad": true}"#, "'do_pad': true is not carried out"),
            (r#"{"crop_pct": 0.9}"#, "'crop_pct': 0.9 is not carried out"),
            (r#"{"size": {"longest_edge": 9}}"#, "'size': is {\"longest_edge\":9}, expected: a number"),
            (r#"{"size": 0}"#, "'size': is 0, expected: sides of 1 to 32768"),
            (r#"{"size": 8, "resample": 4}"#, "'resample': is 4, expected: 0, 1, 2 or 3"),
            (r#"{"image_mean": [1, 2], "image_std": 1}"#, "'image_mean': is [1,2], expected: 3 numbers"),
            (r#"{"image_mean": 1}"#, "'image_std': is missing"),
            (r#"{"image_mean": 1, "image_std": 0}"#, "'image_std': holds 0"),
            (r#"{"do_resize": true}"#, "'size': is missing"),
            (r#"{"do_center_crop": 1}"#, "'do_center_crop': is 1, expected: true or false"),
            ("[]", "config: is no JSON object"),
            ("{", "config: is no JSON: EOF"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
        assert!(parse(r#"{"do_pad": false, "crop_pct": null, "do_convert_rgb": true}"#).is_ok());
    }

    proptest! {
        #[test]
        fn configs_never_panic(
            key in prop::sample::select(&["size", "crop_size", "resample", "image_mean", "image_std", "do_resize", "rescale_factor"][..]),
            value in prop::sample::select(&["0", "-1", "1e300", "[]", "{}", "\"a\"", "4294967296", "{\"height\": 1}", "[1,2,3]"][..]),
        ) {
            if let Ok(config) = parse(&format!(r#"{{"size": 2, "do_center_crop": true, "crop_size": 2, "{key}": {value}}}"#)) {
                let _ = config.apply(RgbImage::new(3, 2));
            }
        }
    }
}
