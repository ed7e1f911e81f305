//! Resizing and sampling of images.

use crate::{
    error::Result,
    opset::site::{Site, text_attribute},
};

/// `Upsample`, removed at 10: `Resize` with asymmetric coordinates, rounded down. Attribute `scales` (before 9)
/// becomes input 2 as input 1 (9) does.
pub fn upsample(site: &mut Site<'_, '_>) -> Result<()> {
    let scales = if site.opset < 9 {
        let scales = site.take_floats("scales")?;
        let scales = site.required("scales", scales)?;
        site.floats("scales", &scales)
    } else {
        site.required_input(1)?
    };
    site.node.op_type = Some("Resize".to_owned());
    let round = (mode(site)? == Mode::Nearest).then_some(DOWN);
    let data = site.required_input(0)?;
    into_resize(site, data, scales, round);
    Ok(())
}

/// `Resize` before 13.
///
/// 11 and 12 asked for both `scales` and `sizes` and an empty one where the other counts; since 13 that one is absent.
///
/// 10 had asymmetric coordinates. Its mode nearest rounded down along axes that grow and up along those that shrink,
/// so a node that may do both becomes two.
pub fn resize(site: &mut Site<'_, '_>) -> Result<()> {
    if site.opset > 10 {
        for index in [2, 3] {
            if site.input(3).is_some() && site.input(index).is_some_and(|name| site.scope.is_empty(name)) {
                site.node.input[index].clear();
            }
        }
        return Ok(());
    }
    let data = site.required_input(0)?;
    let scales = site.required_input(1)?;
    if mode(site)? == Mode::Linear {
        into_resize(site, data, scales, None);
        return Ok(());
    }
    let known = site.scope.floats(&scales).unwrap_or_default();
    if !known.is_empty() && known.iter().all(|scale| *scale >= 1.0) {
        into_resize(site, data, scales, Some(DOWN));
    } else if !known.is_empty() && known.iter().all(|scale| *scale <= 1.0) {
        into_resize(site, data, scales, Some(UP));
    } else {
        let one = site.floats("one", &[1.0]);
        let growing = site.add_before("Max", &[&scales, &one], "growing_scales", Vec::new());
        let shrinking = site.add_before("Min", &[&scales, &one], "shrinking_scales", Vec::new());
        let attributes = vec![text_attribute("mode", "nearest"), ASYMMETRIC.attribute(), DOWN.attribute()];
        let grown = site.add_before("Resize", &[&data, "", &growing], "grown", attributes);
        into_resize(site, grown, shrinking, Some(UP));
    }
    Ok(())
}

/// `RoiAlign` before 16: coordinates were not shifted by half a pixel.
pub fn roi_align(site: &mut Site<'_, '_>) -> Result<()> {
    site.set(text_attribute("coordinate_transformation_mode", "output_half_pixel"));
    Ok(())
}

/// `GridSample` before 20: modes `bilinear` and `bicubic` became `linear` and `cubic`, the default with them.
pub fn grid_sample(site: &mut Site<'_, '_>) -> Result<()> {
    let mode = match site.text("mode")? {
        Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        _ => return Ok(()),
    };
    site.set(text_attribute("mode", mode));
    Ok(())
}

struct Choice {
    attribute: &'static str,
    value: &'static str,
}

const ASYMMETRIC: Choice = Choice { attribute: "coordinate_transformation_mode", value: "asymmetric" };
const DOWN: Choice = Choice { attribute: "nearest_mode", value: "floor" };
const UP: Choice = Choice { attribute: "nearest_mode", value: "ceil" };

impl Choice {
    fn attribute(&self) -> crate::onnx::proto::AttributeProto {
        text_attribute(self.attribute, self.value)
    }
}

#[derive(PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
}

fn mode(site: &Site<'_, '_>) -> Result<Mode> {
    match site.text("mode")? {
        None | Some("nearest") => Ok(Mode::Nearest),
        Some("linear") => Ok(Mode::Linear),
        Some(other) => Err(site.unsupported(format_args!("has mode {other}, which ONNX does not define"))),
    }
}

fn into_resize(site: &mut Site<'_, '_>, data: String, scales: String, round: Option<Choice>) {
    site.node.input = vec![data, String::new(), scales];
    site.set(ASYMMETRIC.attribute());
    if let Some(round) = round {
        site.set(round.attribute());
    }
}
